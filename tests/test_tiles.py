"""Tiles that overlap and are blended."""

from __future__ import annotations

import itertools

import pytest
import torch

from common.tiles import blend_tiles, cut_tiles, tile_starts


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
