"""Lay out the photos that come inside scikit-image's package as DIV2K's folders; no download.

    python scripts/builtin_photos.py

writes div2k/builtin/DIV2K_train_HR, DIV2K_train_LR_bicubic/X4 and the same of two held-out photos
(DIV2K_valid_...): for trying any of the training scripts.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import skimage

from common.data.photos import read_image, write_image
from common.files import remove_leftovers
from common.run.flags import command_line
from scripts.prepare_dataset import prepare_dataset

ROOT = Path(__file__).resolve().parents[1]

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


def builtin_photos(
    *,
    out: Path = ROOT / "div2k" / "builtin",  # where DIV2K's folders are made
    degradation: Literal["bicubic", "realistic"] = "bicubic",  # see prepare_dataset.py
) -> tuple[Path, Path, Path, Path]:
    """Write the photos and return LR, HR, held-out LR and held-out HR folder.

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
    folders: list[Path] = []
    for split, names in (("train", TRAIN), ("valid", VALID)):
        photos = out / "photos" / split
        remove_leftovers(photos)
        for name in names:
            path = photos / Path(name).with_suffix(".png").name
            if not path.exists():
                write_image(path, read_image(source / name))
        hr, lr = prepare_dataset(photos, out, split=split, degradation=degradation)
        folders += [lr, hr]
    return tuple(folders)


if __name__ == "__main__":
    command_line(builtin_photos)
