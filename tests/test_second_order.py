"""The second-order degradations: kernels by hand, statistics of each step, the same crop again."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import special

from common.data import degradations
from common.data.crops import DegradedCrops, PairedCrops
from common.data.degradations import FIRST, SECOND, second_order
from common.data.pairs import list_images
from common.data.photos import read_image, to_tensor
from common.measure.validation import paired_crops_and_validation
from tests.conftest import SKIMAGE_DATA


def test_generalised_gaussian_and_plateau_have_the_values_worked_out_by_hand():
    # sigma 2 along x and 1 along y, at (x, y) = (2, 1): q = 1 + 1 = 2
    gaussian = degradations.gaussian(3, 2.0, 1.0, 0.0, beta=0.5)
    assert gaussian[4, 5] / gaussian[3, 3] == pytest.approx(math.exp(-math.sqrt(2) / 2))
    plateau = degradations.plateau(3, 2.0, 1.0, 0.0, beta=2.0)
    assert plateau[4, 5] / plateau[3, 3] == pytest.approx(1 / 5)
    assert gaussian.sum() == pytest.approx(1) and plateau.sum() == pytest.approx(1)


def test_sinc_kernel_is_the_bessel_functions_of_scipy():
    cutoff, reach = math.pi / 2, 4
    kernel = degradations.sinc(reach, cutoff)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    radius = np.hypot(x, y)
    with np.errstate(invalid="ignore"):
        expected = cutoff * special.j1(cutoff * radius) / (2 * math.pi * radius)
    expected[reach, reach] = cutoff**2 / (4 * math.pi)
    np.testing.assert_allclose(kernel, expected / expected.sum(), atol=1e-7)


def test_sinc_kernel_passes_low_frequencies_and_stops_high_ones():
    spectrum = np.abs(np.fft.fft2(degradations.sinc(10, math.pi / 3), (42, 42)))
    assert spectrum[2, 0] == pytest.approx(1, abs=0.1)  # 2/42 of 2 pi: below a third of pi
    assert spectrum[16, 0] < 0.05


def test_kernels_are_drawn_with_the_published_probabilities(monkeypatch):
    drawn = []
    for name in ("gaussian", "plateau", "sinc"):

        def draw(reach, *args, name=name, **_):
            isotropic = name != "sinc" and args[2] == 0
            generalised = name == "gaussian" and len(args) == 4
            drawn.append((name, isotropic, generalised, reach))
            return np.ones((1, 1))

        monkeypatch.setattr(degradations, name, draw)
    rng, n = np.random.default_rng(0), 20000
    for _ in range(n):
        degradations.draw_kernel(rng, FIRST)
    share = {key: sum(d[:3] == key for d in drawn) / n for key in {d[:3] for d in drawn}}
    expected = {
        ("sinc", False, False): 0.1,
        ("gaussian", True, False): 0.9 * 0.45,
        ("gaussian", False, False): 0.9 * 0.25,
        ("gaussian", True, True): 0.9 * 0.12,
        ("gaussian", False, True): 0.9 * 0.03,
        ("plateau", True, False): 0.9 * 0.12,
        ("plateau", False, False): 0.9 * 0.03,
    }
    assert share == pytest.approx(expected, abs=0.01)
    sizes = np.bincount([2 * d[3] + 1 for d in drawn])
    assert {size for size, count in enumerate(sizes) if count} == {7, 9, 11, 13, 15, 17, 19, 21}


@pytest.mark.parametrize("grey", [0.0, 1.0])
@pytest.mark.parametrize("value", [0.3, 0.6])
def test_noise_has_the_variance_of_its_formula(grey, value):
    image = torch.full((1, 3, 200, 200), value)
    seen = set()
    for seed in range(8):
        ranges = FIRST._replace(gaussian_noise=(10, 10), poisson_scale=(1.5, 1.5), grey_noise=grey)
        noise = degradations.add_noise(image, np.random.default_rng(seed), ranges) - image
        light = round(value * 255) / 255 * (0.9999 if grey else 1)  # its luma weights sum to that
        # counts of mean 256 v have the variance 256 v; in units of 1/256, scaled by 1.5
        variances = {"gaussian": (10 / 255) ** 2, "poisson": 1.5**2 * light / 256}
        kind = min(variances, key=lambda name: abs(variances[name] - noise.var().item()))
        assert noise.var().item() == pytest.approx(variances[kind], rel=0.03)
        is_same = torch.equal(noise[:, 0], noise[:, 1])
        assert is_same == bool(grey)
        seen.add(kind)
    assert seen == {"gaussian", "poisson"}


def test_jpeg_quality_is_found_back_in_the_tables(monkeypatch):
    """Qualities of the files are those drawn, by libjpeg's formula for its quantisation tables."""
    qualities, opened = [], []
    save, load = Image.Image.save, Image.open

    def remember(image, file, *args, quality, **options):
        qualities.append(quality)
        save(image, file, *args, quality=quality, **options)

    def look(file):
        image = load(file)
        opened.append(image.quantization[0][0])
        return image

    monkeypatch.setattr(Image.Image, "save", remember)
    monkeypatch.setattr(Image, "open", look)
    second_order(torch.rand(8, 3, 64, 64), [[k] for k in range(8)])
    assert len(qualities) == len(opened) == 16 and 30 <= min(qualities) < max(qualities) <= 95
    # libjpeg's scale of its tables, in percent; the first value is 16
    scales = [5000 // q if q < 50 else 200 - 2 * q for q in qualities]
    assert sorted(opened) == sorted((16 * scale + 50) // 100 for scale in scales)


def test_sizes_of_both_rounds_are_in_the_published_ranges(monkeypatch):
    sizes, resize = [], degradations.resize

    def note(image, size, rng):
        sizes.append(size)
        return resize(image, size, rng)

    monkeypatch.setattr(degradations, "resize", note)
    n = 60
    lr = second_order(torch.rand(n, 3, 80, 120), [[k] for k in range(n)])
    assert lr.shape == (n, 3, 20, 30)
    first = np.array(sizes[:n]) / [80, 120]
    assert first.min() > 0.14 and first.max() < 1.52
    assert np.abs(first[:, 0] - first[:, 1]).max() < 0.02  # one factor for both
    up, keep = (first[:, 0] > 1).mean(), (first[:, 0] == 1).mean()
    assert (up, keep) == pytest.approx((0.2, 0.1), abs=0.12)
    second = np.array(sizes[n : 2 * n]) / [20, 30]
    assert second.min() > 0.28 and second.max() < 1.22
    assert sizes[2 * n :] == [(20, 30)] * n


def test_values_are_of_8_bits_and_flat_grey_keeps_its_level():
    grey = torch.full((40, 3, 64, 64), 128 / 255)
    lr = second_order(grey, [[k] for k in range(40)])
    assert torch.equal((lr * 255).round() / 255, lr) and lr.min() >= 0 and lr.max() <= 1
    assert lr.mean().item() == pytest.approx(128 / 255, abs=0.01)


def test_photo_is_worn_but_still_that_photo():
    hr = to_tensor(read_image(SKIMAGE_DATA / "astronaut.png")[:208, 100:308])
    small = torch.nn.functional.interpolate(hr, scale_factor=1 / 4, mode="area")
    lr = second_order(hr.expand(20, -1, -1, -1), [[k] for k in range(20)])
    psnr = -10 * (lr - small).square().mean((1, 2, 3)).log10()
    assert psnr.min() > 12 and psnr.max() < 40 and psnr.std() > 1


def test_seeds_decide_and_neighbours_do_not_matter():
    hr = torch.rand(3, 3, 64, 64)
    together = second_order(hr, [[0, 1], [0, 2], [0, 3]])
    assert torch.equal(second_order(hr[1:2], [[0, 2]]), together[1:2])
    assert not torch.equal(second_order(hr[1:2], [[0, 4]]), together[1:2])


def test_image_smaller_than_the_kernel_is_blurred():
    image = torch.rand(1, 3, 5, 9)
    assert degradations.blur(image, degradations.gaussian(10, 2, 2, 0)).shape == image.shape


def test_photo_is_blurred_as_by_scipy_with_mirrored_borders():
    from scipy import ndimage

    image = torch.rand(1, 3, 30, 40)
    kernel = degradations.gaussian(5, 2.0, 1.0, 0.7)
    expected = [ndimage.convolve(x.numpy(), kernel, mode="mirror") for x in image[0].double()]
    np.testing.assert_allclose(degradations.blur(image, kernel)[0], expected, atol=1e-5)


def test_crops_are_hr_with_the_lr_of_the_same_place(dataset):
    crops = DegradedCrops(list_images(dataset.hr), patch_size=16, seed=0)
    lr, hr = crops.to_device(crops[3, range(4, 12)], torch.device("cpu"))
    assert lr.shape == (8, 3, 4, 4) and hr.shape == (8, 3, 16, 16)
    small = torch.nn.functional.interpolate(hr, scale_factor=1 / 4, mode="area")
    right = (lr - small).square().mean((1, 2, 3))
    wrong = (lr - small.roll(1, 0)).square().mean((1, 2, 3))
    assert (right < wrong).all()
    # the same crop by itself, and after others
    again = crops.to_device(crops[3, range(6, 7)], torch.device("cpu"))
    assert torch.equal(again[0], lr[2:3]) and torch.equal(again[1], hr[2:3])


def test_held_out_photos_are_degraded_the_same_way_each_time_and_reduced_by_bicubic(dataset):
    settings = {"n_valid": 2, "valid_crop": 96, "patch_size": 16, "seed": 0}
    crops, validation = paired_crops_and_validation(
        None, dataset.hr, None, None, **settings, degradation="second_order"
    )
    again = paired_crops_and_validation(
        None, dataset.hr, None, None, **settings, degradation="second_order"
    )[1]
    plain_crops, plain = paired_crops_and_validation(dataset.lr, dataset.hr, None, None, **settings)
    n = len(plain.photos)
    assert isinstance(crops, DegradedCrops) and type(plain_crops) is PairedCrops
    assert len(validation.photos) == 2 * n and len(crops) == len(plain_crops)
    for a, b in zip(validation.photos, again.photos, strict=True):
        np.testing.assert_array_equal(a.lr, b.lr)
    for a, b in zip(validation.photos[n:], plain.photos, strict=True):
        np.testing.assert_array_equal(a.hr, b.hr)
        assert np.abs(a.lr.astype(int) - b.lr)[4:-4, 4:-4].max() <= 1
    assert (validation.photos[0].lr != validation.photos[n].lr).any()


def test_lr_folder_beside_a_degradation_is_refused(dataset):
    settings = {"n_valid": 2, "valid_crop": 96, "patch_size": 16, "seed": 0}
    with pytest.raises(ValueError, match="name HR folders alone"):
        paired_crops_and_validation(
            dataset.lr, dataset.hr, None, None, **settings, degradation="second_order"
        )
    with pytest.raises(ValueError, match="--degradation second_order"):
        paired_crops_and_validation(None, dataset.hr, None, None, **settings)


def test_photo_smaller_than_a_crop_with_its_border_is_named(tmp_path):
    Image.new("RGB", (90, 95)).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match=r"small.png \(90x95\): smaller than a crop of 96x96"):
        DegradedCrops([tmp_path / "small.png"], patch_size=16, seed=0)


def test_rounds_have_the_published_ranges():
    assert FIRST.factor == (0.15, 1.5) and SECOND.factor == (0.3, 1.2)
    assert FIRST.resize == (0.2, 0.7, 0.1) and SECOND.resize == (0.3, 0.4, 0.3)
    assert (FIRST.blur, SECOND.blur) == (1, 0.8) and (FIRST.sigma, SECOND.sigma) == (
        (0.2, 3),
        (0.2, 1.5),
    )
