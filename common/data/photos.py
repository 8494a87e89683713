"""Read any photo as 8-bit RGB, and write photos, with Pillow."""

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from common.files import written_whole

_ORIENTATION = 0x0112  # EXIF's tag, and TIFF's:
_SUBFILE_TYPE, _WIDTH, _HEIGHT, _SUBDIRECTORIES, _DNG_VERSION = 254, 256, 257, 330, 50706
_MOST_PIXELS = 2**28  # 0.8 GB once decoded; a small file may declare any number


def read_image(path: str | Path) -> np.ndarray:
    """Read a photo as RGB, turned upright by its EXIF orientation.

    Any of Pillow's modes is converted (`to_rgb`), of several pages `main_page` is taken. Returns
    (H, W, 3) uint8. Raises `ValueError`, which names the file, when it is missing, no image,
    damaged, or cannot be converted.
    """
    with open_image(path) as image:
        image.load()
        if image.format == "PNG":  # damage in the last rows shows in the checksums alone
            with Image.open(path) as again:
                again.verify()
        is_turned = orientation(image) > 1
        return np.asarray(to_rgb(ImageOps.exif_transpose(image) if is_turned else image))


def image_size(path: str | Path) -> tuple[int, int]:
    """Return (height, width) as `read_image` would give them, from the file's header alone.

    Raises `ValueError`, which names the file, when it is no image, or too large.
    """
    with open_image(path) as image:
        width, height = image.size
        is_turned = orientation(image) >= 5
        if image.format == "TIFF":  # newer Pillows give its `size` turned already
            width, height = image.tag_v2[_WIDTH], image.tag_v2[_HEIGHT]
        return (width, height) if is_turned else (height, width)


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 to `path`, its suffix naming the format; completely or not at all."""
    with written_whole(path) as temporary:
        Image.fromarray(image).save(temporary)


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """Turn (H, W, 3) uint8 into (1, 3, H, W) float32 in [0, 1]."""
    return torch.tensor(image).permute(2, 0, 1)[None].float() / 255


def to_uint8(image: torch.Tensor) -> np.ndarray:
    """Turn (3, H, W) or (1, 3, H, W) in [0, 1] into (H, W, 3) uint8, rounded and clamped."""
    image = image.detach().float().reshape(3, *image.shape[-2:])
    return (image * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()


@contextlib.contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """Open an image with Pillow, its pixels not yet decoded.

    Whatever is wrong with it, here or in the block, is a `ValueError` that names it.
    """
    require_file(path)
    most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, _MOST_PIXELS // 2  # refused at twice it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of odd metadata
            with Image.open(path) as image:
                if image.format == "TIFF":
                    image.seek(main_page(path)[0])
                yield image
    except Exception as error:  # Pillow's decoders raise nearly every kind on broken files
        if isinstance(error, Image.DecompressionBombError):
            error = f"more than {_MOST_PIXELS >> 20} million pixels: cut it into parts"
        raise ValueError(f"{path}: cannot be read as an image ({error})") from None
    finally:
        Image.MAX_IMAGE_PIXELS = most


def main_page(path: str | Path) -> tuple[int, int]:
    """Return which page of a TIFF is the photo, from 0, and how many there are; (0, 1) of others.

    The largest: the first may be a thumbnail of it. Raises `ValueError` for a camera's raw file,
    which shows a preview alone.
    """
    sizes: dict[int, int] = {}  # pixels, by the page's place in the file
    broken = SyntaxError, KeyError, TypeError, struct.error
    with Path(path).open("rb") as file, warnings.catch_warnings(), contextlib.suppress(*broken):
        warnings.simplefilter("ignore")
        header = file.read(16)
        directory = ImageFileDirectory_v2(header if header[2:3] == b"+" else header[:8])
        while directory.next and directory.next not in sizes:
            place = directory.next
            file.seek(place)
            directory.load(file)
            sizes[place] = directory[_WIDTH] * directory[_HEIGHT]
            is_preview = directory.get(_SUBFILE_TYPE, 0) & 1 and _SUBDIRECTORIES in directory
            if _DNG_VERSION in directory or is_preview or header[8:10] == b"CR":
                raise ValueError("a camera's raw file: develop it to a TIFF, PNG or JPEG first")
    pages = list(sizes.values())
    return (pages.index(max(pages)), len(pages)) if pages else (0, 1)


def require_file(path: str | Path) -> None:
    """Raise `ValueError` unless `path` is a file: to open a pipe would wait for ever."""
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: there is no such file")
    if not path.is_file():
        found = "a folder" if path.is_dir() else "a pipe or a device"
        raise ValueError(f"{path}: {found}, expected a file")


def orientation(image: Image.Image) -> int:
    """Return EXIF's orientation of an opened image, 1 (upright) to 8; 1 where EXIF is nonsense."""
    try:
        found = exif_of(image).get(_ORIENTATION, 1)
        return found if found in range(1, 9) else 1
    except Exception:  # as above; the pixels may all be there
        return 1


def exif_of(image: Image.Image) -> Image.Exif:
    """Return an opened image's EXIF; of a PNG it is decoded only if EXIF may follow the pixels."""
    if image.format != "PNG" or image.fp is None:
        return image.getexif()
    with Path(image.filename).open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - 2**16))
        end = file.read()
    marks = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type exif")
    return image.getexif() if any(m in end for m in marks) else Image.Image.getexif(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any of Pillow's modes as 8-bit RGB, transparent parts white."""
    if image.mode.startswith("I"):  # 16 bits a value, whether Pillow calls it I or I;16
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"values from {values.min()} to {values.max()}, expected 16 bits")
        pixels = ((values + 128) // 257).astype(np.uint8)
        pixels[values == image.info.get("transparency", -1)] = 255
        return Image.fromarray(pixels).convert("RGB")
    if image.mode == "F":
        values = np.asarray(image)
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise ValueError(f"float values from {values.min()} to {values.max()}, expected 0 to 1")
        return Image.fromarray(np.round(values * 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode == "CMYK" and image.info.get("icc_profile"):
        with contextlib.suppress(ImageCms.PyCMSError, OSError):  # a broken profile
            profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
            srgb, intent = ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC
            return ImageCms.profileToProfile(image, profile, srgb, intent, outputMode="RGB")
    return image.convert("RGB")
