"""Train the three CycleGANs alike, measure them on photos they never saw, write table and picture.

    python scripts/evidence/cyclegan.py --photos PHOTOS --test SET5/HR SET14/HR

PHOTOS and the test folders hold HR photos; the LR photos of both tracks, bicubic and realistic, are
made from them. Without: DIV2K's training and validation photos. Each version is trained once for
each seed on the same photos, for the same number of generator updates; `--ablation v2 v3` also
trains what lies before these versions, with the first seed, their changes added one at a time. A
run that was interrupted is resumed, a complete one is only measured again.

Written to OUT: evidence.md (tables), evidence.csv (each network, each test folder), evidence.png,
and the folder of each run.
"""

import sys
from collections.abc import Callable
from math import isnan
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import common  # noqa: F401, it says what is not installed

import numpy as np
import torch

from common.data.photos import read_image, to_tensor, to_uint8
from common.data.resize import imresize
from common.device import choose_bfloat16, choose_device, describe
from common.measure.metrics import lr_psnr, psnr_ssim_y
from common.measure.validation import Photo, busiest_crop, grid, sample_row
from common.run.flags import command_line
from CycleGAN.CycleGAN_w_v1 import CycleGAN as v1
from CycleGAN.CycleGAN_w_v2 import CycleGAN2 as v2
from CycleGAN.CycleGAN_w_v3 import CycleGAN5_2 as v3
from scripts.evidence.runs import (
    Pairs,
    Run,
    choose_photos,
    prepare,
    refuse_other_settings,
    run_folder,
    train_all,
    write_results,
)
from scripts.inference.figures import sharpness
from scripts.inference.lpips import load_lpips
from scripts.inference.models import load_model

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {"v1": v1, "v2": v2, "v3": v3}
Track = Literal["bicubic", "realistic"]
# What the docstrings of the scripts say for LR that is not made by bicubic.
REALISTIC = {
    "v1": {},
    "v2": {"lambda_consistency": 0.0},
    "v3": {"back_projections": 0},
}
# What switches each change off, in the order in which they are added.
CHANGES = {
    "v2": {
        "crops at native scale": {"native_scale": False},
        "residual over bicubic": {"residual": False},
        "LR consistency": {"lambda_consistency": 0.0},
        "adversarial weight 0.03": {"lambda_gan": 1.0},
        "F(hr) in 8 bits with noise": {"store_fake_lr": False},
        "D_LR: spectral norm, strides 1, 2, 1": {
            "spectral_norm": False,
            "d_lr_strides": (2, 2, 2),
        },
        "pool, linear decay, EMA": {"pool_size": 0, "decay_from": 1.0, "ema_decay": 0.0},
    },
    "v3": {
        "F held fixed in the cycle, none from LR": {},
        "adversarial weights 0.003 and 1": {"lambda_gan_hr": 0.03, "lambda_gan_lr": 0.03},
        "high frequencies to D, low ones to L1": {
            "high_frequencies_only": False,
            "lambda_low": 0.0,
        },
        "noise channel": {"noise_channel": False},
        "back-projection": {"back_projections": 0},
    },
}
# Changes of version 3 that were tried and not kept.
TRIED = {
    "v3, relativistic": {"relativistic": True},
    "v3, R1": {"r1_weight": 1.0},
}
FIGURES = {  # in the CSV: title and digits in the table
    "psnr_y": ("PSNR-Y", 2),
    "ssim_y": ("SSIM-Y", 4),
    "lr_psnr": ("LR-PSNR", 1),
    "sharpness": ("sharpness", 2),
    "correlation": ("correlation", 2),
    "lpips": ("LPIPS", 4),
    "seconds": ("seconds", 0),
}


