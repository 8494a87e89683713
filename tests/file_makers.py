"""Write image files byte by byte, good ones and others, from arrays: for `tests/odd_files.py`."""

import functools
import io
import struct
import zlib

import numpy as np
import tifffile
from PIL import Image

from tests.conftest import SKIMAGE_DATA


def photo(seed: str, height: int = 32, width: int = 40) -> np.ndarray:
    """Return a part of a real photo, another one for each `seed`, with values from 64 to 191."""
    rng = np.random.default_rng(zlib.crc32(seed.encode("utf-8", "surrogateescape")))
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
    pixels = _source(names[rng.integers(4)])
    rows = (rng.integers(300) + np.arange(height)) % len(pixels)
    columns = (rng.integers(400) + np.arange(width)) % pixels.shape[1]
    return 64 + pixels[rows][:, columns] // 2


@functools.cache
def _source(name: str) -> np.ndarray:
    with Image.open(SKIMAGE_DATA / name) as image:
        return np.asarray(image.convert("RGB"))


def gray(values: np.ndarray) -> np.ndarray:
    """Return (H, W) of 8 bits as RGB."""
    return np.repeat(values[..., None], 3, 2)


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return np.round(colour * share + 255 * (1 - share)).astype(np.uint8)


def saved(pixels: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    """Return a file as Pillow writes it."""
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(pixels: np.ndarray, **options) -> bytes:
    """Return a file as tifffile writes it."""
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **{"photometric": "rgb" if pixels.ndim == 3 else None} | options)
    return file.getvalue()


def chunk(name: bytes, data: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(name + data) if crc is None else crc
    return struct.pack(">L", len(data)) + name + data + struct.pack(">L", crc)


def png(
    pixels: np.ndarray,
    before: bytes = b"",  # chunks before the pixels
    after: bytes = b"",  # and behind them
    level: int = 6,
    size: tuple[int, int] | None = None,  # height and width to declare
    data_crc: int | None = None,
) -> bytes:
    """Return a PNG of (H, W) or (H, W, C), uint8 or uint16, written out here."""
    n = 1 if pixels.ndim == 2 else pixels.shape[2]
    height, width = size or pixels.shape[:2]
    depth, colour = 8 * pixels.itemsize, {1: 0, 2: 4, 3: 2, 4: 6}[n]
    rows = pixels.astype(pixels.dtype.newbyteorder(">"))
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">LLBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before
        + chunk(b"IDAT", zlib.compress(data, level), data_crc) + after + chunk(b"IEND", b"")
    )  # fmt: skip


def with_segment(jpeg: bytes, marker: int, data: bytes) -> bytes:
    """Return a JPEG with one more segment at its beginning."""
    return jpeg[:2] + struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data + jpeg[2:]


def exif(tag: int = 274, kind: int = 3, count: int = 1, value: bytes = b"\6\0", next_: int = 0):
    """Return EXIF of one entry (by default: orientation, a short, 6), little endian."""
    entry = struct.pack("<HHL", tag, kind, count) + value.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<LH", 8, 1) + entry + struct.pack("<L", next_)


def encoded(pixels: np.ndarray, suffix: str) -> tuple[bytes, np.ndarray, int]:
    """Return a plain file of `pixels`, what is to be read from it, and with which tolerance."""
    if suffix == "gif":  # 256 grays are exact, any 256 colours are not
        values = pixels[..., 1]
        return saved(values, "gif"), gray(values), 0
    if suffix == "jpg":
        return saved(pixels, "jpeg", quality=100, subsampling=0), pixels, 4
    if suffix == "tif":
        return saved(pixels, "tiff", compression="tiff_lzw"), pixels, 0
    options = {"lossless": True} if suffix == "webp" else {}
    return saved(pixels, suffix, **options), pixels, 0


def ycck(ink: np.ndarray, black: np.ndarray) -> bytes:
    """Return a JPEG of CMYK stored as Adobe does: YCbCr of the inks, black inverted."""
    ycc = np.asarray(Image.fromarray(ink).convert("YCbCr"))
    stored = Image.fromarray(np.dstack([255 - ycc, black]), "CMYK")  # which Pillow inverts
    content = bytearray(saved(stored, "jpeg", quality=100, subsampling=0))
    content[content.index(b"Adobe") + 11] = 2  # the transform
    return bytes(content)


def zeros_png(side: int) -> bytes:
    """Return a PNG of `side` x `side` black pixels of 1 bit: small, and whole."""
    header = chunk(b"IHDR", struct.pack(">LLBBBBB", side, side, 1, 0, 0, 0, 0))
    data = zlib.compress(bytes(side * (1 + side // 8)), 9)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def with_tag(tif: bytes, tag: int, value: int) -> bytes:
    """Return a little endian TIFF whose entry `tag` says `value`, as one 32-bit number."""
    (place,) = struct.unpack_from("<L", tif, 4)
    content = bytearray(tif)
    for i in range(struct.unpack_from("<H", tif, place)[0]):
        entry = place + 2 + 12 * i
        if struct.unpack_from("<H", tif, entry)[0] == tag:
            struct.pack_into("<HLL", content, entry + 2, 4, 1, value)
            return bytes(content)
    raise ValueError(f"no entry {tag}")


def wrong_adler(pixels: np.ndarray) -> bytes:
    content = png(pixels)
    start = content.index(b"IDAT") + 4
    (length,) = struct.unpack_from(">L", content, start - 8)
    data = content[start : start + length - 4] + b"\0\0\0\0"
    return content[: start - 8] + chunk(b"IDAT", data) + content[start + length + 4 :]
