"""`imresize` gives MATLAB's values; projection onto LR."""

import numpy as np
import pytest
import torch

from common.data.photos import read_image, to_tensor
from common.data.resize import imresize, project, project_and_clamp, resize
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
    by_matrices = resize(images.requires_grad_(), factor)
    torch.testing.assert_close(by_matrices.detach(), result, rtol=0, atol=1e-12)


def test_resize_of_what_autocast_made_is_not_rounded():
    images = torch.rand(1, 3, 8, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        for result in (resize(images, 2), resize(images.requires_grad_(), 2)):
            torch.testing.assert_close(result.detach(), resize(images.detach().float(), 2))


def test_gradients_pass_through_resize():
    images = torch.rand(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: resize(x, 1 / 4), images)
    assert torch.autograd.gradcheck(lambda x: resize(x, 2), images)


def photo_and_lr(dataset):
    hr = read_image(sorted(dataset.hr.iterdir())[0])
    lr = read_image(sorted(dataset.lr.iterdir())[0])
    return to_tensor(hr), to_tensor(lr)


def test_projection_brings_back_the_lr_photo(dataset):
    """As published: bicubic's LR-PSNR rises by some 9 dB with each projection."""
    hr, lr = photo_and_lr(dataset)
    bicubic = resize(lr, 4)
    psnrs = []
    for times in (0, 1, 2, 5):
        again = resize(project(bicubic, lr, times), 1 / 4)
        psnrs.append(-10 * torch.log10((again - lr).square().mean()).item())
    assert psnrs[1] > psnrs[0] + 5 and psnrs[2] > psnrs[1] + 3 and psnrs[3] > psnrs[2] + 5
    # What LR does not decide stays.
    change = project(hr, resize(hr, 1 / 4), 3) - hr
    assert change.abs().max() < 1e-5


def test_projection_and_clamping_by_turns_keep_both(dataset):
    hr, _ = photo_and_lr(dataset)
    hr = (3 * hr - 1).clamp(0, 1)  # much black and white
    lr = resize(hr, 1 / 4).clamp(0, 1)
    noisy = hr + 0.1 * torch.randn(hr.shape, generator=torch.Generator().manual_seed(0))

    def lr_error(sr):
        return (resize(sr, 1 / 4) - lr).square().mean().sqrt()

    both = project_and_clamp(noisy, lr, 10)
    assert both.min() >= 0 and both.max() <= 1
    assert lr_error(both) < 0.3 * lr_error(project(noisy, lr, 10).clamp(0, 1))
    assert torch.equal(project_and_clamp(noisy, lr, 0), noisy.clamp(0, 1))


def test_gradients_pass_the_projection_in_the_high_frequencies_alone():
    lr = torch.rand(1, 3, 16, 16)
    for pattern, share in ((torch.ones(1, 3, 64, 64), 0.0), (checkerboard(), 1.0)):
        sr = torch.zeros(1, 3, 64, 64, requires_grad=True)
        (project(sr, lr, 2) * pattern).sum().backward()
        moved = (sr.grad * pattern).sum() / pattern.square().sum()
        assert moved.item() == pytest.approx(share, abs=0.01)


def checkerboard():
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    return (1.0 - 2 * ((rows + columns) % 2)).expand(1, 3, 64, 64)
