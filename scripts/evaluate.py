"""Measure checkpoints on photos they never saw, by the protocol of the field's tables.

    python scripts/evaluate.py --models A.pth B.pth bicubic --hr SET5/HR --lr SET5/LR_bicubic/X4

LR and HR photos are paired by name; without --lr, LR is made as MATLAB's bicubic `imresize` does.
The protocol: 8-bit images; luma of ITU-R BT.601 in MATLAB's range, rounded; 4 pixels shaved off
every border; PSNR over 255; SSIM with an 11x11 Gaussian window, sigma 1.5, valid region; means over
the photos. A CVAE's and an SRVAE's figures are of the mean prediction, but diversity.
"""

import contextlib
import ctypes
import sys
import time
from collections.abc import Callable, Iterator
from json import dumps
from math import isfinite, isnan
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import common  # noqa: F401, it says what is not installed

import torch
from torch.nn import functional

from common.data.pairs import Pairs, list_images, pair_by_name
from common.data.photos import image_size, read_image, to_tensor
from common.data.resize import detail, imresize
from common.device import choose_device, describe
from common.files import written_whole
from common.measure.metrics import lr_psnr, luma, psnr, ssim
from common.progress import progress_bar
from common.run.flags import command_line
from common.run.log import write_log
from scripts.inference.lpips import load_lpips
from scripts.inference.models import Model, load_model
from scripts.inference.outputs import refuse_to_replace

FIGURES = {  # title and digits in the table
    "psnr_y": ("PSNR-Y", 2),
    "ssim_y": ("SSIM-Y", 4),
    "psnr_rgb": ("PSNR-RGB", 2),
    "lr_psnr": ("LR-PSNR", 1),
    "lpips": ("LPIPS", 4),
    "sharpness": ("sharpness", 2),
    "diversity": ("diversity", 1),
    "diversity_lpips": ("with LPIPS", 1),
    "seconds_per_megapixel": ("s / megapixel", 2),
    "peak_memory_mb": ("peak MB", 0),
}
_SHAVE = 4
_LEAST = 2 * _SHAVE + 11  # HR pixels: SSIM's window has to fit
_FLAT = 1e-4  # of 1, a 40th of an 8-bit level: what rounding leaves of a flat photo's detail
_WINDOW = 16  # pixels, each way, of the local L1 in the diversity score


class Batch(NamedTuple):
    """Photos of one size, in [0, 1]."""

    names: list[str]
    lr: torch.Tensor  # (N, 3, H, W)
    hr: torch.Tensor  # (N, 3, 4H, 4W)


