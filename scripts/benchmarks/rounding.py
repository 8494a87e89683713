"""What enlarging in bfloat16 costs, for scripts/benchmarks/benchmark.py."""

import statistics
from pathlib import Path
from typing import Any

import torch

from common.data.pairs import list_pairs
from common.data.photos import read_image, to_tensor
from common.measure.metrics import psnr_y
from common.progress import progress_bar
from scripts.inference.models import load_model


def rounding_of(
    models: tuple[str, ...],
    lr_folder: Path,
    hr_folder: Path,
    size: int,
    device: torch.device,
    options: dict[str, Any],
) -> dict[str, dict[str, float]]:
    """Return for each checkpoint how far bfloat16 is from full precision, over the photos.

    mean, worst_photo: of the absolute difference of pictures, in 1/255.
    psnr_y: in full precision, dB; and gain_db, what bfloat16 has more.

    Args:
        size: LR pixels each way that photos are cut to, from the corner.
        options: of `load_model`, besides precision.
    """
    photos = []
    for lr_path, hr_path in list_pairs(lr_folder, hr_folder):
        lr = to_tensor(read_image(lr_path))[..., :size, :size]
        height, width = (4 * n for n in lr.shape[2:])
        photos.append((lr, to_tensor(read_image(hr_path))[..., :height, :width]))
    rows = {}
    for name in progress_bar(models, unit="model"):
        full, low = (
            load_model(name, device, precision=precision, **options)
            for precision in ("full", "bfloat16")
        )
        differences, before, after = [], [], []
        for lr, hr in photos:
            a, b = full.upscale(lr).cpu(), low.upscale(lr).cpu()
            differences.append(255 * (a - b).abs().mean().item())
            before.append(psnr_y(a, hr).item())
            after.append(psnr_y(b, hr).item())
        rows[name] = {
            "mean": statistics.fmean(differences),
            "worst_photo": max(differences),
            "psnr_y": statistics.fmean(before),
            "gain_db": statistics.fmean(after) - statistics.fmean(before),
        }
    return rows
