"""Draw one photo as several checkpoints enlarge it, side by side with their scores, for a paper.

    python scripts/compare.py PHOTO -m bicubic A.pth B.pth --out compare.png

PHOTO is an HR photo, whose LR is made as MATLAB's bicubic `imresize` does; with --is-lr it is
enlarged itself, and there are no scores. The crops are where the photo has most detail; --crop-at
chooses others. Scores are PSNR-Y in dB / SSIM-Y of the whole photo. --out names a .png, .pdf, .svg
or .jpg.
"""

import math
import sys
from pathlib import Path
from typing import Annotated, NamedTuple

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import common  # noqa: F401, it says what is not installed

import numpy as np
import tyro
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from common.data.photos import read_image, to_tensor
from common.data.resize import imresize
from common.device import choose_device
from common.files import written_whole
from common.measure.metrics import psnr_ssim_y
from common.measure.validation import busiest_crop
from common.progress import progress_bar
from common.run.flags import command_line
from scripts.inference.figures import titles
from scripts.inference.models import Precision, load_model
from scripts.inference.outputs import refuse_to_replace

_COLOURS = ("#e6194b", "#0072b2", "#2ca02c", "#e69f00")  # of the crops' frames
_IN_A_LINE = 6  # pictures, at most, before another line begins
_PICTURES = (".png", ".pdf", ".svg", ".jpg")
_WIDTH, _DPI = 2.2, 200  # inches of a crop, and pixels to the inch


class Result(NamedTuple):
    name: str
    pixels: np.ndarray  # (H, W, 3) uint8
    score: str = ""


