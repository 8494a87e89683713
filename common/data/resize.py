"""MATLAB's `imresize` (bicubic), the resampling behind every published 4x figure.

`factor` is 1/4, 1/2, 2 or 4 throughout.
"""

import functools
import math

import numpy as np
import torch
from torch.nn import functional

_BORDER = 16  # pixels replicated around the image: more than the kernel reaches at 1/4


def imresize(image: np.ndarray, factor: float) -> np.ndarray:
    """Resize 8-bit pixels with the values MATLAB's `imresize(image, factor, "bicubic")` gives.

    Bicubic with a = -0.5, antialiased when `factor` < 1; rows first, then columns, each rounded
    half up to 8 bits; borders replicated (Keys 1981, "Cubic Convolution Interpolation"). Takes
    (H, W, C) uint8, C 3 or more, and gives (ceil(H * factor), ceil(W * factor), C).
    """
    return _imresize(torch.tensor(image).double(), factor).byte().contiguous().numpy()


def imresize_batch(images: torch.Tensor, factor: float) -> torch.Tensor:
    """Resize float images as `imresize` does, rounding to 8 bits before, between and after.

    (N, C, H, W) in [0, 1] -> (N, C, ceil(H * factor), ceil(W * factor)), float64 in [0, 1].
    """
    n, c = images.shape[:2]
    pixels = (images.double() * 255).round().clamp(0, 255)
    pixels = _imresize(pixels.permute(2, 3, 0, 1).flatten(2), factor) / 255
    return pixels.unflatten(2, (n, c)).permute(2, 3, 0, 1)


def _imresize(pixels: torch.Tensor, factor: float) -> torch.Tensor:
    """Resize (H, W, C) float64 of whole numbers to whole numbers."""
    for _ in range(2):  # rows, then columns
        h, w, c = pixels.shape
        # Columns and channels lie side by side: a width of 1 makes torch's `interpolate` go wrong.
        image = pixels.reshape(1, 1, h, w * c)
        # A height that 1/factor divides keeps torch's sampling grid where MATLAB's is.
        below = _BORDER + (-h) % max(1, round(1 / factor))
        image = functional.pad(image, (0, 0, _BORDER, below), mode="replicate")
        size = (round(image.shape[2] * factor), w * c)
        image = functional.interpolate(image, size, mode="bicubic", antialias=True)
        top, out_h = round(_BORDER * factor), math.ceil(h * factor)
        image = image[0, 0, top : top + out_h].add(0.5).floor().clamp(0, 255)
        pixels = image.reshape(out_h, w, c).transpose(0, 1)
    return pixels


def resize(images: torch.Tensor, factor: float) -> torch.Tensor:
    """Resize float images as `imresize` does, without its rounding; gradients pass.

    (N, C, H, W) -> (N, C, H * factor, W * factor), float32 or more, not clamped: bicubic overshoots
    at edges. H and W are multiples of 1/factor where it reduces.
    """
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    # In whole numbers, so that the network can be exported for photos of any size.
    up, down = max(1, round(factor)), max(1, round(1 / factor))
    if torch.is_grad_enabled():  # `interpolate` is slow, its gradient too and not always the same
        h, w = images.shape[2:]
        like = images.dtype, images.device
        rows, columns = (_matrix(n, up, down, *like) for n in (h, w))
        with torch.autocast(images.device.type, enabled=False):
            return rows @ (images @ columns.T)
    images = functional.pad(images, (_BORDER,) * 4, mode="replicate")
    size = tuple(n * up // down for n in images.shape[2:])
    images = functional.interpolate(images, size, mode="bicubic", antialias=True)
    border = round(_BORDER * factor)
    return images[..., border:-border, border:-border]


@functools.lru_cache(32)
def _matrix(n: int, up: int, down: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return the weights (n * up / down, n) of a resampling with replicated borders."""
    n_in = n + 2 * _BORDER
    n_out, border = n_in * up // down, _BORDER * up // down
    inputs, outputs = (torch.arange(m, dtype=torch.float64) + 0.5 for m in (n_in, n_out))
    x = (outputs[:, None] * (down / up) - inputs).abs() * min(1, up / down)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2  # Keys, a = -0.5
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0))
    weights = (weights / weights.sum(1, keepdim=True))[border:-border]
    pixel = (torch.arange(n_in) - _BORDER).clamp(0, n - 1)  # that a border repeats
    matrix = torch.zeros(len(weights), n, dtype=torch.float64)
    return matrix.index_add_(1, pixel, weights).to(device, dtype)


def detail(images: torch.Tensor, factor: int = 4) -> torch.Tensor:
    """Return what float images (N, C, H, W) lose when they are scaled down by `factor`, 2 or 4."""
    return images - resize(resize(images, 1 / factor), factor)


def project(sr: torch.Tensor, lr: torch.Tensor, times: int) -> torch.Tensor:
    """Add to SR (N, C, 4H, 4W), `times` times, what it lacks of LR (N, C, H, W) when scaled down.

    x <- x + up(y - down(x)): back-projection (Irani and Peleg 1991), for LR that was made by
    bicubic. Gradients pass. As all of it is linear, what is added is collected in LR's size.
    """
    if not times:
        return sr
    more = lack = lr - resize(sr, 1 / 4)
    for _ in range(times - 1):
        lack = lack - resize(resize(lack, 4), 1 / 4)
        more = more + lack
    return sr + resize(more, 4)


def project_and_clamp(sr: torch.Tensor, lr: torch.Tensor, times: int = 10) -> torch.Tensor:
    """Project `sr` onto `lr` and clamp it to [0, 1], by turns; 10 times suffice to fit both."""
    sr = sr.clamp(0, 1)
    for _ in range(times):
        sr = project(sr, lr, 1).clamp_(0, 1)
    return sr
