"""The CVAE's and the SRVAE's training, beside their losses and steps written out once more."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import pixel_unshuffle

from common.data.resize import resize
from common.measure.efficientnet import EfficientNetFeatures
from CVAE import dataset as cvae_data
from CVAE import model as cvae
from CVAE.train_cvae import train_cvae
from SRVAE import dataset as srvae_data
from SRVAE import model as srvae
from SRVAE.train_srvae import energy_score, images_apart, train_srvae
from tests.conftest import Weights, assert_moved_alike, rows_of, smooth_adam

BATCH, STEPS, EPOCHS = 4, 3, 2  # crops in a step, steps in an epoch
N = EPOCHS * STEPS
RATE, BETAS, EMA_DECAY, EPS, SEED = 1e-2, (0.8, 0.9), 0.35, 1e-3, 5
RUN = {"batch_size": BATCH, "steps_per_epoch": STEPS, "n_epochs": EPOCHS, "learning_rate": RATE}
RUN |= {"ema_decay": EMA_DECAY, "n_valid": 1, "valid_patches": 2, "workers": 0, "device": "cpu"}
RUN |= {"betas": BETAS, "bfloat16": False, "seed": SEED}
# The KL term is about as strong as the image's, and its free bits are free for some numbers of z.
CVAE = {"n_features": 4, "n_latent": 32, "kl_weight": 1e-5, "free_nats": 1.3}
SRVAE = {"n_features": 6, "n_latent": 3, "n_blocks": 1, "n_detail": 4, "patch_size": 32}
SRVAE |= {"free_nats": 0.01, "sample_weight": 0.7, "feature_weight": 0.0, "mean_weight": 0.4}
CASES = {
    "cvae": CVAE,
    "cvae of squared errors, not projected": CVAE | {"reconstruction": "mse", "projections": 0},
    "cvae without recognition": CVAE | {"recognition": False},
    "srvae": SRVAE,
    "srvae with features": SRVAE | {"feature_weight": 0.003},
}
Gaussian = tuple[torch.Tensor, torch.Tensor]  # mean and log variance


def data_of(case: str, large_dataset, seed: int) -> tuple:
    folders = large_dataset.folders().values()
    settings = {"n_valid": 1, "valid_crop": 1024, "valid_patches": 2, "seed": seed}
    if case.startswith("cvae"):
        return cvae_data.crops_and_validation(*folders, **settings)
    settings["patch_size"] = CASES[case]["patch_size"]
    return srvae_data.crops_and_validation(*folders, **settings)


class WrittenOut:
    """The same training; each epoch's averages, what was `before`, and each step's `logged`.

    The weights' keys begin with the name of their file.
    """

    def __init__(self, case: str, large_dataset):
        self.case = {"recognition": True, "reconstruction": "l1", "projections": 2} | CASES[case]
        self.is_cvae = case.startswith("cvae")
        self.crops, validation, _ = data_of(case, large_dataset, SEED)
        height, width = validation.photos[0].lr.shape[:2]

        self.efficientnet = EfficientNetFeatures().to(memory_format=torch.channels_last)
        torch.manual_seed(SEED)  # of the weights, and then of all noise
        networks = cvae.CVAE if self.is_cvae else srvae.SRVAE
        sizes = {name: self.case[name] for name in ("n_features", "n_latent")}
        blocks = {k: self.case[k] for k in ("n_blocks", "n_detail") if not self.is_cvae}
        self.networks = nn.ModuleDict()
        self.model = networks(**sizes, **blocks, projections=self.case["projections"])
        self.networks[case.split()[0]] = self.model
        if self.case["recognition"]:
            self.networks["recognition"] = (cvae if self.is_cvae else srvae).Recognition(**sizes)
        self.networks.to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.networks)
        self.before = copy.deepcopy(self.average.state_dict())
        self.averages: list[Weights] = []
        self.logged: list[dict[str, float]] = []
        adam = torch.optim.Adam(self.networks.parameters(), betas=BETAS, eps=EPS)
        for step in range(N):
            adam.zero_grad()
            self.loss(step, *self.batch(step)).backward()
            # The rate falls to 0 in the second half.
            adam.param_groups[0]["lr"] = RATE * min(1, 2 * (1 - step / N))
            adam.step()
            self.logged[-1]["learning_rate"] = adam.param_groups[0]["lr"]
            self.move_average(step)
            if (step + 1) % STEPS == 0:
                self.averages.append(copy.deepcopy(self.average.state_dict()))
                # For the mean prediction of the held-out photo noise is drawn, too, times 0.
                self.model.noise((1, 3, height, width), 1, 0.0, None)

    def batch(self, step: int) -> list[torch.Tensor]:
        epoch, step = divmod(step, STEPS)
        return [x / 255 for x in self.crops[epoch, range(BATCH * step, BATCH * (step + 1))]]

    def loss(self, step: int, lr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        *p, features = self.model.encode(lr)
        q = self.networks["recognition"](hr, lr) if self.case["recognition"] else p
        drawn = [q] if self.is_cvae else [q, p, p]
        zs = [mean + (logvar / 2).exp() * torch.randn_like(mean) for mean, logvar in drawn]
        zs += [] if self.is_cvae else [p[0].detach()]
        sr, *others = (self.projected(self.model.decode(z, features), lr) for z in zs)
        error = (sr - hr).abs() if self.case["reconstruction"] == "l1" else (sr - hr) ** 2
        losses = {"reconstruction": error.mean()}
        warmth = min(1, max(0, (step / N - 0.3) / (0.6 - 0.3))) if self.is_cvae else 1
        if self.case["recognition"]:
            each = kl(q, fixed(p))
            charged = each > self.case["free_nats"]
            assert 0 < charged.sum() < len(each.flatten())  # or the free bits could not be seen
            losses["kl_q"] = torch.where(charged, each, self.case["free_nats"]).sum()
            losses["kl"] = kl(fixed(q), p).sum()  # trains the prior, and does not wait for warm-up
            kl_term = warmth * losses["kl_q"] + 4 * losses["kl"]
        else:
            losses["kl"] = kl(p, (torch.zeros(()), torch.zeros(()))).sum()
            kl_term = warmth * losses["kl"]
        more = 0.0
        if not self.is_cvae:
            first, second, mean = others
            losses["mean"] = (mean - hr).abs().mean()
            losses["samples"] = score(self.apart, first, second, hr)
            more = self.case["mean_weight"] * losses["mean"]
            more = more + self.case["sample_weight"] * losses["samples"]
        if self.case.get("feature_weight"):
            losses["features"] = score(self.features_apart, first, second, hr)
            more = more + self.case["feature_weight"] * losses["features"]
        weight = self.case["kl_weight"] if self.is_cvae else 1.0
        self.logged.append({f"loss_{name}": loss.item() for name, loss in losses.items()})
        if self.is_cvae:
            self.logged[-1]["kl_weight"] = warmth * weight
            return losses["reconstruction"] + weight * kl_term
        # -log of the Laplace density exp(-|HR - SR| / b) / 2b, and KL, in nats of each value.
        b = losses["reconstruction"].detach()  # the most likely scale
        nll = (error / b + (2 * b).log()).mean()
        return nll + more / b + kl_term / (3 * self.case["patch_size"] ** 2)

    def projected(self, sr: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        for _ in range(self.case["projections"]):  # what SR lacks of LR is added to it
            sr = sr + resize(lr - resize(sr, 1 / 4), 4)
        return sr

    def features_apart(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return how far the features' directions are apart, the mean over places and depths."""
        pairs = zip(self.efficientnet(a), self.efficientnet(b), strict=True)
        return sum(((x - y).norm(dim=1) ** 2 + 1e-4).sqrt().mean() for x, y in pairs) / 4

    def apart(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return the root mean square difference in windows of 4 and 16 pixels, its mean."""
        means = []
        for size in (4, 16):
            windows = [x.unfold(2, size, size).unfold(3, size, size) for x in (a, b)]
            square = (windows[0] - windows[1]).square().mean((1, 4, 5))  # (N, rows, columns)
            means.append((square + 1e-6).sqrt().mean())
        return sum(means) / 2

    def move_average(self, step: int) -> None:
        """Parameters are averaged, and short of the decay quickly; statistics are copied."""
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        both = self.average, self.networks
        for mean, value in zip(*(network.parameters() for network in both), strict=True):
            mean.data = decay * mean.data + (1 - decay) * value.data
        for mean, value in zip(*(network.buffers() for network in both), strict=True):
            mean.data = value.data.clone()


def score(apart: Callable, *images: torch.Tensor) -> torch.Tensor:
    first, second, hr = images
    return apart(first, hr) / 2 + apart(second, hr) / 2 - apart(first, second) / 2


def kl(q: Gaussian, p: Gaussian) -> torch.Tensor:
    """Return KL(q || p) of each latent number, its mean over the batch."""
    return kl_divergence(*(Normal(mean, (logvar / 2).exp()) for mean, logvar in (q, p))).mean(0)


def fixed(gaussian: Gaussian) -> Gaussian:
    return gaussian[0].detach(), gaussian[1].detach()


@pytest.mark.parametrize("case", CASES)
def test_trained_weights_are_those_of_the_losses_written_out(
    case, large_dataset, tmp_path, monkeypatch
):
    expected = WrittenOut(case, large_dataset)
    smooth_adam(monkeypatch, EPS)
    train = train_cvae if case.startswith("cvae") else train_srvae
    run = train(**large_dataset.folders(), **RUN, **CASES[case], out_dir=tmp_path / "run")
    rows = [{k: float(v) for k, v in row.items() if v} for row in rows_of(run)]
    psnr_y = [row["psnr_y"] for row in rows]
    model = case.split()[0]
    epochs = {name: EPOCHS - 1 for name in expected.networks}
    for file, epoch in (epochs | {f"{model}_best": psnr_y.index(max(psnr_y))}).items():
        name = file.removesuffix("_best")
        ours = torch.load(run / f"{file}.pth", weights_only=True)
        ours = {f"{name}.{key}": weight for key, weight in ours.items()}
        there = {k: w for k, w in expected.averages[epoch].items() if k.startswith(f"{name}.")}
        assert_moved_alike(ours, there, expected.before, share=1e-2 if "features" in case else 3e-3)
    for epoch, row in enumerate(rows):
        steps = expected.logged[epoch * STEPS : (epoch + 1) * STEPS]
        means = {k: sum(step[k] for step in steps) / STEPS for k in steps[0] if "loss" in k}
        there = steps[-1] | means
        assert {k: row[k] for k in there} == pytest.approx(there, rel=1e-4)
        assert {k for k in row if "loss" in k} == means.keys()


def networks_and_images(name: str) -> tuple[nn.Module, nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = cvae.CVAE(4, 16) if name == "cvae" else srvae.SRVAE(6, 2)
    recognition = cvae.Recognition(4, 16) if name == "cvae" else srvae.Recognition(6, 2)
    return model, recognition, torch.rand(2, 3, 128, 128), torch.rand(2, 3, 32, 32)


@pytest.mark.parametrize("name", ["cvae", "srvae"])
def test_recognition_sees_lr_and_four_times_what_hr_has_beyond_bicubic(name):
    _, recognition, hr, lr = networks_and_images(name)
    seen = []
    recognition.convs[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    recognition(hr, lr)
    beyond = pixel_unshuffle(hr - resize(lr, 4), 4)
    torch.testing.assert_close(seen[0], torch.cat([4 * beyond, lr], 1))


@pytest.mark.parametrize("name", ["cvae", "srvae"])
@pytest.mark.parametrize("bias, limit", [(50.0, 7.0), (-50.0, -7.0)])
def test_log_variances_are_held_within_7_of_0_and_means_are_not(name, bias, limit):
    model, recognition, hr, lr = networks_and_images(name)
    for network in (model, recognition):
        for layer, weights in network.named_modules():
            if layer.endswith(("_mu", "_logvar")):
                nn.init.constant_(weights.bias, bias)
    for mu, logvar, *_ in (model.encode(lr), recognition(hr, lr)):
        assert (logvar == limit).all() and (mu.abs() > 40).all()


def test_cvae_starts_with_little_detail_and_a_z_of_little_noise():
    model, recognition, _, _ = networks_and_images("cvae")
    assert (model.upsample2[2].weight == 0.1).all()
    assert (recognition.to_logvar.bias == -3).all()


@pytest.mark.parametrize("case", ["cvae", "srvae"])
def test_crops_are_decided_by_the_seed(large_dataset, case):
    first, again, other = (data_of(case, large_dataset, seed)[0] for seed in (1, 1, 2))
    first, again, other = (crops[0, range(2)][1] for crops in (first, again, other))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_defaults_are_the_documented_ones():
    both = {"prior_weight": 4.0, "betas": (0.9, 0.99), "decay_from": 0.5}
    both |= {"ema_decay": 0.999, "projections": 2, "batch_size": 16, "patch_size": 128}
    of_cvae = {"n_latent": 256, "reconstruction": "l1", "kl_weight": 7e-7, "free_nats": 0.1}
    of_srvae = {"n_latent": 2, "free_nats": 0.005, "learning_rate": 1e-3, "sample_weight": 1.0}
    of_srvae |= {"feature_weight": 0.15, "mean_weight": 0.5}
    of_cvae |= {"recognition": True, "learning_rate": 4e-4, "warm_up": (0.3, 0.6)}
    for train, own in ((train_cvae, of_cvae), (train_srvae, of_srvae)):
        assert train.__kwdefaults__ | both | own == train.__kwdefaults__


def test_energy_score_is_lowest_for_samples_spread_as_hr_is():
    """By hand: for HR and samples of N(0, 1) and N(0, s^2) the least is at s = 1."""
    noise = torch.randn(3, 64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    hr, first, second = noise
    scores = {s: energy_score(images_apart, s * first, s * second, hr) for s in (0.5, 1, 2)}
    assert scores[1] < scores[0.5] < scores[2]
    # Nearly: in windows of many values |x - y| is sqrt(1 + s^2), |x - x'| is s sqrt(2).
    for s, score in scores.items():
        assert score.item() == pytest.approx((1 + s**2) ** 0.5 - s / 2**0.5, rel=0.02)
