"""Tiles that overlap and are blended."""

import itertools

import pytest
import torch

from CVAE.tiles import blend_tiles, cut_tiles, tile_starts
from scripts.inference.tiles import enlarge_in_bands


@pytest.mark.parametrize(
    "length, starts",
    [(20, [0]), (32, [0]), (33, [0, 1]), (56, [0, 24]), (57, [0, 24, 25]), (80, [0, 24, 48])],
)
def test_tiles_begin_where_they_should(length, starts):
    assert tile_starts(length, 32, overlap=8) == starts


def test_tiles_cover_every_length_with_the_overlap():
    for length in range(1, 200):
        starts = tile_starts(length, 32, overlap=8)
        assert starts[0] == 0 and starts[-1] == max(0, length - 32)
        assert all(0 < b - a <= 24 for a, b in itertools.pairwise(starts))


@pytest.mark.parametrize("size", [(32, 32), (50, 70), (33, 56)])
@pytest.mark.parametrize("overlap", [0, 8, 16])
def test_tiles_of_an_image_give_the_image_again(size, overlap):
    image = torch.rand(1, 3, *size)
    tiles, places = cut_tiles(image, 32, overlap)
    assert tiles.shape[1:] == (3, 32, 32)
    torch.testing.assert_close(blend_tiles(tiles, places, size, overlap), image)


def test_tiles_of_different_brightness_blend_without_a_step():
    tiles = torch.stack([torch.zeros(1, 32, 32), torch.ones(1, 32, 32)])
    image = blend_tiles(tiles, [(0, 0), (0, 24)], (32, 56), overlap=8)
    line = image[0, 0, 5]
    assert (line[:24] == 0).all() and (line[32:] == 1).all()
    torch.testing.assert_close(image[0, 0], line.expand(32, 56))
    steps = line.diff()
    assert steps.min() >= 0 and steps.max() < 0.2  # of 1 without blending
    torch.testing.assert_close(line[24:32], 1 - line[24:32].flip(0))


def enlarge(lr, top, left):
    """Nearest neighbour, four times, with each pixel's place in the photo beside it."""
    h, w = lr.shape[2:]
    rows = torch.arange(top, top + h).view(1, 1, h, 1).expand(len(lr), 1, h, w)
    columns = torch.arange(left, left + w).expand(len(lr), 1, h, w)
    image = torch.cat([lr, rows / 100, columns / 100], 1)
    return image.repeat_interleave(4, 2).repeat_interleave(4, 3)


def bands_of(lr, enlarge=enlarge, **options):
    def read(top, bottom, left, right):
        return lr[..., top:bottom, left:right]

    return list(enlarge_in_bands(enlarge, read, lr.shape[2:], **options))


@pytest.mark.parametrize("size", [(1, 1), (5, 61), (48, 48), (49, 97), (100, 23)])
@pytest.mark.parametrize("tile, margin", [(24, 24), (24, 8), (16, 0), (48, 72)])
def test_bands_are_the_whole_image(size, tile, margin):
    lr = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    pixels = []
    bands = bands_of(lr, tile=tile, margin=margin, done=pixels.append)
    torch.testing.assert_close(torch.cat(bands, 2), enlarge(lr, 0, 0))
    assert sum(pixels) == size[0] * size[1]
    assert max(band.shape[2] for band in bands) <= 4 * (tile + 2 * margin)


def test_neighbouring_tiles_fade_into_each_other():
    """Tiles of different brightness: from one to the next there is a ramp and no step."""
    lr = torch.zeros(1, 1, 64, 64)

    def brighter(part, top, left):
        return torch.full((1, 1, 4 * part.shape[2], 4 * part.shape[3]), float(top + left))

    image = torch.cat(bands_of(lr, brighter, tile=16, margin=8), 2)
    for dim in (2, 3):
        assert 0 < image.diff(dim=dim).abs().max() <= 16 / (8 * 4) + 1e-5  # 16 over 32 pixels


def test_tiles_shrink_where_memory_is_short():
    lr = torch.rand(1, 3, 100, 90)
    sizes = []

    def short(part, top, left):
        sizes.append(max(part.shape[2:]))
        if sizes[-1] > 50:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return enlarge(part, top, left)

    image = torch.cat(bands_of(lr, short, tile=96, margin=8, multiple_of=24), 2)
    torch.testing.assert_close(image, enlarge(lr, 0, 0))
    assert (
        sizes[0] == 100 and sizes[1] == 56 and max(sizes[2:]) <= 50
    )  # all, then 48 and 24 with margins

    def never(part, top, left):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(MemoryError, match="24x24 LR pixels is too large"):
        bands_of(lr, never, tile=96, margin=8, multiple_of=24)

    def broken(part, top, left):
        raise RuntimeError("weights have another shape")

    with pytest.raises(RuntimeError, match="another shape"):
        bands_of(lr, broken, tile=96, margin=8)
