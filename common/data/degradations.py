"""Degrade HR photos as cameras, programs and networks do: blur, resizing, noise, JPEG, twice.

In the order and ranges of Wang et al. 2021 ("Real-ESRGAN: Training Real-World Blind
Super-Resolution with Pure Synthetic Data", arXiv 2107.10833, sections 3.1 and 3.2 and appendix).
Differences from the authors' code: sizes of resizing are drawn for each image, not for each batch;
JPEG is libjpeg's, with whole qualities; Poisson noise counts 256 levels. Blur kernels are
(2 reach + 1, 2 reach + 1) float64, point-symmetric, their sum 1.
"""

import io
import math
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

SCALE = 4
_THREADS = ThreadPoolExecutor(4)  # for JPEG; they begin when they are needed

Range = tuple[float, float]  # from, to; drawn uniformly
Rng = np.random.Generator
Size = tuple[int, int]  # height and width


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Compress (H, W, 3) uint8 as JPEG with 4:2:0 chroma and decode it again."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(file) as decoded:
        return np.asarray(decoded.convert("RGB"))


class Ranges(NamedTuple):
    """What one of the two rounds of `second_order` draws from."""

    blur: float  # probability
    sigma: Range  # pixels
    resize: tuple[float, float, float]  # probabilities: up, down, keep
    factor: Range  # of resizing
    gaussian_noise: Range  # standard deviation, 1/255; else Poisson noise, equally likely
    poisson_scale: Range  # 1 is that of 256 levels
    sinc: float = 0.1  # probability that the blur is a sinc filter
    # of the Gaussian, the generalised Gaussian and the plateau, isotropic and anisotropic
    shapes: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    beta: Range = (0.5, 4)  # exponent of the generalised Gaussian, below and above 1 equally likely
    plateau_beta: Range = (1, 2)
    grey_noise: float = 0.4  # probability that noise is the same in all channels
    quality: tuple[int, int] = (30, 95)  # of JPEG


FIRST = Ranges(1.0, (0.2, 3.0), (0.2, 0.7, 0.1), (0.15, 1.5), (1, 30), (0.05, 3.0))
SECOND = Ranges(0.8, (0.2, 1.5), (0.3, 0.4, 0.3), (0.3, 1.2), (1, 25), (0.05, 2.5))
FINAL_SINC = 0.8  # probability
REACHES = (3, 10)  # of all kernels: 7x7 to 21x21


def second_order(hr: torch.Tensor, seeds: list[list[int]]) -> torch.Tensor:
    """Return LR of HR crops, each degraded in its own way, decided by its seeds alone.

    Blur, resizing, noise and JPEG twice; the second JPEG comes before or after the resizing to LR
    and a sinc filter, equally likely. (N, 3, H, W) in [0, 1], H and W multiples of 4, give
    (N, 3, H / 4, W / 4) of 8-bit values in [0, 1] on the same device, whose random numbers noise
    takes: another device gives other noise.
    """
    rngs = [np.random.default_rng(seed) for seed in seeds]  # each decides about one image
    size = tuple(n // SCALE for n in hr.shape[2:])
    rows = zip(hr.split(1), rngs, strict=True)
    images = [_blur_resize_noise(x, rng, FIRST, hr.shape[2:]) for x, rng in rows]
    rows = zip(_jpeg_each(images, rngs, FIRST), rngs, strict=True)
    images = [_blur_resize_noise(x, rng, SECOND, size) for x, rng in rows]
    is_jpeg_last = [rng.random() < 0.5 for rng in rngs]
    rows = zip(images, rngs, is_jpeg_last, strict=True)
    images = [_shrink_and_filter(x, rng, size) if last else x for x, rng, last in rows]
    rows = zip(_jpeg_each(images, rngs, SECOND), rngs, is_jpeg_last, strict=True)
    images = [x if last else _shrink_and_filter(x, rng, size) for x, rng, last in rows]
    return torch.cat(images).mul_(255).round_().clamp_(0, 255).div_(255)


def gaussian(
    reach: int, sigma_u: float, sigma_v: float, angle: float, beta: float = 1
) -> np.ndarray:
    """Return exp(-q**beta / 2), normalised; beta 1 is the Gaussian, others the generalised one.

    q = (u / sigma_u)**2 + (v / sigma_v)**2, sampled at pixel centres, `reach` pixels to either side
    of the central one. The standard deviations (of the Gaussian) are in pixels, above 0; `angle` is
    from the image's x axis (right) to the u axis, towards y (down), in radians.
    """
    weights = np.exp(-(_squared_distance(reach, sigma_u, sigma_v, angle) ** beta) / 2)
    return weights / weights.sum()


def plateau(reach: int, sigma_u: float, sigma_v: float, angle: float, beta: float) -> np.ndarray:
    """Return 1 / (1 + q**beta), normalised: flat inside, with long tails; q as in `gaussian`."""
    weights = 1 / (1 + _squared_distance(reach, sigma_u, sigma_v, angle) ** beta)
    return weights / weights.sum()


def sinc(reach: int, cutoff: float) -> np.ndarray:
    """Return the ideal circular low-pass filter, cut off by the window: it rings beside edges.

    w J1(w r) / (2 pi r), and w**2 / (4 pi) in the centre, normalised; J1 is the Bessel function of
    the first kind. `cutoff` w is in radians a pixel, up to pi.
    """
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    radius = np.hypot(x, y)
    radius[reach, reach] = 1  # (the limit below)
    bessel = torch.special.bessel_j1(torch.from_numpy(cutoff * radius)).numpy()
    weights = cutoff * bessel / (2 * math.pi * radius)
    weights[reach, reach] = cutoff**2 / (4 * math.pi)
    return weights / weights.sum()


def _squared_distance(reach: int, sigma_u: float, sigma_v: float, angle: float) -> np.ndarray:
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    u = x * math.cos(angle) + y * math.sin(angle)
    v = y * math.cos(angle) - x * math.sin(angle)
    return (u / sigma_u) ** 2 + (v / sigma_v) ** 2


def draw_kernel(rng: Rng, ranges: Ranges) -> np.ndarray:
    """Return a blur kernel, 7x7 to 21x21."""
    reach = int(rng.integers(*REACHES, endpoint=True))
    if rng.random() < ranges.sinc:
        return sinc(reach, rng.uniform(math.pi / (3 if reach < 6 else 5), math.pi))
    shape, anisotropic = divmod(int(rng.choice(6, p=ranges.shapes)), 2)
    sigma_u = sigma_v = rng.uniform(*ranges.sigma)
    angle = 0.0
    if anisotropic:
        sigma_v, angle = rng.uniform(*ranges.sigma), rng.uniform(-math.pi, math.pi)
    if shape == 0:
        return gaussian(reach, sigma_u, sigma_v, angle)
    low, high = ranges.beta if shape == 1 else ranges.plateau_beta
    beta = rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high)
    kernel = gaussian if shape == 1 else plateau
    return kernel(reach, sigma_u, sigma_v, angle, beta)


