"""What a script may write to, where nothing is replaced unasked, and which files it skips."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from common.data.pairs import SUFFIXES
from common.files import refuse_unwritable


def refuse_to_replace(
    outputs: Iterable[Path | None], inputs: Iterable[str | Path], overwrite: bool
) -> None:
    """Check the files that are to be written; None stands for one that is not.

    Raises:
        FileExistsError: one is there already, and `overwrite` is not set.
        ValueError: one is an input, or another output as well; that is never right.
        OSError: a folder cannot be written to.
    """
    paths = [path for path in outputs if path is not None]
    if len({path.absolute() for path in paths}) < len(paths):
        raise ValueError(f"one file for two results: {', '.join(map(str, paths))}")
    read = [Path(path) for path in inputs if Path(path).exists()]
    for path in paths:
        refuse_unwritable(path.parent)
        if not path.exists():
            continue
        if any(path.samefile(other) for other in read):
            raise ValueError(f"{path} is to be read and to be written: name another file")
        if path.is_dir() or not overwrite:
            raise FileExistsError(f"{path} is there already: name another file, or --overwrite")


def refuse_foreign_folder(folder: Path, mark: str) -> None:
    """Raise FileExistsError where a folder holds files, but not the one that all of ours do."""
    if folder.is_dir() and not (folder / mark).exists():
        found = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if found:
            raise FileExistsError(
                f"{folder} holds files of something else ({', '.join(found[:3])}, ...): name "
                "another folder, or an empty one"
            )


def skipped_files(folder: str | Path) -> str:
    """Return a line on a folder's files that are not named as images, "" where there are none."""
    paths = [Path(entry.path) for entry in os.scandir(folder) if entry.name[0] != "."]
    kinds = Counter(p.suffix.lower() or "without a suffix" for p in paths if p.is_file())
    others = [f"{n} {kind}" for kind, n in sorted(kinds.items()) if kind not in SUFFIXES]
    return f"{folder}: not named as images, passed over: {', '.join(others)}" if others else ""
