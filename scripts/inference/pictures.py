"""Pictures for a page: small enough to be shown, and example photos that need no network."""

from pathlib import Path

import pyvips
import skimage

from common.data.photos import read_image, write_image
from common.data.resize import imresize
from scripts.inference.photos import Photo, convert, resample

SHOWN = 1600  # pixels a side, at most
_SCANNED = "page.png"  # small as it is: a part of it is taken


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width), no side longer than `SHOWN`."""
    share = min(1.0, SHOWN / max(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))


def picture_of(photo: Photo, size: tuple[int, int]) -> pyvips.Image:
    """Return the photo, resampled to (height, width) by bicubic, in 8 bits, with its alpha."""
    image = convert(resample(photo.colour, *size), photo.colour.format, "uchar")
    if photo.alpha is not None:
        alpha = convert(resample(photo.alpha, *size), photo.alpha.format, "uchar")
        image = image.bandjoin(alpha)
    return image.copy(interpretation="srgb" if image.bands > 2 else "b-w")


def picture_of_file(path: Path) -> pyvips.Image:
    """Return what a file of results holds, in 8 bits, no side longer than `SHOWN`."""
    return pyvips.Image.thumbnail(str(path), SHOWN, height=SHOWN, size="down")


def example_photos(folder: Path) -> list[Path]:
    """Write small photos to `folder`: of scikit-image's, those that its release holds."""
    source = Path(skimage.__file__).parent / "data"
    written = []
    for name in ("chelsea.png", "coffee.png", _SCANNED):
        if (source / name).exists():
            photo = read_image(source / name)
            photo = photo[60:156, 10:202] if name == _SCANNED else imresize(photo, 1 / 4)
            written.append(folder / name)
            write_image(written[-1], photo)
    return written
