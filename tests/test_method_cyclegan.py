"""The three CycleGANs' training, beside their losses and steps written out once more."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from common.data.resize import resize
from CycleGAN.CycleGAN_w_v1 import CycleGAN as v1
from CycleGAN.CycleGAN_w_v2 import CycleGAN2 as v2
from CycleGAN.CycleGAN_w_v3 import CycleGAN5_2 as v3
from CycleGAN.dataset import UnpairedPhotos, unpaired_photos
from CycleGAN.model import (
    Discriminator,
    GeneratorDown,
    GeneratorSR,
    ResidualGeneratorDown,
    ResidualGeneratorSR,
)
from tests.conftest import Weights, assert_moved_alike, rows_of, smooth_adam

BATCH, STEPS, EPOCHS, POOL = 2, 3, 2, 3  # the pool is full in the second step
RATE, EMA_DECAY, EPS, SEED = 2e-3, 0.4, 1e-3, 3
SIZES = {"n_features": 4, "lr_size": 24, "hr_size": 96, "batch_size": BATCH, "workers": 0}
SIZES |= {"n_epochs": EPOCHS, "steps_per_epoch": STEPS, "learning_rate": RATE, "seed": SEED}
SIZES |= {"device": "cpu", "bfloat16": False}
CASES = {  # version, what differs from its defaults
    "version 1": (v1, {}),
    "version 1 with the identity loss": (v1, {"lambda_identity": 5.0, "lambda_cycle": 2.0}),
    "version 2": (v2, {}),
    "version 2, other weights": (
        v2,
        {
            "lambda_gan": 0.5,
            "lambda_consistency": 3.0,
            "lambda_identity": 2.0,
            "fake_lr_noise": 0.1,
        },
    ),
    "version 3": (v3, {}),
    "version 3, relativistic": (v3, {"relativistic": True, "lambda_gan_hr": 0.3, "low_factor": 4}),
    "version 3 with R1": (
        v3,
        {"r1_weight": 0.5, "r1_every": 2, "lambda_identity": 1.0, "lambda_low": 5.0},
    ),
    "version 3, all frequencies": (
        v3,
        {"high_frequencies_only": False, "noise_channel": False, "back_projections": 0},
    ),
}


def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).abs().mean()


def squares(scores: torch.Tensor, target: float) -> torch.Tensor:
    return ((scores - target) ** 2).mean()


def normal(network: nn.Module) -> nn.Module:
    """Draw weights from N(0, 0.02), as the paper does."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = 0.02 * torch.randn_like(layer.weight)
            layer.bias.data = torch.zeros_like(layer.bias)
    return network


def eight_bits(image: torch.Tensor) -> torch.Tensor:
    return (image * 255).round().clamp(0, 255) / 255


