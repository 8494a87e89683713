"""Random aligned LR/HR crops, each decided by (seed, epoch, k) alone."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from common import processes
from common.data.cuts import Cut, CutsOnDevice, batch_of, cut_out, fits
from common.data.photos import image_size
from common.data.pixel_store import PixelStore, end_with_parent


class PairedCrops(Dataset):
    """Aligned crops of LR/HR photo pairs, flipped and turned at random.

    Crop k of epoch e depends on (seed, e, k) alone: not on the number of workers, nor on what was
    drawn before. An epoch goes through all photos in a random order, and again in another.

    Args:
        pairs: (LR path, HR path), HR `scale` times the size of LR.
        patch_size: of the HR crop in pixels, a multiple of `scale`.
    Raises:
        ValueError: a photo is smaller than a crop; the message names it.
    """

    def __init__(
        self,
        pairs: list[tuple[Path, Path]],
        patch_size: int,
        seed: int,
        scale: int = 4,
        n_processes: int | None = None,
    ):
        if patch_size % scale:
            raise ValueError(f"patch_size is {patch_size}, expected a multiple of {scale}")
        for _, path in pairs:  # before the photos are decoded, which takes long
            h, w = image_size(path)
            if min(h, w) < patch_size:
                raise ValueError(
                    f"{path} is {w}x{h}, smaller than a crop of {patch_size}x{patch_size}: "
                    "lower patch_size or take the photo out"
                )
        self.lr_store = PixelStore([lr for lr, _ in pairs], n_processes)
        self.hr_store = PixelStore([hr for _, hr in pairs], n_processes)
        self.photos = self.lr_store, self.hr_store
        self.sizes = patch_size // scale, patch_size
        self.seed, self.scale = seed, scale

    def __len__(self) -> int:
        return len(self.lr_store)

    def __str__(self) -> str:
        return f"{len(self)} photos"

    def cut(self, epoch: int, k: int, domain: int) -> Cut:
        """Return where crop `k` of `epoch` lies; `domain` is 0 for LR, 1 for HR."""
        rng = np.random.default_rng((self.seed, epoch, k))
        photo = photo_of_crop((self.seed, epoch), k, len(self))
        h, w = self.lr_store.sizes[photo]
        top, left = (int(rng.integers(n - self.sizes[0] + 1)) for n in (h, w))
        flip, turns = int(rng.integers(2)), int(rng.integers(4))
        factor = self.scale if domain else 1
        # Flipped first and then turned, which is to turn the other way first.
        return Cut(photo, top * factor, left * factor, -turns % 4 if flip else turns, 0, flip)

    def crop(self, epoch: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return crop `k` of `epoch`: LR (h, w, 3) and HR (scale * h, scale * w, 3), uint8."""
        cuts = [self.cut(epoch, k, domain) for domain in (0, 1)]
        return tuple(
            cut_out(photos[cut.photo], size, cut)
            for photos, size, cut in zip(self.photos, self.sizes, cuts, strict=True)
        )

    def names(self, epoch: int, ks: range) -> list[str]:
        """Return the names of the HR photos that crops `ks` of `epoch` are cut from."""
        seeds = self.seed, epoch
        return [self.hr_store.paths[photo_of_crop(seeds, k, len(self))].name for k in ks]

    def __getitem__(self, batch: tuple[int, range]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the crops `range` of an epoch as uint8: LR (N, 3, h, w) and HR (N, 3, H, W)."""
        return tuple(batch_of(self, *batch))


def photo_of_crop(seeds: tuple[int, ...], k: int, n_photos: int) -> int:
    """Return which photo crop `k` is cut from: every photo once, then in another order once more.

    `seeds` (0 or more each) decide the orders, with nothing else.
    """
    pass_, place = divmod(k, n_photos)
    return int(_order((*seeds, pass_, 1), n_photos)[place])


@functools.lru_cache(maxsize=8)
def _order(seeds: tuple[int, ...], n: int) -> np.ndarray:
    return np.random.default_rng(seeds).permutation(n)


def crops_of_step(step: int, batch_size: int) -> range:
    """Return the numbers of this process's crops in a step of an epoch; no other has them."""
    first = (step * processes.count() + processes.rank()) * batch_size
    return range(first, first + batch_size)


def batches(
    crops: Dataset,
    first_step: int,
    steps_per_epoch: int,
    batch_size: int,
    workers: int,
    device: torch.device | None = None,
    on_device: bool | None = False,
) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
    """Yield `crops[epoch, range of numbers]` without end, from step `first_step` on.

    Closing the generator (`contextlib.closing`) ends the workers.

    Args:
        first_step: counted from the run's beginning: epoch * steps_per_epoch + step.
        workers: processes that cut crops ahead; 0 cuts them when they are asked for.
        on_device: whether `device` holds the photos and cuts the crops, without workers; None: if
            it is a GPU and they fit.
    """

    def ranges() -> Iterator[tuple[int, range]]:
        for i in itertools.count(first_step):
            epoch, step = divmod(i, steps_per_epoch)
            yield epoch, crops_of_step(step, batch_size)

    if on_device or (on_device is None and fits(crops, device)):
        on_gpu = CutsOnDevice(crops, device)
        for epoch, ks in ranges():
            yield on_gpu.batch(epoch, ks)
    yield from DataLoader(
        crops,
        batch_size=None,
        sampler=ranges(),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_begin_worker,
        generator=torch.Generator(),  # the loader leaves torch's own random numbers alone
    )


def _begin_worker(worker: int) -> None:
    """Let a loader's worker end with the training process, and not before.

    Ctrl-C and SIGTERM reach the whole group of processes. The training process may wait for crops,
    to save after the step; five seconds are enough.
    """
    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # (Windows has no such signals)
        signal.signal(signal.SIGALRM, lambda number, frame: os._exit(0))
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(5))


def to_device(batch: tuple[torch.Tensor, ...], device: torch.device) -> list[torch.Tensor]:
    """Move uint8 (N, 3, H, W) to `device` and make them float32 in [0, 1] there."""
    on_device = [images.to(device, non_blocking=True) for images in batch]
    return [images.to(torch.float32).div_(255) for images in on_device]
