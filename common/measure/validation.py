"""The figures and the pictures of a network on held-out photos."""

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from common.data.crops import DegradedCrops, PairedCrops
from common.data.degradations import second_order
from common.data.pairs import Pairs, training_and_validation_pairs, training_and_validation_photos
from common.data.photos import read_image, to_tensor, to_uint8, write_image
from common.data.resize import imresize
from common.measure.metrics import psnr_ssim_y
from common.progress import progress_bar

_N_DRAWN = 3  # photos
_DRAWN_SIZE = 48  # LR pixels of a drawn crop
_GAP, _LINE = 6, 20  # pixels between pictures, and of a line of text

Degradation = Literal["none", "second_order"]  # none: LR photos as they are
Upscale = Callable[[torch.Tensor], torch.Tensor]


class Photo(NamedTuple):
    """A photo in all its forms, (H, W, 3) uint8."""

    name: str
    lr: np.ndarray
    bicubic: np.ndarray
    hr: np.ndarray


class Validation:
    """Measures PSNR-Y and SSIM-Y on photos held in memory, and draws the same crops each time.

    Larger photos are cut to their central `max_size` HR pixels each way. In place of the path of an
    LR photo, a pair may have a function that makes it of HR. Raises `ValueError`, which names the
    photo, when one is too small for SSIM.
    """

    def __init__(self, pairs: Pairs, max_size: int):
        self.photos = [_read_photo(lr, hr, max_size) for lr, hr in pairs]
        scores = [psnr_ssim_y(to_tensor(p.bicubic), to_tensor(p.hr)) for p in self.photos]
        self.bicubic_psnr_y, self.bicubic_ssim_y = (fmean(s) for s in zip(*scores, strict=True))

    def patches(self, n: int, size: int) -> list[torch.Tensor]:
        """Return `n` aligned patches, one from each photo by turns, the same each time.

        LR (n, 3, size, size) and HR (n, 3, 4 size, 4 size) in [0, 1]. Raises `ValueError`, which
        names the photo, when one is smaller.
        """
        rng, pairs = np.random.default_rng(0), []
        for photo in itertools.islice(itertools.cycle(self.photos), n):
            h, w = photo.lr.shape[:2]
            if min(h, w) < size:
                small = f"held-out photo {photo.name} is {4 * w}x{4 * h}, smaller than a patch of"
                raise ValueError(f"{small} {4 * size}x{4 * size}: take it out, or lower the size")
            top, left = rng.integers(h - size + 1), rng.integers(w - size + 1)
            pairs.append((_cut(photo.lr, top, left, size), _cut(photo.hr, top, left, size, 4)))
        return [torch.cat([to_tensor(x) for x in images]) for images in zip(*pairs, strict=True)]

    @torch.inference_mode()
    def measure(
        self, upscale: Upscale, device: torch.device, picture: Path, samples: Upscale | None = None
    ) -> tuple[float, float]:
        """Return the mean PSNR-Y (dB) and SSIM-Y, and write `picture` (LR | bicubic | SR | HR).

        `upscale` takes LR (1, 3, h, w) in [0, 1] on `device` to SR (1, 3, 4h, 4w), `samples` to
        further versions (n, 1, 3, 4h, 4w), which are drawn beside SR.
        """
        scores, rows = [], []
        for photo in progress_bar(self.photos, desc="validating", leave=False, disable=None):
            lr = to_tensor(photo.lr).to(device)
            sr = upscale(lr).float()
            scores.append(psnr_ssim_y(sr, to_tensor(photo.hr).to(device)))
            if len(rows) < _N_DRAWN:
                drawn = {"SR": to_uint8(sr)}
                for i, version in enumerate(samples(lr) if samples else (), 1):
                    drawn[f"sample {i}"] = to_uint8(version)
                place = busiest_crop(photo.lr, _DRAWN_SIZE)
                rows.append(sample_row(photo, drawn, place, _DRAWN_SIZE))
        write_image(picture, grid(rows))
        psnr_y, ssim_y = (fmean(values) for values in zip(*scores, strict=True))
        return psnr_y, ssim_y


