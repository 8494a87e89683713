"""The realistic degradation: each step against values worked out by hand or by another library."""

import math

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from common.data.degradations import gaussian, jpeg
from common.data.pairs import list_pairs
from common.data.photos import read_image
from common.data.resize import imresize
from scripts.inference.first_order import add_sensor_noise, blur_exactly, first_order, rounded
from tests.conftest import SKIMAGE_DATA


def first_order_kernel(sigma_u: float, sigma_v: float, angle: float) -> np.ndarray:
    reach = math.ceil(4 * max(sigma_u, sigma_v))
    return rounded(gaussian(reach, sigma_u, sigma_v, angle))


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return read_image(SKIMAGE_DATA / "astronaut.png")[100:196, 150:282]


@pytest.mark.parametrize(
    "sigma_u, sigma_v, angle", [(2.4, 1.0, 0.0), (2.4, 1.0, math.pi / 6), (0.8, 2.0, 2.5)]
)
def test_kernel_has_the_covariance_asked_for(sigma_u, sigma_v, angle):
    kernel = first_order_kernel(sigma_u, sigma_v, angle)
    assert kernel.sum() == 1 and kernel.min() >= 0
    reach = len(kernel) // 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    assert (kernel * x).sum() == (kernel * y).sum() == 0
    covariance = [(kernel * x * x).sum(), (kernel * x * y).sum(), (kernel * y * y).sum()]
    # R diag(sigma_u**2, sigma_v**2) R^T with R the rotation from x towards y, written out
    c, s, u, v = math.cos(angle), math.sin(angle), sigma_u**2, sigma_v**2
    expected = [u * c * c + v * s * s, (u - v) * c * s, u * s * s + v * c * c]
    np.testing.assert_allclose(covariance, expected, atol=0.01 * max(u, v))


def test_narrow_kernel_has_the_values_worked_out_by_hand():
    # exp(-1 / (2 * 0.4**2)) = exp(-3.125) = 0.04394 beside 1: a line of 0.0404, 0.9192, 0.0404
    kernel = first_order_kernel(0.4, 0.4, 0.7)
    expected = [[0.0016, 0.0371, 0.0016], [0.0371, 0.8450, 0.0371], [0.0016, 0.0371, 0.0016]]
    np.testing.assert_allclose(kernel[1:4, 1:4], expected, atol=1e-4)


def test_bright_pixel_is_blurred_to_the_kernel():
    image = np.zeros((31, 35, 3), np.uint8)
    image[15, 17] = 255
    kernel = first_order_kernel(2.0, 0.7, 0.5)  # reaches 8
    out = blur_exactly(image, kernel)
    for channel in range(3):
        np.testing.assert_array_equal(out[7:24, 9:26, channel], np.round(255 * kernel))
    assert abs(out[..., 0].sum(dtype=int) - 255) < 10  # of 8-bit rounding
    # u lies 0.5 from x towards y: the spot is drawn out to the right and down
    assert out[16, 19, 0] > out[14, 19, 0]


def test_photo_is_blurred_as_by_scipy(photo):
    kernel = first_order_kernel(2.3, 0.9, 1.1)
    weights = kernel[..., None]
    expected = np.round(ndimage.convolve(photo.astype(float), weights, mode="nearest"))
    np.testing.assert_array_equal(blur_exactly(photo, kernel), expected)


@pytest.mark.parametrize("h, w", [(20, 24), (4, 4)])
def test_constant_image_stays_constant_to_its_borders(h, w):
    image = np.full((h, w, 3), 201, np.uint8)
    assert (blur_exactly(image, first_order_kernel(2.4, 1.7, 0.3)) == 201).all()


@pytest.mark.parametrize(
    "value, read, shot, variance",
    [
        (51, 3.0, 0.0, 9.0),
        (51, 0.0, 5.0, 5.0),  # 25 * 0.2
        (204, 2.0, 6.0, 32.8),  # 4 + 36 * 0.8
        (102, 0.5, 1.0, 0.65),  # 0.25 + 1 * 0.4
    ],
)
def test_noise_has_the_variance_of_the_formula(value, read, shot, variance):
    image = np.full((300, 300, 3), value, np.uint8)
    noise = add_sensor_noise(image, read, shot, np.random.default_rng(0)).astype(float) - value
    assert abs(noise.mean()) < 0.03
    assert noise.var() == pytest.approx(variance + 1 / 12, rel=0.03)  # 1/12: rounding to 8 bits
    correlation = np.corrcoef(noise.reshape(-1, 3).T)
    assert np.abs(correlation - np.eye(3)).max() < 0.02


def test_noise_does_not_wrap_around():
    rng = np.random.default_rng(0)
    assert add_sensor_noise(np.full((50, 50, 3), 255, np.uint8), 3, 6, rng).min() > 200
    assert add_sensor_noise(np.zeros((50, 50, 3), np.uint8), 3, 6, rng).max() < 55


@pytest.mark.parametrize("quality", [60, 95])
def test_jpeg_is_pillows_own(photo, quality, tmp_path):
    Image.fromarray(photo).save(tmp_path / "photo.jpg", quality=quality)
    np.testing.assert_array_equal(jpeg(photo, quality), read_image(tmp_path / "photo.jpg"))


def test_steps_follow_in_order_and_ranges_are_those_asked_for(photo):
    out = first_order(
        photo,
        np.random.default_rng(0),
        blur_sigma=(1.5, 1.5),
        read_noise=(0, 0),
        shot_noise=(0, 0),
        jpeg_quality=(70, 70),
    )
    blurred = blur_exactly(photo, first_order_kernel(1.5, 1.5, 0))
    # a round Gaussian turned by any angle differs in its weights' last bits alone
    expected = jpeg(imresize(blurred, 1 / 4), 70)
    assert out.shape == (24, 33, 3) and out.dtype == np.uint8
    assert np.abs(out.astype(int) - expected).mean() < 0.5


def test_generator_of_random_numbers_decides(photo):
    first = first_order(photo, np.random.default_rng(5))
    np.testing.assert_array_equal(first, first_order(photo, np.random.default_rng(5)))
    assert (first != first_order(photo, np.random.default_rng(6))).mean() > 0.3


def test_realistic_photos_are_worse_than_bicubic_ones_but_not_destroyed(dataset):
    for lr_path, hr_path in list_pairs(dataset.lr, dataset.hr):
        hr, bicubic = read_image(hr_path), read_image(lr_path).astype(float)
        for seed in range(4):
            error = first_order(hr, np.random.default_rng(seed)) - bicubic
            psnr = 10 * math.log10(255**2 / np.square(error).mean())
            assert 22 < psnr < 38, f"{hr_path.name}, seed {seed}: {psnr:.1f} dB"


@pytest.mark.parametrize(
    "shape, dtype, says",
    [
        ((8, 10, 3), np.uint8, "multiples of 4"),
        ((8, 8), np.uint8, r"expected \(H, W, 3\) uint8"),
        ((8, 8, 4), np.uint8, r"expected \(H, W, 3\) uint8"),
        ((0, 8, 3), np.uint8, r"expected \(H, W, 3\) uint8"),
        ((8, 8, 3), np.float32, r"float32, expected \(H, W, 3\) uint8"),
    ],
)
def test_image_of_another_shape_or_type_is_an_error(shape, dtype, says):
    with pytest.raises(ValueError, match=says):
        first_order(np.zeros(shape, dtype), np.random.default_rng(0))
