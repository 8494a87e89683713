"""Open image files with Pillow, without waiting for a pipe or decoding what is not asked for."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from common.data.png import has_late_exif

_ORIENTATION = 0x0112


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """Open an image, its pixels not yet decoded.

    Raises:
        ValueError: whatever is wrong with it, here or in the block; the message names it.
    """
    require_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path}: too large to be read safely ({error})") from None
    except Exception as error:  # Pillow's decoders raise nearly every kind on broken files
        raise ValueError(f"{path}: cannot be read as an image ({error})") from error


def require_file(path: str | Path) -> None:
    """Raise `ValueError` unless `path` is a file: to open a pipe would wait for ever."""
    path = Path(path)
    if not path.is_file():
        what = "this is no file, but a folder, a pipe or a device"
        if not path.exists():
            what = "this link leads nowhere" if path.is_symlink() else "there is no such file"
        raise ValueError(f"{path}: {what}")


def exif_of(image: Image.Image) -> Image.Exif:
    """Return an opened image's EXIF; of a PNG without decoding it, as Pillow would."""
    is_waiting = image.format == "PNG" and image.fp is not None
    if is_waiting and not has_late_exif(image.filename):
        return Image.Image.getexif(image)
    return image.getexif()


def orientation(image: Image.Image) -> int:
    """Return EXIF's orientation of an opened image, 1 (upright) to 8; 1 where EXIF is nonsense."""
    try:
        found = exif_of(image).get(_ORIENTATION, 1)
    except Exception:  # as above; the pixels may all be there
        return 1
    return found if found in range(1, 9) else 1
