"""NIQE against an independent implementation, on photos that come with scikit-image."""

import pytest
import torch
from scipy.stats import gennorm

from common.data.photos import read_image, to_tensor
from scripts.inference.niqe import fit_aggd, niqe
from tests.conftest import SKIMAGE_DATA

# `calculate_niqe(pixels in BGR, crop_border=0)` of BasicSR 1.4.2 on whole photos, 8-bit RGB by
# Pillow (gray ones repeated), with scipy 1.17.1 and torch 2.14.1.
BASICSR = {
    "astronaut.png": 3.064948,
    "camera.png": 3.155216,
    "chelsea.png": 2.625524,
    "clock_motion.png": 11.539884,
    "coffee.png": 4.115242,
    "coins.png": 3.635945,
    "hubble_deep_field.jpg": 7.799804,
    "moon.png": 8.529654,
    "motorcycle_left.png": 2.672493,
    "rocket.jpg": 6.969155,
}


def photo(name: str) -> torch.Tensor:
    return to_tensor(read_image(SKIMAGE_DATA / name))


@pytest.mark.parametrize("name", BASICSR)
def test_niqe_is_that_of_the_fields_toolkit(name):
    assert niqe(photo(name)).item() == pytest.approx(BASICSR[name], abs=0.002)


def test_photos_in_a_batch_have_the_niqe_of_each():
    one, other = photo("coffee.png")[..., :300, :400], photo("chelsea.png")[..., :400]
    both = niqe(torch.cat([one, other]))
    assert both.tolist() == pytest.approx([niqe(one).item(), niqe(other).item()])


def test_what_is_less_than_a_block_on_the_right_and_below_is_left_out():
    coffee = photo("coffee.png")[..., :287, :383]
    assert niqe(coffee).item() == niqe(coffee[..., :192, :288]).item()


def test_niqe_takes_two_blocks_that_are_not_flat():
    coffee = photo("coffee.png")
    for small in (coffee[..., :191, :191], coffee[..., :95, :600], coffee[..., :0, :0]):
        assert niqe(small).isnan()
    two = coffee[..., :96, :288].clone()
    two[..., :112] = 0.4  # a block, and as far as the next one's windows reach
    one = coffee[..., :96, :288].clone()
    one[..., :208] = 0.4
    flat = torch.full_like(one, 0.4)
    assert niqe(torch.cat([two, one, flat])).isnan().tolist() == [False, True, True]


def test_blur_and_noise_raise_niqe():
    coffee = photo("coffee.png")
    blurred = torch.nn.functional.avg_pool2d(coffee, 5, 1)
    noise = torch.randn(coffee.shape, generator=torch.Generator().manual_seed(0))
    noisy = (coffee + 0.1 * noise).clamp(0, 1)
    assert niqe(blurred) > niqe(coffee) + 1 and niqe(noisy) > niqe(coffee) + 1


def test_fit_finds_a_known_distribution():
    left = abs(gennorm.rvs(1.5, scale=0.5, size=100_000, random_state=0))
    right = abs(gennorm.rvs(1.5, scale=2.0, size=400_000, random_state=1))
    x = torch.cat([-torch.tensor(left), torch.tensor(right)]).view(1, 500, 1000)
    assert [value.item() for value in fit_aggd(x)] == pytest.approx([1.5, 0.5, 2.0], rel=0.02)


@pytest.mark.cuda
def test_niqe_on_a_gpu_is_that_on_a_cpu():
    for name in ("astronaut.png", "rocket.jpg"):
        on_gpu = niqe(photo(name).cuda())
        assert on_gpu.device.type == "cuda"
        assert on_gpu.item() == pytest.approx(BASICSR[name], abs=0.002)
        assert on_gpu.item() == pytest.approx(niqe(photo(name)).item(), abs=1e-4)
