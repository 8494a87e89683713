"""Degrade HR photos as a plain camera does: blur, a quarter of the size, sensor noise, JPEG.

The first-order degradation model LR = JPEG((HR * k) shrunk + n) of Wang et al. 2021
("Real-ESRGAN", arXiv 2107.10833, Equation 1) and Zhang et al. 2021 ("Designing a Practical
Degradation Model for Deep Blind Image Super-Resolution", arXiv 2103.14006). Simpler than theirs:
each step once and in this order, bicubic alone, milder ranges.
"""

import io
import math

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from common.data.resize import imresize

SCALE = 4


def degrade(
    hr: np.ndarray,
    rng: np.random.Generator,
    *,
    blur_sigma: tuple[float, float] = (0.4, 2.4),  # HR pixels, along either axis of the Gaussian
    read_noise: tuple[float, float] = (0.5, 3.0),  # 1/255, standard deviation in black
    shot_noise: tuple[float, float] = (1.0, 6.0),  # 1/255, standard deviation it adds in white
    jpeg_quality: tuple[int, int] = (60, 95),  # of libjpeg, 1 to 100, both ends included
) -> np.ndarray:
    """Return an LR photo of `hr`: blur, 1/4 bicubic, noise, JPEG, each drawn uniformly by `rng`.

    Args:
        hr: (H, W, 3) uint8, H and W multiples of 4.
    Returns:
        (H / 4, W / 4, 3) uint8.
    Raises:
        ValueError: `hr` is of another shape or type.
    """
    if hr.dtype != np.uint8 or hr.ndim != 3 or hr.shape[2] != 3 or not hr.size:
        raise ValueError(f"HR is {hr.shape} {hr.dtype}, expected (H, W, 3) uint8")
    if hr.shape[0] % SCALE or hr.shape[1] % SCALE:
        raise ValueError(f"HR is {hr.shape}, expected H and W to be multiples of {SCALE}: crop it")
    sigma_u, sigma_v = rng.uniform(*blur_sigma, size=2)
    angle = rng.uniform(0, math.pi)
    read, shot = rng.uniform(*read_noise), rng.uniform(*shot_noise)
    quality = int(rng.integers(*jpeg_quality, endpoint=True))

    blurred = blur(hr, gaussian_kernel(sigma_u, sigma_v, angle))  # (H, W, 3)
    lr = imresize(blurred, 1 / SCALE)  # (H / 4, W / 4, 3)
    return jpeg(add_noise(lr, read, shot, rng), quality)


def gaussian_kernel(sigma_u: float, sigma_v: float, angle: float) -> torch.Tensor:
    """Return an anisotropic Gaussian sampled at pixel centres (as Zhang et al. 2021 do).

    Its weights are multiples of 2**-16 and sum to 1 exactly: their products with 8-bit pixels add
    up without a rounding error in float32, so that `blur` gives the same on every machine, with any
    number of threads.

    Args:
        sigma_u, sigma_v: standard deviations along the two axes, pixels, above 0.
        angle: from the image's x axis (right) to the u axis, towards y (down), radians.
    Returns:
        (K, K) float32, K odd, reaching 4 standard deviations.
    """
    reach = math.ceil(4 * max(sigma_u, sigma_v))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    u = x * math.cos(angle) + y * math.sin(angle)
    v = y * math.cos(angle) - x * math.sin(angle)
    weights = np.exp(-((u / sigma_u) ** 2 + (v / sigma_v) ** 2) / 2)
    weights = np.round(weights / weights.sum() * 2**16)
    weights[reach, reach] += 2**16 - weights.sum()
    return torch.tensor(weights / 2**16, dtype=torch.float32)


def blur(image: np.ndarray, kernel: torch.Tensor) -> np.ndarray:
    """Convolve (H, W, 3) uint8 with a point-symmetric (K, K) kernel, K odd; borders replicated."""
    reach = kernel.shape[0] // 2
    pixels = torch.tensor(image).permute(2, 0, 1)[:, None].float()  # (3, 1, H, W)
    pixels = functional.pad(pixels, [reach] * 4, mode="replicate")
    pixels = functional.conv2d(pixels, kernel[None, None])  # (3, 1, H, W)
    return pixels[:, 0].round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()


def add_noise(image: np.ndarray, read: float, shot: float, rng: np.random.Generator) -> np.ndarray:
    """Add a sensor's Poisson-Gaussian noise, independent in each value, and round to 8 bits.

    Variance = a * signal + b with signal in [0, 1], a = (shot / 255)**2, b = (read / 255)**2, the
    Poisson part by its normal approximation (Foi et al. 2008, "Practical Poissonian-Gaussian Noise
    Modeling and Fitting for Single-Image Raw-Data"). The signal is the photo's gamma-encoded value,
    not a sensor's linear one.

    Args:
        image: (H, W, 3) uint8.
        read: standard deviation at signal 0, 1/255.
        shot: standard deviation of the Poisson part at signal 1, 1/255.
    """
    sigma = np.sqrt(shot**2 * (image / 255) + read**2)
    noisy = image + sigma * rng.standard_normal(image.shape)
    return np.round(noisy).clip(0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Compress (H, W, 3) uint8 as JPEG with 4:2:0 chroma and decode it again."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(file) as decoded:
        return np.asarray(decoded.convert("RGB"))
