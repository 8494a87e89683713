"""PSNR and SSIM by the protocol of the field's tables: 8-bit luma, borders shaved."""

import torch
from torch.nn import functional

from common.data.resize import imresize_batch

_SHAVED = 4  # pixels left out on every border, as many as the scale
_PEAK = 255.0


def luma(image: torch.Tensor) -> torch.Tensor:
    """Return Y of ITU-R BT.601 in MATLAB's range, as `rgb2ycbcr` does on 8-bit images.

    (N, 3, H, W) in [0, 1], rounded to 8 bits -> (N, 1, H, W) float64, whole numbers, 16 to 235.
    """
    image = (image.double() * 255).round().clamp(0, 255)
    weights = image.new_tensor([65.481, 128.553, 24.966]) / 255
    return (16 + torch.einsum("nchw,c->nhw", image, weights)).round()[:, None]


def psnr(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the PSNR in dB, at most 100, of each image: (N, C, H, W), 0 to 255 -> (N,)."""
    return (10 * torch.log10(_PEAK**2 / (a - b).square().mean(dim=(1, 2, 3)))).clamp(max=100)


def ssim(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the structural similarity of each image (Wang et al. 2004), 1 for equal ones.

    11x11 Gaussian window, sigma 1.5, K1 0.01, K2 0.03, valid region only: (N, C, H, W), 11x11 or
    more, values from 0 to 255 -> (N,).
    """
    offset = torch.arange(11, dtype=a.dtype, device=a.device) - 5
    line = torch.exp(-offset.square() / (2 * 1.5**2))
    line = line / line.sum()

    def blur(x: torch.Tensor) -> torch.Tensor:  # (N, C, H, W) -> (N * C, 1, H - 10, W - 10)
        x = functional.conv2d(x.flatten(0, 1)[:, None], line.view(1, 1, -1, 1))
        return functional.conv2d(x, line.view(1, 1, 1, -1))

    mean_a, mean_b = blur(a), blur(b)
    var_a = blur(a * a) - mean_a**2
    var_b = blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2
    similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    )
    return similarity.view(len(a), -1).mean(dim=1)


def psnr_y(sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    """Return PSNR-Y in dB of each image (N, 3, H, W) in [0, 1], borders shaved: (N,)."""
    return psnr(_inner_luma(sr), _inner_luma(hr))


def psnr_ssim_y(sr: torch.Tensor, hr: torch.Tensor) -> tuple[float, float]:
    """Return (PSNR-Y in dB, SSIM-Y) of one image (1, 3, H, W) in [0, 1], 19x19 or more."""
    if sr.shape != hr.shape:
        raise ValueError(f"SR is {tuple(sr.shape)} and HR is {tuple(hr.shape)}, expected the same")
    y_sr, y_hr = _inner_luma(sr), _inner_luma(hr)
    return psnr(y_sr, y_hr).item(), ssim(y_sr, y_hr).item()


def _inner_luma(image: torch.Tensor) -> torch.Tensor:
    return luma(image)[..., _SHAVED:-_SHAVED, _SHAVED:-_SHAVED]


def lr_psnr(sr: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
    """Return the PSNR (dB, RGB) of SR, scaled down as MATLAB's `imresize` does, against its LR.

    Both in 8 bits, as files hold them: (N, 3, 4H, 4W) and (N, 3, H, W) in [0, 1] -> (N,).
    """
    pixels = (lr.double() * 255).round().clamp(0, 255)
    return psnr(imresize_batch(sr, 1 / 4) * 255, pixels)