class Written:
    """The same training: `weights` by the name of their file, and those `before` it."""

    def __init__(self, version, options: dict, dataset, best_epoch: int):
        self.options = version.train_cyclegan_sr.__kwdefaults__ | options
        self.version = {v1: 1, v2: 2, v3: 3}[version]
        folders = dataset.folders().values()
        crop = self.version > 1
        self.photos = UnpairedPhotos(*unpaired_photos(*folders, 10)[:2], 24, 96, SEED, crop)
        self.build()
        generators, discriminators = (self.G, self.F), (self.D_HR, self.D_LR)
        self.adam_g, self.adam_d = self.adam(*generators), self.adam(*discriminators)
        self.average = copy.deepcopy(self.G)
        self.pools: tuple[list, list] = ([], [])
        self.before = copy.deepcopy(self.named())
        for step in range(EPOCHS * STEPS):
            self.step(step)
            if step == (best_epoch + 1) * STEPS - 1:
                best = copy.deepcopy(self.named()["G_LR2HR"])
        self.weights = self.named() | {"G_LR2HR_best": best}
        self.before["G_LR2HR_best"] = self.before["G_LR2HR"]

    def build(self) -> None:
        torch.manual_seed(SEED)
        if self.version == 1:
            kinds = (GeneratorSR, GeneratorDown, Discriminator, Discriminator)
            networks = [normal(kind(4)) for kind in kinds]
        else:
            options = self.options
            projections = 0 if self.version == 2 else options["back_projections"]
            noise = self.version == 3 and options["noise_channel"]
            G = ResidualGeneratorSR(4, back_projections=projections)
            F = ResidualGeneratorDown(4, noise_channel=noise)
            D_HR = normal(Discriminator(4))
            networks = [G, F, D_HR, Discriminator(4, (1, 2, 1), spectral_norm=True)]
        layout = {"memory_format": torch.channels_last}
        self.G, self.F, self.D_HR, self.D_LR = (network.to(**layout) for network in networks)

    def adam(self, *networks: nn.Module) -> torch.optim.Adam:
        parameters = [p for network in networks for p in network.parameters()]
        return torch.optim.Adam(parameters, lr=RATE, betas=(0.5, 0.999), eps=EPS)

    def named(self) -> dict[str, Weights]:
        G = self.G if self.version == 1 else self.average
        networks = {"G_LR2HR": G, "F_HR2LR": self.F, "D_HR": self.D_HR, "D_LR": self.D_LR}
        return {name: network.state_dict() for name, network in networks.items()}

    def step(self, step: int) -> None:
        epoch, k = divmod(step, STEPS)
        lr, hr = (x / 255 for x in self.photos[epoch, range(BATCH * k, BATCH * (k + 1))])
        if self.version > 1:  # from the middle on the rate falls to 0
            rate = RATE * min(1, 2 * (1 - step / (EPOCHS * STEPS)))
            self.adam_g.param_groups[0]["lr"] = self.adam_d.param_groups[0]["lr"] = rate
        loss, shown = self.generators_loss(lr, hr)
        self.descend(self.adam_g, loss)
        if self.version > 1:
            decay = min(EMA_DECAY, (1 + step) / (10 + step))
            pairs = zip(self.average.parameters(), self.G.parameters(), strict=True)
            for mean, value in pairs:
                mean.data = decay * mean.data + (1 - decay) * value.data
        (real_hr, fake_hr), (real_lr, fake_lr) = shown
        if self.version > 1:
            fake_hr, fake_lr = self.earlier(0, fake_hr), self.earlier(1, fake_lr)
        loss = self.discriminator_loss(self.D_HR, real_hr, fake_hr.detach(), step)
        loss = loss + self.discriminator_loss(self.D_LR, real_lr, fake_lr.detach(), step)
        self.descend(self.adam_d, loss)

    def generators_loss(self, lr: torch.Tensor, hr: torch.Tensor) -> tuple:
        """Return the loss, and what the discriminators are shown: real and fake, HR and LR."""
        o = self.options
        fake_hr = self.G(lr)
        if self.version == 3:
            return self.generators_loss_of_version_3(lr, hr, fake_hr)
        recovered_lr, fake_lr = self.F(fake_hr), self.F(hr)
        seen = fake_lr
        if self.version == 2:  # what a file would keep; gradients pass as if nothing was done
            noisy = fake_lr + o["fake_lr_noise"] * torch.randn_like(fake_lr)
            seen = fake_lr + (eight_bits(noisy) - fake_lr).detach()
        cycles = distance(recovered_lr, lr) + distance(self.G(seen), hr)
        gan = squares(self.D_HR(fake_hr), 1) + squares(self.D_LR(fake_lr), 1)
        reduced = distance(resize(fake_hr, 1 / 4), lr)
        loss = o.get("lambda_gan", 1) * gan + o["lambda_cycle"] * cycles
        loss = loss + o.get("lambda_consistency", 0) * reduced
        if o["lambda_identity"]:
            loss = loss + o["lambda_identity"] * (distance(self.F(resize(lr, 4)), lr) + reduced)
        return loss, ((hr, fake_hr), (lr, fake_lr))

    def generators_loss_of_version_3(self, lr, hr, fake_hr) -> tuple:
        o, half = self.options, 1 / self.options["low_factor"]
        fake_lr = self.F(hr)
        recovered_hr = self.G(eight_bits(fake_lr).detach())  # F is held fixed
        shown = ((hr, fake_hr), (lr, fake_lr))
        if o["high_frequencies_only"]:
            shown = tuple(
                tuple(x - resize(resize(x, factor), 1 / factor) + 0.5 for x in pair)
                for pair, factor in zip(shown, (1 / 4, half), strict=True)
            )
        loss = o["lambda_gan_hr"] * self.fooling(self.D_HR, *shown[0])
        loss = loss + o["lambda_gan_lr"] * self.fooling(self.D_LR, *shown[1])
        loss = loss + o["lambda_cycle"] * distance(recovered_hr, hr)
        reduced = resize(fake_hr, 1 / 4)
        loss = loss + o["lambda_consistency"] * distance(resize(reduced, half), resize(lr, half))
        low_hr = resize(resize(hr, 1 / 4), half)
        loss = loss + o["lambda_low"] * distance(resize(fake_lr, half), low_hr)
        if o["lambda_identity"]:
            identity = distance(self.F(resize(lr, 4)), lr) + distance(reduced, lr)
            loss = loss + o["lambda_identity"] * identity
        return loss, shown

    def fooling(self, D: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        """Return the loss of a generator whose fakes should be taken for real."""
        if not self.options["relativistic"]:
            return squares(D(fake), 1)
        real, fake = D(real).detach(), D(fake)
        return (squares(fake - real.mean(), 1) + squares(real - fake.mean(), -1)) / 2

    def discriminator_loss(self, D, real, fake, step: int) -> torch.Tensor:
        on_real, on_fake = D(real), D(fake)
        loss = (squares(on_real, 1) + squares(on_fake, 0)) / 2
        if self.options.get("relativistic"):
            of_real = squares(on_real - on_fake.mean(), 1)
            loss = (of_real + squares(on_fake - on_real.mean(), -1)) / 2
        weight, every = self.options.get("r1_weight", 0), self.options.get("r1_every", 1)
        if weight and step % every == 0:
            real = real.detach().requires_grad_()
            score = D(real).flatten(1).mean(1).sum()
            (gradient,) = torch.autograd.grad(score, real, create_graph=True)
            loss = loss + weight * every * (gradient**2).flatten(1).sum(1).mean() / 2
        return loss

    def descend(self, adam: torch.optim.Adam, loss: torch.Tensor) -> None:
        """Take a step with the weights of `adam`, and with no others."""
        adam.zero_grad()
        loss.backward(inputs=adam.param_groups[0]["params"], retain_graph=True)
        adam.step()

    def earlier(self, domain: int, images: torch.Tensor) -> torch.Tensor:
        """Exchange half of the fakes for earlier ones, once there are enough."""
        kept, returned = self.pools[domain], []
        for image in images.detach():
            if len(kept) < POOL:
                kept.append(image)
            elif torch.rand(()) < 0.5:
                i = int(torch.randint(POOL, ()))
                kept[i], image = image, kept[i]
            returned.append(image)
        return torch.stack(returned)


@pytest.fixture(scope="module", params=CASES)
def both(request, dataset, tmp_path_factory) -> tuple[Path, Written]:
    version, options = CASES[request.param]
    more = {} if version is v1 else {"pool_size": POOL, "ema_decay": EMA_DECAY}
    with pytest.MonkeyPatch.context() as patch:
        smooth_adam(patch, EPS)
        run = version.train_cyclegan_sr(
            **dataset.folders(), **SIZES, **options, **more, out_dir=tmp_path_factory.mktemp("run")
        )
    psnr_y = [float(row["psnr_y"]) for row in rows_of(run)]
    return run, Written(version, options, dataset, psnr_y.index(max(psnr_y)))


@pytest.mark.parametrize("name", ["G_LR2HR", "F_HR2LR", "D_HR", "D_LR", "G_LR2HR_best"])
def test_trained_weights_are_those_of_the_losses_written_out(both, name):
    run, written = both
    ours = torch.load(run / f"{name}.pth", weights_only=True)
    weights, before = ({k: v for k, v in w[name].items() if k != "_extra_state"}
                       for w in (written.weights, written.before))  # fmt: skip
    ours.pop("_extra_state", None)
    assert_moved_alike(ours, weights, before, share=3e-3)


def test_defaults_are_those_that_the_docstrings_claim():
    first, second, third = (v.train_cyclegan_sr.__kwdefaults__ for v in (v1, v2, v3))
    paper = {"lambda_cycle": 10.0, "lambda_identity": 0.0, "learning_rate": 2e-4}
    for defaults in (first, second, third):
        assert defaults | paper | {"betas": (0.5, 0.999), "batch_size": 4} == defaults
    for defaults in (second, third):
        assert (defaults["pool_size"], defaults["decay_from"], defaults["ema_decay"]) == (
            50, 0.5, 0.999
        )  # fmt: skip
    assert (third["lambda_gan_hr"], third["lambda_gan_lr"]) == (0.003, 1.0)
    assert (third["lambda_consistency"], third["lambda_low"]) == (10.0, 2.5)
