"""What a script may write to: nothing of the user's is replaced unless that is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def refuse_to_replace(
    outputs: Iterable[Path | None], inputs: Iterable[str | Path], overwrite: bool
) -> None:
    """Check the files that are to be written; None stands for one that is not.

    Raises:
        FileExistsError: one is there already, and `overwrite` is not set.
        ValueError: one is an input, or another output as well; that is never right.
    """
    paths = [path for path in outputs if path is not None]
    if len({path.absolute() for path in paths}) < len(paths):
        raise ValueError(f"one file for two results: {', '.join(map(str, paths))}")
    read = [Path(path) for path in inputs if Path(path).exists()]
    for path in paths:
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
