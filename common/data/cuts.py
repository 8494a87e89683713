"""Squares cut from photos, turned and flipped: from arrays, or on the GPU from its own memory."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch


class Cut(NamedTuple):
    """Where a square is cut, and what is done to it: turned first, then flipped."""

    photo: int
    top: int
    left: int
    turns: int  # by a right angle, to the left
    flip_rows: int  # 0 or 1
    flip_columns: int


class Photos(Protocol):
    """`photos[i]` is (H, W, 3) uint8."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> np.ndarray: ...


class CutPhotos(Protocol):
    """A dataset of squares from LR and HR photos, domain 0 and 1."""

    photos: tuple[Photos, Photos]
    sizes: tuple[int, int]  # pixels of the squares

    def cut(self, epoch: int, k: int, domain: int) -> Cut: ...


def cut_out(pixels: np.ndarray, size: int, cut: Cut) -> np.ndarray:
    """Return a square (size, size, ...) of `pixels` (H, W, ...), a view."""
    square = pixels[cut.top : cut.top + size, cut.left : cut.left + size]
    square = np.rot90(square, cut.turns)
    return square[:: 1 - 2 * cut.flip_rows, :: 1 - 2 * cut.flip_columns]


def batch_of(dataset: CutPhotos, epoch: int, ks: range) -> list[torch.Tensor]:
    """Return squares `ks` of an epoch: LR (N, 3, h, h) and HR (N, 3, H, H), uint8."""
    batch = []
    for domain, (photos, size) in enumerate(zip(dataset.photos, dataset.sizes, strict=True)):
        cuts = (dataset.cut(epoch, k, domain) for k in ks)
        squares = np.stack([cut_out(photos[cut.photo], size, cut) for cut in cuts])
        batch.append(torch.from_numpy(squares).permute(0, 3, 1, 2))
    return batch


class CutsOnDevice:
    """What `batch_of` returns, the same values, from photos that lie in the device's memory.

    Neither worker processes nor copies of pixels are needed for a step: a batch is one gathering.
    """

    def __init__(self, dataset: CutPhotos, device: torch.device):
        self.dataset, self.device = dataset, device
        self.domains = [
            _Domain(photos, size, device)
            for photos, size in zip(dataset.photos, dataset.sizes, strict=True)
        ]

    def batch(self, epoch: int, ks: range) -> list[torch.Tensor]:
        return [
            domain.gather([self.dataset.cut(epoch, k, number) for k in ks])
            for number, domain in enumerate(self.domains)
        ]


class _Domain:
    def __init__(self, photos: Photos, size: int, device: torch.device):
        shapes = [photos[i].shape for i in range(len(photos))]
        self.widths = np.array([w for _, w, _ in shapes])
        ends = np.cumsum([h * w * 3 for h, w, _ in shapes])
        self.starts = ends - [h * w * 3 for h, w, _ in shapes]
        self.pixels = torch.empty(int(ends[-1]), dtype=torch.uint8, device=device)
        for i, (start, end) in enumerate(zip(self.starts, ends, strict=True)):
            self.pixels[start:end] = torch.tensor(photos[i].reshape(-1))
        # Where each pixel of a square comes from, for all turns and flips: (16, size, size).
        places = np.indices((size, size)).transpose(1, 2, 0)
        ways = [Cut(0, 0, 0, t, r, c) for t in range(4) for r in range(2) for c in range(2)]
        places = np.stack([cut_out(places, size, way) for way in ways])
        self.rows, self.columns = torch.tensor(places, device=device).unbind(-1)

    def gather(self, cuts: list[Cut]) -> torch.Tensor:
        """Return squares (N, 3, size, size)."""
        photo, top, left, turns, flip_rows, flip_columns = np.array(cuts).T
        width = self.widths[photo]
        start = self.starts[photo] + (top * width + left) * 3
        way = 4 * turns + 2 * flip_rows + flip_columns
        numbers = torch.from_numpy(np.stack([start, width, way]))
        if self.pixels.is_cuda:
            numbers = numbers.pin_memory()  # or the copy would be waited for
        start, width, way = numbers.to(self.pixels.device, non_blocking=True)[:, :, None, None]
        way = way[:, 0, 0]
        places = start + (self.rows[way] * width + self.columns[way]) * 3  # (N, size, size)
        channels = torch.arange(3, device=places.device)[:, None, None]
        return self.pixels[places[:, None] + channels]


def fits(dataset: CutPhotos, device: torch.device) -> bool:
    """Return whether the photos fill less than half of the free memory of `device`, a GPU."""
    if device.type != "cuda":
        return False
    n_bytes = sum(photos[i].size for photos in dataset.photos for i in range(len(photos)))
    return n_bytes < torch.cuda.mem_get_info(device)[0] / 2