def blur(image: torch.Tensor, kernel: np.ndarray) -> torch.Tensor:
    """Convolve (1, C, H, W) with a point-symmetric (K, K) kernel, K odd; borders are mirrored."""
    n, reach = image.shape[1], len(kernel) // 2
    reach_h, reach_w = (min(reach, size - 1) for size in image.shape[2:])
    image = functional.pad(image, (reach_w, reach_w, reach_h, reach_h), mode="reflect")
    more_w, more_h = reach - reach_w, reach - reach_h  # where it is smaller than the kernel
    image = functional.pad(image, (more_w, more_w, more_h, more_h), mode="replicate")
    weight = torch.from_numpy(kernel).to(image).expand(n, 1, -1, -1)
    return functional.conv2d(image, weight, groups=n)


def add_noise(image: torch.Tensor, rng: Rng, ranges: Ranges) -> torch.Tensor:
    """Add Gaussian or Poisson noise, in colour or the same in all channels, to (1, 3, H, W)."""
    generator = torch.Generator(image.device).manual_seed(int(rng.integers(2**62)))
    is_gaussian, is_grey = rng.random() < 0.5, rng.random() < ranges.grey_noise
    if is_gaussian:
        sigma = rng.uniform(*ranges.gaussian_noise) / 255
        shape = (1, 1 if is_grey else 3, *image.shape[2:])
        noise = torch.randn(shape, generator=generator, device=image.device) * sigma
    else:
        light = (image * 255).round() / 255
        if is_grey:
            weights = light.new_tensor([0.2989, 0.587, 0.114])  # luma of ITU-R BT.601
            light = (light * weights.view(1, 3, 1, 1)).sum(1, keepdim=True)
        counts = torch.poisson(light * 256, generator=generator)
        noise = (counts / 256 - light) * rng.uniform(*ranges.poisson_scale)
    return (image + noise).clamp(0, 1)


def resize(image: torch.Tensor, size: Size, rng: Rng) -> torch.Tensor:
    """Resize (1, 3, H, W) by area, bilinearly or bicubically, equally likely; no antialiasing."""
    mode = ("area", "bilinear", "bicubic")[rng.integers(3)]
    return functional.interpolate(image, size, mode=mode).clamp(0, 1)


def _blur_resize_noise(image: torch.Tensor, rng: Rng, ranges: Ranges, size: Size) -> torch.Tensor:
    """Return (1, 3, h, w): `size` times the factor that is drawn."""
    if rng.random() < ranges.blur:
        image = blur(image, draw_kernel(rng, ranges)).clamp_(0, 1)
    low, high = ranges.factor
    kind = rng.choice(3, p=ranges.resize)
    factor = (rng.uniform(1, high), rng.uniform(low, 1), 1.0)[kind]
    size = tuple(max(1, round(n * factor)) for n in size)
    return add_noise(resize(image, size, rng), rng, ranges)


def _shrink_and_filter(image: torch.Tensor, rng: Rng, size: Size) -> torch.Tensor:
    image = resize(image, size, rng)
    if rng.random() < FINAL_SINC:
        reach = int(rng.integers(*REACHES, endpoint=True))
        image = blur(image, sinc(reach, rng.uniform(math.pi / 3, math.pi)))
    return image.clamp(0, 1)


def _jpeg_each(images: list[torch.Tensor], rngs: list[Rng], ranges: Ranges) -> list[torch.Tensor]:
    """Compress images (1, 3, h, w) of any sizes: one way to the CPU and back for all of them."""
    qualities = [int(rng.integers(*ranges.quality, endpoint=True)) for rng in rngs]
    flat = [(x * 255).round().byte()[0].permute(1, 2, 0).flatten() for x in images]
    parts = torch.cat(flat).cpu().split([len(x) for x in flat])
    shapes = [(*x.shape[2:], 3) for x in images]
    pixels = [part.view(shape).numpy() for part, shape in zip(parts, shapes, strict=True)]
    decoded = [torch.tensor(x).flatten() for x in _THREADS.map(jpeg, pixels, qualities)]
    parts = torch.cat(decoded).to(images[0].device).float().div_(255).split([*map(len, decoded)])
    parts = [part.view(1, *shape) for part, shape in zip(parts, shapes, strict=True)]
    return [part.permute(0, 3, 1, 2).contiguous() for part in parts]
