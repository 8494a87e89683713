"""Measure checkpoints on photos they never saw, by the protocol of the field's tables.

    python scripts/evaluate.py -m A.pth B.pth bicubic --hr SET5/HR --lr SET5/LR_bicubic/X4
    python scripts/evaluate.py -m A.pth B.pth bicubic --lr PHOTOS

LR and HR photos are paired by name; without --lr, LR is made as MATLAB's bicubic `imresize` does.
Without --hr there are only figures that need none: NIQE, LR-PSNR, time and memory.
The protocol: 8-bit images; luma of ITU-R BT.601 in MATLAB's range, rounded; 4 pixels shaved off
every border; PSNR over 255; SSIM with an 11x11 Gaussian window, sigma 1.5, valid region; means over
the photos. A CVAE's and an SRVAE's figures are of the mean prediction, but diversity.
"""

import sys
import time
from collections.abc import Callable, Iterator
from json import dumps
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, NamedTuple

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import common  # noqa: F401, it says what is not installed

import torch
import tyro

from common.data.pairs import list_images, pair_by_name
from common.data.photos import image_size, read_image, to_tensor
from common.data.resize import imresize
from common.device import choose_device, describe
from common.files import written_whole
from common.measure.metrics import lr_psnr, luma, psnr, ssim
from common.progress import progress_bar
from common.run.flags import command_line
from common.run.log import write_log
from scripts.inference import named
from scripts.inference.figures import (
    PeakMemory,
    diversity,
    local_l1,
    means,
    note_on_niqe,
    sharpness,
    table,
    titles,
)
from scripts.inference.lpips import load_lpips
from scripts.inference.models import Model, Precision, load_model
from scripts.inference.niqe import niqe
from scripts.inference.outputs import refuse_to_replace

_SHAVE = 4
_INNER = (..., slice(_SHAVE, -_SHAVE), slice(_SHAVE, -_SHAVE))
_LEAST = 20  # HR pixels, a multiple of 4: SSIM's window has to fit


class Photo(NamedTuple):
    name: str
    lr: Path | None  # None: made from HR
    hr: Path | None  # None: there is none
    size: tuple[int, int]  # LR's height and width


class Batch(NamedTuple):
    """Photos of one size, in [0, 1]."""

    names: list[str]
    lr: torch.Tensor  # (N, 3, H, W)
    hr: torch.Tensor | None  # (N, 3, 4H, 4W)


def evaluate(
    *,
    models: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-m"])],  # checkpoints, "bicubic"
    hr: Path | None = None,  # folder of HR photos; None: only figures that need none
    lr: Path | None = None,  # folder of LR photos; None: made by MATLAB's bicubic imresize
    n_samples: int = 10,  # of each photo, for the diversity of a CVAE or SRVAE; 0: leave it out
    self_ensemble: bool = False,  # mean over flips and turns, of networks of one answer
    batch_pixels: int = 65536,  # LR pixels at once, of photos of one size
    csv: Path | None = None,  # write each photo's figures
    json: Path | None = None,  # write the means, and each photo's figures
    markdown: Path | None = None,  # write the table
    overwrite: bool = False,  # replace such files that are there already
    device: str = "auto",  # a GPU where there is one; or "cuda", "cuda:1", "cpu"
    precision: Precision = "auto",  # auto: bfloat16 where that is fast and costs little
) -> list[dict[str, Any]]:
    """Print the table, write the files, and return a dict for each model.

    psnr_y, ssim_y, psnr_rgb: against HR, borders shaved; dB.
    lr_psnr: of SR scaled down against LR, RGB, dB.
    lpips: AlexNet's, where torchmetrics and the weights are here.
    niqe: of SR alone, borders shaved, lower is better; not of photos too small or flat for it.
    sharpness: the strength (rms) of what LR lacks, in SR's luma over HR's: 1 is as sharp as HR.
    diversity: the score of NTIRE 2021 on local L1, and on LPIPS where that can be had.
    seconds_per_megapixel: of SR; files are not read or written in it.
    peak_memory_mb: weights and what one batch needs beside them (on a CPU: of Linux).

    Raises:
        ValueError: a checkpoint or photo cannot be read, or LR and HR do not belong together.
        OSError: a file to be written is there already or cannot be written, or no folder is there.
    """
    if models == ("list",):
        print(named.listing())
        return []
    if not models or n_samples < 0 or n_samples == 1 or batch_pixels < 1:
        raise ValueError(
            f"{len(models)} models, n_samples {n_samples}, batch_pixels {batch_pixels}: expected "
            "one model or more, 2 samples or more (or 0), 1 pixel or more"
        )
    where = choose_device(device)
    photos = list_photos(lr, hr)
    read = [path for photo in photos for path in (photo.lr, photo.hr) if path]
    refuse_to_replace([csv, json, markdown], [*models, *read], overwrite)
    options = {"precision": precision, "self_ensemble": self_ensemble}
    networks = [load_model(name, where, **options) for name in models]
    machine = describe(where, any(network.precision == "bfloat16" for network in networks))
    refuse_unreadable(read)
    for network in networks:
        network.upscale(torch.rand(1, 3, 16, 16))  # what is done once is not timed
    lpips, why = load_lpips(where) if hr else (None, "")
    spatial_lpips = load_lpips(where, spatial=True)[0] if lpips else None
    images: list[list[dict[str, Any]]] = [[] for _ in models]
    niqe_of_hr: list[float] = []
    with progress_bar(total=len(models) * len(photos), unit="photo", desc=machine) as bar:
        for batch in _batches(photos, batch_pixels, where):
            if batch.hr is not None:
                niqe_of_hr += niqe(batch.hr[_INNER]).tolist()
            for network, figures in zip(networks, images, strict=True):
                figures += _measure(network, batch, n_samples, lpips, spatial_lpips)
                bar.update(len(batch.names))
                name = "lr_psnr" if hr is None else "psnr_y"
                bar.set_postfix({name: f"{figures[-1][name]:.2f}"}, refresh=False)
    results = []
    for name, figures in zip(models, images, strict=True):
        figures.sort(key=lambda row: row["image"])
        results.append({"model": name} | means(figures) | {"images": figures})
    text = table(results)
    notes = [f"{len(photos)} photos of {hr or lr}, {machine}, torch {torch.__version__}"]
    notes += [note_on_niqe(results, niqe_of_hr), why]
    text += "".join(f"\n{note}\n" for note in notes if note)
    print(f"\n{text}", end="")
    if csv:
        rows = [{"model": r["model"]} | image for r in results for image in r["images"]]
        write_log(csv, rows)
    for path, content in ((json, dumps(results, indent=2) + "\n"), (markdown, text)):
        if path:
            with written_whole(path) as temporary:
                temporary.write_text(content, encoding="utf-8")
    return results