def evaluate(
    *,
    models: tuple[str, ...],  # checkpoints, and "bicubic"
    hr: Path,  # folder of HR photos
    lr: Path | None = None,  # folder of LR photos; None: made by MATLAB's bicubic imresize
    n_samples: int = 10,  # of each photo, for the diversity of a CVAE or SRVAE; 0: leave it out
    self_ensemble: bool = False,  # mean over flips and turns, of networks of one answer
    batch_pixels: int = 65536,  # LR pixels at once, of photos of one size
    csv: Path | None = None,  # write each photo's figures
    json: Path | None = None,  # write the means, and each photo's figures
    markdown: Path | None = None,  # write the table
    overwrite: bool = False,  # replace such files that are there already
    device: str = "auto",  # a GPU where there is one; or "cuda", "cuda:1", "cpu"
) -> list[dict[str, Any]]:
    """Print the table, write the files, and return a dict for each model.

    psnr_y, ssim_y, psnr_rgb: against HR, borders shaved; dB.
    lr_psnr: of SR scaled down against LR, RGB, dB.
    lpips: AlexNet's, where torchmetrics and the weights are here.
    sharpness: the strength (rms) of what LR lacks, in SR's luma over HR's: 1 is as sharp as HR.
    diversity: the score of NTIRE 2021 on local L1, and on LPIPS where that can be had.
    seconds_per_megapixel: of SR; files are not read or written in it.
    peak_memory_mb: weights and what one batch needs beside them (on a CPU: of Linux).

    Raises:
        ValueError: a checkpoint or photo cannot be read, or LR and HR do not belong together.
        FileExistsError: a file to be written is there already.
    """
    if not models or n_samples < 0 or n_samples == 1 or batch_pixels < 1:
        raise ValueError(
            f"{len(models)} models, n_samples {n_samples}, batch_pixels {batch_pixels}: expected "
            "one model or more, 2 samples or more (or 0), 1 pixel or more"
        )
    where = choose_device(device)
    pairs = [(None, path) for path in list_images(hr)] if lr is None else pair_by_name(lr, hr)
    read = [path for pair in pairs for path in pair if path]
    refuse_to_replace([csv, json, markdown], [*models, *read], overwrite)
    sizes = [_lr_size(*pair) for pair in pairs]
    hr_paths = [path for _, path in pairs]
    names = dict(zip(hr_paths, titles([path.name for path in hr_paths]), strict=True))
    networks = [load_model(name, where, self_ensemble=self_ensemble) for name in models]
    for network in networks:
        network.upscale(torch.rand(1, 3, 16, 16))  # what is done once is not timed
    lpips, why = load_lpips(where)
    spatial_lpips = load_lpips(where, spatial=True)[0] if lpips else None
    images: list[list[dict[str, Any]]] = [[] for _ in models]
    with progress_bar(total=len(models) * len(pairs), unit="photo", desc=describe(where)) as bar:
        for batch in _batches(pairs, names, sizes, batch_pixels, where):
            for network, figures in zip(networks, images, strict=True):
                figures += _measure(network, batch, n_samples, lpips, spatial_lpips)
                bar.update(len(batch.names))
                bar.set_postfix(psnr_y=f"{figures[-1]['psnr_y']:.2f}", refresh=False)
    results = []
    for name, figures in zip(models, images, strict=True):
        figures.sort(key=lambda row: row["image"])
        results.append({"model": name} | _means(figures) | {"images": figures})
    text = table(results)
    text += f"\n{len(pairs)} photos of {hr}, {describe(where)}, torch {torch.__version__}\n"
    text += f"\n{why}\n" if why else ""
    print(f"\n{text}", end="")
    if csv:
        rows = [{"model": r["model"]} | image for r in results for image in r["images"]]
        write_log(csv, rows)
    for path, content in ((json, dumps(_finite(results), indent=2) + "\n"), (markdown, text)):
        if path:
            with written_whole(path) as temporary:
                temporary.write_text(content, encoding="utf-8")
    return results


