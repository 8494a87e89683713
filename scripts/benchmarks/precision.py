"""The quick start's PSNR stage in full precision and in bfloat16 (of the benchmark)."""

import statistics
from pathlib import Path

from ESRGAN.train_esrgan import train_esrgan
from scripts.benchmarks.measuring import quiet_folder
from scripts.evidence.runs import last_row
from scripts.quickstart import NETWORK, PSNR_STAGE


def psnr_and_seconds(
    folders: dict[str, Path], seed: int, bfloat16: bool, sizes: dict[str, int], device: str
) -> tuple[float, float]:
    """Return PSNR-Y on held-out photos at the end of a run, and the seconds that it took.

    Args:
        folders: as `train_esrgan` takes them.
        sizes: n_epochs, steps_per_epoch.
    """
    with quiet_folder() as folder:
        run = train_esrgan(
            **folders,
            **NETWORK,
            **PSNR_STAGE,
            **sizes,
            n_epochs_gan=0,
            seed=seed,
            bfloat16=bfloat16,
            device=device,
            out_dir=folder / "run",
        )
        last = last_row(run)
    return float(last["psnr_y"]), float(last["seconds"])


def compared(
    full: list[tuple[float, float]], half: list[tuple[float, float]], steps: int
) -> tuple[dict[str, dict], dict[str, float]]:
    """Return a row for each precision, and by how much PSNR-Y differs from seed to seed.

    Args:
        full, half: of each seed, what `psnr_and_seconds` returned in full precision and bfloat16.
        steps: of a run.
    """
    rows = {}
    for name, results in (("full precision", full), ("bfloat16", half)):
        psnr_ys, seconds = zip(*results, strict=True)
        rows[name] = {
            "seconds": statistics.median(seconds),
            "per_second": steps / statistics.median(seconds),
            "ratio": statistics.median(s for _, s in full) / statistics.median(seconds),
            "psnr_y": statistics.fmean(psnr_ys),
            "all_psnr_y": psnr_ys,
        }
    gains = [h - f for (h, _), (f, _) in zip(half, full, strict=True)]
    notes = {"bfloat16_over_full_db": statistics.fmean(gains)}
    if len(gains) > 1:
        notes["standard_error_db"] = statistics.stdev(gains) / len(gains) ** 0.5
    return rows, notes
