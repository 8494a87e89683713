"""What the page in the browser does, without the page: photos enlarged for visitors."""

import functools
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.data.photos import image_size
from common.device import choose_device, describe
from scripts.inference.models import Model, Precision, load_model
from scripts.inference.named import DEFAULT, SHIPPED, what_for
from scripts.inference.photos import enlarged_size, open_photo
from scripts.inference.pictures import picture_of, picture_of_file, shown_size
from scripts.inference.visits import Visits, stoppable
from scripts.upscale import Job, Settings, enlarge

ROOT = Path(__file__).resolve().parents[2]
_SUFFIXES = {".pth", ".safetensors"}
# What the train scripts write besides the networks that enlarge.
_OTHERS = {
    "state",
    "state_previous",
    "damaged_state",
    "damaged_state_previous",
    "discriminator",
    "recognition",
    "F_HR2LR",
    "D_HR",
    "D_LR",
}
_FIRST = 4  # networks enlarge by it, whatever the scale
GOOD_FOR = {
    "bicubic": "Interpolation without a network: fast and blurred, to compare with.",
    "ESRGAN PSNR stage": "One faithful answer; textures come out smooth.",
    "ESRGAN": "GAN stage: the sharpest, to look at; some of the detail is invented.",
    "EDSR": "One faithful answer, as ESRGAN's PSNR stage.",
    "SwinIR": "One faithful answer; sees farther than the others, and takes longer.",
    "CycleGAN": "Learns from photos without pairs; keeps to its LR photo, colours may drift.",
    "SRVAE": "A faithful answer, or samples: several that fit, and differ in texture.",
    "CVAE": "Samples: several answers to one photo, one z for all of it; slow.",
}


def find_checkpoints(paths: tuple[Path, ...]) -> list[str]:
    """Return "bicubic" and the checkpoints in files and folders; none named: in the repository.

    Raises:
        ValueError: a path is missing.
    """
    found: list[Path] = []
    for path in paths or (ROOT,):
        if not path.exists():
            raise ValueError(f"{path}: there is no such file or folder")
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in inside:
            below = file.relative_to(path).parts
            hidden = any(part.startswith(".") for part in below)
            if file.suffix in _SUFFIXES and file.stem not in _OTHERS and not hidden:
                found.append(file)
    return ["bicubic", *map(str, found)]


def titles_of(checkpoints: list[str]) -> dict[str, str]:
    """Return how each is called: its name, or its path in the repository or below all others."""
    paths = {name: Path(name).absolute() for name in checkpoints if name != "bicubic"}
    outside = [path.parent for path in paths.values() if not path.is_relative_to(ROOT)]
    folder = Path(os.path.commonpath(outside)) if outside else ROOT
    titles = {"bicubic": "bicubic"}
    shipped = {path: name for name, path in SHIPPED.items()}
    for name, path in paths.items():
        below = path.relative_to(ROOT if path.is_relative_to(ROOT) else folder)
        titles[name] = shipped.get(path, str(below))
    return titles


def first_choice(checkpoints: list[str]) -> str:
    """Return the checkpoint that the page begins with: upscale.py's own, or the last one."""
    own = str(SHIPPED[DEFAULT])
    return own if own in checkpoints else checkpoints[-1]


class Bounds(NamedTuple):
    photo: float  # megapixels of a photo, at most
    made: float  # megapixels of all that is made of it at a time, at most


def refuse_large(path: Path, bounds: Bounds, scale: float = 1, n_pictures: int = 0) -> None:
    """Check a photo, and `n_pictures` of it enlarged to `scale`, before any work.

    Raises:
        ValueError: there would be too many pixels, or it is no photo; the message names the file.
    """
    try:
        height, width = image_size(path)
    except ValueError:  # Pillow cannot read it: libvips can, or says what is wrong
        height, width = open_photo(path).size
    found = height * width / 1e6
    if found > bounds.photo:
        raise ValueError(
            f"{path}: {width}x{height} are {found:.1f} megapixels, expected {bounds.photo:g} at "
            "most: take a part of it, or a smaller copy (who runs the page can set --megapixels)"
        )
    side = max(scale, _FIRST)
    made = found * side**2 * n_pictures
    if made > bounds.made:
        ways = ["a smaller photo"]
        ways += ["a smaller scale"] * (scale > _FIRST) + ["fewer samples"] * (n_pictures > 1)
        raise ValueError(
            f"{path}: {width}x{height} enlarged {side:g} times are {made / n_pictures:.1f} "
            f"megapixels, {n_pictures} such {made:.1f}, expected {bounds.made:g} at most: choose "
            f"{' or '.join(ways)} (who runs the page can set --megapixels-made)"
        )


