"""Measure ours and the usual way in turn, in one run: medians, the ratio, arithmetic, memory.

    python scripts/benchmarks/benchmark.py PART

data       crops from the pixel store against decoding a PNG for each
train      steps of both stages against spandrel's network in a plain loop
degradation  what making LR while training adds to a step
upscale    enlarging a photo against spandrel's network, in each precision
swinir     a step and enlarging with SwinIR and EDSR, against spandrel's SwinIR
scaling    a training step on one process and on several
precision  training in bfloat16 and in full precision: PSNR, time
rounding   how far enlarging in bfloat16 is from full precision
memory     what each training script needs with its defaults
allocator  what a step gains as the process keeps the memory that is freed
tiles      how far tiled results are from the whole image's, by margin

Each but `tiles` and `rounding` also writes a JSON file and a picture in `--out`. `pip install
spandrel` first, and `openvino` for upscaling's optional backend. Time at a quiet moment: other work
changes the ratios.
"""

import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import common  # noqa: F401, it says what is not installed

import skimage
import torch
import tyro

from common.data.crops import PairedCrops
from common.data.pairs import Pairs
from common.data.photos import read_image, to_tensor
from common.device import choose_bfloat16, choose_device
from common.progress import progress_bar
from common.run.flags import command_line
from scripts.benchmarks.data import decode_each, from_store, large_photos
from scripts.benchmarks.measuring import OUT, Side, against, measure, peak_memory, report
from scripts.benchmarks.memory import SETTINGS, seconds_by_allocator, train_two_steps
from scripts.benchmarks.precision import compared, psnr_and_seconds
from scripts.benchmarks.rounding import rounding_of
from scripts.benchmarks.scaling import efficiencies, seconds_of_steps
from scripts.benchmarks.swinir import enlarge, psnr_step
from scripts.benchmarks.train import gan_step, our_psnr_step, random_vgg, usual_psnr_step
from scripts.benchmarks.upscale import NETWORKS, sides_of, write_network
from scripts.evidence.builtin_photos import builtin_photos
from scripts.evidence.methods import METHODS
from scripts.inference.models import Backend, load_model

NAMES = {torch.bfloat16: "bfloat16", torch.float32: "full precision"}
PHOTO = Path(skimage.__file__).parent / "data" / "chelsea.png"


def data(
    *,
    n_photos: int = 8,
    patch_size: int = 128,
    rounds: int = 5,
    out: Path = OUT,
    peaks: bool = True,
) -> dict[str, float]:
    """Compare aligned LR/HR crops per second; return each side's ratio.

    Args:
        n_photos: photos of 2040x1404, DIV2K's usual size, and their LR.
        patch_size: HR pixels.
        rounds: how often each side is measured.
        out: folder of the JSON file and the picture.
        peaks: measure peak memory, each side in a process of its own.
    """
    options = _options("crops", rounds, out, peaks, torch.device("cpu"))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        pairs = large_photos(Path(folder), n_photos)
        sides = [
            Side("decoding per crop", partial(decode_each, pairs, patch_size), 1, 2 * n_photos),
            Side("pixel store", partial(from_store, pairs, patch_size), 1, 5000),
        ]
        return measure("data", sides, **options)