def cyclegan_evidence(
    *,
    photos: Path | None = None,  # folder of HR photos to train on; None: DIV2K's
    test: tuple[Path, ...] = (),  # folders of HR photos to measure on; none: DIV2K's validation
    tracks: tuple[Track, ...] = ("bicubic", "realistic"),
    seeds: tuple[int, ...] = (0, 1, 2),
    ablation: tuple[Literal["v2", "v3"], ...] = (),  # versions whose changes are taken apart
    n_features: int = 64,  # channels of the networks' first layers (full size: 64)
    lr_size: int = 64,  # pixels of LR images (full size: 64)
    batch_size: int = 4,
    n_epochs: int = 10,
    steps_per_epoch: int = 200,
    learning_rate: float = 2e-4,
    jobs: int = 1,  # runs at once, each on one processor; 1: in this process, on all of them
    out: Path = ROOT / "CycleGAN" / "runs" / "evidence",
    device: str = "cuda",  # without a GPU the CPU is taken
    bfloat16: bool | None = None,  # autocast; None: if the device has instructions for it
) -> Path:
    """Train, measure and write; return the folder with the results.

    Raises:
        ValueError: `out` holds runs with other settings, or two test folders have one name.
        FileExistsError: `out` holds files of something else.
    """
    if not (tracks and seeds):
        raise ValueError(f"tracks {tracks}, seeds {seeds}: expected one of each or more")
    where = choose_device(device)
    bfloat16 = choose_bfloat16(where, bfloat16)
    on = describe(where, bfloat16)
    photos, tests = choose_photos(photos, test)
    sizes = {"n_features": n_features, "lr_size": lr_size, "hr_size": 4 * lr_size}
    sizes |= {"batch_size": batch_size, "n_epochs": n_epochs, "steps_per_epoch": steps_per_epoch}
    sizes |= {"learning_rate": learning_rate, "bfloat16": bfloat16}
    refuse_other_settings(out, sizes | {"photos": str(photos), "test": [*map(str, tests.values())]})

    runs: dict[str, list[Run]] = {}  # of each track
    pairs: dict[str, dict[str, Pairs]] = {}  # of each track and test folder
    for track in tracks:
        lr_folder, hr_folder, pairs[track] = prepare(photos, tests, out / "data", track)
        valid_lr, valid_hr = next(iter(pairs[track].values()))[0]
        settings = sizes | {"lr_folder": lr_folder, "hr_folder": hr_folder, "n_valid": 5}
        settings |= {"valid_lr_folder": valid_lr.parent, "valid_hr_folder": valid_hr.parent}
        settings |= {"device": where.type, "workers": 0}
        runs[track] = [
            Run(
                title=title,
                train=SCRIPTS[version].train_cyclegan_sr,
                seed=seed,
                settings=settings | changes,
                folder=run_folder(out / track, title, seed),
            )
            for title, version, seed, changes in _plan(track, seeds, ablation)
        ]
    train_all([run for track in tracks for run in runs[track]], jobs, on)

    lpips, why = load_lpips(where)
    rows = []
    for track in tracks:
        measured = _measure(None, pairs[track], lpips)
        rows += [{"network": "bicubic", "track": track} | row for row in measured]
        for run in runs[track]:
            what = {"network": run.title, "track": track, "seed": run.seed}
            what["seconds"] = run.seconds
            measured = _measure(_load(run, where), pairs[track], lpips)
            rows += [what | row for row in measured]
    text = f"{n_epochs * steps_per_epoch} steps of {batch_size}, {n_features} features, "
    text += f"seeds {', '.join(map(str, seeds))}, {on}, torch {torch.__version__}\n"
    text += "".join(table(rows, track) for track in tracks) + (f"\n{why}\n" if why else "")
    write_results(out, rows, text, _picture(runs, pairs, where))
    return out


def _plan(
    track: str, seeds: tuple[int, ...], ablation: tuple[str, ...]
) -> list[tuple[str, str, int, dict]]:
    """Return (title, version, seed, settings) of each run of a track."""
    plan: list[tuple[str, str, int, dict]] = [("v1", "v1", seed, {}) for seed in seeds]
    for version, changes in CHANGES.items():
        base = REALISTIC[version] if track == "realistic" else {}
        steps = [
            (title, off) for title, off in changes.items() if not off or off.items() - base.items()
        ]
        for n, (title, _) in enumerate(steps[:-1] if version in ablation else [], 1):
            without = {name: value for _, off in steps[n:] for name, value in off.items()}
            plan.append((f"+ {title}", version, seeds[0], base | without))
        plan += [(version, version, seed, base) for seed in seeds]
    if "v3" in ablation:
        base = REALISTIC["v3"] if track == "realistic" else {}
        plan += [(title, "v3", seeds[0], base | on) for title, on in TRIED.items()]
    return plan


