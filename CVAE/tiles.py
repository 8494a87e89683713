"""Cutting photos into overlapping tiles, and blending enlarged tiles without seams."""

import torch


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