def train(
    *,
    stage: Literal["both", "psnr", "gan"] = "both",
    n_blocks: int = 23,
    batch_size: int = 4,
    patch_size: int = 128,
    n_photos: int = 8,
    workers: int = 2,
    compile: bool = False,
    rounds: int = 5,
    out: Path = OUT,
    peaks: bool = True,
    device: str = "cpu",
) -> dict[str, float]:
    """Compare training steps; return each side's ratio.

    The PSNR stage from PNG to weights: decoding, L1, Adam, the averaged generator. The GAN stage
    on images in memory: generator, VGG19 (random weights) and discriminator.

    Args:
        stage: which; both, one after the other.
        n_blocks: RRDBs of 64 features and growth 32.
        patch_size: HR pixels, a multiple of 32.
        n_photos: photos of 2040x1404 that the PSNR stage cuts crops from.
        workers: processes that cut crops ahead, of each side; 0: none.
        compile: measure torch.compile too, in the PSNR stage.
        rounds: how often each side is measured.
        out: folder of the JSON files and the pictures.
        peaks: measure peak memory, each side in a process of its own.
    """
    _require_spandrel()
    where = choose_device(device)
    precisions = (torch.bfloat16, torch.float32) if choose_bfloat16(where) else (torch.float32,)
    options = _options("images", rounds, out, peaks, where)
    ratios = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if stage in ("both", "psnr"):
            pairs = large_photos(Path(folder), n_photos)
            PairedCrops(pairs, patch_size, seed=0)  # the store is built once, not in first use
            made = (pairs, patch_size, batch_size, n_blocks, workers, str(where))
            usual = partial(usual_psnr_step, *made)
            changes = {
                "no waiting for crops": {"new_crops": False},
                "checkpointing": {"checkpointing": True},
                "RRDBs with conv_last": {"conv_last": True},
            }
            if compile:
                changes["compiled"] = {"compile": True}
            kinds = [("", p, {}) for p in precisions]
            kinds += [(f", {name}", precisions[0], change) for name, change in changes.items()]
            sides = [Side("PSNR: spandrel, plain loop", usual, batch_size)]
            for name, p, change in kinds:
                step = partial(our_psnr_step, *made, bfloat16=p == torch.bfloat16, **change)
                title = f"PSNR: ours, {NAMES[p]}{name}"
                sides.append(Side(title, step, batch_size, precision=p))
            ratios |= measure("train_psnr", sides, **options)
        if stage in ("both", "gan"):
            sizes = (patch_size, batch_size, n_blocks, random_vgg(Path(folder)), str(where))
            forms = {
                "spandrel, five passes of D": ("usual", "spandrel"),
                "spandrel, nothing frozen": ("unfrozen", "spandrel"),
                "spandrel, two passes": ("our", "spandrel"),
            }
            sides = [
                Side(f"GAN: {name}", partial(gan_step, *form, False, False, *sizes), batch_size)
                for name, form in forms.items()
            ]
            for p in precisions:
                step = partial(gan_step, "our", "ours", True, p == torch.bfloat16, *sizes)
                sides.append(Side(f"GAN: ours, {NAMES[p]}", step, batch_size, precision=p))
            ratios |= measure("train_gan", sides, **options)
    return ratios


def degradation(
    *,
    n_blocks: int = 23,
    batch_size: int = 4,
    patch_size: int = 128,
    n_photos: int = 8,
    workers: int = 2,
    rounds: int = 5,
    out: Path = OUT,
    device: str = "cpu",
) -> dict[str, float]:
    """Compare a step of the PSNR stage on LR photos with one whose LR is made of HR meanwhile.

    In full precision; returns each side's ratio. Arguments are as `train` has them.
    """
    options = _options("images", rounds, out, False, choose_device(device))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        pairs = large_photos(Path(folder), n_photos)
        step = partial(our_psnr_step, pairs, patch_size, batch_size, n_blocks, workers, device)
        sides = [
            Side("LR of HR by second_order", partial(step, degraded=True), batch_size),
            Side("LR photos", step, batch_size),
        ]
        return measure("degradation", sides, **options)


