"""evaluate.py's figures: sharpness, diversity, memory, and the table of all of them."""

import contextlib
import ctypes
from collections.abc import Callable
from math import isnan
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch.nn import functional

from common.data.resize import detail
from common.measure.metrics import luma

FIGURES = {  # title and digits in the table
    "psnr_y": ("PSNR-Y", 2),
    "ssim_y": ("SSIM-Y", 4),
    "psnr_rgb": ("PSNR-RGB", 2),
    "lr_psnr": ("LR-PSNR", 1),
    "lpips": ("LPIPS", 4),
    "niqe": ("NIQE", 2),
    "sharpness": ("sharpness", 2),
    "diversity": ("diversity", 1),
    "diversity_lpips": ("with LPIPS", 1),
    "seconds_per_megapixel": ("s / megapixel", 2),
    "peak_memory_mb": ("peak MB", 0),
}
_FLAT = 1e-4  # of 1, a 40th of an 8-bit level: what rounding leaves of a flat photo's detail
_WINDOW = 16  # pixels, each way, of the local L1 in the diversity score


def sharpness(sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    """Return the strength (rms) of what LR lacks, in SR's luma over HR's: (N, 3, H, W) to (N,).

    1 is as sharp as HR, bicubic about 0.2; of a flat HR photo, which lacks nothing, it is nan.
    """
    of_sr, of_hr = (detail(luma(x)).square().mean((1, 2, 3)).sqrt() for x in (sr, hr))
    return (of_sr / of_hr).where(of_hr > _FLAT, torch.nan)


def local_l1(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute difference around each place: (N, 3, H, W) to (N, 1, h, w)."""
    return functional.avg_pool2d((a - b).abs(), _WINDOW, 1).mean(1, keepdim=True)


def diversity(versions: torch.Tensor, hr: torch.Tensor, distance: Callable) -> torch.Tensor:
    """Return each photo's diversity score of versions (K, N, 3, 4H, 4W)."""
    distances = torch.stack([distance(version, hr)[:, 0] for version in versions])  # (K, N, h, w)
    return torch.tensor([diversity_score(distances[:, i]) for i in range(len(hr))])


def diversity_score(distances: torch.Tensor) -> float:
    """Return the diversity score of NTIRE 2021's challenge on learning the super-resolution space.

    100 (min_k mean_ij L_k - mean_ij min_k L_k) / min_k mean_ij L_k (Lugmayr et al. 2021): how much
    nearer to HR one comes by choosing the best of the samples at each place, instead of once.

    Args:
        distances: L, of each sample to HR at each place, (K, H, W); all 0: the score is nan.
    """
    best = distances.mean((1, 2)).min()
    return (100 * (best - distances.min(0).values.mean()) / best).item()


class PeakMemory:
    """The most memory in use since it was made, beyond what was in use then."""

    def __init__(self, device: torch.device):
        self.device = device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
        else:
            with contextlib.suppress(OSError, AttributeError):  # where there is no glibc
                ctypes.CDLL("libc.so.6").malloc_trim(0)  # gives back what was freed before
            self.before = _resident("VmRSS", reset=True)

    def megabytes(self) -> float | None:
        """Wait for the device; None where it cannot be told (on a CPU: anything but Linux)."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return (torch.cuda.max_memory_allocated(self.device) - self.before) / 1e6
        peak = _resident("VmHWM")
        return None if peak is None or self.before is None else max(0.0, peak - self.before)


def _resident(name: str, reset: bool = False) -> float | None:
    """Return a line of Linux's /proc/self/status in megabytes; `reset` forgets the peak, VmHWM."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(v.split()[1]) / 1000 for v in lines if v.startswith(name)), None)


def means(figures: list[dict[str, Any]]) -> dict[str, float]:
    """Return the means over the photos; of peak memory the highest."""
    values = {name: [row[name] for row in figures if name in row] for name in FIGURES}
    combine = {"peak_memory_mb": max}
    return {name: combine.get(name, fmean)(found) for name, found in values.items() if found}


def note_on_niqe(results: list[dict[str, Any]], of_hr: list[float]) -> str:
    """Return how to read NIQE, what HR's is, and of how many photos there is none."""
    n, of_hr = len(results[0]["images"]), [value for value in of_hr if not isnan(value)]
    text = "NIQE: lower is better" + (f"; of HR {fmean(of_hr):.2f}" if of_hr else "")
    missing = max(sum("niqe" not in row for row in result["images"]) for result in results)
    if missing:
        text += (
            f"; {missing} of {n} photos have none: it takes SR with two blocks of 96x96 pixels "
            "within the shaved borders that are not flat"
        )
    return text


def titles(models: list[str]) -> list[str]:
    """Return short names of files that differ: `cvae`, or `runs/small/cvae`, or `cvae.pth`."""
    parts = [Path(name).with_suffix("").parts for name in models]
    if len(set(parts)) < len(set(models)):  # some differ by their ending alone
        parts = [Path(name).parts for name in models]
    for n in range(1, max(map(len, parts)) + 1):
        short = ["/".join(p[-n:]) for p in parts]
        if len(set(short)) == len(set(parts)):
            break
    return short


def table(results: list[dict[str, Any]]) -> str:
    """Return the means as Markdown that is also read well on a terminal."""
    shown = {
        name: what
        for name, what in FIGURES.items()
        if any(name in result for result in results) or (name == "lpips" and "psnr_y" in results[0])
    }
    lines = [["model", *(title for title, _ in shown.values())]]
    for title, result in zip(titles([r["model"] for r in results]), results, strict=True):
        cells = [f"{result[k]:.{n}f}" if k in result else "-" for k, (_, n) in shown.items()]
        lines.append([title, *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    text = ""
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        text += f"| {' | '.join([line[0].ljust(widths[0]), *cells[1:]])} |\n"
    return text
