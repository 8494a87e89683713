"""Open and save people's photos as they are: gray or colour, alpha, 8 or 16 bits, EXIF, profile.

libvips does the work, which reads and writes photos of any size in little memory; what it leaves
out, BMP, PPM and others, Pillow reads as 8-bit RGB. What a file holds decides, not its name.
"""

import contextlib
import os
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyvips
import torch
from PIL import Image

from common.data.photos import main_page, open_image, read_image, require_file
from common.files import require_free_space, written_whole
from scripts.inference.exif import add_exif_to_tiff, read_exif

WRITTEN = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}
# How files begin that libvips reads: PNG, JPEG, WebP, GIF and TIFFs. It would also draw an SVG.
_BY_VIPS = (b"\x89PNG", b"\xff\xd8", b"RIFF", b"GIF8", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_LONGEST_SIDE = {".jpg": 65535, ".jpeg": 65535, ".webp": 16383}  # of the formats, in pixels
_MOST_PIXELS = 2**28  # a photo of more is taken for an attack
_KEPT_SPACES = ("srgb", "rgb", "rgb16", "scrgb", "b-w", "grey16", "multiband")  # of colour
_IN_MEMORY = 2**28  # bytes; larger results lie in a temporary file
_WHITE = {"uchar": 255, "ushort": 65535, "float": 1}
_DTYPES = {"uchar": np.uint8, "ushort": np.uint16, "float": np.float32}


class Photo(NamedTuple):
    """A photo, upright, in gray or RGB."""

    colour: pyvips.Image  # 1 or 3 bands; uchar, ushort, or float in [0, 1]
    alpha: pyvips.Image | None
    exif: Image.Exif
    page: int = 0  # the one that was taken
    pages: int = 1  # how many there are

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.colour.height, self.colour.width

    def read(self, top: int, bottom: int, left: int, right: int) -> torch.Tensor:
        """Return a part as RGB (1, 3, h, w) in [0, 1]."""
        part = self.colour.crop(left, top, right - left, bottom - top).numpy()
        part = part.reshape(bottom - top, right - left, self.colour.bands)
        image = torch.from_numpy(part.astype(np.float32)) / _WHITE[self.colour.format]
        return image.permute(2, 0, 1)[None].expand(-1, 3, -1, -1)


def open_photo(path: Path) -> Photo:
    """Open a photo and decode it; large ones into a temporary file.

    CMYK and other colour spaces become sRGB; of an animation the first frame is taken, of
    several pages the largest.

    Raises:
        ValueError: the file is missing, no photo, damaged, or of a kind that cannot be enlarged;
            the message names it.
    """
    require_file(path)
    with path.open("rb") as file:
        is_by_vips = file.read(4).startswith(_BY_VIPS)
    if not is_by_vips:
        pixels = pyvips.Image.new_from_array(read_image(path))
        return Photo(pixels, None, Image.Exif(), pages=_count_frames(path))
    exif, orientation = read_exif(path)
    try:
        page, pages = main_page(path)
        options = {"page": page} if page else {}
        # By way of a source: libvips would take "a[1].png" for a file name with options.
        source = pyvips.Source.new_from_file(os.fsencode(path))
        image = pyvips.Image.new_from_source(
            source, "", access="random", fail_on="error", **options
        )
        if image.width * image.height > _MOST_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels: too large to be trusted")
        if image.interpretation == "cmyk":  # in one way here, in training and in notebooks
            return Photo(pyvips.Image.new_from_array(read_image(path)), None, exif)
        image.crop(0, 0, 1, 1).avg()  # decodes all of it
        if orientation is not None:  # where libvips does not look: behind a PNG's pixels, in XMP
            image = image.copy()
            image.set_type(pyvips.GValue.gint_type, "orientation", orientation)
        image = _common_format(image.autorot())
    except (pyvips.Error, ValueError) as error:
        reason = error.detail if isinstance(error, pyvips.Error) else str(error)
        reason = " ".join(reason.split())
        raise ValueError(f"{path}: cannot be read as a photo ({reason})") from None
    alpha = None
    if image.bands in (2, 4):
        image, alpha = image[: image.bands - 1], image[image.bands - 1]
        image = _fill_invisible(image, alpha)
    if pages == 1:
        pages = image.get("n-pages") if image.get_typeof("n-pages") else _count_frames(path)
    return Photo(image, alpha, exif, page, pages)


def _count_frames(path: Path) -> int:
    with contextlib.suppress(ValueError), open_image(path) as image:  # libvips reads some more
        return getattr(image, "n_frames", 1)
    return 1


def _common_format(image: pyvips.Image) -> pyvips.Image:
    """Return gray or sRGB with or without alpha, of uchar, ushort or float in [0, 1]."""
    if image.interpretation not in _KEPT_SPACES:
        image = image.colourspace("srgb")
    if image.format not in ("uchar", "ushort"):
        lowest, highest = image.min(), image.max()
    if image.format == "float":
        if (image != image).max():  # which `max` passes over
            raise ValueError("values that are no numbers, expected 0 to 1")
        if not 0 <= lowest <= highest <= 1:
            raise ValueError(f"float values from {lowest:g} to {highest:g}, expected 0 to 1")
    elif image.format not in _WHITE:
        if image.format in ("double", "char") or not 0 <= lowest <= highest <= 65535:
            raise ValueError(
                f"{image.format} values from {lowest:g} to {highest:g}, expected 16 bits"
            )
        image = image.cast("ushort")
    if image.bands > 4:
        raise ValueError(f"{image.bands} channels, expected gray or RGB, with or without alpha")
    return image


def _fill_invisible(colour: pyvips.Image, alpha: pyvips.Image) -> pyvips.Image:
    """Return `colour` with that of the nearest visible pixel where alpha is 0.

    What lies there, often black, would bleed into what is visible as the photo is enlarged.
    """
    visible = alpha > 0  # 0 or 255
    if visible.min() or not visible.max():
        return colour
    above_zero = (colour.cast("float") + 1) * (visible / 255)  # `fill_nearest` fills zeros
    filled = (above_zero.fill_nearest() - 1).cast(colour.format)
    filled = visible.ifthenelse(colour, filled)  # (it is inexact at the others' edges)
    return filled.copy(interpretation=colour.interpretation)


def refuse_size(path: Path, size: tuple[int, int]) -> None:
    """Raise `ValueError` when the format that `path`'s suffix names has no place for `size`."""
    longest = _LONGEST_SIDE.get(path.suffix.lower(), max(size))
    if max(size) > longest:
        raise ValueError(
            f"{path.name} would be {size[1]}x{size[0]}, a {path.suffix[1:]} has at most {longest} "
            "pixels a side: choose png or tiff (--format)"
        )


def allocate_result(path: Path, photo: Photo, scale: float) -> np.ndarray:
    """Return an array (4H, 4W, C) for the photo four times as large; large ones lie in a file.

    Its type is what `path`'s format can hold of the photo's, or what is resampled in the end.

    Raises:
        OSError: the disk has too little free space.
    """
    kind = photo.colour.format
    if kind == "float" and path.suffix.lower() not in (".tif", ".tiff"):
        kind = "ushort"
    if path.suffix.lower() in _LONGEST_SIDE or kind == "uchar":
        kind = "uchar" if scale == 4 else "ushort"
    shape = 4 * photo.size[0], 4 * photo.size[1], photo.colour.bands
    n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(_DTYPES[kind]).itemsize
    if n_bytes < _IN_MEMORY:
        return np.empty(shape, _DTYPES[kind])
    require_free_space(path.parent, 2 * n_bytes, f"for {path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    file = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115, the array holds it
    return np.memmap(file, _DTYPES[kind], "w+", shape=shape)


def write_rows(pixels: np.ndarray, top: int, rows: torch.Tensor) -> None:
    """Write `rows` (3, h, 4W) in [0, 1] to `pixels` (4H, 4W, C), from row `top` on."""
    rows = rows.float()
    if pixels.shape[2] == 1:
        rows = rows.mean(0, keepdim=True)
    if pixels.dtype != np.float32:
        rows = (rows * np.iinfo(pixels.dtype).max).round()
    pixels[top : top + rows.shape[1]] = rows.permute(1, 2, 0).cpu().numpy().astype(pixels.dtype)


def save_photo(path: Path, pixels: np.ndarray, photo: Photo, scale: float, quality: int) -> None:
    """Write `pixels`, resampled from 4 times the photo's size to `scale` times, with all it had.

    Args:
        path: its suffix names the format; formats without alpha show white.
        pixels: what `allocate_result` gave and `write_rows` filled.
        quality: of JPEG and WebP, 1 to 100; WebP of 100 is without loss.
    """
    suffix = path.suffix.lower()
    kind = next(name for name, dtype in _DTYPES.items() if dtype == pixels.dtype)
    height, width = enlarged_size(photo.size, scale)
    image = pyvips.Image.new_from_memory(pixels.data, *pixels.shape[1::-1], pixels.shape[2], kind)
    final = "uchar" if suffix in _LONGEST_SIDE else photo.colour.format
    final = "ushort" if final == "float" and suffix == ".png" else final
    image = convert(resample(image, height, width), kind, final)
    if photo.alpha is not None:
        alpha = resample(photo.alpha, height, width)
        image = image.bandjoin(convert(alpha, photo.alpha.format, final))
    gray = pixels.shape[2] == 1
    spaces = {"uchar": "b-w" if gray else "srgb", "ushort": "grey16" if gray else "rgb16"}
    image = image.copy(
        interpretation=spaces.get(final, "b-w" if gray else "scrgb"),
        xres=photo.colour.xres,
        yres=photo.colour.yres,
    )
    if photo.alpha is not None and suffix in (".jpg", ".jpeg"):
        image = image.flatten(background=_WHITE[final])
    for name in ("icc-profile-data", "xmp-data", "iptc-data"):
        if photo.colour.get_typeof(name):
            data = photo.colour.get(name)
            if name == "xmp-data":  # the pixels are upright
                data = re.sub(rb'(tiff:Orientation(?:="|>))[0-9]', rb"\g<1>1", data)
            image.set_type(pyvips.GValue.blob_type, name, data)
    if photo.exif:
        image.set_type(pyvips.GValue.blob_type, "exif-data", photo.exif.tobytes())
        image.set_type(pyvips.GValue.gint_type, "orientation", 1)
    options: dict = {}
    if suffix in (".jpg", ".jpeg"):
        options = {"Q": quality}
    elif suffix == ".webp":
        options = {"lossless": True} if quality == 100 else {"Q": quality}
    elif suffix in (".tif", ".tiff"):
        options = {"compression": "deflate", "predictor": "horizontal", "bigtiff": _is_big(image)}
    with written_whole(path) as temporary:
        try:
            image.write_to_target(
                pyvips.Target.new_to_file(os.fsencode(temporary)), suffix, **options
            )
        except pyvips.Error as error:
            raise OSError(f"{path}: cannot be written ({' '.join(error.detail.split())})") from None
        if photo.exif and suffix in (".tif", ".tiff"):
            add_exif_to_tiff(temporary, photo.exif)


def enlarged_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return (height, width) of a photo of `size` times `scale`, 1 or more."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resample(image: pyvips.Image, height: int, width: int) -> pyvips.Image:
    """Resample to a size, bicubic and antialiased, in float."""
    if (image.height, image.width) == (height, width):
        return image
    image = image.cast("float")
    x, y = width / image.width, height / image.height
    if min(x, y) < 1:
        return image.resize(x, vscale=y, kernel="cubic", gap=0)
    # libvips' `resize` would enlarge from the corner: here pixels' centres stay in place.
    return image.affine(
        (x, 0, 0, y),
        interpolate=pyvips.Interpolate.new("bicubic"),
        idx=(1 - 1 / x) / 2,
        idy=(1 - 1 / y) / 2,
        oarea=(0, 0, width, height),
        extend="copy",
    )


def convert(image: pyvips.Image, before: str, kind: str) -> pyvips.Image:
    """Return values that were of the range of format `before` in format `kind`, rounded."""
    if before != kind:
        image = image * (_WHITE[kind] / _WHITE[before])
    if kind != "float" and image.format in ("float", "double"):
        image = image.rint()
    return image if image.format == kind else image.cast(kind)


def _is_big(image: pyvips.Image) -> bool:
    """Return whether a classic TIFF's 4 GB might not do."""
    return image.width * image.height * image.bands * 4 > 2**32