def upscale(
    *,
    networks: tuple[str, ...] = ("ESRGAN", *NETWORKS),
    n_blocks: int = 23,
    size: int = 256,
    rounds: int = 5,
    out: Path = OUT,
    peaks: bool = True,
    device: str = "cpu",
) -> dict[str, float]:
    """Compare enlarging a photo of `size` x `size` four times; return each side's ratio.

    Args:
        networks: which, one after the other, each with its own usual way.
        n_blocks: ESRGAN's RRDBs, of 64 features and growth 32.
        size: LR pixels each way, up to 300; the photo is chelsea.
        rounds: how often each side is measured.
        out: folder of the JSON file and the picture.
        peaks: measure peak memory, each side in a process of its own.
    """
    _require_spandrel()
    where = choose_device(device)
    options = _options("images", rounds, out, peaks, where)
    lr = to_tensor(read_image(PHOTO))[..., :size, 90 : 90 + size].contiguous()
    unknown = [kind for kind in networks if kind not in ("ESRGAN", *NETWORKS)]
    if unknown:
        raise ValueError(
            f"networks holds {unknown}, expected some of ESRGAN, {', '.join(NETWORKS)}"
        )
    if where.type == "cpu" and not importlib.util.find_spec("openvino"):
        print("without OpenVINO, which is not installed: pip install openvino")
    ratios = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for kind in networks:
            path = write_network(Path(folder), n_blocks, kind)
            sides = sides_of(kind, path, lr, where)
            part = "upscale" if kind == "ESRGAN" else f"upscale_{kind.lower()}"
            ratios |= measure(part, sides, **options)
    return ratios


def swinir(
    *,
    kind: Literal["lightweight", "classical"] = "lightweight",
    batch_size: int = 4,
    patch_size: int = 192,
    size: int = 128,
    rounds: int = 5,
    out: Path = OUT,
    peaks: bool = True,
    device: str = "cpu",
) -> dict[str, float]:
    """Compare a PSNR step and enlarging a photo; return each side's ratio.

    Args:
        kind: of the two published SwinIRs; EDSR is the baseline.
        patch_size: HR pixels of the step's crops, which lie in memory.
        size: LR pixels each way of the photo, up to 300: chelsea.
        rounds: how often each side is measured.
        out: folder of the JSON files and the pictures.
        peaks: measure peak memory, each side in a process of its own.
    """
    _require_spandrel()
    where = choose_device(device)
    precisions = (torch.bfloat16, torch.float32) if choose_bfloat16(where) else (torch.float32,)
    kinds = [("spandrel's SwinIR", kind, False, torch.float32)]
    kinds += [(f"SwinIR, {NAMES[p]}", kind, True, p) for p in precisions]
    kinds += [(f"EDSR, {NAMES[p]}", "EDSR", True, p) for p in precisions]
    lr = to_tensor(read_image(PHOTO))[..., :size, 90 : 90 + size].contiguous()
    steps, images = [], []
    for title, network, ours, p in kinds:
        made = network, ours, p == torch.bfloat16
        step = partial(psnr_step, *made, batch_size, patch_size, str(where))
        steps.append(Side(f"step: {title}", step, batch_size, precision=p))
        image = partial(enlarge, *made, lr, str(where))
        images.append(Side(f"enlarging: {title}", image, 1, precision=p))
    ratios = {}
    for part, sides in (("step", steps), ("upscale", images)):
        options = _options("images", rounds, out, peaks, where)
        ratios |= measure(f"swinir_{part}", sides, **options)
    return ratios


