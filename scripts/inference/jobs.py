"""Which photos are to be enlarged, and which file each becomes: none replaces another."""

import os
import sys
from pathlib import Path
from typing import NamedTuple

from common.data.pairs import SUFFIXES
from scripts.inference.outputs import skipped_files
from scripts.inference.photos import WRITTEN


class Job(NamedTuple):
    photo: Path
    results: list[Path]


def plan(
    inputs: tuple[Path, ...], out: Path | None, format: str, samples: int, scale: float
) -> list[Job]:
    """Return each photo with the files that it becomes; without `out` they lie beside it.

    Raises:
        ValueError: an input is missing, two become one file, or a result would replace a photo.
    """
    if not inputs:
        raise ValueError("no photos are named: expected files or folders")
    out = out or _beside(inputs, scale, format)
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


def _beside(inputs: tuple[Path, ...], scale: float, format: str) -> Path:
    """Return where the results of one photo, or of one folder, go: NAME_4x beside it."""
    if len(inputs) > 1:
        raise ValueError(f"{len(inputs)} inputs: name the folder for their results (--out, -o)")
    path = inputs[0].resolve()
    if path.is_dir():
        return path.with_name(f"{path.name}_{scale:g}x")
    suffix = path.suffix if format == "same" else f".{format}"
    suffix = suffix if suffix.lower() in WRITTEN else ".png"
    return inputs[0].with_name(f"{path.stem}_{scale:g}x{suffix}")


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
