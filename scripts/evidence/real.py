"""Draw crops of real photos as several checkpoints enlarge them, a row for each checkpoint.

    python scripts/evidence/real.py PHOTOS -m bicubic esrgan-psnr esrgan real --out real.png

PHOTOS are photos that are enlarged as they are; the crops are where they have most detail.
"""

import sys
from pathlib import Path
from typing import Annotated

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import common  # noqa: F401, it says what is not installed

import tyro

from common.data.photos import read_image, write_image
from common.device import choose_device
from common.measure.validation import busiest_crop, grid
from common.progress import progress_bar
from common.run.flags import command_line
from scripts.inference.figures import titles
from scripts.inference.models import load_model
from scripts.inference.outputs import refuse_to_replace

_CONTEXT = 24  # LR pixels around a crop that the networks see as well


def real(
    photos: tyro.conf.Positional[tuple[Path, ...]],
    *,
    models: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-m"])],  # checkpoints, "bicubic"
    crop: int = 48,  # LR pixels each way
    out: Path = Path("real.png"),  # the picture
    overwrite: bool = False,  # replace a picture that is there already
    device: str = "auto",  # a GPU where there is one; or "cuda", "cuda:1", "cpu"
) -> Path:
    """Write the picture and return its path.

    Raises:
        ValueError: there are no photos or models, one cannot be read, or is smaller than a crop.
        FileExistsError: `out` is there already.
    """
    if not photos or not models or crop < 8:
        raise ValueError(
            f"{len(photos)} photos, {len(models)} models, crop {crop}: expected one or more of "
            "each, a crop of 8 or more"
        )
    refuse_to_replace([out], [*photos, *models], overwrite)
    images = [read_image(photo) for photo in photos]
    for photo, image in zip(photos, images, strict=True):
        if min(image.shape[:2]) < crop:
            raise ValueError(f"{photo} is smaller than a crop of {crop}x{crop}")
    where = choose_device(device)
    networks = [load_model(name, where, precision="full") for name in models]
    rows: list[list] = [[] for _ in models]
    for image in progress_bar(images, unit="photo"):
        top, left = busiest_crop(image, crop)
        above, before = max(0, top - _CONTEXT), max(0, left - _CONTEXT)
        seen = image[above : top + crop + _CONTEXT, before : left + crop + _CONTEXT]
        rows_of_crop = slice(4 * (top - above), 4 * (top - above + crop))
        columns = slice(4 * (left - before), 4 * (left - before + crop))
        for row, name, network in zip(rows, titles(list(models)), networks, strict=True):
            caption = "" if row else name
            row.append((caption, network.upscale(seen)[rows_of_crop, columns]))
    write_image(out, grid(rows))
    print(out)
    return out


if __name__ == "__main__":
    command_line(real)
