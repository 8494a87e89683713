"""Photos of every kind are read as RGB; broken ones are named."""

import numpy as np
import pytest
from PIL import Image

from common.data.pairs import list_images, list_pairs
from common.data.photos import image_size, read_image, write_image

RAMP = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


def test_rgb_png_comes_back_unchanged(tmp_path):
    write_image(tmp_path / "a.png", RAMP)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), RAMP)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_every_mode_is_read_as_rgb(tmp_path, mode):
    suffix = ".tif" if mode == "CMYK" else ".png"
    Image.fromarray(np.full((6, 8, 3), 200, np.uint8)).convert(mode).save(tmp_path / f"a{suffix}")
    pixels = read_image(tmp_path / f"a{suffix}")
    assert pixels.shape == (6, 8, 3) and pixels.dtype == np.uint8
    if mode == "1":  # dithered: black and white
        assert set(np.unique(pixels)) == {0, 255}
    else:
        assert np.abs(pixels.astype(int) - 200).max() <= (51 if mode == "P" else 1)


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    values = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_float_image_from_zero_to_one_is_scaled(tmp_path):
    Image.fromarray(np.array([[0, 0.5, 1]], np.float32)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 128, 255]


def test_float_image_of_another_range_is_refused_by_name(tmp_path):
    Image.fromarray(np.array([[0, 300]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif.*0\.0 to 300\.0.*expected 0 to 1"):
        read_image(tmp_path / "a.tif")


def test_transparent_parts_show_white(tmp_path):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[:, :, 0].tolist() == [[0, 255], [255, 255]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_photo_upright(tmp_path, orientation):
    upright = np.kron(RAMP[:2, :3], np.ones((16, 16, 1), np.uint8))
    # How a camera with this orientation would have stored the upright picture (EXIF 2.3, 4.6.4 A).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), upright)
    assert image_size(tmp_path / "a.png") == upright.shape[:2]


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_fake_file_is_named(tmp_path, content):
    (tmp_path / "fake.png").write_bytes(content)
    for read in (read_image, image_size):
        with pytest.raises(ValueError, match=r"fake\.png: cannot be read as an image"):
            read(tmp_path / "fake.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_truncated_file_is_named(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"a.{suffix}")
    content = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"a\.{suffix}: cannot be read as an image"):
        read_image(tmp_path / f"a.{suffix}")


def test_size_is_found_without_decoding_the_pixels(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    write_image(tmp_path / "a.png", noise)
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    assert image_size(tmp_path / "a.png") == (64, 48)


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.png: there is no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ValueError, match="a folder, expected a file"):
        read_image(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no images"):
        list_images(tmp_path)


def make(folder, *names, size=(8, 8)):
    for name in names:
        write_image(folder / name, np.zeros((size[1], size[0], 3), np.uint8))


def test_pairs_are_found_by_name_in_any_of_div2ks_forms(tmp_path):
    make(tmp_path / "hr", "0001.png", "a b.png", "x4.png", size=(32, 32))
    make(tmp_path / "lr", "0001x4w1.png", "0001x4w2.png", "a bx4.png", "x4x4.png")
    pairs = [(lr.name, hr.name) for lr, hr in list_pairs(tmp_path / "lr", tmp_path / "hr")]
    assert pairs == [
        ("0001x4w1.png", "0001.png"),
        ("0001x4w2.png", "0001.png"),
        ("a bx4.png", "a b.png"),
        ("x4x4.png", "x4.png"),
    ]


def test_photos_without_a_partner_are_listed(tmp_path):
    make(tmp_path / "hr", "1.png", "2.png", size=(32, 32))
    make(tmp_path / "lr", "1x4.png", "3x4.png")
    with pytest.raises(ValueError, match=r"1 \(3x4\.png\) in .*1 \(2\.png\) in"):
        list_pairs(tmp_path / "lr", tmp_path / "hr")


def test_hr_photos_of_the_same_name_are_noticed(tmp_path):
    make(tmp_path / "hr", "1.png", "1.bmp", size=(32, 32))
    make(tmp_path / "lr", "1x4.png")
    with pytest.raises(ValueError, match=r"1 \(1\.bmp\) in .*hr without an LR photo"):
        list_pairs(tmp_path / "lr", tmp_path / "hr")


def test_swapped_folders_are_noticed(tmp_path):
    make(tmp_path / "hr", "1.png", size=(32, 32))
    make(tmp_path / "lr", "1.png")
    assert len(list_pairs(tmp_path / "lr", tmp_path / "hr")) == 1
    with pytest.raises(ValueError, match="are the two folders swapped"):
        list_pairs(tmp_path / "hr", tmp_path / "lr")


def test_photo_of_more_than_89_megapixels_is_read(tmp_path):
    """Where Pillow warns of a bomb; phones make photos of 200 megapixels."""
    large = np.zeros((9600, 9600), np.uint8)
    large[-1, -1] = 255
    Image.fromarray(large).save(tmp_path / "large.png", compress_level=1)
    assert image_size(tmp_path / "large.png") == (9600, 9600)
    assert read_image(tmp_path / "large.png")[-1, -1].tolist() == [255, 255, 255]


def test_photo_of_too_many_pixels_is_refused_with_a_way_on(tmp_path, monkeypatch):
    monkeypatch.setattr("common.data.photos._MOST_PIXELS", 2**20)
    Image.fromarray(np.zeros((1025, 1024), np.uint8)).save(tmp_path / "bomb.png")
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ValueError, match=r"bomb\.png.*more than 1 million pixels: cut it into"):
        read_image(tmp_path / "bomb.png")
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".avif"])
def test_further_suffixes_of_photos_are_listed_and_read(tmp_path, suffix):
    gray = np.full((32, 32, 3), 128, np.uint8)
    if suffix not in Image.registered_extensions():
        pytest.skip("this Pillow does not read it")
    Image.fromarray(gray).save(tmp_path / f"a{suffix}")
    (path,) = list_images(tmp_path)
    assert np.abs(read_image(path).astype(int) - 128).max() <= 2


def test_photo_that_pillow_cannot_read_is_named_and_not_passed_over(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (path,) = list_images(tmp_path)
    with pytest.raises(ValueError, match=r"a\.heic: cannot be read as an image"):
        read_image(path)