def _load(run: Run, device: torch.device) -> torch.nn.Module:
    return load_model(run.folder / "G_LR2HR.pth", device, precision="full").network


@torch.inference_mode()
def _measure(
    G: torch.nn.Module | None,  # None: bicubic
    tests: dict[str, Pairs],
    lpips: Callable | None,
) -> list[dict[str, Any]]:
    """Return a network's figures on each test folder: means over its photos.

    sharpness: see `scripts.inference.figures.sharpness`.
    correlation: of SR's colour channels with bicubic's, the lowest of all photos and channels: near
    1, or else colours are inverted or the result has nothing to do with the photo.
    """
    rows = []
    device = next(G.parameters()).device if G else torch.device("cpu")
    for name, pairs in tests.items():
        figures: list[dict[str, float]] = []
        for lr_path, hr_path in pairs:
            lr = read_image(lr_path)
            bicubic = imresize(lr, 4)
            sr = to_uint8(G(to_tensor(lr).to(device))) if G else bicubic
            a, b = to_tensor(sr), to_tensor(read_image(hr_path))
            psnr_y, ssim_y = psnr_ssim_y(a, b)
            values = {
                "psnr_y": psnr_y,
                "ssim_y": ssim_y,
                "lr_psnr": lr_psnr(a, to_tensor(lr)).item(),
            }
            values["sharpness"] = sharpness(a, b).item()
            values["correlation"] = min(_correlation(sr[..., c], bicubic[..., c]) for c in range(3))
            figures.append(values | ({"lpips": lpips(a, b)} if lpips else {}))
        means = {
            figure: fmean(values[figure] for values in figures if not isnan(values[figure]))
            for figure in figures[0]
        }
        means["correlation"] = min(values["correlation"] for values in figures)
        rows.append({"test": name} | means)
    return rows


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Pearson's correlation of two images; 0 where one of them is of one value."""
    return float(np.corrcoef(a.flat, b.flat)[0, 1]) if a.std() and b.std() else 0.0


def table(rows: list[dict[str, Any]], track: str) -> str:
    """Return a track's means over the seeds as Markdown, a line for each network and folder."""
    titles = [title for title, _ in FIGURES.values()]
    lines = [f"\n| {track} | test | {' | '.join(titles)} |", "|---" * (len(titles) + 2) + "|"]
    rows = [row for row in rows if row["track"] == track]
    for network, name in dict.fromkeys((row["network"], row["test"]) for row in rows):
        same = [row for row in rows if (row["network"], row["test"]) == (network, name)]
        cells = []
        for figure, (_, n) in FIGURES.items():
            values = [row[figure] for row in same if figure in row]
            cell = f"{fmean(values):.{n}f}" if values else "-"
            if figure == "psnr_y" and len(values) > 1:
                cell += f" ({min(values):.2f} to {max(values):.2f})"
            cells.append(cell)
        lines.append(f"| {network} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


@torch.inference_mode()
def _picture(
    runs: dict[str, list[Run]],
    pairs: dict[str, dict[str, Pairs]],
    device: torch.device,
) -> np.ndarray:
    """Return a crop of the second photo of each test folder and track: LR | bicubic | v1.. | HR."""
    rows, size = [], 48
    for track, folders in pairs.items():
        networks = {
            run.title: _load(run, device) for run in reversed(runs[track]) if run.title in SCRIPTS
        }
        for name, photos in folders.items():
            lr_path, hr_path = photos[min(1, len(photos) - 1)]
            lr = read_image(lr_path)
            photo = Photo(f"{name}, {track}", lr, imresize(lr, 4), read_image(hr_path))
            results = {
                version: to_uint8(G(to_tensor(lr).to(device)))
                for version, G in sorted(networks.items())
            }
            rows.append(sample_row(photo, results, busiest_crop(lr, size), size))
    return grid(rows)


if __name__ == "__main__":
    command_line(cyclegan_evidence)
