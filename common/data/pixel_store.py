"""A folder of photos, decoded once into one memory-mapped file of raw pixels.

Decoding a 2040x1404 PNG for one 128x128 crop wastes 99% of the work. The store decodes every photo
on first use; from then on a crop is a copy of its own bytes, and the operating system's page cache
is shared by all processes.

The file: 8 bytes magic, 8 bytes length of the header, the header (JSON: fingerprint, photos with
height, width and offset), then each photo as (H, W, 3) uint8.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from common.data.photos import image_size, list_images, read_image
from common.files import locked_if_possible, remove_leftovers, require_free_space, written_whole
from common.progress import progress_bar

_MAGIC = b"PIXELS01"


class PixelStore:
    """The photos of one folder as uint8 arrays: `store[i]` is (H, W, 3), a view of the mapped file.

    On first use of a folder the store is built beside it (`FOLDER.pixels`), by several processes;
    it is built anew when the photos changed. Where it cannot be (disk too small or not writable), a
    note says so and photos are decoded each time.

    Args:
        paths: photos of one folder, all or some of them, in any order; the store holds the folder.
        n_processes: how many decode; see `in_processes`.
    Raises:
        ValueError: a photo of the folder cannot be read; the message names it.
    """

    def __init__(self, paths: list[Path], n_processes: int | None = None):
        folder = Path(paths[0]).parent.resolve()
        self.paths = [folder / Path(path).name for path in paths]
        self.file = folder.with_name(folder.name + ".pixels")
        self._pixels: np.memmap | None = None
        photos = list_images(folder)
        fingerprint = _fingerprint(photos)
        self._header = _read_header(self.file, fingerprint)
        if self._header is None:
            try:
                _build_once(self.file, photos, fingerprint, n_processes)
            except OSError as error:
                print(f"No pixel store for {folder}, photos are decoded each time: {error}")
            self._header = _read_header(self.file, fingerprint)
        if self._header is not None:
            header = json.loads(self._header)["photos"]
            places = dict(zip((path.name for path in photos), header, strict=True))
            self.sizes = [tuple(places[path.name][:2]) for path in self.paths]
            self._offsets = [places[path.name][2] for path in self.paths]
        else:
            self.sizes = [image_size(path) for path in self.paths]
            self._offsets = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> np.ndarray:
        if self._offsets is None:
            return read_image(self.paths[i])
        if self._pixels is None:
            self._pixels = self._map()
        (h, w), offset = self.sizes[i], self._offsets[i]
        return self._pixels[offset : offset + h * w * 3].reshape(h, w, 3)

    def _map(self) -> np.memmap:
        """Map the file; raise `OSError` where it is another one than this store was made of."""
        pixels = np.memmap(self.file, mode="r")
        if pixels[16 : 16 + len(self._header)].tobytes() != self._header:
            raise OSError(
                f"{self.file} was built anew while it was in use, so the photos beside it have "
                "changed: start again (a training with --resume)"
            )
        return pixels

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_pixels": None}  # each process maps the file for itself


def _fingerprint(paths: list[Path]) -> list[list]:
    """Describe the photos so that a changed, added or removed one shows."""
    fingerprint = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError as error:  # a link that leads nowhere, or it has vanished since
            raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
        fingerprint.append([path.name, stat.st_size, stat.st_mtime_ns])
    return fingerprint


def _read_header(file: Path, fingerprint: list) -> bytes | None:
    """Return the header of a whole store of these photos; None: the caller builds it."""
    try:
        with file.open("rb") as stream:
            if stream.read(8) != _MAGIC:
                return None
            length = int.from_bytes(stream.read(8), "little")
            content = stream.read(min(length, file.stat().st_size))
        header = json.loads(content)
        h, w, offset = header["photos"][-1]
        is_whole = file.stat().st_size == offset + h * w * 3
        return content if is_whole and header["fingerprint"] == fingerprint else None
    except (OSError, ValueError, LookupError, TypeError):
        return None  # absent or damaged


def _build_once(file: Path, paths: list[Path], fingerprint: list, n_processes: int | None) -> None:
    """Build the store unless another process does it, or has done it, at the same time."""
    with locked_if_possible(file, f"decodes the photos of {paths[0].parent}") as is_locked:
        if is_locked:
            remove_leftovers(file.parent, file, older_than=0)
            if _read_header(file, fingerprint) is not None:
                return
        else:
            remove_leftovers(file.parent, file)
        _build(file, paths, fingerprint, n_processes)


def _build(file: Path, paths: list[Path], fingerprint: list, n_processes: int | None) -> None:
    """Decode all photos into `file`, under a temporary name until it is complete."""
    sizes = [image_size(path) for path in paths]
    n_bytes = sum(h * w * 3 for h, w in sizes)
    require_free_space(
        file.parent, n_bytes + 64 * 2**20, f"to decode the photos of {paths[0].parent}"
    )
    # The header's length depends on the offsets and they on it: leave room for the largest.
    room = len(json.dumps([fingerprint, [[h, w, 10**15] for h, w in sizes]])) + 64
    photos, offset = [], 16 + room
    for h, w in sizes:
        photos.append([h, w, offset])
        offset += h * w * 3
    header = json.dumps({"fingerprint": fingerprint, "photos": photos}).encode().ljust(room)
    with written_whole(file) as temporary:
        with temporary.open("wb") as stream:
            stream.write(_MAGIC + room.to_bytes(8, "little") + header)
            stream.truncate(offset)
        jobs = [(path, temporary, *photo) for path, photo in zip(paths, photos, strict=True)]
        what = f"decoding {paths[0].parent.name}"
        with progress_bar(total=len(jobs), desc=what, unit="photo") as bar:
            for _ in in_processes(_decode_into, jobs, n_processes):
                bar.update()


def _decode_into(job: tuple[Path, Path, int, int, int]) -> None:
    path, file, h, w, offset = job
    image = read_image(path)
    if image.shape != (h, w, 3):
        raise ValueError(f"{path}: the header says {h}x{w}, the pixels are {image.shape[:2]}")
    with file.open("rb+") as stream:
        stream.seek(offset)
        stream.write(image.tobytes())


def in_processes(function, jobs: list, n_processes: int | None = None) -> Iterator:
    """Yield `function(job)` of each job, in order, computed by several processes.

    They start as the workers of torch's `DataLoader` do: a script that calls this (or trains) does
    so below `if __name__ == "__main__":`, which Windows, macOS and Python 3.14 need.

    Args:
        n_processes: None: as many as there are processors (few jobs are done in this process, where
            starting others would take longer); 0: none beside this one.
    """
    if n_processes is None:
        n_processes = 0 if len(jobs) < 16 else min(len(jobs), os.cpu_count() or 1, 16)
    if n_processes == 0:
        yield from map(function, jobs)
        return
    with ProcessPoolExecutor(n_processes, initializer=_begin_worker) as pool:
        yield from pool.map(function, jobs)


def _begin_worker() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """Leave when the process that wants the results is gone (killed), or nobody would end this."""
    multiprocessing.parent_process().join()
    os._exit(1)
