"""Files written whole, folders locked, disk space checked."""

import contextlib
import os
import re
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout


@contextlib.contextmanager
def written_whole(path: str | Path, previous: Path | None = None) -> Iterator[Path]:
    """Give a temporary path beside `path`, and move it to `path` when the block ends well.

    A reader sees the old file or the complete new one, even if the process is killed or the disk
    fills up. The old file is moved to `previous`, if that is given, once the new one is safe: a
    process killed at that moment leaves only `previous`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: Pillow and matplotlib choose the format by it.
    temporary = path.with_name(f"{_beginning(path.stem)}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path, path: Path | None = None, older_than: float = 3600) -> None:
    """Delete what killed processes left of `path` (None: of any file), `older_than` seconds ago."""
    name = r"\..+" if path is None else re.escape(_beginning(path.stem))
    suffix = "" if path is None else re.escape(path.suffix) + "$"
    for found in folder.glob(".*.tmp*"):
        with contextlib.suppress(OSError):  # another process removes it, too
            is_old = time.time() - found.stat().st_mtime >= older_than
            if is_old and re.match(rf"{name}\.\d+\.tmp{suffix}", found.name):
                found.unlink()


def _beginning(stem: str) -> str:
    """Return how a temporary name begins: hidden, and not too long for the file system."""
    return f".{stem}" if len(stem) <= 40 else f".{stem[:30]}-{zlib.crc32(os.fsencode(stem)):08x}"


@contextlib.contextmanager
def locked(path: str | Path, wait_for: str | None, refusal: str = "") -> Iterator[bool]:
    """Hold the lock of `path`, a file `.NAME.lock` beside it, while the block runs.

    The system releases it when the process ends, however it ends. Gives False, and no lock, where
    the file system has none. While another process holds the lock, this one prints what that does,
    `wait_for`, and waits; with None it raises `BlockingIOError` with the message `refusal`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if wait_for is None:
            raise BlockingIOError(refusal or f"another process uses {path}") from None
        print(f"waiting for another process that {wait_for}", flush=True)
        lock.acquire()
    except (OSError, NotImplementedError):
        pass
    try:
        yield lock.is_locked
    finally:
        lock.release()


def refuse_unwritable(folder: str | Path) -> None:
    """Raise `OSError` when `folder`, which need not exist yet, cannot be written to."""
    place = _existing(folder)
    if not place.is_dir():
        raise NotADirectoryError(f"{place} is no folder: choose another than {folder}")
    if not os.access(place, os.W_OK):
        raise PermissionError(f"{place} cannot be written to: choose another folder than {folder}")


def require_free_space(folder: str | Path, n_bytes: int, purpose: str) -> None:
    """Raise `OSError` when the disk that holds `folder` has less than `n_bytes` free.

    `folder` need not exist yet; `purpose` completes the message: "... to unpack DIV2K_HR.zip".
    """
    folder = _existing(folder)
    if (free := shutil.disk_usage(folder).free) < n_bytes:
        needed = f"{n_bytes / 1e9:.1f} GB are needed {purpose}"
        way_on = "free some space or choose a folder on another disk"
        raise OSError(f"{folder} has {free / 1e9:.1f} GB free, {needed}: {way_on}")


def _existing(folder: str | Path) -> Path:
    """Return `folder`, or the nearest of its parents that exists."""
    folder = Path(folder).absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def one_line(text: object, most: int = 300) -> str:
    """Return a text from outside (a server's error, a name in a file) as one printable line."""
    line = " ".join(str(text).split())
    return "".join(c if c.isprintable() else "?" for c in line[:most])