def scaling(
    *,
    most: int | None = None,
    n_blocks: int = 23,
    batch_size: int = 4,
    patch_size: int = 128,
    steps: int = 5,
    out: Path = OUT,
    device: str = "cpu",
) -> dict[str, float]:
    """Compare a PSNR-stage step of 1, 2, 4, ... processes; return each number's ratio.

    Each process has a batch of its own, so twice the processes do twice the work. On a CPU each has
    as many threads as it has when all cores are shared out among `most`: one process alone is not
    given more.

    Args:
        most: processes; None: one for each GPU, or for each core.
        n_blocks: RRDBs of 64 features and growth 32.
        batch_size: of each process.
        patch_size: HR pixels.
        steps: timed; two more go before.
        out: folder of the JSON file and the picture.
    """
    where = choose_device(device)
    units = torch.cuda.device_count() if where.type == "cuda" else os.cpu_count() or 1
    most = units if most is None else most
    if not 1 <= most <= units or steps < 1:
        raise ValueError(f"most is {most}, steps {steps}: expected 1 to {units}, and 1 or more")
    numbers = sorted({*(2**k for k in range(most.bit_length()) if 2**k <= most), most})
    settings = {"n_blocks": n_blocks, "batch_size": batch_size, "patch_size": patch_size}
    seconds = {}
    for n in progress_bar(numbers, desc="measuring", unit="run"):
        made = settings | {"steps": steps}
        seconds[n] = seconds_of_steps(n, max(1, units // most), made, str(where))
    rows = efficiencies(seconds, batch_size)
    notes = {"threads_of_a_process": max(1, units // most)} | settings
    report("scaling", rows, unit="images", out=out, device=where, notes=notes)
    return {name: row["ratio"] for name, row in rows.items()}


def precision(
    *,
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    n_epochs: int = 12,
    steps_per_epoch: int = 100,
    out: Path = OUT,
    device: str = "cpu",
) -> dict[str, float]:
    """Compare what the quick start's PSNR stage reaches in bfloat16; return PSNR-Y of each.

    Both start from the same weights and see the same crops; PSNR-Y is of two held-out photos.

    Args:
        seeds: of the runs; one in each precision for each.
        n_epochs: of a run.
        steps_per_epoch: of 8 crops.
        out: folder of the JSON file and the picture.
    """
    if not seeds or min(n_epochs, steps_per_epoch) < 1:
        raise ValueError(
            f"seeds {seeds}, n_epochs {n_epochs}, steps_per_epoch {steps_per_epoch}: expected "
            "one seed or more, the others 1 or more"
        )
    where = choose_device(device)
    names = ("lr_folder", "hr_folder", "valid_lr_folder", "valid_hr_folder")
    sizes = {"n_epochs": n_epochs, "steps_per_epoch": steps_per_epoch}
    results: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        folders = dict(zip(names, builtin_photos(out=Path(folder)), strict=True))
        runs = [(seed, bfloat16) for seed in seeds for bfloat16 in results]
        for seed, bfloat16 in progress_bar(runs, desc="training", unit="run"):
            found = psnr_and_seconds(folders, seed, bfloat16, sizes, str(where))
            results[bfloat16].append(found)
    rows, notes = compared(results[False], results[True], n_epochs * steps_per_epoch)
    report("precision", rows, unit="steps", out=out, device=where, notes=notes)
    return {name: row["psnr_y"] for name, row in rows.items()}


def rounding(
    *,
    models: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-m"])],
    lr: Path,
    hr: Path,
    size: int = 4096,
    backend: Backend = "torch",
    device: str = "cpu",
) -> dict[str, dict[str, float]]:
    """Print how far enlarging in bfloat16 is from full precision; return it for each model.

    Args:
        models: checkpoints.
        lr: folder of LR photos.
        hr: folder of HR photos, paired by name.
        size: LR pixels each way that photos are cut to.
        backend: what computes, as upscale.py takes it.
    """
    rows = rounding_of(models, lr, hr, size, choose_device(device), {"backend": backend})
    print(f"{'':42}{'mean/255':>10}{'worst':>10}{'PSNR-Y':>10}{'gain, dB':>10}")
    for name, row in rows.items():
        print(f"{name[-42:]:42}" + "".join(f"{value:10.3f}" for value in row.values()))
    return rows


def memory(
    *,
    scripts: tuple[str, ...] = tuple(SETTINGS),
    out: Path = OUT,
    device: str = "cpu",
) -> dict[str, float]:
    """Print the peak MB of two steps of each training script, with its defaults.

    On a GPU what torch allocates there; on a CPU the whole process.

    Args:
        scripts: which, and with which settings.
        out: folder of the JSON file and the picture.
    """
    where = choose_device(device)
    unknown = [name for name in scripts if name not in SETTINGS]
    if unknown:
        raise ValueError(f"scripts holds {unknown}, expected some of {list(SETTINGS)}")
    rows = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folders = _folders_of(large_photos(Path(name), 2))
        vgg_weights = random_vgg(Path(name))
        for script in progress_bar(scripts, desc="measuring", unit="script"):
            build = partial(train_two_steps, script, folders, vgg_weights, str(where))
            rows[script] = {"peak_memory_mb": peak_memory(build, where)}
    report("memory", rows, unit="MB", out=out, device=where, notes={})
    return {name: row["peak_memory_mb"] for name, row in rows.items()}


def allocator(
    *, scripts: tuple[str, ...] = tuple(METHODS), rounds: int = 10, out: Path = OUT
) -> dict[str, float]:
    """Compare steps with freed memory given back, as glibc does, with steps that keep it.

    On the CPU, with each script's defaults (ESRGAN: the PSNR stage); returns the ratio of each.

    Args:
        scripts: which.
        rounds: how often each side is measured.
        out: folder of the JSON file and the picture.
    """
    if set(scripts) - set(METHODS) or rounds < 1:
        raise ValueError(
            f"scripts {scripts}, rounds {rounds}: expected some of {', '.join(METHODS)}, 1 or more"
        )
    rows = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folders = _folders_of(large_photos(Path(name), 4))
        for script in progress_bar(scripts, desc="measuring", unit="script"):
            method, psnr_only = METHODS[script], {"n_epochs_gan": 0} if script == "esrgan" else {}
            given_back, kept = seconds_by_allocator(method.train, folders, rounds, **psnr_only)
            rows[f"{method.title}, given back"] = against(given_back, given_back)
            rows[f"{method.title}, kept"] = against(given_back, kept)
    where = torch.device("cpu")
    report("allocator", rows, unit="steps", out=out, device=where, notes={"rounds": rounds})
    return {title: row["ratio"] for title, row in rows.items()}


def tiles(
    *, models: tuple[str, ...] = ("bicubic",), tile: int = 120, device: str = "cuda"
) -> dict[str, list[float]]:
    """Print the largest difference between a tiled and a whole result, in 1/255.

    Of one answer, and of a sample where there are such; the photo is chelsea, 451x300, taken as LR.

    Args:
        models: checkpoints.
        tile: LR pixels each way, a multiple of 24.
    """
    lr = to_tensor(read_image(PHOTO))
    where, margins = choose_device(device), (24, 48, 72, 96)
    print(f"{'margin, LR pixels':42}" + "".join(f"{margin:>9}" for margin in margins))
    results = {}
    for name in models:
        model = load_model(name, where, precision="full")
        answers: dict[str, Callable[[], torch.Tensor]] = {name: lambda m=model: m.upscale(lr)}
        if model.has_samples:
            answers[f"{name}, a sample"] = lambda m=model: m.sample(lr, 1, seed=0)[0]
        for title, answer in answers.items():
            model.tile = max(lr.shape)
            whole, differences = answer(), []
            model.tile = tile
            for model.margin in margins:
                differences.append(255 * (answer() - whole).abs().max().item())
            print(f"{title[-42:]:42}" + "".join(f"{value:9.4f}" for value in differences))
            results[title] = differences
    return results


def _folders_of(pairs: Pairs) -> dict[str, Path]:
    """Return the folders of LR and HR photos as train functions take them, for validation, too."""
    folders = {f"{kind}_folder": pairs[0][i].parent for i, kind in enumerate(("lr", "hr"))}
    return folders | {f"valid_{kind}": folder for kind, folder in folders.items()}


def _options(
    unit: str, rounds: int, out: Path, peaks: bool, device: torch.device
) -> dict[str, Any]:
    """Return what `measure` takes besides sides."""
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}, expected 1 or more")
    return {"unit": unit, "rounds": rounds, "out": out, "peaks": peaks, "device": device}


def _require_spandrel() -> None:
    if not importlib.util.find_spec("spandrel"):
        sys.exit("the peer's network is missing: pip install spandrel")


if __name__ == "__main__":
    parts = (data, train, degradation, upscale, swinir, scaling, precision, rounding, memory)
    parts += (allocator, tiles)
    command_line({part.__name__: part for part in parts})
