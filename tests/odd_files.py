"""Broken and odd files, each with what a reader has to make of it: see `odd_files` at the end.

The same on every machine. What a good file holds is known from the array that it was made of, by
arithmetic written out here where a reader has to convert it, and never from the readers under test.
"""

import io
import itertools
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import pyvips
import tifffile
from PIL import Image, ImageCms

from tests.file_makers import (
    chunk,
    encoded,
    exif,
    gray,
    over_white,
    photo,
    png,
    saved,
    tiff,
    with_segment,
    with_tag,
    wrong_adler,
    ycck,
    zeros_png,
)

READ = "read"  # it must be read, with these pixels
REFUSE = "refuse"  # it must be named in an error
RIGHT_OR_REFUSED = "right or refused"  # readers may differ; wrong pixels are an error
ANYTHING = "anything"  # damage that its format has no checksum against: pixels, or an error
NO_PHOTO = "no photo"  # not to be taken for one: hidden files, folders

SUFFIXES = ("png", "jpg", "webp", "tif", "bmp", "gif", "ppm")
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


class OddFile(NamedTuple):
    """A file's name, content and what becomes of it."""

    name: str
    content: bytes | Callable[[Path], object]  # or what makes it
    outcome: str
    pixels: np.ndarray | None = None  # (H, W, 3) uint8, as training is to see it
    tolerance: int = 0  # of a value, in 1/255
    kept: np.ndarray | None = None  # (H, W, C), what else upscale.py keeps: gray, alpha, depth
    by_upscale: str | None = None  # the outcome there, where libvips can do more or less
    kind: str = ""


def sizes() -> Iterator[OddFile]:
    shapes = [(1, 1), (1, 37), (37, 1), (3, 5), (33, 41), (1, 30000), (30000, 1)]
    for suffix, (height, width) in itertools.product(SUFFIXES, shapes):
        if max(height, width) == 30000 and suffix not in ("png", "jpg"):
            continue  # (slow, and a WebP has at most 16383 a side)
        name = f"{width}x{height}.{suffix}"
        content, pixels, tolerance = encoded(photo(name, height, width), suffix)
        # Four times as large it would be beyond JPEG's 65535 pixels a side.
        refused = REFUSE if max(height, width) == 30000 and suffix == "jpg" else None
        yield OddFile(name, content, READ, pixels, tolerance, by_upscale=refused)


