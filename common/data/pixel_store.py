"""A folder of photos, decoded once into one memory-mapped file of raw pixels.

Decoding a 2040x1404 PNG for one 128x128 crop wastes 99% of the work. The store decodes every photo
on first use; from then on a crop is a copy of its own bytes, and the operating system's page cache
is shared by all processes.

The file: 8 bytes magic, 8 bytes length of the header, the header (JSON: the photos' names, bytes
and times of change, and their heights and widths), then each photo as (H, W, 3) uint8.
"""

from __future__ import annotations

import json
from itertools import accumulate
from pathlib import Path

import numpy as np

from common.data.pairs import list_images
from common.data.photos import image_size, read_image
from common.data.workers import in_processes
from common.files import locked, remove_leftovers, require_free_space, written_whole
from common.progress import progress_bar

_MAGIC = b"PIXELS02"


class PixelStore:
    """The photos of one folder as uint8 arrays: `store[i]` is (H, W, 3), a view of the mapped file.

    On first use of a folder the store is built beside it (`FOLDER.pixels`), by several processes;
    it is built anew when the photos changed. Where it cannot be (disk too small or not writable), a
    note says so and photos are decoded each time.

    Args:
        paths: photos of one folder, all or some of them, in any order; the store holds the folder.
        n_processes: how many decode; see `in_processes`.
        crop_size: pixels that each of `paths` has at least, each way.
    Raises:
        ValueError: a photo of the folder cannot be read, or is smaller than a crop, which is found
            before the photos are decoded; the message names it.
    """

    def __init__(self, paths: list[Path], n_processes: int | None = None, crop_size: int = 1):
        folder = Path(paths[0]).parent.resolve()
        self.paths = [folder / Path(path).name for path in paths]
        self.file = folder.with_name(folder.name + ".pixels")
        self._pixels: np.memmap | None = None
        photos = list_images(folder)
        found = _fingerprint(photos)
        self._header = _read_header(self.file, found)
        if self._header is None:
            sizes = [image_size(path) for path in photos]
        else:
            sizes = json.loads(self._header)["sizes"]
        starts = list(accumulate((h * w * 3 for h, w in sizes), initial=0))
        places = {path.name: i for i, path in enumerate(photos)}
        self.sizes = [tuple(sizes[places[path.name]]) for path in self.paths]
        self._starts = [starts[places[path.name]] for path in self.paths]
        for path, (h, w) in zip(self.paths, self.sizes, strict=True):
            if min(h, w) < crop_size:
                raise ValueError(
                    f"{path} is {w}x{h}, smaller than a crop of {crop_size}x{crop_size}: "
                    "lower patch_size (or lr_size and hr_size), or take the photo out"
                )
        if self._header is None:
            header = json.dumps({"photos": found, "sizes": sizes}).encode()
            try:
                _build_once(self.file, photos, sizes, header, n_processes)
                self._header = header
            except OSError as error:
                print(f"No pixel store for {folder}, photos are decoded each time: {error}")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> np.ndarray:
        if self._header is None:
            return read_image(self.paths[i])
        if self._pixels is None:
            self._pixels = self._map()
        (h, w), start = self.sizes[i], self._starts[i]
        return self._pixels[start : start + h * w * 3].reshape(h, w, 3)

    def _map(self) -> np.ndarray:
        """Map the file; raise `OSError` where it is not the one that this store was made of."""
        content = np.memmap(self.file, mode="r")
        end = 16 + len(self._header)
        if content[16:end].tobytes() != self._header:
            raise OSError(
                f"{self.file} was built anew while it was in use, so the photos beside it have "
                "changed: start again (a training with --resume)"
            )
        return content[end:]

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
    """Return the header of a whole store of these photos; None where there is no such store."""
    try:
        n_bytes = file.stat().st_size
        with file.open("rb") as stream:
            magic, length = stream.read(8), int.from_bytes(stream.read(8), "little")
            content = stream.read(min(length, n_bytes)) if magic == _MAGIC else b""
        header = json.loads(content)
        n_expected = 16 + length + sum(h * w * 3 for h, w in header["sizes"])
        return content if header["photos"] == fingerprint and n_bytes == n_expected else None
    except (OSError, ValueError, LookupError, TypeError):
        return None  # absent or damaged


def _build_once(
    file: Path, paths: list[Path], sizes: list, header: bytes, n_processes: int | None
) -> None:
    """Build the store unless another process does it, or has done it, at the same time."""
    fingerprint = json.loads(header)["photos"]
    with locked(file, f"decodes the photos of {paths[0].parent}") as is_locked:
        remove_leftovers(file.parent, file, older_than=0 if is_locked else 3600)
        if _read_header(file, fingerprint) is None:
            _build(file, paths, sizes, header, n_processes)


def _build(
    file: Path, paths: list[Path], sizes: list, header: bytes, n_processes: int | None
) -> None:
    """Decode all photos into `file`, under a temporary name until it is complete."""
    folder, offset = paths[0].parent, 16 + len(header)
    n_bytes = offset + sum(h * w * 3 for h, w in sizes)
    require_free_space(file.parent, n_bytes + 64 * 2**20, f"to decode the photos of {folder}")
    with written_whole(file) as temporary:
        with temporary.open("wb") as stream:
            stream.write(_MAGIC + len(header).to_bytes(8, "little") + header)
            stream.truncate(n_bytes)
        jobs = []
        for path, (h, w) in zip(paths, sizes, strict=True):
            jobs.append((path, temporary, h, w, offset))
            offset += h * w * 3
        decoded = in_processes(_decode_into, jobs, n_processes)
        for _ in progress_bar(
            decoded, total=len(jobs), desc=f"decoding {folder.name}", unit="photo"
        ):
            pass


def _decode_into(job: tuple[Path, Path, int, int, int]) -> None:
    path, file, h, w, offset = job
    image = read_image(path)
    if image.shape != (h, w, 3):
        raise ValueError(f"{path}: the header says {h}x{w}, the pixels are {image.shape[:2]}")
    with file.open("rb+") as stream:
        stream.seek(offset)
        stream.write(image.tobytes())