def compare(
    photo: tyro.conf.Positional[Path],  # an HR photo
    *,
    models: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-m"])],  # checkpoints, "bicubic"
    names: tuple[str, ...] = (),  # their captions; none: the files' names
    samples: int = 0,  # of each CVAE and SRVAE, beside its mean prediction
    seed: int = 0,  # of the samples
    is_lr: bool = False,  # PHOTO is LR
    n_crops: int = 2,  # crops, 1 to 4
    crop: int = 96,  # HR pixels each way, of small photos less
    crop_at: tuple[tuple[int, int], ...] = (),  # (top, left) of each in HR pixels; none: by detail
    out: Path = Path("compare.png"),  # the picture, .png or .pdf
    overwrite: bool = False,  # replace a picture that is there already
    device: str = "auto",  # a GPU where there is one; or "cuda", "cuda:1", "cpu"
    precision: Precision = "auto",  # auto: bfloat16 where that is fast and costs little
) -> Path:
    """Write the picture and return its path.

    Raises:
        ValueError: an argument is out of range, or a file is no photo or no such model.
        FileExistsError: `out` is there already.
    """
    if not models:
        raise ValueError("-m names no model: expected PHOTO -m NAME ... (upscale.py -m list)")
    if names and len(names) != len(models):
        raise ValueError(f"{len(models)} models and {len(names)} names: expected a name for each")
    if samples < 0 or crop < 8 or not 1 <= (len(crop_at) or n_crops) <= len(_COLOURS):
        raise ValueError(
            f"samples {samples}, crop {crop}, n_crops {len(crop_at) or n_crops}: expected samples "
            f"0 or more, crop 8 or more, 1 to {len(_COLOURS)} crops"
        )
    if out.suffix not in _PICTURES:
        raise ValueError(f"{out}: expected a name that ends in {', '.join(_PICTURES)}")
    refuse_to_replace([out], [photo, *models], overwrite)
    pixels = read_image(photo)
    h, w = (size // 4 * 4 for size in pixels.shape[:2])
    hr = None if is_lr else pixels[:h, :w]
    if hr is not None and min(h, w) < 20:
        raise ValueError(f"{photo} is {pixels.shape[1]}x{pixels.shape[0]}, expected 20x20 or more")
    lr = pixels if hr is None else imresize(hr, 1 / 4)
    if hr is not None:
        print(
            f"{photo} is taken for HR: scaled down to {w // 4}x{h // 4}, enlarged, and compared "
            "with itself (--is-lr enlarges the photo as it is)"
        )
    size = tuple(4 * n for n in lr.shape[:2])
    for top, left in crop_at:
        if not (0 <= top <= size[0] - crop and 0 <= left <= size[1] - crop):
            raise ValueError(
                f"a crop of {crop} at {top}, {left} is not inside {photo}, {size[1]}x{size[0]} HR "
                "pixels"
            )
    where = choose_device(device)
    networks = [load_model(name, where, precision=precision) for name in models]
    results = []
    pairs = zip(names or titles(list(models)), networks, strict=True)
    for name, network in progress_bar(list(pairs), unit="model"):
        versions = {name: network.upscale(lr)}
        if samples and network.has_samples:
            drawn = network.sample(lr, samples, seed=seed)
            versions |= {f"{name}, sample {i}": sample for i, sample in enumerate(drawn, 1)}
        results += [Result(name, sr, _score(sr, hr)) for name, sr in versions.items()]
    if hr is not None:
        results.append(Result("HR", hr, "PSNR-Y / SSIM-Y"))
    whole = results[-1].pixels
    if not crop_at:
        crop = min(crop, *size)
    places = crop_at or _places(lr, n_crops, crop)
    figure = draw(whole, results, list(places), crop)
    with written_whole(out) as temporary:
        figure.savefig(temporary, dpi=_DPI)
    print(out)
    return out


def _score(sr: np.ndarray, hr: np.ndarray | None) -> str:
    if hr is None:
        return ""
    psnr, ssim = psnr_ssim_y(to_tensor(sr), to_tensor(hr))
    return f"{psnr:.2f} / {ssim:.4f}"


def _places(lr: np.ndarray, n: int, crop: int) -> list[tuple[int, int]]:
    """Return (top, left) in HR pixels of the busiest crop of each of `n` parts of the photo."""
    axis = int(lr.shape[1] >= lr.shape[0])
    size = math.ceil(crop / 4)
    n = max(1, min(n, lr.shape[axis] // size))
    places, start = [], 0
    for part in np.array_split(lr, n, axis=axis):
        place = [4 * p for p in busiest_crop(part, size)]
        place[axis] += 4 * start
        places.append((place[0], place[1]))
        start += part.shape[axis]
    return places


def draw(
    whole: np.ndarray, results: list[Result], places: list[tuple[int, int]], crop: int
) -> Figure:
    """Return a figure: the whole photo with frames, and each result's crops with its score.

    Args:
        whole: (H, W, 3) uint8, as are the results.
        places: (top, left) of each crop.
        crop: pixels each way.
    """
    columns = min(_IN_A_LINE, len(results))
    if len(results) > _IN_A_LINE:
        columns = math.ceil(len(results) / math.ceil(len(results) / _IN_A_LINE))
    lines = math.ceil(len(results) / columns)
    rows = lines * len(places)
    height = rows * (_WIDTH + 0.42)
    photo_width = min(2.5 * height, height * whole.shape[1] / whole.shape[0])
    photo_width = max(_WIDTH, min(photo_width, 2.5 * _WIDTH))
    figure = Figure(figsize=(photo_width + columns * (_WIDTH + 0.08), height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    left, right = figure.subfigures(1, 2, width_ratios=[photo_width, columns * (_WIDTH + 0.08)])
    axes = left.subplots()
    axes.imshow(whole)
    axes.set_anchor("N")
    axes.axis("off")
    for colour, (top, at) in zip(_COLOURS, places, strict=False):
        frame = (at - 0.5, top - 0.5), crop, crop
        axes.add_patch(Rectangle(*frame, edgecolor=colour, facecolor="none", linewidth=2))
    grid = right.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for i, (top, at) in enumerate(places):
        for j, result in enumerate(results):
            axes = grid[i * lines + j // columns, j % columns]
            axes.axis("on")
            axes.imshow(result.pixels[top : top + crop, at : at + crop], interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(f"{result.name}\n{result.score}".strip(), fontsize=9)
            for spine in axes.spines.values():
                spine.set(edgecolor=_COLOURS[i], linewidth=2)
    return figure


if __name__ == "__main__":
    command_line(compare)
