"""Enlarging photos of any size in tiles that fade into each other."""

from collections.abc import Callable, Iterator

import torch

from common.device import is_out_of_memory

_LEAST_TILE = 16  # LR pixels

Enlarge = Callable[[torch.Tensor, int, int], torch.Tensor]
Strip = tuple[int, int, torch.Tensor]


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
    pixels beyond its own; over the inner half of them, 24 pixels at most, neighbours fade into each
    other, and the others are context and thrown away. Where the device has too little memory for a
    tile, tiles get half as large.

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
    fade = min(margin // 2, max(_LEAST_TILE, multiple_of))  # no more than the smallest tile
    bands = _bands(enlarge, read, size, tile, (margin, fade), multiple_of, done)
    return _faded(bands, size[0], fade, -2)


def _bands(
    enlarge: Enlarge,
    read: Callable[[int, int, int, int], torch.Tensor],
    size: tuple[int, int],
    tile: int,
    seen: tuple[int, int],  # LR pixels beyond a tile's own: context and fading, and fading alone
    multiple_of: int,
    done: Callable[[int], None],
) -> Iterator[Strip]:
    """Yield bands of tiles: (top, bottom) of their own, and the rows with what fades."""
    (height, width), (margin, fade) = size, seen

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
    previous_end = None
    for _, end, strip in strips:
        if previous_end is not None:
            n = previous_end.shape[dim]
            weight = ramp.narrow(-1 if dim == -1 else 0, 0, n).to(strip)
            faded = torch.lerp(previous_end, strip.narrow(dim, 0, n), weight)
            strip = torch.cat([faded, strip.narrow(dim, n, strip.shape[dim] - n)], dim)
        n = 0 if end == length else 4 * (min(length, end + fade) - (end - fade))
        whole = strip.shape[dim] - n
        yield strip.narrow(dim, 0, whole)
        previous_end = strip.narrow(dim, whole, n)
