"""Degrade HR photos mildly, as cameras and programs do: blur, 1/4, noise and JPEG, each once.

LR = JPEG((HR * k) shrunk + n), after Zhang et al. 2021, "Designing a Practical Degradation Model
for Deep Blind Image Super-Resolution", arXiv 2103.14006.
"""

import math

import numpy as np
import torch
from torch.nn import functional

from common.data.degradations import SCALE, Range, gaussian, jpeg
from common.data.resize import imresize


def first_order(
    hr: np.ndarray,
    rng: np.random.Generator,
    *,
    blur_sigma: Range = (0.4, 2.4),  # HR pixels, along either axis of the Gaussian
    read_noise: Range = (0.5, 3.0),  # 1/255, standard deviation in black
    shot_noise: Range = (1.0, 6.0),  # 1/255, standard deviation it adds in white
    jpeg_quality: tuple[int, int] = (60, 95),  # of libjpeg, 1 to 100, both ends included
) -> np.ndarray:
    """Return an LR photo of `hr`: blur, 1/4 bicubic, noise, JPEG, each drawn uniformly by `rng`.

    (H, W, 3) uint8, H and W multiples of 4, gives (H / 4, W / 4, 3) uint8, the same on every
    machine. Raises `ValueError` when `hr` is of another shape or type.
    """
    if hr.dtype != np.uint8 or hr.ndim != 3 or hr.shape[2] != 3 or not hr.size:
        raise ValueError(f"HR is {hr.shape} {hr.dtype}, expected (H, W, 3) uint8")
    if hr.shape[0] % SCALE or hr.shape[1] % SCALE:
        raise ValueError(f"HR is {hr.shape}, expected H and W to be multiples of {SCALE}: crop it")
    sigma_u, sigma_v = rng.uniform(*blur_sigma, size=2)
    angle = rng.uniform(0, math.pi)
    read, shot = rng.uniform(*read_noise), rng.uniform(*shot_noise)
    quality = int(rng.integers(*jpeg_quality, endpoint=True))

    reach = math.ceil(4 * max(sigma_u, sigma_v))
    kernel = rounded(gaussian(reach, sigma_u, sigma_v, angle))
    blurred = blur_exactly(hr, kernel)  # (H, W, 3)
    lr = imresize(blurred, 1 / SCALE)  # (H / 4, W / 4, 3)
    return jpeg(add_sensor_noise(lr, read, shot, rng), quality)


def rounded(kernel: np.ndarray) -> np.ndarray:
    """Return a kernel with weights that are multiples of 2**-16 and sum to 1 exactly.

    Their products with 8-bit pixels add up without a rounding error in float32: a blur with it is
    the same on every machine, with any number of threads.
    """
    weights = np.round(kernel * 2**16)
    weights[len(kernel) // 2, len(kernel) // 2] += 2**16 - weights.sum()
    return weights / 2**16


def blur_exactly(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolve (H, W, 3) uint8 with a point-symmetric (K, K) kernel, K odd; borders replicated."""
    reach = len(kernel) // 2
    pixels = torch.tensor(image).permute(2, 0, 1)[:, None].float()  # (3, 1, H, W)
    pixels = functional.pad(pixels, [reach] * 4, mode="replicate")
    pixels = functional.conv2d(pixels, torch.tensor(kernel).float()[None, None])
    return pixels[:, 0].round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()


def add_sensor_noise(
    image: np.ndarray, read: float, shot: float, rng: np.random.Generator
) -> np.ndarray:
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
