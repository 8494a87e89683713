"""Enlarge photos with any checkpoint: files and folders, of any size and kind.

    python scripts/upscale.py PHOTO.jpg
    python scripts/upscale.py PHOTO.jpg -m ESRGAN/runs/default/generator.pth -o OUT
    python scripts/upscale.py FOLDER -m cvae.pth -o OUT --samples 4
    python scripts/upscale.py FOLDER -m bicubic -o OUT --scale 2 --format png
    python scripts/upscale.py -m list

Without -m it is a network for real photos (`list` shows all names); without -o the result lies
beside the photo, as PHOTO_4x.jpg, or beside the folder. OUT gets the photos' names, and a folder's
subfolders. Kept are gray, alpha, 16 bits, colour profile and EXIF; photos are turned upright. Large
photos are enlarged in tiles that are blended: memory does not grow with the photo.

In a notebook:

    from scripts.inference import load_model
    sr = load_model("cvae.pth").upscale(Image.open("photo.jpg"))
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import common  # noqa: F401, it says what is not installed

import pyvips
import tyro
from tqdm import tqdm

from common.data.photos import image_size
from common.device import is_out_of_memory
from common.files import refuse_unwritable, remove_leftovers
from common.progress import progress_bar
from common.run.flags import command_line
from scripts.inference import named
from scripts.inference.jobs import Job, plan
from scripts.inference.models import GRID, Backend, Model, Precision, load_model
from scripts.inference.photos import (
    Photo,
    allocate_result,
    enlarged_size,
    open_photo,
    refuse_size,
    save_photo,
    write_rows,
)

__all__ = ["Job", "Model", "Settings", "enlarge", "load_model", "upscale"]

_LARGEST_SCALE = 16


class Settings(NamedTuple):
    scale: float
    samples: int
    temperature: float
    seed: int
    quality: int
    overwrite: bool


def upscale(
    inputs: tyro.conf.Positional[tuple[Path, ...]],  # photos and folders of them
    *,
    model: Annotated[Path, tyro.conf.arg(aliases=["-m"])] = Path(named.DEFAULT),  # .pth, or a name
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,  # folder, or file of a photo
    scale: float = 4.0,  # other than 4: the result is resampled, up to 16
    samples: int = 0,  # so many different results, of a CVAE or SRVAE; 0: the mean prediction
    temperature: float = 1.0,  # of z's standard deviation in samples
    seed: int = 0,  # the same seed gives the same samples
    format: Literal["same", "png", "jpg", "webp", "tiff"] = "same",  # same: as the photo's
    quality: int = 95,  # of JPEG and WebP, 1 to 100 (WebP: without loss)
    tile: int | None = None,  # LR pixels, a multiple of 24; None: 264 on a CPU, 528 on a GPU
    self_ensemble: bool = False,  # mean over flips and turns: nearer to HR, 8 times as long
    overwrite: bool = False,  # write anew what is there already
    device: str = "auto",  # a GPU where there is one; or "cuda", "cuda:1", "cpu"
    precision: Precision = "auto",  # auto: bfloat16 where fast and close; half: float16, GPUs
    backend: Backend = "torch",  # openvino: faster on a CPU, if installed; ESRGAN and CycleGAN
) -> int:
    """Enlarge the photos and return how many could not be; each is named with the reason.

    Raises:
        ValueError: an argument is out of range, an input is missing, two have one result, or a
            result would take a photo's place.
        OSError: a folder of results cannot be written to.
    """
    if str(model) == "list":
        print(named.listing())
        return 0
    if not 0 < scale <= _LARGEST_SCALE or samples < 0 or temperature < 0 or seed < 0:
        raise ValueError(
            f"scale {scale}, samples {samples}, temperature {temperature}, seed {seed}: expected a "
            f"scale above 0 and up to {_LARGEST_SCALE}, the others 0 or more"
        )
    if not 1 <= quality <= 100:
        raise ValueError(f"quality is {quality}, expected 1 to 100")
    if tile is not None and (tile < GRID or tile % GRID):
        raise ValueError(f"tile is {tile}, expected a multiple of {GRID}")
    jobs = plan(inputs, out, format, samples, scale)
    folders = {path.parent for job in jobs for path in job.results}
    for folder in folders:
        refuse_unwritable(folder)
    options = {"precision": precision, "backend": backend, "self_ensemble": self_ensemble}
    network = load_model(model, device, **options)
    if samples and not network.has_samples:
        raise ValueError(f"{model} is of {network.name}, which has one answer: leave --samples out")
    if tile is not None:
        network.tile = tile
    settings = Settings(scale, samples, temperature, seed, quality, overwrite)
    for folder in folders:
        remove_leftovers(folder)  # of runs that were killed
    n_done, sizes = 0, [_pixels(job.photo) for job in jobs]
    try:
        with progress_bar(total=sum(sizes), unit="pixel", unit_scale=True) as bar:
            for job, n_pixels in zip(jobs, sizes, strict=True):
                bar.set_postfix_str(job.photo.name, refresh=False)
                before = bar.n
                is_done = _try_to_enlarge(network, job, settings, bar)
                n_done += is_done
                bar.update(before + is_done * n_pixels - bar.n)
    finally:  # also at Ctrl-C
        where = out or os.path.commonpath([path for job in jobs for path in job.results])
        print(f"{n_done} of {len(jobs)} photos enlarged: {where}")
    return len(jobs) - n_done


def _try_to_enlarge(network: Model, job: Job, settings: Settings, bar: tqdm) -> bool:
    """Enlarge one photo, or name it and what is wrong; return whether that was done."""
    try:
        photo = enlarge(network, job, settings, bar.update)
    except (ValueError, OSError, MemoryError, RuntimeError, pyvips.Error) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        what = str(error).removeprefix(f"{job.photo}: ") or type(error).__name__
        bar.write(f"not enlarged: {job.photo}: {what}", file=sys.stderr)
        return False
    if photo.pages > 1:
        which = f"page {photo.page + 1}, the largest," if photo.page else "the first"
        parts = "pages" if job.photo.suffix.lower() in (".tif", ".tiff") else "frames"
        bar.write(f"{job.photo}: {which} of {photo.pages} {parts}", file=sys.stderr)
    return True


def enlarge(network: Model, job: Job, settings: Settings, done: Callable[[int], None]) -> Photo:
    """Enlarge one photo, write its results and return it.

    Args:
        done: is told of the LR pixels of each tile that is done.
    Raises:
        FileExistsError: a result is there already.
        ValueError: the photo cannot be read, or is too large for the format.
        OSError: a result cannot be written.
        MemoryError: not even a small tile fits.
    """
    there = [path.name for path in job.results if path.exists()]
    if there and not settings.overwrite:
        raise FileExistsError(
            f"{job.photo}: {', '.join(there)} is there already (--overwrite writes it anew)"
        )
    photo = open_photo(job.photo)
    for path in job.results:
        remove_leftovers(path.parent, path, older_than=0)
        refuse_size(path, enlarged_size(photo.size, settings.scale))
    images = [allocate_result(path, photo, settings.scale) for path in job.results]
    temperature = settings.temperature if settings.samples else 0.0
    shape, top = (1, 3, *photo.size), 0
    for band in network.bands(photo.read, shape, len(images), temperature, settings.seed, done):
        for pixels, version in zip(images, band, strict=True):
            write_rows(pixels, top, version[0])
        top += band.shape[-2]
    for path, pixels in zip(job.results, images, strict=True):
        save_photo(path, pixels, photo, settings.scale, settings.quality)
    return photo


def _pixels(path: Path) -> int:
    """Return a photo's number of pixels, 0 where that cannot be known."""
    try:
        height, width = image_size(path)
    except ValueError:
        return 0
    return height * width


if __name__ == "__main__":
    sys.exit(min(1, command_line(upscale)))
