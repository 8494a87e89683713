"""Writing files so that an interruption leaves the old file or the new one, never half of one."""

from __future__ import annotations

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

    The folder is made when missing. A reader sees the old file or the complete new one, also when
    the process is killed or the disk fills up. The temporary file is removed if the block raises.

    Args:
        previous: where the old file is moved to, once the new one is safe. Who is killed right then
            leaves no file at `path`, but that one.
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
    """Delete what `written_whole` left in `folder` when its process was killed.

    Args:
        path: the file that was to be written; None: any.
        older_than: seconds since the last change; a younger file may still be written to. 0 where a
            lock says that nobody does.
    """
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
def locked(path: str | Path, wait_for: str | None, refusal: str = "") -> Iterator[None]:
    """Hold the lock of `path`, a file `.NAME.lock` beside it, while the block runs.

    The system takes it back from a process that ends, however it ends: a lock is never stale.

    Args:
        wait_for: what another process does that holds the lock; it is printed once, and this one
            waits. None: it does not wait.
        refusal: the message of the error, where it does not.
    Raises:
        BlockingIOError: another process holds the lock, and this one shall not wait.
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
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def locked_if_possible(path: str | Path, wait_for: str) -> Iterator[bool]:
    """Hold the lock of `path` as `locked` does; give False where none can be had, and go on."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(path, wait_for))
        except (OSError, NotImplementedError):  # a file system without locks
            is_locked = False
        else:
            is_locked = True
        yield is_locked


def refuse_unwritable(folder: str | Path) -> None:
    """Raise `OSError` when `folder`, which need not exist yet, cannot be written to."""
    place = _existing(folder)
    if not place.is_dir():
        raise NotADirectoryError(f"{place} is no folder: choose another than {folder}")
    if not os.access(place, os.W_OK):
        raise PermissionError(f"{place} cannot be written to: choose another folder than {folder}")


def _existing(folder: str | Path) -> Path:
    """Return `folder`, or of those that it would lie in the nearest that there is."""
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def require_free_space(folder: str | Path, n_bytes: int, what: str) -> None:
    """Raise `OSError` when the disk that holds `folder` has less than `n_bytes` free.

    `what` completes the message: "... to unpack DIV2K_train_HR.zip". `folder` need not exist yet.
    """
    folder = _existing(folder)
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise OSError(
            f"{folder} has {free / 1e9:.1f} GB free, {n_bytes / 1e9:.1f} GB are needed {what}: "
            "free some space or choose a folder on another disk"
        )
