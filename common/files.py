"""Writing files so that an interruption leaves the old file or the new one, never half of one."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and move it to `path` when the block ends well.

    The folder is made when missing. A reader sees the old file or the complete new one, also when
    the process is killed or the disk fills up. The temporary file is removed if the block raises.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: Pillow and matplotlib choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def require_free_space(folder: str | Path, n_bytes: int, what: str) -> None:
    """Raise `OSError` when the disk that holds `folder` has less than `n_bytes` free.

    `what` completes the message: "... to unpack DIV2K_train_HR.zip". `folder` need not exist yet.
    """
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise OSError(
            f"{folder} has {free / 1e9:.1f} GB free, {n_bytes / 1e9:.1f} GB are needed {what}: "
            "free some space or choose a folder on another disk"
        )
