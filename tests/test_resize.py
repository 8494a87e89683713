"""`imresize` gives MATLAB's values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.images import read_image
from common.resize import imresize, resize
from tests.conftest import SKIMAGE_DATA


def matlab_imresize(image: np.ndarray, factor: float, to_8_bits: bool = True) -> np.ndarray:
    """MATLAB's algorithm written out: output u samples input (u + 0.5) / factor - 0.5 with Keys'
    kernel, stretched by the factor when it shrinks; weights normalised, indices clamped to the
    border, rows first, each direction rounded to 8 bits (or not at all)."""

    def kernel(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    def along_rows(pixels: np.ndarray) -> np.ndarray:
        n = pixels.shape[0]
        shrink = min(factor, 1.0)
        out = np.zeros((int(np.ceil(n * factor)), *pixels.shape[1:]))
        for u in range(len(out)):
            centre = (u + 0.5) / factor - 0.5
            reach = 2 / shrink
            taps = range(int(np.floor(centre - reach)), int(np.ceil(centre + reach)) + 1)
            weights = np.array([kernel((centre - tap) * shrink) for tap in taps])
            weights /= weights.sum()
            for tap, weight in zip(taps, weights, strict=True):
                out[u] += weight * pixels[min(max(tap, 0), n - 1)]
        return np.clip(np.floor(out + 0.5), 0, 255) if to_8_bits else out

    out = along_rows(along_rows(image.astype(float)).swapaxes(0, 1)).swapaxes(0, 1)
    return out.astype(np.uint8) if to_8_bits else out


@pytest.mark.parametrize("name", ["astronaut.png", "motorcycle_left.png", "chelsea.png"])
def test_photo_a_quarter_the_size_has_matlabs_values(name):
    photo = read_image(SKIMAGE_DATA / name)[:120, :152]
    np.testing.assert_array_equal(imresize(photo, 1 / 4), matlab_imresize(photo, 1 / 4))


def test_photo_four_times_the_size_has_matlabs_values():
    photo = read_image(SKIMAGE_DATA / "coffee.png")[100:121, 200:233]
    np.testing.assert_array_equal(imresize(photo, 4), matlab_imresize(photo, 4))


@pytest.mark.parametrize("h, w", [(4, 4), (5, 7), (1, 1), (3, 64), (33, 18)])
def test_odd_and_tiny_sizes_have_matlabs_values(h, w):
    noise = np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)
    np.testing.assert_array_equal(imresize(noise, 1 / 4), matlab_imresize(noise, 1 / 4))
    np.testing.assert_array_equal(imresize(noise, 4), matlab_imresize(noise, 4))


def test_step_edge_has_the_values_worked_out_by_hand():
    # 0 | 64 between columns 7 and 8 of 16. Output column u is centred at 4u + 1.5, and column x has
    # weight k((x - centre) / 4) / 4 with Keys' kernel k at odd eighths:
    #   k(1/8) 0.9639, k(3/8) 0.7275, k(5/8) 0.3896, k(7/8) 0.0908,
    #   k(9/8) -0.0479, k(11/8) -0.0732, k(13/8) -0.0439, k(15/8) -0.0068;
    # columns 8, 9, ... are 10/8 + 2/8, ... hence 2.5, 6.5 - 4, ... from the centres 5.5 and 9.5:
    #   u = 1: (k(5/8) + k(7/8) + k(9/8) + ... + k(15/8)) / 4 = 0.0771 -> 64 * 0.0771 = 4.94 -> 5
    #   u = 2: 64 - 4.94 = 59.06 -> 59 by symmetry
    #   u = 0: (k(13/8) + k(15/8)) / 4 = -0.0127 -> below 0 -> 0, and u = 3: 64.81 -> 65
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, 8:] = 64
    assert imresize(image, 1 / 4)[2, :, 0].tolist() == [0, 5, 59, 65]


def test_constant_image_stays_constant():
    image = np.full((20, 24, 3), 201, np.uint8)
    assert (imresize(image, 1 / 4) == 201).all()
    assert (imresize(image, 4) == 201).all()


@pytest.mark.parametrize("factor", [1 / 4, 1 / 2, 2, 4])
def test_resize_of_floats_is_the_same_without_rounding(factor):
    photo = read_image(SKIMAGE_DATA / "chelsea.png")[100:140, 120:168]
    images = torch.tensor(photo / 255).permute(2, 0, 1)[None].repeat(2, 1, 1, 1)
    expected = matlab_imresize(photo, factor, to_8_bits=False) / 255
    result = resize(images, factor)
    assert result.shape == (2, 3, *expected.shape[:2])
    np.testing.assert_allclose(result[1].permute(1, 2, 0).numpy(), expected, atol=1e-6)


def test_gradients_pass_through_resize():
    images = torch.rand(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: resize(x, 1 / 4), images)
    assert torch.autograd.gradcheck(lambda x: resize(x, 2), images)
