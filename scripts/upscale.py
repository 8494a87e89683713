"""Enlarge photos with any checkpoint: files and folders, of any size and kind.

    python scripts/upscale.py PHOTO.jpg -m ESRGAN/runs/default/generator.pth -o OUT
    python scripts/upscale.py FOLDER -m cvae.pth -o OUT --samples 4
    python scripts/upscale.py FOLDER -m bicubic -o OUT --scale 2 --format png

OUT gets the photos' names, and a folder's subfolders. Kept are gray, alpha, 16 bits, colour profile
and EXIF; photos are turned upright. Large photos are enlarged in tiles that are blended: memory
does not grow with the photo.

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

import tyro

from common.data.pairs import SUFFIXES
from common.data.photos import image_size
from common.progress import progress_bar
from common.run.flags import command_line
from scripts.inference.models import GRID, Backend, Model, Precision, load_model
from scripts.inference.outputs import skipped_files
from scripts.inference.photos import (
    WRITTEN,
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


class Job(NamedTuple):
    photo: Path
    results: list[Path]


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
    model: Annotated[Path, tyro.conf.arg(aliases=["-m"])],  # checkpoint, or "bicubic"
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],  # folder; or a file, of one photo
    scale: float = 4.0,  # other than 4: the result is resampled, up to 16
    samples: int = 0,  # so many different results, of a CVAE or SRVAE; 0: the mean prediction
    temperature: float = 1.0,  # of z's standard deviation in samples
    seed: int = 0,  # the same seed gives the same samples
    format: Literal["same", "png", "jpg", "webp", "tiff"] = "same",  # same: as the photo's
    quality: int = 95,  # of JPEG and WebP, 1 to 100 (WebP: without loss)
    tile: int | None = None,  # LR pixels, a multiple of 24; None: 264 on a CPU, 528 on a GPU
    overwrite: bool = False,  # write anew what is there already
    device: str = "auto",  # a GPU where there is one; or "cuda", "cuda:1", "cpu"
    precision: Precision = "full",  # half: float16, for GPUs; within 1/255 of full
    backend: Backend = "torch",  # openvino: faster on a CPU, if installed; ESRGAN and CycleGAN
) -> int:
    """Enlarge the photos and return how many could not be; each is named with the reason.

    Raises:
        ValueError: an argument is out of range, an input is missing, two have one result, or a
            result would take a photo's place.
    """
    if not 0 < scale <= _LARGEST_SCALE or samples < 0 or temperature < 0 or seed < 0:
        raise ValueError(
            f"scale {scale}, samples {samples}, temperature {temperature}, seed {seed}: expected a "
            f"scale above 0 and up to {_LARGEST_SCALE}, the others 0 or more"
        )
    if not 1 <= quality <= 100:
        raise ValueError(f"quality is {quality}, expected 1 to 100")
    if tile is not None and (tile < GRID or tile % GRID):
        raise ValueError(f"tile is {tile}, expected a multiple of {GRID}")
    jobs = _plan(inputs, out, format, samples)
    network = load_model(model, device, precision=precision, backend=backend)
    if samples and not network.has_samples:
        raise ValueError(f"{model} is of {network.name}, which has one answer: leave --samples out")
    if tile is not None:
        network.tile = tile
    settings = Settings(scale, samples, temperature, seed, quality, overwrite)
    failed = 0
    sizes = [_pixels(job.photo) for job in jobs]
    with progress_bar(total=sum(sizes), unit="pixel", unit_scale=True) as bar:
        for job, n_pixels in zip(jobs, sizes, strict=True):
            bar.set_postfix_str(job.photo.name, refresh=False)
            before = bar.n
            try:
                photo = enlarge(network, job, settings, bar.update)
                if photo.pages > 1:
                    bar.write(f"{job.photo}: the first of {photo.pages} pages", file=sys.stderr)
            except (ValueError, OSError, MemoryError) as error:
                failed += 1
                what = str(error).removeprefix(f"{job.photo}: ")
                bar.write(f"not enlarged: {job.photo}: {what}", file=sys.stderr)
            bar.update(before + n_pixels - bar.n)
    print(f"{len(jobs) - failed} of {len(jobs)} photos enlarged: {out}")
    return failed


def _plan(inputs: tuple[Path, ...], out: Path, format: str, samples: int) -> list[Job]:
    """Return each photo with the files it shall become."""
    if not inputs:
        raise ValueError("no photos are named: expected files or folders")
    named: list[tuple[Path, Path]] = []  # photo, and its path below `out`
    for path in inputs:
        if path.is_dir():
            inside = _photos_below(path)
            if out.resolve().is_relative_to(path.resolve()) and out.resolve() != path.resolve():
                inside = [p for p in inside if not p.resolve().is_relative_to(out.resolve())]
            if not inside:
                raise ValueError(f"{path} holds no photos ({', '.join(sorted(SUFFIXES))})")
            named += [(p, p.relative_to(path)) for p in inside]
        elif path.exists():
            named.append((path, Path(path.name)))
        else:
            raise ValueError(f"{path}: there is no such file or folder")
    several_inputs = len(inputs) > 1 or inputs[0].is_dir()
    if out.suffix and not out.is_dir() and not (several_inputs and out.suffix not in WRITTEN):
        if out.suffix.lower() not in WRITTEN:
            raise ValueError(f"{out}: expected a folder or one of {', '.join(sorted(WRITTEN))}")
        if several_inputs:
            raise ValueError(f"{out} is one file, and there are several photos: name a folder")
        if format not in ("same", out.suffix[1:].lower()):
            raise ValueError(f"{out} and format {format} are two formats: name one")
        named, out, format = [(inputs[0], Path(out.name))], out.parent, "same"
    jobs: list[Job] = []
    taken: dict[str, Path] = {}
    own_names = {str(out / place).casefold() for _, place in named}
    for photo, place in dict.fromkeys(named):
        suffix = place.suffix if format == "same" else f".{format}"
        suffix = suffix if suffix.lower() in WRITTEN else ".png"
        base = out / place.with_suffix(suffix)
        # Of a.bmp and a.png, or a.gif, the one that is PNG already keeps its name.
        if suffix != place.suffix and str(base).casefold() in own_names | taken.keys():
            base = out / place.with_name(place.name + suffix)
            print(f"{photo} becomes {base}", file=sys.stderr)
        if taken.setdefault(str(base).casefold(), photo) != photo:
            raise ValueError(f"{photo} and {taken[str(base).casefold()]} would both become {base}")
        several = [base.with_name(f"{base.stem}_{i}{suffix}") for i in range(1, samples + 1)]
        jobs.append(Job(photo, several or [base]))
    _keep_photos(jobs)
    return jobs


def _photos_below(folder: Path) -> list[Path]:
    """Return what is named as a photo in a folder and its subfolders; hidden ones are left out.

    What is left out besides is said: other files, links to folders, folders that cannot be opened.
    """

    def say(what: object) -> None:
        print(what, file=sys.stderr)

    found = []
    for place, folders, files in os.walk(folder, onerror=say):
        folders[:] = [name for name in folders if name[0] != "."]
        for link in (Path(place, name) for name in folders if Path(place, name).is_symlink()):
            say(f"{link}: not followed, this is a link to a folder: name it to enlarge its photos")
        paths = [Path(place, name) for name in files if name[0] != "."]
        found += [path for path in paths if path.suffix.lower() in SUFFIXES]
        if others := skipped_files(place):
            say(others)
    return sorted(found)


def _keep_photos(jobs: list[Job]) -> None:
    """Raise `ValueError` when a result would take a photo's place."""
    photos = {_identity(job.photo) for job in jobs} - {None}
    for photo, results in jobs:
        for path in results:
            if (found := _identity(path)) in photos:
                whose = "the photo itself" if found == _identity(photo) else "another of the photos"
                raise ValueError(f"{path} is {whose}: name another folder (--out)")


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from all others, also where names differ in their case alone."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


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
