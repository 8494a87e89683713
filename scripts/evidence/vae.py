"""Train CVAE and SRVAE, and a plain CVAE without recognition; measure whether samples differ.

    python scripts/evidence/vae.py --photos PHOTOS --test SET5/HR SET14/HR
    python scripts/evidence/vae.py ... --runs SRVAE/runs/default CVAE/runs/default

PHOTOS and the test folders hold HR photos; without: DIV2K's training and validation photos. Some of
the training photos are held out. Each network is trained once for each seed, for the same number of
steps. A run that was interrupted is resumed, a complete one is only measured again. With `--runs`
nothing is trained: the networks in these folders are measured.

Written to OUT: evidence.md (tables), evidence.csv (each network and folder), evidence.png
(samples), and the folder of each run.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import common  # noqa: F401, it says what is not installed

import numpy as np
import torch

from common import checkpoint
from common.data.pairs import Pairs, training_and_validation_pairs
from common.data.photos import read_image, to_tensor
from common.data.resize import imresize, project_and_clamp
from common.device import choose_bfloat16, choose_device, describe
from common.measure.efficientnet import EfficientNetFeatures
from common.measure.metrics import lr_psnr, psnr_ssim_y, psnr_y
from common.measure.validation import Validation, grid
from common.progress import progress_bar
from common.run.flags import command_line
from common.vae import deviations, latent_diagnostics
from CVAE.model import CVAE, PATCH
from CVAE.model import Recognition as RecognitionOfCVAE
from CVAE.train_cvae import train_cvae
from scripts.evidence.runs import (
    Run,
    choose_photos,
    prepare,
    refuse_other_settings,
    run_folder,
    train_all,
    write_results,
)
from scripts.evidence.sample_figures import (
    border_step,
    dispersion,
    feature_distances,
    grid_strength,
    noise_like,
)
from scripts.inference.figures import diversity_score, local_l1
from scripts.inference.lpips import load_lpips
from scripts.inference.models import load_model
from scripts.samples import row_of_samples
from SRVAE.model import SRVAE
from SRVAE.model import Recognition as RecognitionOfSRVAE
from SRVAE.train_srvae import train_srvae

ROOT = Path(__file__).resolve().parents[2]
NETWORKS: dict[str, tuple[Callable, dict[str, Any]]] = {
    "plain CVAE": (train_cvae, {"recognition": False}),
    "CVAE": (train_cvae, {}),
    "SRVAE": (train_srvae, {}),
}
ON_PHOTOS = {  # in the CSV: title and digits in the table
    "psnr_y": ("PSNR-Y", 2),
    "ssim_y": ("SSIM-Y", 4),
    "psnr_y_sample": ("of a sample", 2),
    "dispersion": ("variance, %", 0),
    "lr_psnr_worst": ("LR-PSNR, worst", 1),
    "std_high": ("std, high", 2),
    "std_low": ("std, low", 2),
    "grid": ("grid", 1),
    "diversity": ("diversity", 1),
    "diversity_null": ("of noise", 1),
    "diversity_features": ("with features", 1),
    "features": ("features", 3),
    "features_sample": ("of a sample", 3),
    "diversity_lpips": ("with LPIPS", 1),
    "diversity_lpips_null": ("of noise", 1),
    "lpips": ("LPIPS", 4),
    "border_step": ("step at tile borders", 3),
    "seconds": ("seconds", 0),
}
ON_PATCHES = {
    "kl": ("KL, nats", 0),
    "active_units": ("active units", 0),
    "sigma_ratio": ("sigma_p / sigma_q", 2),
    "psnr_q": ("PSNR-Y, z from q", 2),
    "psnr_mean": ("mean of p", 2),
    "psnr_sample": ("from p", 2),
    "psnr_other": ("from q of another", 2),
}
_LEAST_FOR_BORDERS = 70  # LR pixels: between the first and the last tile there has to be a border


def vae_evidence(
    *,
    photos: Path | None = None,  # folder of HR photos to train on; None: DIV2K's
    test: tuple[Path, ...] = (),  # folders of HR photos to measure on; none: DIV2K's validation
    runs: tuple[Path, ...] = (),  # folders of runs to measure; none: networks are trained
    seeds: tuple[int, ...] = (0, 1, 2),
    n_features: int = 64,  # channels of both networks (full size: 64)
    batch_size: int = 16,  # patches of 128x128 a step
    n_epochs: int = 200,
    steps_per_epoch: int = 500,
    n_valid: int = 20,  # of the training photos, held out
    n_patches: int = 64,  # patches of each set, on which z is judged
    n_samples: int = 10,  # of each test photo (NTIRE 2021: 10)
    jobs: int = 1,  # runs at once, each on one processor; 1: in this process, on all of them
    out: Path = ROOT / "CVAE" / "runs" / "evidence",
    device: str = "cuda",  # without a GPU the CPU is taken
    bfloat16: bool | None = None,  # autocast; None: if the device has instructions for it
) -> Path:
    """Train, measure and write; return the folder with the results.

    Raises:
        ValueError: `out` holds runs with other settings, or two test folders have one name.
        FileExistsError: `out` holds files of something else.
    """
    where = choose_device(device)
    bfloat16 = choose_bfloat16(where, bfloat16)
    on = describe(where, bfloat16)
    if min(n_samples, n_patches) < 2 or not seeds:
        raise ValueError(
            f"n_samples {n_samples}, n_patches {n_patches}, seeds {seeds}: expected 2 samples and "
            "patches or more, one seed or more"
        )
    photos, tests = choose_photos(photos, test)
    settings = {"n_features": n_features, "batch_size": batch_size, "n_epochs": n_epochs}
    settings |= {"steps_per_epoch": steps_per_epoch, "n_valid": n_valid, "bfloat16": bfloat16}
    given = {"photos": str(photos), "test": [*map(str, tests.values())]}
    given |= {"runs": [*map(str, runs)]} if runs else {}
    found = [Run(title, None, 0, {}, folder) for title, folder in titles_of(runs).items()]
    for run in found:
        _load(run.folder, where)  # before anything takes long
    refuse_other_settings(out, settings | given)
    lr_folder, hr_folder, pairs = prepare(photos, tests, out / "data", "bicubic")
    text = f"{', '.join(given['runs'])}, {on}, torch {torch.__version__}\n\n" if runs else ""
    if not runs:
        settings |= {"lr_folder": lr_folder, "hr_folder": hr_folder, "device": where.type}
        settings |= {"workers": 0}
        found = [
            Run(title, train, seed, settings | changes, run_folder(out, title, seed))
            for title, (train, changes) in NETWORKS.items()
            for seed in seeds
        ]
        train_all(found, jobs, on)
        text = f"{n_epochs * steps_per_epoch} steps of {batch_size}, {n_features} features, "
        text += f"seeds {', '.join(map(str, seeds))}, {on}, torch {torch.__version__}\n\n"

    train_pairs, held_out = training_and_validation_pairs(lr_folder, hr_folder, None, None, n_valid)
    sets = {"training": train_pairs[:n_patches], "held out": held_out} | pairs
    patches = {name: Validation(p, 1024).patches(n_patches, PATCH) for name, p in sets.items()}
    spatial_lpips, why = load_lpips(where, spatial=True)
    features = EfficientNetFeatures().to(where)
    rows = [
        {"network": network, "set": name} | _bicubic(pairs[name], projected)
        for network, projected in (("bicubic", False), ("bicubic, projected", True))
        for name in pairs
    ]
    with progress_bar(total=len(found) * len(sets), desc="measuring") as bar:
        for run in found:
            network, recognition = _load(run.folder, where)
            for name in sets:
                row = {"network": run.title, "set": name, "seed": run.seed}
                both = [images.to(where) for images in patches[name]]
                row |= latent_diagnostics(network, recognition, *both)
                if name in pairs:
                    row |= _on_photos(network, pairs[name], n_samples, features, spatial_lpips)
                    row["seconds"] = run.seconds
                rows.append(row)
                bar.update()
    text += f"Whole photos, {n_samples} samples of each:\n\n" + table(rows, list(pairs), ON_PHOTOS)
    text += f"\n{n_patches} patches of each set:\n\n" + table(rows, list(sets), ON_PATCHES)
    text += f"\n{why}\n" if why else ""
    write_results(out, rows, text, _picture(found, pairs, where))
    return out


def titles_of(folders: Sequence[Path]) -> dict[str, Path]:
    """Return folders by what tables call them: names, or paths where two names are alike."""
    named = {folder.name: folder for folder in folders}
    return named if len(named) == len(folders) else {str(folder): folder for folder in folders}


def _load(
    folder: Path, device: torch.device
) -> tuple[CVAE | SRVAE, RecognitionOfCVAE | RecognitionOfSRVAE | None]:
    """Return the network of a run and its recognition network, where there is one."""
    names = [name for name in ("cvae.pth", "srvae.pth") if (folder / name).exists()]
    if len(names) != 1:
        raise ValueError(
            f"{folder}: expected the folder of a run, with cvae.pth or srvae.pth in it"
        )
    path = folder / names[0]
    network = load_model(path, device, precision="full").network
    if not (folder / "recognition.pth").exists():
        return network, None
    kind = RecognitionOfCVAE if isinstance(network, CVAE) else RecognitionOfSRVAE
    recognition = kind(network.n_features, network.n_latent)
    recognition.load_state_dict(checkpoint.load(folder / "recognition.pth"))
    return network, recognition.to(device).eval()


def _bicubic(pairs: Pairs, projected: bool) -> dict[str, float]:
    """Return bicubic's figures on whole photos, as it is or projected as the networks' images."""
    figures = []
    for lr_path, hr_path in pairs:
        pixels, hr = read_image(lr_path), to_tensor(read_image(hr_path))
        sr, lr = to_tensor(imresize(pixels, 4)), to_tensor(pixels)
        sr = project_and_clamp(sr, lr) if projected else sr
        figures.append((*psnr_ssim_y(sr, hr), lr_psnr(sr, lr).item()))
    psnr, ssim, consistency = zip(*figures, strict=True)
    return {"psnr_y": fmean(psnr), "ssim_y": fmean(ssim), "lr_psnr_worst": min(consistency)}


@torch.inference_mode()
def _on_photos(
    network: CVAE | SRVAE,
    pairs: Pairs,
    n_samples: int,
    features: EfficientNetFeatures,
    spatial_lpips: Callable | None,
) -> dict[str, float]:
    """Return a network's figures on whole photos: means over them, but of LR-PSNR the lowest.

    psnr_y, ssim_y, features, lpips: of the mean prediction. ..._sample: mean over the samples.
    dispersion, grid: see `dispersion`, `grid_strength`.
    diversity, ..._features, ..._lpips: see `diversity_score`, with local L1, `feature_distances`
        and LPIPS; ..._null: of the mean prediction with noise of the samples' strength, projected
        onto LR.
    border_step: see `border_step`; the CVAE's.
    """
    device = next(network.parameters()).device
    figures: list[dict[str, float]] = []
    for lr_path, hr_path in pairs:
        lr, hr = (to_tensor(read_image(path)).to(device) for path in (lr_path, hr_path))
        mean = network.sample(lr, temperature=0)[0]
        samples = network.sample(lr, n_samples, seed=0)
        psnr, ssim = psnr_ssim_y(mean, hr)
        std_high, std_low = deviations(samples)
        values = {"psnr_y": psnr, "ssim_y": ssim, "std_high": std_high, "std_low": std_low}
        values["psnr_y_sample"] = psnr_y(samples[:, 0], hr.expand_as(samples[:, 0])).mean().item()
        values["dispersion"] = dispersion(psnr, values["psnr_y_sample"])
        if min(hr.shape[2:]) >= 128:
            values["grid"] = grid_strength(samples)
        of_mean, *of_samples = feature_distances(features, torch.cat((mean, samples[:, 0])), hr)
        values["features"] = of_mean.mean().item()
        values["features_sample"] = torch.stack(of_samples).mean().item()
        values["diversity_features"] = diversity_score(torch.stack(of_samples))
        values["lr_psnr_worst"] = min(lr_psnr(x, lr).item() for x in (mean, *samples))
        null = noise_like(std_high, n_samples, mean, lr, network)
        for kind, versions in (("", samples), ("_null", null)):
            values[f"diversity{kind}"] = diversity_score(local_l1(versions[:, 0], hr)[:, 0])
            if spatial_lpips:
                maps = torch.cat([spatial_lpips(version, hr) for version in versions])
                values[f"diversity_lpips{kind}"] = diversity_score(maps[:, 0])
        if spatial_lpips:
            values["lpips"] = spatial_lpips(mean, hr).mean().item()
        if isinstance(network, CVAE) and min(lr.shape[2:]) >= _LEAST_FOR_BORDERS:
            values["border_step"] = border_step(network, lr)
        figures.append(values)
    means = {
        name: fmean(values[name] for values in figures if name in values)
        for name in dict.fromkeys(name for values in figures for name in values)
    }
    means["lr_psnr_worst"] = min(values["lr_psnr_worst"] for values in figures)
    return means


def table(rows: list[dict[str, Any]], sets: list[str], figures: dict[str, tuple[str, int]]) -> str:
    """Return the means over the seeds as Markdown, a line for each network and set of photos."""
    shown = {name: what for name, what in figures.items() if any(name in row for row in rows)}
    lines = [f"| network | photos | {' | '.join(title for title, _ in shown.values())} |"]
    lines.append("|---" * (len(shown) + 2) + "|")
    for network in dict.fromkeys(row["network"] for row in rows):
        for name in sets:
            same = [row for row in rows if (row["network"], row["set"]) == (network, name)]
            cells = []
            for figure, (_, digits) in shown.items():
                values = [row[figure] for row in same if figure in row]
                cells.append(f"{fmean(values):.{digits}f}" if values else "-")
            if any(cell != "-" for cell in cells):
                lines.append(f"| {network} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _picture(runs: list[Run], tests: dict[str, Pairs], device: torch.device) -> np.ndarray:
    """Return samples of each network, with the first seed, of a photo of each test folder."""
    rows = []
    for name, pairs in tests.items():
        lr_path, hr_path = pairs[min(1, len(pairs) - 1)]
        lr, hr = read_image(lr_path), read_image(hr_path)
        for run in (run for run in runs if run.seed == runs[0].seed):
            network, _ = _load(run.folder, device)
            title = f"{name}, {run.title}"
            rows.append(row_of_samples(network, title, lr, hr, 4, 1.0, 0, 44))
    return grid(rows)


if __name__ == "__main__":
    command_line(vae_evidence)
