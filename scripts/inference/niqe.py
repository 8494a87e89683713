"""NIQE (Mittal, Soundararajan and Bovik 2013, "Making a completely blind image quality analyzer").

How far a photo's statistics lie from those of undistorted photos, where there is no HR: lower is
better. `niqe_pristine.npz` holds the authors' window, and their undistorted photos' features.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from common.data.resize import resize
from common.measure.metrics import luma

BLOCK = 96  # pixels, each way
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # right, below, and on both diagonals
_ROUNDING = 1e-9  # of a coefficient: what float64 leaves where a photo is flat


@torch.no_grad()
def niqe(images: torch.Tensor) -> torch.Tensor:
    """Return each photo's NIQE: (N, 3, H, W) in [0, 1], rounded to 8 bits, to (N,) float64.

    As the authors' MATLAB code gives it for rounded luma. On the right and below, less than a block
    of 96x96 is left out. Two blocks that are not flat are needed for a covariance: else nan.
    Flat blocks have the same features on every device; elsewhere they may depend on rounding.
    """
    rows, columns = (n // BLOCK for n in images.shape[-2:])
    if rows * columns < 2:
        return torch.full((len(images),), torch.nan, dtype=torch.float64, device=images.device)
    y = luma(images[..., : rows * BLOCK, : columns * BLOCK])
    x = torch.cat([_features(y, BLOCK), _features(_half(y), BLOCK // 2)], dim=-1)  # (N, blocks, 36)
    has_all = ~x.isnan().any(-1, keepdim=True)
    n = has_all.sum(1, keepdim=True)  # (N, 1, 1)
    rest = (x - x.where(has_all, 0).sum(1, keepdim=True) / n).where(has_all, 0)
    covariance = (rest.mT @ rest / (n - 1)).where(n > 1, 0)
    _, pristine_mean, pristine_covariance = (constant.to(x.device) for constant in _constants())
    shift = (x.nanmean(1) - pristine_mean)[:, :, None]  # (N, 36, 1)
    inverse = torch.linalg.pinv((covariance + pristine_covariance) / 2)
    return (shift.mT @ inverse @ shift).sqrt().where(n > 1, torch.nan).flatten()


def _half(y: torch.Tensor) -> torch.Tensor:
    """Return luma (N, 1, H, W) at half its size, by `imresize` with the borders of newer MATLABs.

    They are mirrored, as where NIQE's known values come from; replicated ones change up to 0.02.
    """
    for axis in (2, 3):
        first, last = (y.narrow(axis, i, 4).flip(axis) for i in (0, y.shape[axis] - 4))
        y = torch.cat([first, y, last], dim=axis)
    return resize(y, 1 / 2)[..., 2:-2, 2:-2]


def _features(y: torch.Tensor, size: int) -> torch.Tensor:
    """Return 18 numbers of each block of luma (N, 1, H, W): (N, blocks, 18)."""
    blocks = _normalised(y).unflatten(3, (-1, size)).unflatten(2, (-1, size))
    blocks = blocks[:, 0].transpose(2, 3).flatten(1, 2)  # (N, blocks, size, size)
    shape, left, right = fit_aggd(blocks)
    features = [shape, (left + right) / 2]
    for shift in _NEIGHBOURS:  # each value times its neighbour; a block's edges meet, as published
        shape, left, right = fit_aggd(blocks * blocks.roll(shift, (-2, -1)))
        mean = (right - left) * _gamma(2 / shape) / _gamma(1 / shape)
        features += [shape, mean, left, right]
    return torch.stack(features, dim=-1)


def _normalised(y: torch.Tensor) -> torch.Tensor:
    """Return luma (N, 1, H, W) less its local mean, over its local deviation plus 1 (eq. 1)."""
    line = _constants()[0].to(y.device)

    def blur(x: torch.Tensor) -> torch.Tensor:
        x = functional.pad(x, (3, 3, 3, 3), mode="replicate")
        x = functional.conv2d(x, line.view(1, 1, -1, 1))
        return functional.conv2d(x, line.view(1, 1, 1, -1))

    mean = blur(y)
    deviation = (blur(y * y) - mean * mean).abs().sqrt()
    coefficients = (y - mean) / (deviation + 1)
    return coefficients.where(coefficients.abs() > _ROUNDING, 0)


def fit_aggd(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return shape, left and right scale of asymmetric generalised Gaussians, by their moments.

    Of blocks (..., h, w), each (...). Where a block has no values on one side of 0 that scale is
    nan, and the shape the least there is, as in MATLAB (Lasmar, Stitou and Berthoumieu 2009).
    """
    square = x * x
    left, right = (
        ((square * side).sum((-2, -1)) / side.sum((-2, -1))).sqrt() for side in (x < 0, x > 0)
    )
    g = left / right
    ratio = x.abs().mean((-2, -1)).square() / square.mean((-2, -1))
    ratio = ratio * (g**3 + 1) * (g + 1) / (g * g + 1).square()
    shapes = torch.arange(200, 10001, dtype=torch.float64, device=x.device) / 1000
    ratios = _gamma(2 / shapes).square() / (_gamma(1 / shapes) * _gamma(3 / shapes))  # ascending
    above = torch.searchsorted(ratios, ratio.nan_to_num(0)).clamp(1, len(ratios) - 1)
    is_below = (2 * ratio <= ratios[above - 1] + ratios[above]) | ratio.isnan()
    shape = shapes[above - is_below.long()]  # the nearest
    scale = (_gamma(1 / shape) / _gamma(3 / shape)).sqrt()
    return shape, left * scale, right * scale


def _gamma(x: torch.Tensor) -> torch.Tensor:
    return torch.lgamma(x).exp()


@cache
def _constants() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the window's line (7,), whose product with itself it is, the mean and covariance."""
    with np.load(Path(__file__).with_name("niqe_pristine.npz")) as file:
        names = ("gaussian_window", "mu_pris_param", "cov_pris_param")
        window, mean, covariance = (torch.tensor(file[name]) for name in names)
    return window.sum(0), mean[0], covariance
