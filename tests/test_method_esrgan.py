"""ESRGAN's training, beside the paper's losses and steps written out once more."""

import copy
from pathlib import Path

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torchvision.models.vgg import cfgs, make_layers

from ESRGAN.dataset import crops_and_validation
from ESRGAN.model import Discriminator, GeneratorRRDB
from ESRGAN.train_esrgan import train_esrgan
from tests.conftest import Weights, assert_moved_alike, rows_of, smooth_adam

NETWORK = {"n_blocks": 1, "n_features": 8, "growth": 4}
BATCH, PATCH, STEPS = 4, 32, 2  # crops in a step, HR pixels, steps in an epoch
EPOCHS, EPOCHS_GAN = 3, 2
# So high that the PSNR stage's best epoch is not its last.
RATE, RATE_GAN = 5e-2, 5e-4
EMA_DECAY, ALPHA, EPS, SEED = 0.35, 0.75, 3e-3, 5


@pytest.fixture(scope="module")
def vgg19(tmp_path_factory) -> tuple[torch.nn.Module, Path]:
    """VGG19's convolutions, and the file of them; photos that differ have features that do."""
    torch.manual_seed(1)
    layers = make_layers(cfgs["E"]).requires_grad_(False)
    for name, weight in layers.named_parameters():
        weight.mul_(2 if name.endswith("weight") else 1)
    path = tmp_path_factory.mktemp("vgg19") / "vgg19.pth"
    torch.save({f"features.{name}": weight for name, weight in layers.state_dict().items()}, path)
    return layers, path


@pytest.fixture(scope="module")
def run(dataset, vgg19, tmp_path_factory) -> Path:
    """Both stages; weights of the losses, milestones and betas are the defaults."""
    with pytest.MonkeyPatch.context() as patch:
        smooth_adam(patch, EPS)
        return train_esrgan(
            **dataset.folders(), **NETWORK, discriminator_features=4, vgg_weights=vgg19[1],
            patch_size=PATCH, batch_size=BATCH, workers=0, steps_per_epoch=STEPS, n_epochs=EPOCHS,
            n_epochs_gan=EPOCHS_GAN, learning_rate=RATE, learning_rate_gan=RATE_GAN,
            ema_decay=EMA_DECAY, alpha=ALPHA, seed=SEED, device="cpu", bfloat16=False,
            out_dir=tmp_path_factory.mktemp("method") / "run",
        )  # fmt: skip


def crops_of(dataset, seed: int) -> torch.utils.data.Dataset:
    settings = {"n_valid": 1, "valid_crop": 1024, "patch_size": PATCH, "seed": seed}
    return crops_and_validation(*dataset.folders().values(), **settings)[0]


