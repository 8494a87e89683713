"""The figures that tell whether z carries anything, on models whose z is known."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from common.data.resize import resize
from common.measure.metrics import psnr_ssim_y
from common.vae import deviations, latent_diagnostics


def checkerboard(size: int) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return 1.0 - 2 * ((rows + columns) % 2)


class Toy(nn.Module):
    """SR is bicubic and a checkerboard of 0.02 z[0]; z[1] does nothing; p is N(0, 1)."""

    def encode(self, lr):
        zeros = torch.zeros(len(lr), 2)
        return zeros, zeros, resize(lr, 4)

    def decode(self, z, bicubic):
        return bicubic + 0.02 * z[:, :1, None, None] * checkerboard(bicubic.shape[-1])

    def finish(self, sr, lr):
        return sr.clamp(0, 1)


class Knowing(nn.Module):
    """q that reads z[0] off HR; its standard deviation is 0.1 of the prior's."""

    def forward(self, hr, lr):
        board = checkerboard(hr.shape[-1])
        strength = ((hr - resize(lr, 4)) * board).mean((1, 2, 3)) / 0.02
        mean = torch.stack([strength, torch.zeros_like(strength)], 1)
        return mean, torch.tensor([2 * math.log(0.1), 0.0]).expand(len(hr), 2)


@pytest.fixture
def patches():
    lr = functional.interpolate(torch.rand(6, 3, 4, 4), size=16, mode="bilinear") / 2 + 0.25
    strengths = torch.tensor([1.0, -2.0, 0.5, 2.0, -1.0, -0.5])
    return lr, Toy().decode(strengths[:, None], resize(lr, 4)), strengths


def test_figures_of_a_z_that_carries_something(patches):
    lr, hr, strengths = patches
    figures = latent_diagnostics(Toy(), Knowing(), lr, hr, n=60)
    # KL(N(m, 0.1^2) || N(0, 1)) = -log 0.1 + (0.01 + m^2 - 1) / 2, and nothing of z[1].
    kl = math.log(10) + (0.01 + strengths.square().mean().item() - 1) / 2
    assert figures["kl"] == pytest.approx(kl, rel=0.02)
    assert figures["active_units"] == 1
    assert figures["sigma_ratio"] == pytest.approx(math.sqrt(10 * 1))
    assert figures["psnr_q"] > figures["psnr_mean"] + 5
    # Its errors are 1.5, 3, 2.5, 1.5, 3 and 0.5 instead of 1, 2, 0.5, 2, 1 and 0.5: 4.7 dB.
    assert figures["psnr_other"] == pytest.approx(figures["psnr_mean"] - 4.7, abs=1)
    mean = resize(lr, 4)
    expected = [psnr_ssim_y(a[None], b[None])[0] for a, b in zip(mean, hr, strict=True)]
    assert figures["psnr_mean"] == pytest.approx(sum(expected) / 6, abs=0.01)
    # The samples' deviation is 0.02 of the board, which LR does not see.
    assert figures["std_high"] == pytest.approx(0.02 * 255, rel=0.2)
    assert figures["std_low"] < 0.02 * figures["std_high"]
    assert figures["lr_psnr"] >= figures["lr_psnr_worst"] > 40


def test_figures_of_a_z_that_is_dead(patches):
    lr, hr, _ = patches

    class Dead(Toy):
        def decode(self, z, bicubic):
            return bicubic

    figures = latent_diagnostics(Dead(), None, lr, hr)
    assert figures["kl"] == 0 and figures["active_units"] == 0 and figures["sigma_ratio"] == 1
    assert figures["std_high"] == figures["std_low"] == 0
    assert figures["psnr_q"] == figures["psnr_mean"] == figures["psnr_other"]


def test_z_of_another_patch_is_that_of_the_one_before(patches):
    lr, hr, strengths = patches
    other = Toy().decode(strengths.roll(1)[:, None], resize(lr, 4))
    expected = [psnr_ssim_y(a[None], b[None])[0] for a, b in zip(other, hr, strict=True)]
    figures = latent_diagnostics(Toy(), Knowing(), lr, hr)
    assert figures["psnr_other"] == pytest.approx(sum(expected) / 6, abs=0.5)


def test_figures_are_the_same_each_time(patches):
    lr, hr, _ = patches
    a, b = (latent_diagnostics(Toy(), Knowing(), lr, hr) for _ in range(2))
    assert a == b


def test_deviations_are_told_apart_by_frequency():
    signs = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1, 1)
    image = torch.full((2, 1, 3, 64, 64), 0.5)
    high, low = deviations(image + 0.1 * signs * checkerboard(64))
    assert high == pytest.approx(255 * 0.1 * math.sqrt(2), rel=0.05) and low < 0.5
    high, low = deviations(image + 0.1 * signs)
    assert low == pytest.approx(255 * 0.1 * math.sqrt(2), rel=1e-4) and high < 1e-3


@pytest.mark.parametrize("sizes, n", [((0.09, 0.1), 1), ((0.09, 0.09), 0), ((0.1, 0.11), 2)])
def test_units_are_active_whose_means_vary_by_more_than_a_hundredth(patches, sizes, n):
    class Alternating(nn.Module):
        def forward(self, hr, lr):
            signs = torch.tensor([1.0, -1.0] * 3)[:, None]
            return signs * torch.tensor(sizes), torch.zeros(6, 2)

    lr, hr, _ = patches  # of ±a six times the variance is 6/5 a^2: 0.00972 of 0.09, 0.012 of 0.1
    assert latent_diagnostics(Toy(), Alternating(), lr, hr)["active_units"] == n
