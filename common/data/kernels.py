"""Blur kernels of cameras, lenses and earlier resizing, as degradations draw them.

(2 reach + 1, 2 reach + 1) float64, point-symmetric, their sum 1. Shapes and names as in Wang et al.
2021 ("Real-ESRGAN", arXiv 2107.10833, sections 3.1 and 3.2 and appendix).
"""

import math

import numpy as np
import torch


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
