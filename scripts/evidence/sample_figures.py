"""What is measured on a VAE's samples of whole photos, for scripts/evidence/vae.py."""

from statistics import fmean

import torch
from torch.nn import functional

from common.data.resize import detail
from common.measure.efficientnet import EfficientNetFeatures
from common.vae import deviations
from CVAE.model import CVAE, PATCH
from CVAE.tiles import tile_starts
from SRVAE.model import SRVAE

_SHIFT = 6  # LR pixels between the tile grids that are compared
_WINDOW = 128  # pixels each way, of `grid_strength`


def dispersion(psnr_of_mean: float, psnr_of_sample: float) -> float:
    """Return the share (%) of the variance that samples should have that they have.

    A perfect sampler's squared error is twice the best mean's, so its PSNR (dB) 3 below: 100%.
    """
    return 100 * (10 ** ((psnr_of_mean - psnr_of_sample) / 10) - 1)


def grid_strength(samples: torch.Tensor) -> float:
    """Return how strong a grid of LR's pixels is in the samples' deviation; 1: none.

    The power of the map of standard deviations (mean over the channels) at the multiples of LR's
    frequency, a quarter of a pixel's, over that 3 to 8 steps of 1/128 away; windows of 128 pixels
    (Hann), the mean over the multiples.

    Args:
        samples: (n, 1, 3, 4H, 4W), 128 pixels or more each way.
    """
    deviation = samples[:, 0].std(0).mean(0)  # (4H, 4W)
    windows = deviation.unfold(0, _WINDOW, _WINDOW // 2).unfold(1, _WINDOW, _WINDOW // 2)
    windows = windows.reshape(-1, _WINDOW, _WINDOW)
    windows = windows - windows.mean((1, 2), keepdim=True)
    hann = torch.hann_window(_WINDOW, device=windows.device)
    power = torch.fft.fft2(windows * hann * hann[:, None]).abs().square().mean(0)  # (128, 128)
    step = _WINDOW // 4
    places = [(i, j) for i in range(0, _WINDOW, step) for j in range(0, _WINDOW, step) if i or j]
    steps = torch.arange(_WINDOW, device=power.device)
    steps = torch.minimum(steps, _WINDOW - steps)  # from frequency 0, either way
    away = torch.maximum(steps[:, None], steps)
    around = (away >= 3) & (away <= 8)
    ratios = []
    for i, j in places:
        neighbours = power[around.roll((i, j), (0, 1))]
        ratios.append((power[i, j] / neighbours.mean()).item())
    return fmean(ratios)


def feature_distances(
    network: EfficientNetFeatures, images: torch.Tensor, hr: torch.Tensor
) -> torch.Tensor:
    """Return the distance of images (N, 3, H, W) to HR (1, 3, H, W) around each place.

    Squared, between EfficientNet-Lite0's normalised features, the mean over its depths, each
    enlarged to the finest's size: (N, H / 2, W / 2). It is no LPIPS, whose weights were fitted to
    what people see.
    """
    of_hr = network(hr)
    maps = []
    for image in images:
        pairs = zip(network(image[None]), of_hr, strict=True)
        squares = [(a - b).square().sum(1, keepdim=True) for a, b in pairs]
        size = squares[0].shape[2:]
        maps.append(sum(functional.interpolate(x, size) for x in squares)[0, 0] / len(squares))
    return torch.stack(maps)


def noise_like(
    std_high: float, n: int, mean: torch.Tensor, lr: torch.Tensor, network: CVAE | SRVAE
) -> torch.Tensor:
    """Return `mean` with noise where LR does not reach, of the deviation `std_high`, n times."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(n, *mean.shape, generator=generator).to(lr.device)
    noise = torch.stack([detail(x) for x in noise])
    noise *= std_high / deviations(noise)[0]
    return torch.stack([network.finish(mean + x, lr) for x in noise])


def border_step(network: CVAE, lr: torch.Tensor, overlap: int = 8) -> float:
    """Return how large the step between neighbouring pixels is across a tile's border.

    Against the step at the same place where it is no border, because the photo was cut by some
    pixels and the tiles lie elsewhere: a photo's edges do not count. 1: borders cannot be told.

    Args:
        lr: a photo (1, 3, H, W), 70 pixels or more each way.
    """
    at_border, elsewhere = [], []
    for axis in (2, 3):
        length = lr.shape[axis]
        steps, borders = [], []
        for shift in range(0, PATCH - overlap, _SHIFT):
            cut = lr.narrow(axis, shift, length - shift)
            sample = network.sample(cut, 1, seed=0, overlap=overlap)[0]
            change = sample.diff(dim=axis).abs().mean([d for d in range(4) if d != axis])
            starts = tile_starts(length - shift, PATCH, overlap)
            edges = torch.tensor([4 * edge for s in starts for edge in (s, s + PATCH)])
            is_border = torch.isin(torch.arange(1, len(change) + 1), edges)
            # The first and the last tile are left out: with the cut the context changes there.
            inner = slice(4 * (PATCH - shift), -4 * PATCH)
            steps.append(change[inner])
            borders.append(is_border[inner])
        all_steps, all_borders = torch.stack(steps), torch.stack(borders).to(lr.device)
        for i in all_borders.any(0).nonzero()[:, 0]:
            at_border.append(all_steps[all_borders[:, i], i].mean().item())
            elsewhere.append(all_steps[~all_borders[:, i], i].mean().item())
    return fmean(at_border) / fmean(elsewhere)