def list_photos(lr: Path | None, hr: Path | None) -> list[Photo]:
    """Return the photos of both folders; raises as `evaluate` does where they do not fit."""
    if lr and hr:
        pairs = pair_by_name(lr, hr)
    elif lr or hr:
        pairs = [(path, None) if lr else (None, path) for path in list_images(lr or hr)]
    else:
        raise ValueError("expected a folder of HR photos (--hr), or of LR photos alone (--lr)")
    names = titles([(hr_path or lr_path).name for lr_path, hr_path in pairs])
    sizes = [
        image_size(lr_path) if hr is None else _lr_size(lr_path, hr_path)
        for lr_path, hr_path in pairs
    ]
    return [Photo(name, *pair, size) for name, pair, size in zip(names, pairs, sizes, strict=True)]


def _lr_size(lr_path: Path | None, hr_path: Path) -> tuple[int, int]:
    """Return LR's (height, width); HR has four times that, and up to three pixels more."""
    hr_h, hr_w = image_size(hr_path)
    h, w = hr_h // 4, hr_w // 4
    if min(hr_h, hr_w) < _LEAST:
        raise ValueError(f"{hr_path} is {hr_w}x{hr_h}, expected {_LEAST}x{_LEAST} or more")
    if lr_path and image_size(lr_path) != (h, w):
        lr_h, lr_w = image_size(lr_path)
        raise ValueError(
            f"{lr_path} is {lr_w}x{lr_h}, expected {w}x{h}, a quarter of {hr_path} (are the two "
            "folders swapped, or is it another scale?)"
        )
    return h, w


def refuse_unreadable(paths: list[Path]) -> None:
    """Raise ValueError, which names each, where photos are damaged: before hours of work."""
    wrong = []
    for path in dict.fromkeys(paths):
        try:
            read_image(path)
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise ValueError("; ".join(wrong))


def _batches(photos: list[Photo], batch_pixels: int, device: torch.device) -> Iterator[Batch]:
    """Yield the photos, those of one size together."""
    for h, w in dict.fromkeys(photo.size for photo in photos):
        same = [photo for photo in photos if photo.size == (h, w)]
        n = max(1, batch_pixels // (h * w))
        for some in (same[i : i + n] for i in range(0, len(same), n)):
            hrs = [read_image(photo.hr)[: 4 * h, : 4 * w] for photo in some if photo.hr]
            lrs = [read_image(photo.lr) for photo in some if photo.lr]
            lrs = lrs or [imresize(hr, 1 / 4) for hr in hrs]
            lr, hr = (
                torch.cat([to_tensor(x) for x in images]).to(device) if images else None
                for images in (lrs, hrs)
            )
            yield Batch([photo.name for photo in some], lr, hr)


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
    figures = {}
    if hr is not None:
        y_sr, y_hr = luma(sr)[_INNER], luma(hr)[_INNER]
        figures |= {"psnr_y": psnr(y_sr, y_hr), "ssim_y": ssim(y_sr, y_hr)}
        figures["psnr_rgb"] = psnr(sr[_INNER].double() * 255, hr[_INNER].double() * 255)
        figures["sharpness"] = sharpness(sr, hr)
    figures |= {"lr_psnr": lr_psnr(sr, batch.lr), "niqe": niqe(sr[_INNER])}
    if lpips:
        values = [lpips(a[None], b[None]) for a, b in zip(sr, hr, strict=True)]
        figures["lpips"] = torch.tensor(values)
    if model.has_samples and n_samples and hr is not None:
        versions = torch.stack(model.sample(batch.lr, n_samples, seed=0))  # (K, N, 3, 4H, 4W)
        figures["diversity"] = diversity(versions, hr, local_l1)
        if spatial_lpips:
            figures["diversity_lpips"] = diversity(versions, hr, spatial_lpips)
    weights = sum(w.nbytes for w in model.network.state_dict().values() if torch.is_tensor(w))
    cost = {"seconds_per_megapixel": seconds * 1e6 / (len(sr) * sr[0, 0].numel())}
    if peak is not None:
        cost["peak_memory_mb"] = peak + weights / 1e6
    rows = [{"image": name} for name in batch.names]
    for name, values in figures.items():
        for row, value in zip(rows, values.tolist(), strict=True):
            if isfinite(value):  # a flat photo has no sharpness, and no NIQE
                row[name] = value
    return [row | cost for row in rows]


if __name__ == "__main__":
    command_line(evaluate)
