"""Write the photos that come inside scikit-image's package, as PNG files; no download.

python scripts/builtin_photos.py div2k/builtin/photos
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import skimage
import tyro

from common.images import read_image, write_image

TRAIN = (
    "astronaut.png",
    "rocket.jpg",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "ihc.png",
    "retina.jpg",
    "camera.png",
    "brick.png",
    "grass.png",
    "gravel.png",
    "coins.png",
    "moon.png",
)
VALID = ("chelsea.png", "coffee.png")


def write_builtin_photos(folder: tyro.conf.Positional[Path]) -> tuple[Path, Path]:
    """Write the photos to `folder`/train and `folder`/valid and return the two.

    Raises:
        FileNotFoundError: this release of scikit-image holds fewer photos; they are named.
    """
    source = Path(skimage.__file__).parent / "data"
    missing = [name for name in TRAIN + VALID if not (source / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"scikit-image {skimage.__version__} does not hold {', '.join(missing)} in {source}: "
            "install another release (0.22 to 0.26 do)"
        )
    for split, names in (("train", TRAIN), ("valid", VALID)):
        for name in names:
            path = folder / split / Path(name).with_suffix(".png").name
            if not path.exists():
                write_image(path, read_image(source / name))
    return folder / "train", folder / "valid"


if __name__ == "__main__":
    tyro.cli(write_builtin_photos)
