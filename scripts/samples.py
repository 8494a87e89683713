"""Draw what a CVAE or SRVAE makes of photos: the mean, samples, and where they differ.

    python scripts/samples.py PHOTO [PHOTO ...] --model CVAE/runs/default/cvae.pth

PHOTO is an HR photo; its LR is made as MATLAB's bicubic `imresize` does. A row for each: LR,
bicubic, the mean prediction, samples, their standard deviation at each pixel (ten times; the
brighter, the more they differ), HR; of the crop with the strongest edges.
"""

import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import common  # noqa: F401, it says what is not installed

import numpy as np
import tyro

from common.data.pairs import SUFFIXES
from common.data.photos import read_image, to_tensor, to_uint8, write_image
from common.data.resize import imresize
from common.measure.validation import Photo, busiest_crop, grid, sample_row
from common.progress import progress_bar
from common.run.flags import command_line
from CVAE.model import CVAE
from scripts.inference.models import load_model
from scripts.inference.outputs import refuse_to_replace
from SRVAE.model import SRVAE

_STRENGTH = 10  # of the drawn standard deviation
_N_FOR_DEVIATION = 16


def samples(
    photos: tyro.conf.Positional[tuple[Path, ...]],  # HR photos
    *,
    model: Path,  # cvae.pth or srvae.pth
    n: int = 4,  # samples of each photo
    temperature: float = 1.0,  # of z's standard deviation
    seed: int = 0,  # the same seed gives the same samples
    crop: int = 192,  # HR pixels, a multiple of 4
    out: Path = Path("samples.png"),  # the picture
    overwrite: bool = False,  # replace a picture that is there already
    device: str = "auto",  # a GPU where there is one; or "cuda", "cuda:1", "cpu"
) -> Path:
    """Write the picture and return its path.

    Raises:
        ValueError: n, temperature or crop is out of range, or a file is no photo or no such model.
        FileExistsError: `out` is there already.
    """
    if not photos or n < 1 or crop < 16 or crop % 4:
        raise ValueError(
            f"{len(photos)} photos, n {n}, crop {crop}: expected one photo or more, n 1 or more, "
            "crop a multiple of 4, 16 or more"
        )
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{out}: expected a name that ends in {', '.join(sorted(SUFFIXES))}")
    refuse_to_replace([out], [*photos, model], overwrite)
    loaded = load_model(model, device)
    if not loaded.has_samples:
        raise ValueError(f"{model} is of {loaded.name}, which has one answer: expected a VAE's")
    rows = []
    for path in progress_bar(photos, unit="photo"):
        hr = read_image(path)
        h, w = (size // 4 * 4 for size in hr.shape[:2])
        if min(h, w) < 16:
            raise ValueError(f"{path} is {hr.shape[1]}x{hr.shape[0]}, expected 16x16 or more")
        lr = imresize(hr[:h, :w], 1 / 4)
        row = row_of_samples(loaded.network, path.stem, lr, hr, n, temperature, seed, crop // 4)
        rows.append(row)
    write_image(out, grid(rows))
    print(out)
    return out


def row_of_samples(
    network: CVAE | SRVAE,
    name: str,
    lr: np.ndarray,
    hr: np.ndarray,
    n: int,
    temperature: float,
    seed: int,
    size: int,
) -> list[tuple[str, np.ndarray]]:
    """Return a row for `grid`: LR, bicubic, mean, n samples, standard deviation, HR.

    Args:
        lr, hr: the photo, (H, W, 3) and (4H, 4W, 3) uint8.
        size: of the crop, in LR pixels.
    """
    device = next(network.parameters()).device
    top, left = busiest_crop(lr, size)
    lr = lr[top : top + size, left : left + size]
    h, w = lr.shape[:2]
    hr = hr[4 * top : 4 * (top + h), 4 * left : 4 * (left + w)]
    tensor = to_tensor(lr).to(device)
    mean = network.sample(tensor, temperature=0)[0]
    versions = network.sample(tensor, max(n, _N_FOR_DEVIATION), temperature, seed)
    deviation = (_STRENGTH * versions.std(0)).mean(1, keepdim=True).expand(-1, 3, -1, -1)
    results = {"mean": to_uint8(mean)}
    results |= {f"sample {i}": to_uint8(version) for i, version in enumerate(versions[:n], 1)}
    results[f"deviation x {_STRENGTH}"] = to_uint8(deviation)
    return sample_row(Photo(name, lr, imresize(lr, 4), hr), results, (0, 0), size)


if __name__ == "__main__":
    command_line(samples)
