"""PSNR and SSIM against hand-worked values and scikit-image."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from common.data.photos import read_image, to_tensor, to_uint8
from common.data.resize import imresize
from common.measure.metrics import lr_psnr, luma, psnr, psnr_ssim_y, psnr_y, ssim
from tests.conftest import SKIMAGE_DATA


def test_luma_of_primaries_is_rgb2ycbcrs():
    # 16 + 65.481 = 81.481, 16 + 128.553 = 144.553, 16 + 24.966 = 40.966, black 16, white 235
    colours = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 1]]).float()
    y = luma(colours.T.reshape(1, 3, 1, 5))
    assert y.flatten().tolist() == [81, 145, 41, 16, 235]


def test_psnr_of_a_known_error():
    # Every value off by 5: 10 log10(255^2 / 25) = 34.1514 dB
    a = torch.full((2, 1, 4, 4), 100.0)
    assert psnr(a, a + 5).tolist() == pytest.approx([34.15140352195873] * 2, abs=1e-4)


def test_psnr_and_ssim_of_photos_equal_scikit_images():
    hr = read_image(SKIMAGE_DATA / "chelsea.png")[:120, :160]
    sr = imresize(imresize(hr, 1 / 4), 4)
    a, b = (luma(to_tensor(x)) for x in (sr, hr))
    ours = ssim(a, b).item()
    a, b = a[0, 0].numpy(), b[0, 0].numpy()
    full = structural_similarity(
        a,
        b,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )[1]
    # scikit-image's window is cut at 3.5 sigma, 11 pixels: valid 5 pixels from the border.
    assert ours == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-6)
    assert psnr_ssim_y(to_tensor(sr), to_tensor(hr))[0] == pytest.approx(
        peak_signal_noise_ratio(b[4:-4, 4:-4], a[4:-4, 4:-4], data_range=255), abs=1e-6
    )


def test_equal_images_have_ssim_one_and_shaved_pixels_do_not_count():
    hr = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    spoiled = hr.clone()
    spoiled[..., :4, :] = spoiled[..., -4:] = 0
    score = psnr_ssim_y(spoiled, hr)
    assert score[0] == 100 and score[1] == pytest.approx(1)


def test_psnr_of_a_batch_is_that_of_each_image():
    sr, hr = torch.rand(2, 3, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    expected = [psnr_ssim_y(a[None], b[None])[0] for a, b in zip(sr, hr, strict=True)]
    assert psnr_y(sr, hr).tolist() == pytest.approx(expected)


def test_images_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="expected the same"):
        psnr_ssim_y(torch.zeros(1, 3, 40, 40), torch.zeros(1, 3, 40, 44))


def test_tensor_and_pixels_convert_into_each_other():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(to_tensor(pixels)), pixels)
    beyond = torch.tensor([-1.0, 0.5, 2.0]).view(3, 1, 1)
    assert to_uint8(beyond).flatten().tolist() == [0, 128, 255]


def test_lr_psnr_by_hand():
    sr = torch.full((2, 3, 32, 40), 100 / 255)
    # Off by 10 and by 5 everywhere: 10 log10(255^2 / 100), 10 log10(255^2 / 25)
    lr = torch.tensor([110, 105]).view(2, 1, 1, 1).expand(2, 3, 8, 10) / 255
    assert lr_psnr(sr, lr).tolist() == pytest.approx([28.1308, 34.1514], abs=1e-3)
    photo = read_image(SKIMAGE_DATA / "chelsea.png")[:120, :160]
    assert lr_psnr(to_tensor(photo), to_tensor(imresize(photo, 1 / 4))).item() == 100


def test_equal_images_have_100_db_so_that_means_stay_finite():
    """The error of one value of 100 million, 10 log10(255^2 / 1e-8) = 128 dB, is cut there too."""
    flat = torch.full((2, 3, 32, 32), 0.5)
    assert psnr_y(flat, flat).tolist() == [100.0, 100.0]
    assert lr_psnr(flat, flat[..., ::4, ::4]).tolist() == [100.0, 100.0]
    one_off = torch.zeros(1, 1, 10_000, 10_000)
    one_off[0, 0, 0, 0] = 1
    assert psnr(one_off, torch.zeros_like(one_off)).item() == 100.0