def _lr_size(lr_path: Path | None, hr_path: Path) -> tuple[int, int]:
    """Return LR's (height, width); HR has four times that, and up to three pixels more."""
    h, w = (size // 4 for size in image_size(hr_path))
    if lr_path and image_size(lr_path) != (h, w):
        lr_h, lr_w = image_size(lr_path)
        raise ValueError(
            f"{lr_path} is {lr_w}x{lr_h}, expected {w}x{h}, a quarter of {hr_path} (are the two "
            "folders swapped, or is it another scale?)"
        )
    if 4 * min(h, w) < _LEAST:
        raise ValueError(f"{hr_path} is {4 * w}x{4 * h}, expected {_LEAST}x{_LEAST} or more")
    return h, w


def _batches(
    pairs: Pairs,
    names: dict[Path, str],  # of the HR photos
    sizes: list[tuple[int, int]],
    batch_pixels: int,
    device: torch.device,
) -> Iterator[Batch]:
    """Yield the photos, those of one size together."""
    for size in dict.fromkeys(sizes):
        same = [pair for pair, s in zip(pairs, sizes, strict=True) if s == size]
        n = max(1, batch_pixels // (size[0] * size[1]))
        for some in (same[i : i + n] for i in range(0, len(same), n)):
            hrs = [read_image(hr)[: 4 * size[0], : 4 * size[1]] for _, hr in some]
            lrs = [
                read_image(path) if path else imresize(hr, 1 / 4)
                for (path, _), hr in zip(some, hrs, strict=True)
            ]
            both = (torch.cat([to_tensor(x) for x in images]).to(device) for images in (lrs, hrs))
            yield Batch([names[path] for _, path in some], *both)


@torch.inference_mode()
def _measure(
    model: Model,
    batch: Batch,
    n_samples: int,
    lpips: Callable | None,
    spatial_lpips: Callable | None,
) -> list[dict[str, Any]]:
    """Return the figures of each photo."""
    memory = PeakMemory(model.device)
    began = time.perf_counter()
    sr = model.upscale(batch.lr)
    peak = memory.megabytes()  # waits for the device
    seconds = time.perf_counter() - began
    sr = (sr * 255).round().clamp(0, 255) / 255
    hr = batch.hr
    inner = (..., slice(_SHAVE, -_SHAVE), slice(_SHAVE, -_SHAVE))
    y_sr, y_hr = luma(sr), luma(hr)
    figures = {
        "psnr_y": psnr(y_sr[inner], y_hr[inner]),
        "ssim_y": ssim(y_sr[inner], y_hr[inner]),
        "psnr_rgb": psnr(sr[inner].double() * 255, hr[inner].double() * 255),
        "lr_psnr": lr_psnr(sr, batch.lr),
        "sharpness": sharpness(sr, hr),
    }
    if lpips:
        values = [lpips(a[None], b[None]) for a, b in zip(sr, hr, strict=True)]
        figures["lpips"] = torch.tensor(values)
    if model.has_samples and n_samples:
        versions = torch.stack(model.sample(batch.lr, n_samples, seed=0))  # (K, N, 3, 4H, 4W)
        figures["diversity"] = _diversity(versions, hr, local_l1)
        if spatial_lpips:
            figures["diversity_lpips"] = _diversity(versions, hr, spatial_lpips)
    weights = sum(w.nbytes for w in model.network.state_dict().values() if torch.is_tensor(w))
    cost = {"seconds_per_megapixel": seconds * 1e6 / (len(sr) * hr[0, 0].numel())}
    if peak is not None:
        cost["peak_memory_mb"] = peak + weights / 1e6
    rows = [{"image": name} for name in batch.names]
    for name, values in figures.items():
        for row, value in zip(rows, values.tolist(), strict=True):
            if not isnan(value):  # of a flat photo, which has no sharpness
                row[name] = value
    return [row | cost for row in rows]


def _diversity(versions: torch.Tensor, hr: torch.Tensor, distance: Callable) -> torch.Tensor:
    """Return each photo's diversity score of versions (K, N, 3, 4H, 4W)."""
    distances = torch.stack([distance(version, hr)[:, 0] for version in versions])  # (K, N, h, w)
    return torch.tensor([diversity_score(distances[:, i]) for i in range(len(hr))])


def sharpness(sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    """Return the strength (rms) of what LR lacks, in SR's luma over HR's: (N, 3, H, W) to (N,).

    1 is as sharp as HR, bicubic about 0.2; of a flat HR photo, which lacks nothing, it is nan.
    """
    of_sr, of_hr = (detail(luma(x)).square().mean((1, 2, 3)).sqrt() for x in (sr, hr))
    return (of_sr / of_hr).where(of_hr > _FLAT, torch.nan)


def local_l1(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute difference around each place: (N, 3, H, W) to (N, 1, h, w)."""
    return functional.avg_pool2d((a - b).abs(), _WINDOW, 1).mean(1, keepdim=True)


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


def _means(figures: list[dict[str, Any]]) -> dict[str, float]:
    """Return the means over the photos; of peak memory the highest."""
    values = {name: [row[name] for row in figures if name in row] for name in FIGURES}
    means = {name: fmean(found) for name, found in values.items() if found}
    if "peak_memory_mb" in means:
        means["peak_memory_mb"] = max(row["peak_memory_mb"] for row in figures)
    return means


def _finite(value: Any) -> Any:
    """Return `value` with None for infinities, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not isfinite(value) else value


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
        if name == "lpips" or any(name in result for result in results)
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


if __name__ == "__main__":
    command_line(evaluate)
