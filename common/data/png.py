"""What Pillow passes over in a PNG: checksums of its pixels, whether all are there, late EXIF."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# Where the seven passes of an interlaced PNG begin, and their steps: x, y, dx, dy.
_PASSES = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
)  # fmt: skip
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of the colour types


def require_checksums(path: str | Path) -> None:
    """Raise `ValueError` when the pixels are not those that were written: each chunk has a CRC."""
    with Path(path).open("rb") as file:
        for name, length in _chunks(file):
            if name == b"IDAT":
                data, crc = file.read(length), file.read(4)
                if zlib.crc32(name + data) != int.from_bytes(crc, "big"):
                    raise ValueError("the pixels' checksum is wrong: the file is damaged")


def require_all_pixels(path: str | Path) -> None:
    """Raise `ValueError` when the data end before the image does: Pillow leaves the rest black."""
    inflate, found, expected = zlib.decompressobj(), 0, 0
    with Path(path).open("rb") as file:
        for name, length in _chunks(file):
            if name == b"IHDR":
                expected = _n_bytes(file.read(13))
            elif name == b"IDAT" and found < expected:
                found += len(inflate.decompress(file.read(length), expected - found))
    if found < expected:
        raise ValueError(f"{found} bytes of pixels, expected {expected}")


def has_late_exif(path: str | Path) -> bool:
    """Tell whether EXIF or XMP stands behind the pixels, where Pillow sees it by decoding all."""
    is_behind = False
    with Path(path).open("rb") as file:
        for name, _ in _chunks(file):
            is_behind = is_behind or name == b"IDAT"
            if is_behind and name in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
                keyword = file.read(30).partition(b"\0")[0]
                if name == b"eXIf" or keyword in (b"XML:com.adobe.xmp", b"Raw profile type exif"):
                    return True
    return False


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield name and length of each chunk, with `file` at its data."""
    place = 8
    while True:
        file.seek(place)
        if len(head := file.read(8)) < 8:
            return
        length, name = struct.unpack(">L4s", head)
        yield name, length
        place += 12 + length


def _n_bytes(header: bytes) -> int:
    """Return how long the inflated data have to be: each row has one byte more than its pixels."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">LLBBBBB", header)
    n_bytes = 0
    for x, y, dx, dy in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // dx), -(-(height - y) // dy)
        if columns > 0:
            n_bytes += max(0, rows) * (1 + -(-columns * depth * _CHANNELS[colour] // 8))
    return n_bytes
