"""Random aligned LR/HR crops, each decided by (seed, epoch, k) alone."""

import functools
import itertools
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from common import processes
from common.data.degradations import second_order
from common.data.pairs import Pairs
from common.data.pixel_store import PixelStore
from common.data.workers import begin_loader_worker

Batch = tuple[torch.Tensor, ...]


class Crop(NamedTuple):
    """A square of a photo, and what is done to it: turned first, then flipped."""

    photo: int
    top: int
    left: int
    turns: int  # by a right angle, to the left
    flip_rows: int  # 0 or 1
    flip_columns: int


def take_crop(source: Dataset, epoch: int, k: int, domain: int) -> np.ndarray:
    """Return crop `k` of `epoch`, of LR (`domain` 0) or HR (1): (size, size, 3) uint8, a view."""
    photo, top, left, turns, flip_rows, flip_columns = source.choose_crop(epoch, k, domain)
    size = source.sizes[domain]
    square = source.photos[domain][photo][top : top + size, left : left + size]
    return np.rot90(square, turns)[:: 1 - 2 * flip_rows, :: 1 - 2 * flip_columns]


def take_crops(source: Dataset, epoch: int, ks: range) -> Batch:
    """Return crops `ks` of an epoch as uint8, of each domain: LR (N, 3, h, w), HR (N, 3, H, W)."""
    domains = range(len(source.sizes))
    crops = (np.stack([take_crop(source, epoch, k, domain) for k in ks]) for domain in domains)
    return tuple(torch.from_numpy(pixels).permute(0, 3, 1, 2) for pixels in crops)


class PairedCrops(Dataset):
    """Aligned crops of LR/HR photo pairs, flipped and turned at random.

    Crop k of epoch e depends on (seed, e, k) alone: not on the number of workers, nor on what was
    drawn before. An epoch goes through all photos in a random order, and again in another.
    `patch_size` is that of HR in pixels, a multiple of 4. Raises `ValueError`, which names the
    photo, when one is smaller.
    """

    def __init__(self, pairs: Pairs, patch_size: int, seed: int):
        if patch_size % 4:
            raise ValueError(f"patch_size is {patch_size}, expected a multiple of 4")
        hr_store = PixelStore([hr for _, hr in pairs], crop_size=patch_size)
        self.photos = PixelStore([lr for lr, _ in pairs]), hr_store
        self.sizes = patch_size // 4, patch_size
        self.seed = seed

    def __len__(self) -> int:
        return len(self.photos[0])

    def __str__(self) -> str:
        return f"{len(self)} photos"

    def choose_crop(self, epoch: int, k: int, domain: int) -> Crop:
        rng = np.random.default_rng((self.seed, epoch, k))
        photo = photo_of_crop((self.seed, epoch), k, len(self))
        h, w = self.photos[0].sizes[photo]
        top, left = (int(rng.integers(n - self.sizes[0] + 1)) for n in (h, w))
        flip, turns = int(rng.integers(2)), int(rng.integers(4))
        factor = 4 if domain else 1
        # Flipped first and then turned, which is to turn the other way first.
        return Crop(photo, top * factor, left * factor, -turns % 4 if flip else turns, 0, flip)

    def names(self, epoch: int, ks: range) -> list[str]:
        """Return the names of the HR photos that crops `ks` of `epoch` are cut from."""
        photos = (photo_of_crop((self.seed, epoch), k, len(self)) for k in ks)
        return [self.photos[-1].paths[photo].name for photo in photos]

    def __getitem__(self, batch: tuple[int, range]) -> Batch:
        return take_crops(self, *batch)


class DegradedCrops(PairedCrops):
    """Crops of HR photos alone, whose LR is made on the training's device, by `second_order`.

    Crop k of epoch e and its degradation depend on (seed, e, k) alone. HR is cut with a border, so
    that what blur and compression do at an edge stays outside, and at another place of JPEG's grid
    each time. Raises `ValueError`, which names the photo, when one is smaller than that.
    """

    BORDER = 40  # HR pixels on each side

    def __init__(self, paths: list[Path], patch_size: int, seed: int):
        self.patch_size, self.seed = patch_size, seed
        self.sizes = (patch_size + 2 * self.BORDER,)
        self.photos = (PixelStore(paths, crop_size=self.sizes[0]),)

    def __getitem__(self, batch: tuple[int, range]) -> Batch:
        seeds = [(self.seed, batch[0], k, 2) for k in batch[1]]
        return torch.tensor(seeds), *take_crops(self, *batch)

    def to_device(self, batch: Batch, device: torch.device) -> list[torch.Tensor]:
        """Make (LR, HR) in [0, 1] on `device` of what the dataset gives."""
        seeds = batch[0].tolist()
        (hr,) = to_device(batch[1:], device)
        lr, n = second_order(hr, seeds), self.patch_size // 4
        pairs = []
        for seed, small, large in zip(seeds, lr, hr, strict=True):
            top, left = np.random.default_rng((*seed, 0)).integers(self.BORDER // 2 + 1, size=2)
            cut = small[:, top : top + n, left : left + n]
            pairs.append((cut, large[:, 4 * top : 4 * (top + n), 4 * left : 4 * (left + n)]))
        return [torch.stack(images) for images in zip(*pairs, strict=True)]


def photo_of_crop(seeds: tuple[int, ...], k: int, n_photos: int) -> int:
    """Return which photo crop `k` is cut from: each once in an order that `seeds` decide, again."""
    turn, place = divmod(k, n_photos)
    return int(_order((*seeds, turn, 1), n_photos)[place])


@functools.lru_cache(maxsize=8)
def _order(seeds: tuple[int, ...], n: int) -> np.ndarray:
    return np.random.default_rng(seeds).permutation(n)


def crops_of_step(step: int, batch_size: int) -> range:
    """Return the numbers of this process's crops in a step of an epoch; no other has them."""
    first = (step * processes.count() + processes.rank()) * batch_size
    return range(first, first + batch_size)


def batches(
    crops: Dataset, first_step: int, steps_per_epoch: int, batch_size: int, workers: int
) -> Generator[Batch, None, None]:
    """Yield `crops[epoch, range of numbers]` without end, from step `first_step` of the run on.

    `workers` processes cut crops ahead; with 0 they are cut when they are asked for. Closing the
    generator (`contextlib.closing`) ends the workers.
    """
    steps = (divmod(i, steps_per_epoch) for i in itertools.count(first_step))
    yield from DataLoader(
        crops,
        batch_size=None,
        sampler=((epoch, crops_of_step(step, batch_size)) for epoch, step in steps),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=begin_loader_worker,
        generator=torch.Generator(),  # the loader leaves torch's own random numbers alone
    )


def to_device(batch: Batch, device: torch.device) -> list[torch.Tensor]:
    """Move uint8 (N, 3, H, W) to `device` and make them float32 in [0, 1] there."""
    return [images.to(device, non_blocking=True).float().div_(255) for images in batch]