def enlarge(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarge (h, w, 3) uint8 to `size` = (H, W) with visible pixels (nearest neighbour)."""
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.NEAREST))


def grid(rows: list[list[tuple[str, np.ndarray]]]) -> np.ndarray:
    """Lay out rows of (caption, picture) on white, each caption above its picture.

    Captions are one line, "" for none; pictures and the result (H, W, 3) uint8.
    """
    font = ImageFont.load_default(size=15)
    lines = [_LINE if any(caption for caption, _ in row) else 0 for row in rows]
    heights = [max(len(picture) for _, picture in row) for row in rows]
    width = max(sum(picture.shape[1] + _GAP for _, picture in row) + _GAP for row in rows)
    height = sum(lines) + sum(heights) + 2 * _GAP * len(rows)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    y = 0
    for row, line, height in zip(rows, lines, heights, strict=True):
        x = _GAP
        for caption, picture in row:
            draw.text((x, y + 2), caption, fill="black", font=font)
            sheet.paste(Image.fromarray(picture), (x, y + line + _GAP))
            x += picture.shape[1] + _GAP
        y += line + height + 2 * _GAP
    return np.asarray(sheet)


def busiest_crop(lr: np.ndarray, size: int) -> tuple[int, int]:
    """Return (top, left) of the square of `size` pixels with the strongest edges.

    Chosen by the sum of absolute differences of neighbouring pixels; in LR rather than HR, where
    fine noise would win over structure. Smaller images are taken from their corner (0, 0).
    """
    gray = lr.astype(np.float64).mean(axis=2)
    edges = np.zeros_like(gray)
    edges[1:] += np.abs(np.diff(gray, axis=0))
    edges[:, 1:] += np.abs(np.diff(gray, axis=1))
    sums = np.pad(edges, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    s = min(size, *gray.shape)
    total = sums[s:, s:] - sums[:-s, s:] - sums[s:, :-s] + sums[:-s, :-s]
    top, left = np.unravel_index(total.argmax(), total.shape)
    return int(top), int(left)


def sample_row(
    photo: Photo, results: dict[str, np.ndarray], place: tuple[int, int], size: int
) -> list[tuple[str, np.ndarray]]:
    """Return the same crop of LR, bicubic, each of the results and HR, with captions for `grid`.

    `place` (top, left) and `size` are in LR pixels.
    """
    large = {"bicubic": photo.bicubic, **results, "HR": photo.hr}
    row = [(name, _cut(pixels, *place, size, 4)) for name, pixels in large.items()]
    lr = enlarge(_cut(photo.lr, *place, size), row[-1][1].shape[:2])
    return [(f"LR  {photo.name}", lr), *row]


def _cut(image: np.ndarray, top: int, left: int, size: int, scale: int = 1) -> np.ndarray:
    """Return a square of an image; place and size are in pixels of one `scale` times smaller."""
    rows, columns = (slice(scale * n, scale * (n + size)) for n in (top, left))
    return image[rows, columns]


def paired_crops_and_validation(
    *folders: Path | None,
    n_valid: int,
    valid_crop: int,
    patch_size: int,
    seed: int,
    degradation: Degradation = "none",
) -> tuple[PairedCrops, Validation]:
    """Return the crops to train on, of `patch_size` HR pixels, and the held-out photos.

    `folders` are as `training_and_validation_pairs` takes them. With a `degradation`, LR is made
    of the HR photos: of the held-out ones once by it, always in the same way, and once by bicubic.
    Raises `ValueError` as it does, and when `patch_size` is no multiple of 4.
    """
    if patch_size < 4 or patch_size % 4:  # before a download
        raise ValueError(f"patch_size is {patch_size}, expected a multiple of 4")
    if degradation == "none":
        train, valid = training_and_validation_pairs(*folders, n_valid)
        return PairedCrops(train, patch_size, seed), Validation(valid, valid_crop)
    lr, hr, valid_lr, valid_hr = folders
    if lr or valid_lr:
        made = f"with degradation {degradation} LR is made of the HR photos while training"
        raise ValueError(f"LR folder {lr or valid_lr}: {made}, so name HR folders alone")
    train, valid = training_and_validation_photos(hr, valid_hr, n_valid)
    pairs = [(partial(_degraded, i), photo) for i, photo in enumerate(valid)]
    pairs += [(partial(imresize, factor=1 / 4), photo) for photo in valid]
    return DegradedCrops(train, patch_size, seed), Validation(pairs, valid_crop)


def _degraded(i: int, hr: np.ndarray) -> np.ndarray:
    return to_uint8(second_order(to_tensor(hr), [[0, i]]))


def _read_photo(lr: Path | Callable, hr_path: Path, max_size: int) -> Photo:
    hr = read_image(hr_path)
    if min(hr.shape[:2]) < 20:
        raise ValueError(f"{hr_path} is {hr.shape[1]}x{hr.shape[0]}, expected 20x20 or more")
    h, w = (n // 4 for n in hr.shape[:2])
    top, left = (max(0, n - max_size // 4) // 2 for n in (h, w))
    h, w = (min(n, max_size // 4) for n in (h, w))
    hr = hr[top * 4 : (top + h) * 4, left * 4 : (left + w) * 4]
    pixels = lr(hr) if callable(lr) else read_image(lr)[top : top + h, left : left + w]
    return Photo(hr_path.stem, pixels, imresize(pixels, 4), hr)
