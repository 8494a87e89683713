"""Cutting images into overlapping tiles, and putting enlarged tiles together without seams."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from common.device import is_out_of_memory

_LEAST_TILE = 16  # LR pixels

Enlarge = Callable[[torch.Tensor, int, int], torch.Tensor]
Strip = tuple[int, int, torch.Tensor]


def tile_starts(length: int, size: int, overlap: int) -> list[int]:
    """Return where tiles of `size` begin that cover `length` with `overlap` pixels or more.

    The last tile ends where the image ends; an image smaller than a tile has one, at 0.
    """
    starts = list(range(0, max(1, length - overlap), size - overlap))
    return sorted({max(0, min(start, length - size)) for start in starts})


def cut_tiles(
    image: torch.Tensor, size: int, overlap: int
) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """Return the tiles (K, C, size, size) of an image (1, C, H, W), and the (top, left) of each."""
    tops, lefts = (tile_starts(length, size, overlap) for length in image.shape[2:])
    places = [(top, left) for top in tops for left in lefts]
    tiles = [image[..., top : top + size, left : left + size] for top, left in places]
    return torch.cat(tiles), places


def blend_tiles(
    tiles: torch.Tensor, places: list[tuple[int, int]], size: tuple[int, int], overlap: int
) -> torch.Tensor:
    """Return the image (1, C, *size) of tiles (K, C, s, s) that lie at `places`.

    A tile fades out over `overlap` pixels towards its edges (half a period of a cosine), so that
    they leave no step; where it is alone, as along the image's borders, it keeps its values.
    """
    side = tiles.shape[-1]
    ramp = torch.arange(1, side + 1, device=tiles.device, dtype=tiles.dtype) / (overlap + 1)
    ramp = (1 - torch.cos(torch.pi * torch.minimum(ramp, ramp.flip(0)).clamp(max=1))) / 2
    window = ramp[:, None] * ramp
    image = tiles.new_zeros(1, tiles.shape[1], *size)
    weight = tiles.new_zeros(1, 1, *size)
    for tile, (top, left) in zip(tiles, places, strict=True):
        part = (..., slice(top, top + side), slice(left, left + side))
        image[part] += tile * window
        weight[part] += window
    return image / weight


def enlarge_in_bands(
    enlarge: Enlarge,
    read: Callable[[int, int, int, int], torch.Tensor],
    size: tuple[int, int],
    tile: int,
    margin: int,
    multiple_of: int = 1,
    done: Callable[[int], None] = lambda pixels: None,
) -> Iterator[torch.Tensor]:
    """Yield a photo's SR rows from top to bottom, enlarged in tiles, whatever the photo's size.

    Memory is taken for one tile and one band of tiles across the photo. Each tile sees `margin` LR
    pixels beyond its own; the outer half of them is context and thrown away, over the inner half
    neighbours fade into each other. Where the device has too little memory for a tile, tiles get
    half as large.

    Args:
        enlarge: LR (N, 3, h, w) and its (top, left) in the photo to SR (..., 3, 4h, 4w).
        read: (top, bottom, left, right) to that part of LR, (N, 3, h, w).
        size: of LR, (H, W).
        tile: LR pixels each way, without the margin.
        multiple_of: what tiles' starts are multiples of; `tile` and `margin` have to be.
        done: is told of the LR pixels of each tile that is done.
    Raises:
        MemoryError: the smallest tile is too large for the device.
    """
    bands = _bands(enlarge, read, size, tile, margin, multiple_of, done)
    return _faded(bands, size[0], margin // 2, -2)


def _bands(
    enlarge: Enlarge,
    read: Callable[[int, int, int, int], torch.Tensor],
    size: tuple[int, int],
    tile: int,
    margin: int,
    multiple_of: int,
    done: Callable[[int], None],
) -> Iterator[Strip]:
    """Yield bands of tiles: (top, bottom) without the margin, and the rows with half of it."""
    (height, width), fade = size, margin // 2

    def columns(top: int, bottom: int) -> Iterator[Strip]:
        above, below = max(0, top - margin), min(height, bottom + margin)
        rows = slice(4 * (max(0, top - fade) - above), 4 * (min(height, bottom + fade) - above))
        for left in range(0, width, tile):
            right = min(width, left + tile)
            before, after = max(0, left - margin), min(width, right + margin)
            sr = enlarge(read(above, below, before, after), above, before)
            last = 4 * (min(width, right + fade) - before)
            yield left, right, sr[..., rows, 4 * (max(0, left - fade) - before) : last]
            done((bottom - top) * (right - left))

    top = 0
    while top < height:
        bottom = min(height, top + tile)
        try:
            band = torch.cat(list(_faded(columns(top, bottom), width, fade, -1)), -1)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            band = None
        if band is None:  # outside of `except`, where the error no longer holds tensors
            smaller = tile // 2 // multiple_of * multiple_of
            if smaller < max(_LEAST_TILE, multiple_of):
                raise MemoryError(
                    f"a tile of {tile}x{tile} LR pixels is too large for the memory at hand: "
                    "close other programs, or take another device"
                )
            tile = smaller
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        yield top, bottom, band
        top = bottom


def _faded(strips: Iterator[Strip], length: int, fade: int, dim: int) -> Iterator[torch.Tensor]:
    """Yield the parts of an image along `dim`; each strip fades into the next.

    Args:
        strips: (start, end) in LR pixels, and SR with `fade` LR pixels more on both sides.
        length: of the image in LR pixels.
    """
    ramp = (torch.arange(8 * fade) + 0.5) / (8 * fade)
    ramp = ramp[:, None] if dim == -2 else ramp
    kept = None
    for _, end, strip in strips:
        if kept is not None:
            n = kept.shape[dim]
            both = strip.narrow(dim, 0, n)
            weight = ramp.narrow(-1 if dim == -1 else 0, 0, n).to(strip)
            faded = torch.lerp(kept, both, weight)
            strip = torch.cat([faded, strip.narrow(dim, n, strip.shape[dim] - n)], dim)
        n = 0 if end == length else 4 * (min(length, end + fade) - (end - fade))
        whole = strip.shape[dim] - n
        yield strip.narrow(dim, 0, whole)
        kept = strip.narrow(dim, whole, n)