def modes() -> Iterator[OddFile]:
    rgb, alpha = photo("rgb"), photo("alpha")[..., 0] * 2 - 127
    values, other = rgb[..., 0], photo("other")[..., 0]
    bits = np.where(values > 127, 255, 0).astype(np.uint8)
    deep = values.astype(np.uint16) * 256 + other
    deep_rgb, deep_alpha = rgb.astype(np.uint16) * 256 + other[..., None], deep[..., None]
    to_8 = ((deep.astype(int) + 128) // 257).astype(np.uint8)
    rgb_to_8 = ((deep_rgb.astype(int) + 128) // 257).astype(np.uint8)
    rgba, la = np.dstack([rgb, alpha]), np.dstack([values, alpha])
    deep_rgba = np.dstack([deep_rgb, deep_alpha])
    white = over_white(rgb, alpha)
    colours = Image.fromarray(rgb).quantize(64)
    palette = np.array(colours.getpalette(), np.uint8).reshape(-1, 3)
    indices = np.asarray(colours)
    from_palette = palette[indices]
    alphas = np.linspace(0, 255, len(palette)).astype(np.uint8)  # of the palette's colours
    see_through = np.dstack([from_palette, alphas[indices]])
    # A key is the one colour that is transparent.
    keyed = np.dstack([rgb, 255 * (rgb != rgb[3, 4]).any(2).astype(np.uint8)])
    deep_keyed = np.dstack([deep, 65535 * (deep != deep[3, 4]).astype(np.uint16)])
    key, deep_key = struct.pack(">3H", *rgb[3, 4].tolist()), struct.pack(">H", int(deep[3, 4]))
    keyed_to_8 = over_white(gray(to_8), (deep_keyed[..., 1] // 257).astype(np.uint8))
    vips = pyvips.Image.new_from_array(rgb)
    spots = np.dstack([rgb, values, values])

    def one(name: str, content: bytes, pixels: np.ndarray, tolerance: int = 0, **more) -> OddFile:
        return OddFile(name, content, READ, pixels, tolerance, **more)

    yield one("gray.png", png(values), gray(values), kept=values)
    yield one("gray with alpha.png", png(la), over_white(gray(values), alpha), 1, kept=la)
    yield one("rgba.png", png(rgba), white, 1, kept=rgba)
    yield one("16 bits.png", png(deep), gray(to_8), kept=deep)
    content = png(deep, chunk(b"tRNS", deep_key))
    yield one("16 bits, a key.png", content, keyed_to_8, kept=deep_keyed)
    # Pillow takes the upper 8 bits of these, which is a 255th off at most.
    yield one("16 bits, rgb.png", png(deep_rgb), rgb_to_8, 1, kept=deep_rgb)
    yield one("16 bits, rgba.png", png(deep_rgba), over_white(rgb, values), 1, kept=deep_rgba)
    content = png(rgb, chunk(b"tRNS", key))
    yield one("rgb, a key.png", content, over_white(rgb, keyed[..., 3]), kept=keyed)
    yield one("interlaced.png", vips.pngsave_buffer(interlace=True), rgb)
    yield one("1 bit.png", saved(Image.fromarray(bits).convert("1"), "png"), gray(bits))
    yield one("palette.png", saved(colours, "png"), from_palette)
    content, white_palette = (
        saved(colours, "png", transparency=alphas.tobytes()),
        over_white(from_palette, see_through[..., 3]),
    )
    yield one("palette, transparent.png", content, white_palette, 1, kept=see_through)
    yield one("gray.jpg", saved(values, "jpeg", quality=100), gray(values), 4, kept=values)
    smooth = np.asarray(Image.fromarray(rgb).resize((5, 4)).resize((40, 32)))
    yield one("progressive.jpg", saved(smooth, "jpeg", quality=98, progressive=True), smooth, 6)
    yield one("lossy.webp", saved(smooth, "webp", quality=100), smooth, 12)
    yield one("alpha.webp", saved(rgba, "webp", lossless=True, exact=True), white, 1, kept=rgba)
    for compression in ("raw", "tiff_deflate", "packbits"):
        content = saved(rgb, "tiff", compression=compression)
        yield one(f"{compression}.tif", content, rgb)
    yield one("jpeg inside.tif", saved(smooth, "tiff", compression="jpeg", quality=98), smooth, 8)
    yield one("alpha.tif", tiff(rgba, extrasamples=["unassalpha"]), white, 1, kept=rgba)
    yield one("gray.tif", tiff(values), gray(values), kept=values)
    yield one("white is zero.tif", tiff(255 - values, photometric="miniswhite"), gray(values))
    yield one("1 bit.tif", saved(Image.fromarray(bits).convert("1"), "tiff"), gray(bits))
    yield one("palette.tif", saved(colours, "tiff"), from_palette)
    yield one("big.tif", tiff(rgb, bigtiff=True), rgb)
    yield one("tiles.tif", tiff(rgb, tile=(16, 16)), rgb)
    planes = np.ascontiguousarray(rgb.transpose(2, 0, 1))
    yield one("planes.tif", tiff(planes, planarconfig="separate"), rgb)
    yield one("big endian.tif", tiff(rgb, byteorder=">"), rgb)
    yield one("16 bits.tif", tiff(deep), gray(to_8), kept=deep)
    yield one("16 bits, big endian.tif", tiff(deep, byteorder=">"), gray(to_8), kept=deep)
    yield one("16 bits, rgb.tif", tiff(deep_rgb), rgb_to_8, 1, kept=deep_rgb)
    yield one("int32.tif", tiff(deep.astype(np.int32)), gray(to_8), kept=deep)
    yield one("float.tif", tiff(values / np.float32(255)), gray(values))
    yield OddFile("float, rgb.tif", tiff(rgb / np.float32(255)), RIGHT_OR_REFUSED, rgb)
    half = tiff((values / 255).astype(np.float16))
    yield OddFile("half.tif", half, REFUSE, gray(values), 1, by_upscale=READ)
    yield OddFile("double.tif", tiff(values / 255), REFUSE)
    yield OddFile("float above 1.tif", tiff(values.astype(np.float32)), REFUSE)
    for name, number in (("nan", np.nan), ("infinity", np.inf), ("below 0", -0.5)):
        odd = values / np.float32(255)
        odd[5, 6] = number
        yield OddFile(f"float, {name}.tif", tiff(odd), REFUSE)
    yield OddFile("int32, negative.tif", tiff(-deep.astype(np.int32)), REFUSE)
    yield OddFile("int32, large.tif", tiff(deep.astype(np.int32) * 256), REFUSE)
    yield OddFile("uint32, large.tif", tiff(deep.astype(np.uint32) * 65535), REFUSE)
    yield OddFile(
        "int8.tif", tiff((values // 2).astype(np.int8)), RIGHT_OR_REFUSED, gray(values // 2)
    )
    yield OddFile("complex.tif", tiff((values / 255).astype(np.complex64)), REFUSE)
    extra = {"photometric": "minisblack", "planarconfig": "contig"}
    yield OddFile("5 channels.tif", tiff(spots, **extra), REFUSE)
    lab = vips.copy(interpretation="srgb").colourspace("lab").tiffsave_buffer()
    yield OddFile("lab.tif", lab, REFUSE, rgb, 8, by_upscale=READ)
    # Of ink, as it is without a profile: what C and K leave of the white paper.
    c, k = photo("c"), photo("k")[..., :1]
    cmyk, paper = np.dstack([c, k]), (255 - c.astype(int)) * (255 - k) / 255
    ink = np.round(paper).astype(np.uint8)
    for suffix, options in (("tif", {}), ("jpg", {"quality": 100, "subsampling": 0})):
        content = saved(
            Image.fromarray(cmyk, "CMYK"), {"tif": "tiff", "jpg": "jpeg"}[suffix], **options
        )
        # (upscale.py goes by a profile.)
        yield one(f"cmyk.{suffix}", content, ink, 4 if suffix == "jpg" else 1)
    yield one("ycck.jpg", ycck(c, k), ink, 6)
    yield one("24 bits.bmp", saved(rgb, "bmp"), rgb)
    yield one("gray.bmp", saved(values, "bmp"), gray(values))
    yield one("palette.bmp", saved(colours, "bmp"), from_palette)
    yield one("1 bit.bmp", saved(Image.fromarray(bits).convert("1"), "bmp"), gray(bits))
    yield one("32 bits.bmp", saved(Image.fromarray(rgba), "bmp"), rgb)  # its fourth byte is idle
    yield one("palette.gif", saved(colours, "gif"), from_palette)
    yield one("interlaced.gif", saved(values, "gif", interlace=1), gray(values))
    yield one("gray.pgm", saved(values, "ppm"), gray(values))
    header = b"P5 40 32 65535\n"
    yield one("16 bits.pgm", header + deep.astype(">u2").tobytes(), gray(to_8))
    header = b"P6 # a comment\n40 32\n65535\n"
    yield one("16 bits.ppm", header + deep_rgb.astype(">u2").tobytes(), rgb_to_8, 1)
    text = " ".join(map(str, rgb.flatten().tolist()))
    yield one("text.ppm", f"P3 40 32 255\n{text}\n".encode(), rgb)


def truncated() -> Iterator[OddFile]:
    for suffix in SUFFIXES:
        for eighths in range(1, 8):
            name = f"{eighths} eighths.{suffix}"
            content, _, _ = encoded(photo(name), suffix)
            yield OddFile(name, content[: eighths * len(content) // 8], REFUSE)
        for n_bytes in (1, 2, 4, 12):  # all pixels may be there, or not
            name = f"{n_bytes} bytes less.{suffix}"
            content, pixels, tolerance = encoded(photo(name), suffix)
            yield OddFile(name, content[:-n_bytes], RIGHT_OR_REFUSED, pixels, tolerance)
        for n_bytes in (2, 10, 30):
            name = f"{n_bytes} bytes.{suffix}"
            yield OddFile(name, encoded(photo(name), suffix)[0][:n_bytes], REFUSE)


def damaged() -> Iterator[OddFile]:
    for suffix in SUFFIXES:
        # A PNG has checksums. The others have none: whoever reads them cannot know.
        outcome = RIGHT_OR_REFUSED if suffix == "png" else ANYTHING
        for i in range(8):
            name = f"damage {i}.{suffix}"
            content, pixels, tolerance = encoded(photo(name), suffix)
            rng, broken = np.random.default_rng(zlib.crc32(name.encode())), bytearray(content)
            place = rng.integers(len(content) // 4 if i % 2 else len(content))
            if i < 4:
                broken[place] ^= 1 << rng.integers(8)
            else:
                broken[place : place + 20] = bytes(len(broken[place : place + 20]))
            yield OddFile(name, bytes(broken), outcome, pixels, tolerance)
    pixels = photo("stored")
    stored = bytearray(png(pixels, level=0))  # deflate that would hide what happens to its bytes
    stored[-500] ^= 4
    yield OddFile("flipped in stored.png", bytes(stored), REFUSE)


def with_garbage() -> Iterator[OddFile]:
    garbage = np.random.default_rng(0).integers(0, 256, 500, np.uint8).tobytes()
    for suffix in SUFFIXES:
        name = f"garbage behind.{suffix}"
        content, pixels, tolerance = encoded(photo(name), suffix)
        yield OddFile(name, content + garbage, RIGHT_OR_REFUSED, pixels, tolerance)
        yield OddFile(f"garbage before.{suffix}", garbage + content, REFUSE)
        yield OddFile(f"twice.{suffix}", 2 * content, RIGHT_OR_REFUSED, pixels, tolerance)


def no_photos() -> Iterator[OddFile]:
    for suffix in (*SUFFIXES, "jpeg", "tiff", "pgm"):
        yield OddFile(f"empty.{suffix}", b"", REFUSE)
        yield OddFile(f"zeros.{suffix}", bytes(3000), REFUSE)
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="32"/>'
    others = {
        "text.png": "Grüße\n".encode(),
        "page.jpg": b"<html><body>404 Not Found</body></html>",
        "zip.png": b"PK\3\4" + bytes(100),
        "program.tif": b"\x7fELF" + bytes(100),
        "drawing.png": svg,  # libvips would draw it
        "numbers.png": b"1 2 3\n4 5 6\n",
        "pdf.jpg": b"%PDF-1.4\n%%EOF\n",
        "signature alone.png": b"\x89PNG\r\n\x1a\n",
        "markers alone.jpg": b"\xff\xd8\xff\xd9",
        "header alone.gif": b"GIF89a\x28\0\x20\0\0\0\0;",
        "matrix.png": b"3 3\n1 2 3\n4 5 6\n7 8 9\n",
    }
    yield from (OddFile(name, content, REFUSE) for name, content in others.items())


def wrong_suffixes() -> Iterator[OddFile]:
    for kind, suffix in itertools.permutations(SUFFIXES, 2):
        name = f"{kind} named.{suffix}"
        content, pixels, tolerance = encoded(photo(name), kind)
        yield OddFile(name, content, READ, pixels, tolerance)
    rgba = np.dstack([photo("named bmp"), photo("its alpha")[..., 0]])
    white = over_white(rgba[..., :3], rgba[..., 3])
    yield OddFile("rgba named bmp.bmp", png(rgba), READ, white, 1, rgba)
    Image.init()
    if "AVIF" in Image.SAVE:  # since Pillow 11.3
        avif = saved(rgba[..., :3], "avif", quality=100, subsampling="4:4:4")
        yield OddFile("avif named jpg.jpg", avif, READ, rgba[..., :3], 8)


def animated() -> Iterator[OddFile]:
    frames = [photo(f"frame {i}") for i in range(3)]
    more = {"save_all": True, "append_images": [Image.fromarray(frame) for frame in frames[1:]]}
    webp = saved(frames[0], "webp", lossless=True, duration=100, **more)
    yield OddFile("animated.webp", webp, READ, frames[0])
    apng = saved(frames[0], "png", duration=100, **more)
    yield OddFile("animated.png", apng, READ, frames[0])
    hidden = saved(frames[0], "png", duration=100, default_image=True, **more)
    yield OddFile("animated, not its first.png", hidden, READ, frames[0])
    grays = [frame[..., 1] for frame in frames]
    more["append_images"] = [Image.fromarray(frame) for frame in grays[1:]]
    gif = saved(grays[0], "gif", duration=100, **more)
    yield OddFile("animated.gif", gif, READ, gray(grays[0]))
    cut = gif[: len(gif) * 2 // 3]  # behind the first frame
    yield OddFile("animated, cut.gif", cut, RIGHT_OR_REFUSED, gray(grays[0]))
    yield OddFile("pages.tif", tiff(np.stack(frames)), READ, frames[0])
    sizes_ = io.BytesIO()
    with tifffile.TiffWriter(sizes_) as writer:
        for pixels in (photo("page", 20, 12), frames[0]):
            writer.write(pixels, photometric="rgb")
    yield OddFile("pages of other sizes.tif", sizes_.getvalue(), READ, frames[0])
    # A frame that covers a part of the canvas: around it there is nothing, which shows white.
    small = Image.new("P", (40, 32), 0)
    small.putpalette([0, 0, 0, 200, 100, 50])
    small.paste(1, (10, 8, 20, 16))
    pixels = np.full((32, 40, 3), 255, np.uint8)
    pixels[8:16, 10:20] = 200, 100, 50
    is_there = pixels[..., :1] != 255
    kept = np.dstack([pixels * is_there, 255 * is_there.astype(np.uint8)])
    content = saved(small, "gif", transparency=0)
    yield OddFile("transparent.gif", content, READ, pixels, kept=kept)


def bombs() -> Iterator[OddFile]:
    pixels = photo("bomb")
    yield OddFile("declares 60000x60000.png", png(pixels, size=(60000, 60000)), REFUSE)
    yield OddFile("declares 2 GB wide.png", png(pixels, size=(1, 2**31 - 1)), REFUSE)
    yield OddFile("declares 0x0.png", png(pixels, size=(0, 0)), REFUSE)
    yield OddFile("swells.png", zeros_png(20000), REFUSE)
    big = zlib.compress(bytes(50 * 2**20), 9)
    for name, before in (
        ("text", chunk(b"zTXt", b"Comment\0\0" + big)),
        ("unicode text", chunk(b"iTXt", b"Comment\0\1\0\0\0" + big)),
        ("profile", chunk(b"iCCP", b"profile\0\0" + big)),
    ):
        yield OddFile(f"{name} swells.png", png(pixels, before), RIGHT_OR_REFUSED, pixels)
    jpeg = saved(pixels, "jpeg")
    frame = jpeg.index(b"\xff\xc0") + 5
    huge = jpeg[:frame] + struct.pack(">HH", 65500, 65500) + jpeg[frame + 4 :]
    yield OddFile("declares 65500x65500.jpg", huge, REFUSE)
    gif = saved(pixels[..., 0], "gif")
    huge = gif[:6] + struct.pack("<HH", 65535, 65535) + gif[10:]
    # libvips goes by the frame, whose size is right.
    upscaled = gray(pixels[..., 0])
    yield OddFile("declares 65535x65535.gif", huge, REFUSE, upscaled, by_upscale=READ)
    webp = saved(np.dstack([pixels, pixels[..., 0]]), "webp", exif=exif())  # of the form with VP8X
    huge = webp[:24] + b"\xff\x7f\0\xff\x7f\0" + webp[30:]
    yield OddFile("declares 32768x32768.webp", huge, REFUSE)
    bmp = saved(pixels, "bmp")
    for name, size in (("100000x100000", (10**5, 10**5)), ("-2**31", (-(2**31), -(2**31)))):
        huge = bmp[:18] + struct.pack("<ll", *size) + bmp[26:]
        yield OddFile(f"declares {name}.bmp", huge, REFUSE)
    huge = bmp[:10] + struct.pack("<L", 2**32 - 1) + bmp[14:]
    yield OddFile("pixels far away.bmp", huge, REFUSE)
    huge = bmp[:18] + struct.pack("<l", 400) + bmp[22:]
    yield OddFile("declares more than it has.bmp", huge, REFUSE)
    for name, header in (
        ("99999x99999", "P6 99999 99999 255"), ("0x0", "P6 0 0 255"), ("-1x-1", "P6 -1 -1 255"),
        ("no end", "P6 " + "9" * 5000), ("maximum 0", "P6 40 32 0"),
        ("maximum 65536", "P6 40 32 65536"),
        ("letters", "P6 40 x 255"),
    ):  # fmt: skip
        content = header.encode() + b"\n" + pixels.tobytes()
        yield OddFile(f"declares {name}.ppm", content, REFUSE)
    tif = tiff(pixels)
    for tag, name, value in (
        (256, "wide", 2**31), (257, "high", 2**31), (256, "0 wide", 0),
        (273, "pixels far away", 2**31), (258, "depth far away", 2**31),
        (279, "strips of 4 GB", 2**32 - 1), (277, "65535 channels", 65535),
    ):  # fmt: skip
        outcome = RIGHT_OR_REFUSED if tag == 279 else REFUSE
        yield OddFile(f"declares {name}.tif", with_tag(tif, tag, value), outcome, pixels)
    place = struct.unpack_from("<L", tif, 4)[0]
    end = place + 2 + 12 * struct.unpack_from("<H", tif, place)[0]
    loop = tif[:end] + tif[4:8] + tif[end + 4 :]
    yield OddFile("directory after itself.tif", loop, RIGHT_OR_REFUSED, pixels)
    yield OddFile("directory far away.tif", tif[:4] + b"\xff\xff\xff\x7f" + tif[8:], REFUSE)
    yield OddFile("directory in the header.tif", tif[:4] + b"\2\0\0\0" + tif[8:], REFUSE)


def turned() -> Iterator[OddFile]:
    """EXIF's orientations (EXIF 2.3, 4.6.4 A), and what is no orientation."""
    for orientation, suffix in itertools.product(range(1, 9), ("jpg", "png", "webp", "tif")):
        name = f"orientation {orientation}.{suffix}"
        upright = photo(name)
        stored = {
            1: upright,
            2: upright[:, ::-1],
            3: upright[::-1, ::-1],
            4: upright[::-1],
            5: upright.swapaxes(0, 1),
            6: np.rot90(upright, 1),
            7: upright[::-1, ::-1].swapaxes(0, 1),
            8: np.rot90(upright, -1),
        }[orientation]
        yield OddFile(name, *_with_exif(stored, suffix, exif(value=bytes([orientation])), upright))
    right = photo("after")
    stored = np.ascontiguousarray(np.rot90(right, 1))
    content = png(stored, after=chunk(b"eXIf", exif()))
    yield OddFile("orientation behind the pixels.png", content, READ, right)
    odd = {
        "0": exif(value=b"\0"),
        "9": exif(value=b"\x09"),
        "255": exif(value=b"\xff\xff"),
        "none": exif(tag=271, kind=2, count=4, value=b"abc\0"),
        "of two": exif(count=2, value=b"\1\0\6\0"),
        "far away": exif(count=100, value=b"\xff\xff\xff\x7f"),
        "without end": exif(count=2**32 - 1),
        "of no kind": exif(kind=99),
        "as text": exif(kind=2, count=2, value=b"6\0"),
        "in a loop": exif(tag=34665, kind=4, value=struct.pack("<L", 8), next_=8),
        "cut": exif()[:13],
        "empty": b"",
        "noise": np.random.default_rng(1).integers(0, 256, 300, np.uint8).tobytes(),
        "huge": exif(tag=37500, kind=7, count=60000, value=struct.pack("<L", 26)) + bytes(60000),
    }
    for (label, block), suffix in itertools.product(odd.items(), ("jpg", "png", "webp")):
        name = f"orientation {label}.{suffix}"
        pixels = photo(name)
        yield OddFile(name, *_with_exif(pixels, suffix, block, pixels))
    upright, xmp = photo("xmp"), b'<x:xmpmeta tiff:Orientation="6"/>'
    content, _, tolerance = encoded(np.ascontiguousarray(np.rot90(upright, 1)), "jpg")
    content = with_segment(content, 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)
    if int(PIL.__version__.split(".")[0]) >= 11:  # older ones do not look there
        yield OddFile("orientation in xmp.jpg", content, READ, upright, tolerance)
    # A long instead of a short is against the standard: turned or not, as long as it is the same.
    upright = photo("a long")
    content = _with_exif(np.rot90(upright, 1), "png", exif(kind=4), upright)[0]
    yield OddFile("orientation as a long.png", content, READ, upright)


def _with_exif(stored: np.ndarray, suffix: str, block: bytes, upright: np.ndarray) -> tuple:
    """Return content, outcome, pixels and tolerance of a file with EXIF."""
    stored = np.ascontiguousarray(stored)
    content, _, tolerance = encoded(stored, suffix)
    if suffix == "jpg":
        content = with_segment(content, 0xE1, b"Exif\0\0" + block)
    elif suffix == "png":
        content = png(stored, chunk(b"eXIf", block))
    elif suffix == "webp":
        content = saved(stored, "webp", lossless=True, exif=block or b"Exif\0\0")
    else:
        value = struct.unpack_from("<H", block, 18)[0]
        content = tiff(stored, extratags=[(274, "H", 1, value, True)])
    return content, READ, upright, tolerance


def broken_parts() -> Iterator[OddFile]:
    pixels = photo("parts")
    comment, bad_crc = b"Comment\0text", chunk(b"tEXt", b"Comment\0text", crc=1)
    for name, content in (
        ("wrong checksum of a text.png", png(pixels, bad_crc)),
        ("wrong checksum of a late text.png", png(pixels, after=bad_crc)),
        ("wrong checksum of the pixels.png", png(pixels, data_crc=1)),
        ("wrong checksum, stored.png", png(pixels, level=0, data_crc=1)),
        ("wrong adler.png", wrong_adler(pixels)),
        ("late text.png", png(pixels, after=chunk(b"tEXt", comment))),
        ("unknown chunk.png", png(pixels, chunk(b"abCd", bytes(50)))),
        ("unknown critical chunk.png", png(pixels, chunk(b"ABCD", bytes(50)))),
        ("pixels without end.png", png(pixels)[:-12]),
    ):
        yield OddFile(name, content, RIGHT_OR_REFUSED, pixels)
    for suffix, (name, profile) in itertools.product(
        ("png", "jpg", "webp", "tif"),
        (("cut", PROFILE[:100]), ("noise", bytes(range(256))), ("zeros", bytes(500))),
    ):
        content, expected, tolerance = encoded(pixels, suffix)
        kind = {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix)
        options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}
        content = saved(pixels, kind, icc_profile=profile, **options.get(suffix, {}))
        name = f"profile {name}.{suffix}"
        yield OddFile(name, content, READ, expected, tolerance)
    cmyk = Image.fromarray(np.dstack([pixels, 0 * pixels[..., :1]]), "CMYK")
    content = saved(cmyk, "tiff", icc_profile=PROFILE[:100])
    yield OddFile("profile cut, cmyk.tif", content, READ, 255 - pixels, 1)
    content, _, tolerance = encoded(pixels, "jpg")
    for marker, data in ((0xE0, b"JFIF\0"), (0xEE, b"Adobe"), (0xED, b"Photoshop 3.0\0" + b"8BIM")):
        name = f"short segment {marker:x}.jpg"
        damaged_ = with_segment(content, marker, data)
        yield OddFile(name, damaged_, RIGHT_OR_REFUSED, pixels, tolerance)


def names() -> Iterator[OddFile]:
    odd = [
        "with some spaces.png", " leading and trailing .png", "größe.png", "gro\u0308ße.png",
        "写真.png", "фото.png", "صورة.png", "📷🌄.png", "[brackets]*.png", "100% %d %s {0}.png",
        "'quotes' \"double\".png", "-dash.png", "--overwrite.png", "a\nnew line.png", "tab\t.png",
        "back\\slash.png", "many.dots.in.it..png", "UPPER.PNG", "Mixed.JpEg", "x4.png", "ax4x4.png",
        "a_SRF_4_HR.png", "~tilde$&;|<>`.png", "#hash?query=1.png", "con.png", "img[page=2].tif",
        "half a character \udcff.png", f"{'long' * 50}.png", "\u202egnp.right to left.png",
        f"{'x' * 251}.png", "nul .png.jpg",
    ]  # fmt: skip
    for name in odd:
        ending = name.rpartition(".")[2].lower()
        suffix = {"jpeg": "jpg"}.get(ending, ending)
        content, pixels, tolerance = encoded(photo(name), suffix)
        yield OddFile(name, content, READ, pixels, tolerance)
    for name in (".hidden.png", "._of macOS.jpg", "notes.txt", "no suffix", "photo.png.bak"):
        yield OddFile(name, encoded(photo(name), "png")[0], NO_PHOTO)


def links_and_folders() -> Iterator[OddFile]:
    """What is no file, and links: for POSIX."""
    pixels = photo("target")

    def link(target: str) -> Callable[[Path], None]:
        return lambda path: path.symlink_to(target)

    def link_out(path: Path) -> None:
        target = path.parent.with_name("target of a link")
        target.write_bytes(png(pixels))
        path.symlink_to(target)

    def folder(path: Path) -> None:
        path.mkdir()
        (path / "inside.txt").write_text("no photo")

    yield OddFile("link.png", link_out, READ, pixels)
    yield OddFile("link to nowhere.png", link("nothing here.png"), REFUSE)
    yield OddFile("link to itself.png", link("link to itself.png"), REFUSE)
    yield OddFile("link in a loop, a.png", link("link in a loop, b.png"), REFUSE)
    yield OddFile("link in a loop, b.png", link("link in a loop, a.png"), REFUSE)
    yield OddFile("link to zeros without end.png", link("/dev/zero"), REFUSE)
    yield OddFile("link to nothing.jpg", link("/dev/null"), REFUSE)
    yield OddFile("link below a file.png", link("rgba png.png/a.png"), REFUSE)
    yield OddFile("pipe.png", lambda path: os.mkfifo(path), REFUSE)
    yield OddFile("folder.png", folder, NO_PHOTO)
    yield OddFile("folder.jpg", folder, NO_PHOTO)
    yield OddFile("link to a folder.png", link("folder.png"), NO_PHOTO)


def odd_files() -> list[OddFile]:
    """Return all of them. Most have their suffix in their name twice: no two have one stem."""
    makers = (
        sizes, modes, truncated, damaged, with_garbage, no_photos, wrong_suffixes, animated, bombs,
        turned, broken_parts, names, links_and_folders,
    )  # fmt: skip
    files = []
    for maker in makers:
        for odd in maker():
            stem, _, suffix = odd.name.rpartition(".")
            is_free = maker in (names, links_and_folders)
            name = odd.name if is_free else f"{stem} {suffix}.{suffix}"
            files.append(odd._replace(name=name, kind=maker.__name__.replace("_", " ")))
    return files


def put(odd: OddFile, folder: Path) -> None:
    path = folder / odd.name
    path.write_bytes(odd.content) if isinstance(odd.content, bytes) else odd.content(path)


def write_odd_files(folder: Path) -> list[OddFile]:
    """Write what the system allows into `folder` and return that."""
    folder.mkdir(parents=True)
    written = []
    for odd in odd_files():
        try:
            put(odd, folder)
        except (OSError, ValueError, AttributeError):
            continue  # Windows has no pipes, some systems no such names
        written.append(odd)
    return written
