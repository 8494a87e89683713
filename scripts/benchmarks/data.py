"""Photos for scripts/benchmarks/benchmark.py, and crops of them cut in two ways."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import skimage
import torch
from PIL import Image
from torch.utils.data import Dataset

from common.data.crops import PairedCrops, take_crop
from common.data.pairs import list_pairs
from common.data.photos import read_image, write_image
from common.data.resize import imresize
from common.progress import progress_bar
from scripts.evidence.builtin_photos import TRAIN

Pairs = list[tuple[Path, Path]]


def large_photos(folder: Path, n_photos: int) -> Pairs:
    """Write photos of 2040x1404, DIV2K's usual size, and their LR; return (LR, HR) of each."""
    for i in progress_bar(range(n_photos), desc="making photos", unit="photo"):
        hr = _large_photo(TRAIN[i % len(TRAIN)], seed=i)
        write_image(folder / "HR" / f"{i}.png", hr)
        write_image(folder / "LR" / f"{i}x4.png", imresize(hr, 1 / 4))
    return list_pairs(folder / "LR", folder / "HR")


def _large_photo(name: str, seed: int) -> np.ndarray:
    """Return a built-in photo enlarged to 2040x1404, with noise so that it packs like one."""
    photo = Image.fromarray(read_image(Path(skimage.__file__).parent / "data" / name))
    pixels = np.asarray(photo.resize((2040, 1404), Image.Resampling.LANCZOS), dtype=np.float32)
    noise = np.random.default_rng(seed).normal(0, 2.5, pixels.shape)
    return np.clip(np.round(pixels + noise), 0, 255).astype(np.uint8)


class DecodedCrops(Dataset):
    """Aligned crops as public toolkits cut them: both PNGs are decoded for each, as float."""

    def __init__(self, pairs: Pairs, patch_size: int):
        self.pairs, self.patch_size = pairs, patch_size

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        crops = _decoded_crop(self.pairs[i], self.patch_size)
        flips = [axis for axis in (0, 1) if torch.rand(()) < 0.5]
        crops = (np.flip(crop, flips).transpose(2, 0, 1).astype(np.float32) / 255 for crop in crops)
        return tuple(torch.from_numpy(np.ascontiguousarray(crop)) for crop in crops)


def decode_each(pairs: Pairs, patch_size: int) -> Callable[[int], None]:
    """Return what decodes both PNGs for a crop."""
    order = itertools.cycle(pairs)

    def cut(k: int) -> None:
        lr, hr = _decoded_crop(next(order), patch_size)
        lr.copy(), hr.copy()

    return cut


def _decoded_crop(pair: tuple[Path, Path], patch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Decode both PNGs and return an aligned crop of each, a view."""
    lr, hr = (np.asarray(Image.open(path).convert("RGB")) for path in pair)
    n = patch_size // 4
    y, x = (int(torch.randint(size - n + 1, ())) for size in lr.shape[:2])
    return lr[y : y + n, x : x + n], hr[4 * y : 4 * (y + n), 4 * x : 4 * (x + n)]


def from_store(pairs: Pairs, patch_size: int) -> Callable[[int], None]:
    """Return what cuts a crop from the pixel store, which is filled first."""
    crops = PairedCrops(pairs, patch_size, seed=0)
    numbers = itertools.count()

    def cut(k: int) -> None:
        k = next(numbers)
        lr, hr = (take_crop(crops, 0, k, domain) for domain in (0, 1))
        lr.copy(), hr.copy()

    return cut