class Wish(NamedTuple):
    photo: Path
    checkpoint: str
    compared: str  # another checkpoint; "bicubic": the photo as it is
    scale: float
    samples: int  # of the checkpoint, where it has any
    temperature: float
    seed: int


class Made(NamedTuple):
    results: list[Path]  # of the checkpoint, and of the one compared with it
    samples: list[Path]
    before: Path  # pictures to be shown
    after: Path
    shown_samples: list[Path]
    text: str


class Service:
    """Enlarges photos with checkpoints, for visitors who know these by name only."""

    def __init__(
        self,
        checkpoints: list[str],
        device: str,
        folder: Path,
        bounds: Bounds,
        precision: Precision = "auto",
    ):
        self.checkpoints, self.bounds, self.precision = checkpoints, bounds, precision
        self.device = choose_device(device)
        self.visits = Visits(folder)
        self._loading = threading.Lock()

    def model(self, checkpoint: str) -> Model:
        """Return a checkpoint's model; `ValueError` where it is not among those found."""
        if checkpoint not in self.checkpoints:
            raise ValueError("this checkpoint is not among those found")
        written = 0.0 if checkpoint == "bicubic" else Path(checkpoint).stat().st_mtime
        with self._loading:  # once, where two threads want it
            return _load(checkpoint, written, str(self.device), self.precision)

    def good_for(self, checkpoint: str) -> str:
        """Return a line on what a checkpoint is for, by its card, or its family and name."""
        name = self.model(checkpoint).name
        if Path(checkpoint) in SHIPPED.values():
            what = what_for(Path(checkpoint))
            return f"{what[:1].upper()}{what[1:]}."
        is_psnr_stage = name == "ESRGAN" and "psnr" in Path(checkpoint).stem.lower()
        return GOOD_FOR["ESRGAN PSNR stage" if is_psnr_stage else name]

    def look_at(self, path: Path) -> tuple[np.ndarray, tuple[int, int]]:
        """Return a picture of a photo (h, w) or (h, w, C) uint8, and the photo's (height, width).

        Raises:
            ValueError: it is too large, or no photo.
        """
        refuse_large(path, self.bounds)
        photo = open_photo(path)
        return picture_of(photo, shown_size(photo.size)).numpy(), photo.size

    def make(self, visitor: str, wish: Wish, done: Callable[[tuple[int, int]], object]) -> Made:
        """Enlarge a photo as the visitor wishes; the results made for this visitor before go.

        Args:
            done: is told how much is done, of how much.
        Raises:
            ValueError, OSError, MemoryError: it cannot be done; nothing is written.
            Stopped: the visitor has stopped it.
        """
        chosen = [wish.checkpoint]
        if wish.compared not in ("bicubic", wish.checkpoint):
            chosen.append(wish.compared)
        models = [self.model(name) for name in chosen]
        n = wish.samples if models[0].has_samples else 0
        refuse_large(wish.photo, self.bounds, wish.scale, len(models) + n)
        name = f"{wish.photo.stem}_x{wish.scale:g}"
        plain = Settings(wish.scale, 0, 0.0, 0, 95, False)
        drawn = plain._replace(samples=n, temperature=wish.temperature, seed=wish.seed)
        seen = 0

        def count(pixels: int) -> None:
            nonlocal seen
            seen = min(total, seen + pixels)
            done((seen, total))

        with self.visits.work(visitor) as folder:
            photo = open_photo(wish.photo)
            total = math.prod(photo.size) * (len(models) + (n > 0))
            results = [folder / f"{name}{end}.png" for end in ("", "_compared")[: len(models)]]
            samples = [folder / f"{name}_sample_{i}.png" for i in range(1, n + 1)]
            count(0)
            for model, path in zip(models, results, strict=True):
                enlarge(model, Job(wish.photo, [path]), plain, count)
            if samples:
                enlarge(models[0], Job(wish.photo, samples), drawn, count)
            size = enlarged_size(photo.size, wish.scale)
            pictures = [picture_of(photo, shown_size(size))]
            pictures += [picture_of_file(path) for path in (*results, *samples)]
            shown = [folder / f"shown_{i}.png" for i in range(len(pictures))]
            for picture, path in zip(pictures, shown, strict=True):
                picture.write_to_file(str(path))
        (height, width), names = photo.size, " and ".join(dict.fromkeys(m.name for m in models))
        where = describe(self.device, any(m.precision == "bfloat16" for m in models))
        text = f"{width}x{height} to {size[1]}x{size[0]}, {names} on {where}"
        before = shown[0 if len(models) == 1 else 2]
        return Made(results, samples, before, shown[1], shown[len(models) + 1 :], text)


@functools.lru_cache(maxsize=2)  # two are compared
def _load(checkpoint: str, written: float, device: str, precision: Precision) -> Model:
    model = load_model(checkpoint, device, precision=precision)
    stoppable(model.network)
    return model
