"""A folder of photos, decoded once into one memory-mapped file of raw pixels.

Decoding a 2040x1404 PNG for one 128x128 crop wastes 99% of the work; here a crop is a copy of its
own bytes, and all processes share the system's page cache. The file: 8 bytes magic, 8 bytes length
of the header, the header (JSON: the photos' names, bytes, times of change, heights and widths),
then each photo as (H, W, 3) uint8.
"""

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

    On first use of a folder, and when its photos have changed, the store is built beside it
    (`FOLDER.pixels`), by several processes. Where it cannot be (disk too small or not writable), a
    note says so and photos are decoded each time. `paths` are all or some photos of the folder.

    Raises `ValueError`, which names them, when a photo of the folder cannot be read, or, before the
    long decoding, when photos of `paths` are smaller than `crop_size` pixels.
    """

    def __init__(self, paths: list[Path], crop_size: int = 1):
        folder = Path(paths[0]).parent.resolve()
        self.paths = [folder / Path(path).name for path in paths]
        self.file = folder.with_name(folder.name + ".pixels")
        self._pixels: np.ndarray | None = None
        photos = list_images(folder)
        stamps = [_stamp(path) for path in photos]
        self._header = _read_header(self.file)
        found = json.loads(self._header or "{}")
        is_built = found.get("photos") == stamps
        sizes = found["sizes"] if is_built else [image_size(path) for path in photos]
        starts = list(accumulate((h * w * 3 for h, w in sizes), initial=0))
        places = {path: i for i, path in enumerate(photos)}
        self.sizes = [tuple(sizes[places[path]]) for path in self.paths]
        self._starts = [starts[places[path]] for path in self.paths]
        rows = zip(self.paths, self.sizes, strict=True)
        if small := [f"{p.name} ({w}x{h})" for p, (h, w) in rows if min(h, w) < crop_size]:
            way_on = "lower patch_size (or lr_size and hr_size), or take these photos out"
            crop = f"smaller than a crop of {crop_size}x{crop_size}"
            raise ValueError(f"{folder}: {', '.join(small)}: {crop}: {way_on}")
        if not is_built:
            self._header = json.dumps({"photos": stamps, "sizes": sizes}).encode()
            try:
                _build(self.file, self._header, photos, sizes, starts)
            except OSError as error:
                print(f"No pixel store for {folder}, photos are decoded each time: {error}")
                self._header = b""

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> np.ndarray:
        if not self._header:
            return read_image(self.paths[i])
        if self._pixels is None:
            content, end = np.memmap(self.file, mode="r"), 16 + len(self._header)
            if content[16:end].tobytes() != self._header:
                why = "the photos beside it have changed: start again (a training with --resume)"
                raise OSError(f"{self.file} was built anew while it was in use, so {why}")
            self._pixels = content[end:]
        (h, w), start = self.sizes[i], self._starts[i]
        return self._pixels[start : start + h * w * 3].reshape(h, w, 3)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_pixels": None}  # each process maps the file for itself


def _stamp(path: Path) -> list:
    """Describe a photo so that a changed one shows."""
    try:
        stat = path.stat()
    except OSError as error:  # a link that leads nowhere, or it has vanished since
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    return [path.name, stat.st_size, stat.st_mtime_ns]


def _read_header(file: Path) -> bytes:
    """Return the header of a whole store, b"" where `file` is none."""
    try:
        n_bytes = file.stat().st_size
        with file.open("rb") as stream:
            magic, length = stream.read(8), int.from_bytes(stream.read(8), "little")
            header = stream.read(min(length, n_bytes)) if magic == _MAGIC else b""
        n_expected = 16 + length + sum(h * w * 3 for h, w in json.loads(header)["sizes"])
        return header if n_bytes == n_expected else b""
    except (OSError, ValueError, LookupError, TypeError):
        return b""  # absent or damaged


def _build(file: Path, header: bytes, photos: list, sizes: list, starts: list) -> None:
    """Decode all photos into `file`, unless another process does so, or has done so, meanwhile."""
    folder, start = photos[0].parent, 16 + len(header)
    with locked(file, f"decodes the photos of {folder}") as is_locked:
        remove_leftovers(file.parent, file, older_than=0 if is_locked else 3600)
        if _read_header(file) == header:
            return
        n_bytes = start + starts[-1]
        require_free_space(file.parent, n_bytes + 64 * 2**20, f"to decode the photos of {folder}")
        with written_whole(file) as temporary:
            with temporary.open("wb") as stream:
                stream.write(_MAGIC + len(header).to_bytes(8, "little") + header)
                stream.truncate(n_bytes)
            rows = zip(photos, sizes, starts[:-1], strict=True)
            jobs = [(path, size, temporary, start + offset) for path, size, offset in rows]
            decoded, label = in_processes(_decode_into, jobs), f"decoding {folder.name}"
            list(progress_bar(decoded, total=len(jobs), desc=label, unit="photo"))


def _decode_into(job: tuple[Path, tuple[int, int], Path, int]) -> None:
    path, (h, w), file, offset = job
    image = read_image(path)
    if image.shape != (h, w, 3):
        raise ValueError(f"{path}: the header says {h}x{w}, the pixels are {image.shape[:2]}")
    with file.open("rb+") as stream:
        stream.seek(offset)
        stream.write(image.tobytes())
