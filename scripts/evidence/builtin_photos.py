"""The photos that come inside scikit-image's package, laid out as DIV2K's folders; no download."""

from pathlib import Path
from typing import Literal

import skimage

from common.data.photos import read_image, write_image
from common.files import refuse_unwritable, remove_leftovers
from scripts import prepare_dataset

FOLDER = Path(__file__).resolve().parents[2] / "div2k" / "builtin"

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
    out: Path = FOLDER, degradation: Literal["bicubic", "realistic"] = "bicubic"
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
                refuse_unwritable(photos)
                write_image(path, read_image(source / name))
        hr, lr = prepare_dataset.prepare_dataset(photos, out, split=split, degradation=degradation)
        folders += [lr, hr]
    return tuple(folders)