class Paper:
    """The same training: `weights` by the name of their file, `before` it, and `losses`.

    The log's `psnr_y` of each epoch says which one was a stage's best.
    """

    def __init__(self, dataset, vgg19: torch.nn.Module, psnr_y: list[float]):
        self.crops = crops_of(dataset, SEED)
        self.conv5_4 = vgg19[:35]  # its ReLU, number 35, is left out
        self.losses: list[dict[str, torch.Tensor]] = []  # of each step
        torch.manual_seed(SEED)
        self.generator = GeneratorRRDB(**NETWORK).to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.generator)
        self.discriminator = Discriminator(PATCH, 4)
        self.before = {"generator_psnr": copy.deepcopy(self.average.state_dict())}
        self.before["discriminator"] = copy.deepcopy(self.discriminator.state_dict())

        averages = self.psnr_stage()
        best, best_gan = (part.index(max(part)) for part in (psnr_y[:EPOCHS], psnr_y[EPOCHS:]))
        psnr = averages[best]
        assert psnr is not averages[-1]  # or it could not be seen which is handed on
        self.generator.load_state_dict(psnr)
        self.average.load_state_dict(psnr)
        gan = self.gan_stage()
        mixed = [{k: (1 - ALPHA) * psnr[k] + ALPHA * weights[k] for k in psnr} for weights in gan]
        self.before |= {"generator": psnr, "generator_best": psnr}
        self.weights = {"discriminator": self.discriminator.state_dict(), "generator_psnr": psnr}
        self.weights |= {"generator": mixed[-1], "generator_best": mixed[best_gan]}

    def psnr_stage(self) -> list[Weights]:
        """Train with L1 alone, and return the averaged generator after each epoch."""
        adam, averages, n = self.adam(self.generator), [], EPOCHS * STEPS
        for step in range(n):
            lr, hr = self.batch(step)
            pixel = (self.generator(lr) - hr).abs().mean()
            rate = RATE / 2 ** sum(step >= share * n for share in (0.2, 0.4, 0.6, 0.8))
            self.descend(adam, rate, pixel)
            averages.append(self.averaged(step))
            self.losses.append({"pixel": pixel})
        return averages[STEPS - 1 :: STEPS]

    def gan_stage(self) -> list[Weights]:
        """Train both networks, on the logits of one and the same step; return the same."""
        adam_g, adam_d = self.adam(self.generator), self.adam(self.discriminator)
        averages, n = [], EPOCHS_GAN * STEPS
        yes, no = torch.ones(BATCH, 1), torch.zeros(BATCH, 1)
        for step in range(n):
            lr, hr = self.batch(EPOCHS * STEPS + step)
            sr = self.generator(lr)
            c_real, c_fake = self.discriminator(hr), self.discriminator(sr)
            # Is a photo more real than the others are on average?
            real, fake = c_real - c_fake.mean(), c_fake - c_real.mean()
            pixel = (sr - hr).abs().mean()
            perceptual = (self.features(sr) - self.features(hr)).abs().mean()
            for_g = (cross_entropy(real, no) + cross_entropy(fake, yes)) / 2
            for_d = (cross_entropy(real, yes) + cross_entropy(fake, no)) / 2
            rate = RATE_GAN / 2 ** sum(step >= share * n for share in (0.125, 0.25, 0.5, 0.75))
            self.descend(adam_g, rate, perceptual + 5e-3 * for_g + 1e-2 * pixel)
            self.descend(adam_d, rate, for_d)
            averages.append(self.averaged(step))
            both = {"pixel": pixel, "perceptual": perceptual, "gan": for_g, "discriminator": for_d}
            self.losses.append(both)
        return averages[STEPS - 1 :: STEPS]

    def batch(self, step: int) -> list[torch.Tensor]:
        epoch, step = divmod(step, STEPS)
        return [x / 255 for x in self.crops[epoch, range(BATCH * step, BATCH * (step + 1))]]

    def features(self, image: torch.Tensor) -> torch.Tensor:
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
        return self.conv5_4((image - mean) / std)

    def adam(self, network: torch.nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(network.parameters(), betas=(0.9, 0.99), eps=EPS)

    def descend(self, adam: torch.optim.Adam, rate: float, loss: torch.Tensor) -> None:
        """Take a step with the weights of `adam`, and with no others."""
        (group,) = adam.param_groups
        group["lr"] = rate
        adam.zero_grad()
        loss.backward(inputs=group["params"], retain_graph=True)
        adam.step()

    def averaged(self, step: int) -> Weights:
        """Move the average; short of its decay it forgets its beginning quickly."""
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        for mean, value in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            mean.data = decay * mean.data + (1 - decay) * value.data
        return copy.deepcopy(self.average.state_dict())


@pytest.fixture(scope="module")
def paper(dataset, vgg19, run) -> Paper:
    return Paper(dataset, vgg19[0], [float(row["psnr_y"]) for row in rows_of(run)])


@pytest.mark.parametrize("name", ["generator_psnr", "generator", "generator_best", "discriminator"])
def test_trained_weights_are_those_of_the_papers_losses_written_out(run, paper, name):
    ours = torch.load(run / f"{name}.pth", weights_only=True)
    assert_moved_alike(ours, paper.weights[name], paper.before[name], share=3e-3)


def test_logged_losses_are_the_papers(run, paper):
    for epoch, row in enumerate(rows_of(run)):
        steps = paper.losses[epoch * STEPS : (epoch + 1) * STEPS]
        expected = {f"loss_{k}": sum(step[k].item() for step in steps) / STEPS for k in steps[0]}
        logged = {k: float(v) for k, v in row.items() if k.startswith("loss_") and v}
        assert logged == pytest.approx(expected, rel=1e-3)


def test_crops_are_decided_by_the_seed(dataset):
    first, again, other = (crops_of(dataset, seed)[0, range(2)][1] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_defaults_are_the_papers():
    expected = {"n_blocks": 23, "n_features": 64, "growth": 32, "patch_size": 128}
    expected |= {"batch_size": 16, "learning_rate": 2e-4, "learning_rate_gan": 1e-4}
    expected |= {"perceptual_weight": 1.0, "gan_weight": 5e-3, "pixel_weight": 1e-2}
    expected |= {"betas": (0.9, 0.99), "ema_decay": 0.999}
    assert train_esrgan.__kwdefaults__ | expected == train_esrgan.__kwdefaults__
