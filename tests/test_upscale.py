"""Photos of every kind go through `upscale` and come out as they were, but larger."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
import torch
from PIL import Image, ImageCms

from common import checkpoint
from common.data.photos import image_size, read_image, write_image
from common.data.resize import imresize
from common.progress import progress_bar
from common.run.flags import command_line
from ESRGAN.model import GeneratorRRDB
from scripts import upscale
from scripts.evaluate import evaluate
from scripts.inference import photos
from scripts.upscale import load_model
from SRVAE.model import SRVAE
from tests.conftest import SKIMAGE_DATA

PHOTO = read_image(SKIMAGE_DATA / "chelsea.png")[100:136, 100:148]  # 48x36
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def run(*inputs, out, model="bicubic", **options):
    return upscale.upscale(inputs, model=model, out=out, device="cpu", **options)


def open_pixels(path: Path) -> np.ndarray:
    """Read with libvips, 16 bits and all."""
    return pyvips.Image.new_from_buffer(path.read_bytes(), "").numpy()


def bicubic(pixels: np.ndarray) -> np.ndarray:
    """Enlarge in float as Pillow does, (H, W) or (H, W, C) of any depth."""
    bands = [
        Image.fromarray(b.astype(np.float32)) for b in np.atleast_3d(pixels).transpose(2, 0, 1)
    ]
    size = 4 * pixels.shape[1], 4 * pixels.shape[0]
    return np.stack([np.asarray(b.resize(size, Image.Resampling.BICUBIC)) for b in bands], 2)


@pytest.fixture
def srvae(tmp_path) -> Path:
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "srvae.pth", SRVAE(6, 2, 1).state_dict())
    return tmp_path / "srvae.pth"


def test_result_is_the_models(tmp_path):
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "a.pth", GeneratorRRDB(1, 8, 4).state_dict())
    write_image(tmp_path / "photo.png", PHOTO)
    assert run(tmp_path / "photo.png", out=tmp_path / "out", model=tmp_path / "a.pth") == 0
    expected = load_model(tmp_path / "a.pth", "cpu").upscale(PHOTO)
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "photo.png"), expected)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("kind", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_gray_alpha_and_depth_stay(suffix, kind, depth, tmp_path):
    top = np.iinfo(depth).max
    photo = top // 4 + PHOTO.astype(np.uint32) * (top // 255) // 2  # bicubic clips nothing
    alpha = photo[..., :1][::-1]
    colour = photo if kind.startswith("RGB") else photo[..., 1:2]
    pixels = np.concatenate([colour, alpha], 2) if kind.endswith("A") else colour
    pixels = np.ascontiguousarray(pixels.astype(depth))
    spaces = ("b-w", "srgb") if depth is np.uint8 else ("grey16", "rgb16")
    image = pyvips.Image.new_from_array(pixels)
    image.copy(interpretation=spaces[kind.startswith("RGB")]).write_to_file(
        str(tmp_path / f"photo.{suffix}")
    )
    assert run(tmp_path / f"photo.{suffix}", out=tmp_path / "out") == 0
    result = open_pixels(tmp_path / "out" / f"photo.{suffix}")
    result = np.atleast_3d(result)
    assert result.dtype == depth and result.shape == (144, 192, pixels.shape[2])
    inner = (slice(12, -12), slice(12, -12))  # Pillow treats borders in another way
    difference = np.abs(result - bicubic(pixels))[inner]
    assert difference.max() <= (1 if depth is np.uint8 else 40)


def test_float_tiff_stays(tmp_path):
    pixels = (0.25 + PHOTO / 510).astype(np.float32)
    tifffile.imwrite(tmp_path / "photo.tif", pixels, photometric="rgb")
    assert run(tmp_path / "photo.tif", out=tmp_path / "out") == 0
    result = tifffile.imread(tmp_path / "out" / "photo.tif")
    assert result.dtype == np.float32
    np.testing.assert_allclose(result[12:-12, 12:-12], bicubic(pixels)[12:-12, 12:-12], atol=1e-3)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_profile_and_exif_stay_and_the_photo_is_turned(suffix, tmp_path):
    image = Image.fromarray(PHOTO)
    exif = image.getexif()
    exif[0x0112], exif[0x010F], exif[0x9C9B] = 6, "a maker", "title".encode("utf-16-le")
    exif.get_ifd(0x8769).update({0x829A: 0.01, 40962: 48, 40963: 36})
    exif.get_ifd(0x8825)[1] = "N"
    image.save(tmp_path / "photo.jpg", exif=exif, icc_profile=PROFILE)
    format = {"tif": "tiff"}.get(suffix, suffix)
    assert run(tmp_path / "photo.jpg", out=tmp_path / "out", format=format) == 0
    with Image.open(tmp_path / "out" / f"photo.{format}") as result:
        assert result.size == (144, 192)  # from 48x36
        found = result.getexif()
        assert found[0x0112] == 1 and found[0x010F] == "a maker"
        assert found.get_ifd(0x8769)[0x829A] == pytest.approx(0.01)
        assert found.get_ifd(0x8769).get(40962, 144) == 144  # the new size, or none
        assert found.get_ifd(0x8825)[1] == "N"
        assert result.info["icc_profile"] == PROFILE
        upright = np.asarray(result.convert("RGB")).astype(int)
    expected = imresize(np.rot90(PHOTO, -1).copy(), 4)
    assert np.abs(upright - expected).mean() < 6  # it was a JPEG


def test_a_tiff_with_exif_is_read_by_other_programs(tmp_path):
    image = Image.fromarray(PHOTO)
    exif = image.getexif()
    exif[0x010F] = "a maker"
    exif.get_ifd(0x8769)[0x829A] = 0.01
    image.save(tmp_path / "photo.png", exif=exif)
    assert run(tmp_path / "photo.png", out=tmp_path / "out", format="tiff") == 0
    path = tmp_path / "out" / "photo.tiff"
    pixels = tifffile.imread(path)
    np.testing.assert_array_equal(pixels, open_pixels(path))
    with Image.open(path) as opened:
        np.testing.assert_array_equal(pixels, np.asarray(opened))
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].tags["Make"].value == "a maker"
        assert file.pages[0].tags["ExifTag"].value["ExposureTime"] == pytest.approx(0.01)


@pytest.mark.parametrize("mode", ["P", "1", "CMYK", "I;16", "L", "LA"])
def test_other_kinds_of_images_are_taken(mode, tmp_path):
    image = Image.fromarray(PHOTO)
    image = image.convert("I") if mode == "I;16" else image.convert(mode)
    name = "photo.tif" if mode in ("CMYK", "I;16") else "photo.png"
    image.save(tmp_path / name)
    assert run(tmp_path / name, out=tmp_path / "out") == 0
    assert open_pixels(tmp_path / "out" / name).shape[:2] == (144, 192)


def test_a_fourth_channel_without_a_name_is_alpha_and_a_fifth_is_refused(tmp_path, capsys):
    for n in (4, 5):
        pixels = np.repeat(PHOTO[..., :1], n, 2)
        tifffile.imwrite(tmp_path / f"{n}.tif", pixels, photometric="minisblack", planarconfig=1)
    assert run(tmp_path / "4.tif", tmp_path / "5.tif", out=tmp_path / "out") == 1
    assert open_pixels(tmp_path / "out" / "4.tif").shape == (144, 192, 4)
    assert "5.tif: cannot be read as a photo (5 channels" in capsys.readouterr().err


def test_lab_becomes_rgb(tmp_path):
    image = pyvips.Image.new_from_array(PHOTO).copy(interpretation="srgb").colourspace("lab")
    image.write_to_file(str(tmp_path / "lab.tif"))
    assert run(tmp_path / "lab.tif", out=tmp_path / "out") == 0
    assert np.abs(open_pixels(tmp_path / "out" / "lab.tif") - bicubic(PHOTO)).mean() < 3


@pytest.mark.parametrize("suffix", ["bmp", "ppm", "gif"])
def test_what_cannot_be_written_becomes_png(suffix, tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / f"photo.{suffix}")
    assert run(tmp_path / f"photo.{suffix}", out=tmp_path / "out") == 0
    assert read_image(tmp_path / "out" / "photo.png").shape == (144, 192, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (5, 7)])
def test_any_size(size, tmp_path, srvae):
    write_image(tmp_path / "photo.png", np.full((*size, 3), 100, np.uint8))
    assert run(tmp_path / "photo.png", out=tmp_path / "out", model=srvae) == 0
    assert read_image(tmp_path / "out" / "photo.png").shape == (4 * size[0], 4 * size[1], 3)


@pytest.mark.parametrize("scale", [1, 2, 3, 8])
def test_other_scales_are_resampled_in_float(scale, tmp_path):
    size = 36 * scale, 48 * scale
    photo = 64 + PHOTO // 2
    write_image(tmp_path / "photo.png", photo)
    assert run(tmp_path / "photo.png", out=tmp_path / "out", scale=scale) == 0
    result = read_image(tmp_path / "out" / "photo.png")
    assert result.shape == (*size, 3)
    bands = [Image.fromarray(b) for b in bicubic(photo).transpose(2, 0, 1)]
    expected = [np.asarray(b.resize(size[::-1], Image.Resampling.BICUBIC)) for b in bands]
    inner = (slice(8 * scale, -8 * scale), slice(8 * scale, -8 * scale))
    assert np.abs(result - np.stack(expected, 2))[inner].max() <= 1.01


def test_small_scales_never_vanish(tmp_path):
    write_image(tmp_path / "photo.png", PHOTO[:1, :1])
    assert run(tmp_path / "photo.png", out=tmp_path / "out", scale=0.3) == 0
    assert read_image(tmp_path / "out" / "photo.png").shape == (1, 1, 3)


def test_samples_of_a_vae(tmp_path, srvae):
    write_image(tmp_path / "photo.png", PHOTO)
    assert run(tmp_path / "photo.png", out=tmp_path / "out", model=srvae, samples=3, seed=1) == 0
    names = ["photo_1.png", "photo_2.png", "photo_3.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    expected = load_model(srvae, "cpu").sample(PHOTO, 3, seed=1)
    for name, sample in zip(names, expected, strict=True):
        np.testing.assert_array_equal(read_image(tmp_path / "out" / name), sample)
    with pytest.raises(ValueError, match="bicubic, which has one answer"):
        run(tmp_path / "photo.png", out=tmp_path / "other", samples=3)


def test_tiles_and_files_on_disk_change_nothing(tmp_path, monkeypatch, srvae):
    rng = np.random.default_rng(0)
    write_image(tmp_path / "photo.png", rng.integers(0, 256, (60, 120, 3), dtype=np.uint8))
    run(tmp_path / "photo.png", out=tmp_path / "whole", model=srvae, samples=1)
    monkeypatch.setattr(photos, "_IN_MEMORY", 1000)
    run(tmp_path / "photo.png", out=tmp_path / "tiles", model=srvae, samples=1, tile=48)
    whole, tiled = (read_image(tmp_path / f / "photo_1.png") for f in ("whole", "tiles"))
    assert np.abs(whole.astype(int) - tiled).max() <= 1
    assert sorted(path.name for path in (tmp_path / "tiles").iterdir()) == ["photo_1.png"]


def test_folders_keep_their_structure_and_bad_files_are_reported(tmp_path, capsys):
    folder = tmp_path / "in put"
    write_image(folder / "a.png", PHOTO)
    write_image(folder / "sub" / "ä [1].png", PHOTO)
    write_image(folder / "sub" / "same.bmp", PHOTO)
    write_image(folder / "sub" / "same.gif", PHOTO)
    write_image(folder / ".hidden" / "b.png", PHOTO)
    (folder / "notes.txt").write_text("no photo")
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("no photo")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:2000])
    (folder / "folder.png").mkdir()
    out = tmp_path / "out"
    assert run(folder, out=out) == 3
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert written == {"a.png", "sub/ä [1].png", "sub/same.png", "sub/same.gif.png"}
    said = capsys.readouterr()
    for name in ("empty.png", "text.jpg", "cut.png"):
        assert f"{name}: cannot be read as a" in said.err
    assert "4 of 7 photos enlarged" in said.out


def test_nothing_is_overwritten(tmp_path, capsys):
    write_image(tmp_path / "in" / "a.png", PHOTO)
    write_image(tmp_path / "in" / "b.png", PHOTO)
    write_image(tmp_path / "out" / "a.png", PHOTO[:4])
    assert run(tmp_path / "in", out=tmp_path / "out") == 1
    assert "a.png is there already (--overwrite" in capsys.readouterr().err
    assert read_image(tmp_path / "out" / "a.png").shape == (4, 48, 3)
    assert read_image(tmp_path / "out" / "b.png").shape == (144, 192, 3)
    assert run(tmp_path / "in", out=tmp_path / "out", overwrite=True) == 0
    assert read_image(tmp_path / "out" / "a.png").shape == (144, 192, 3)
    with pytest.raises(ValueError, match=r"a\.png is the photo itself"):
        run(tmp_path / "in", out=tmp_path / "in", overwrite=True)


def test_bar_shows_what_was_enlarged(tmp_path, monkeypatch):
    bars = []
    show = lambda **options: bars.append(progress_bar(**options)) or bars[0]  # noqa: E731
    monkeypatch.setattr(upscale, "progress_bar", show)
    write_image(tmp_path / "in" / "a.png", PHOTO)
    write_image(tmp_path / "in" / "b.png", PHOTO[:5])
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    assert run(tmp_path / "in", out=tmp_path / "out") == 1
    assert (bars[0].n, bars[0].total) == (5 * 48, 41 * 48)


def test_one_photo_to_one_file(tmp_path):
    write_image(tmp_path / "a.png", PHOTO)
    assert run(tmp_path / "a.png", out=tmp_path / "new" / "b.webp") == 0
    assert read_image(tmp_path / "new" / "b.webp").shape == (144, 192, 3)
    with pytest.raises(ValueError, match="is one file, and there are several photos"):
        run(tmp_path, out=tmp_path / "b.webp")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"scale": 0}, "scale above 0"),
        ({"samples": -1}, "0 or more"),
        ({"quality": 101}, "expected 1 to 100"),
        ({"tile": 100}, "multiple of 24"),
        ({"model": "none.pth"}, "there is no such file"),
    ],
)
def test_bad_arguments_are_refused(options, message, tmp_path):
    write_image(tmp_path / "a.png", PHOTO)
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "a.png", out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_missing_and_empty_inputs_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for path, message in (("none", "no such file or folder"), ("empty", "holds no photos")):
        with pytest.raises(ValueError, match=message):
            run(tmp_path / path, out=tmp_path / "out")


def test_formats_with_a_longest_side_are_refused_in_time(tmp_path, capsys):
    write_image(tmp_path / "wide.png", np.zeros((1, 5000, 3), np.uint8))
    assert run(tmp_path / "wide.png", out=tmp_path / "out", format="webp") == 1
    assert "at most 16383 pixels a side: choose png" in capsys.readouterr().err


def test_command_line_ends_with_an_exit_code_and_one_line(tmp_path):
    script = Path(upscale.__file__)
    write_image(tmp_path / "a.png", PHOTO)
    (tmp_path / "bad.png").touch()

    def call(*arguments):
        command = [sys.executable, str(script), *arguments, "-m", "bicubic", "--device", "cpu"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert call("a.png", "bad.png", "-o", "out").returncode == 1
    assert (tmp_path / "out" / "a.png").exists()
    refused = call("none.png", "-o", "out")
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "error: none.png: there is no such file" in refused.stderr


def test_bombs_are_refused_before_they_are_decoded(tmp_path, monkeypatch, capsys):
    write_image(tmp_path / "bomb.png", PHOTO)
    monkeypatch.setattr(photos, "_MOST_PIXELS", 1000)
    assert run(tmp_path / "bomb.png", out=tmp_path / "out") == 1
    assert "48x36 pixels: too large to be trusted" in capsys.readouterr().err


def test_results_may_lie_in_the_photos_folder_or_above_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image(Path("in/sub/a.png"), PHOTO)
    assert run(Path("in"), out=Path("in/out")) == 0
    assert run(Path("in"), out=Path("in/out"), overwrite=True) == 0  # not of its own results
    written = {path.relative_to("in/out").as_posix() for path in Path("in/out").rglob("*.png")}
    assert written == {"sub/a.png"}
    assert run(Path("in/sub"), out=Path()) == 0
    assert read_image("a.png").shape == (144, 192, 3)


def test_no_two_photos_claim_one_name(tmp_path, capsys):
    """A PNG keeps its name, whatever would become PNG beside it, and each result is its photo's."""
    colours = {"a.bmp": 50, "a.gif": 100, "a.png": 200}
    for name, value in colours.items():
        Image.new("RGB", (8, 8), (value,) * 3).save(tmp_path / name)
    assert run(*(tmp_path / name for name in colours), out=tmp_path / "out") == 0
    for name, value in {"a.png": 200, "a.bmp.png": 50, "a.gif.png": 100}.items():
        assert read_image(tmp_path / "out" / name)[16, 16].tolist() == [value] * 3
    assert (
        f"{tmp_path / 'a.bmp'} becomes {tmp_path / 'out' / 'a.bmp.png'}" in capsys.readouterr().err
    )


def test_several_photos_mean_a_folder_also_one_with_a_dot_in_its_name(tmp_path):
    write_image(tmp_path / "photos" / "a.png", PHOTO)
    write_image(tmp_path / "photos" / "b.png", PHOTO)
    assert run(tmp_path / "photos", out=tmp_path / "results_v1.5") == 0
    assert {path.name for path in (tmp_path / "results_v1.5").iterdir()} == {"a.png", "b.png"}


def test_whoever_asks_for_no_device_is_not_told_of_one(tmp_path, capsys):
    write_image(tmp_path / "a.png", PHOTO)
    upscale.upscale((tmp_path / "a.png",), model="bicubic", out=tmp_path / "out")
    assert "GPU" not in "".join(capsys.readouterr())


def disc(kind: str) -> Image.Image:
    """A white disc on transparent black, its rim half transparent."""
    y, x = np.mgrid[:24, :24] - 11.5
    radius = np.hypot(x, y)
    alpha = np.where(radius < 8, 255, np.where(radius < 9, 128, 0)).astype(np.uint8)
    white = np.where(alpha > 0, 255, 0).astype(np.uint8)
    if kind == "LA":
        return Image.merge("LA", [Image.fromarray(white), Image.fromarray(alpha)])
    if kind == "GIF":  # has pixels that are transparent, and others
        image = Image.fromarray((alpha > 0).astype(np.uint8)).convert("P")
        image.putpalette([0, 0, 0, 255, 255, 255])
        image.info["transparency"] = 0
        return image
    image = Image.merge("RGBA", [Image.fromarray(white)] * 3 + [Image.fromarray(alpha)])
    return image.quantize(8) if kind == "P" else image


@pytest.mark.parametrize("model", ["bicubic", "ESRGAN"])
@pytest.mark.parametrize(
    "kind, name", [("RGBA", "a.png"), ("LA", "a.png"), ("P", "a.png"), ("RGBA", "a.webp"),
                   ("RGBA", "a.tif"), ("GIF", "a.gif")]
)  # fmt: skip
def test_transparent_pictures_get_no_dark_rim(tmp_path, kind, name, model):
    disc(kind).save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
    if model == "ESRGAN":
        torch.manual_seed(0)
        network = GeneratorRRDB(1, 8, 4)
        network.start_as_nearest()
        network.trunk_conv.weight.data.zero_()  # nearest-neighbour enlargement, exactly
        model = tmp_path / "network.pth"
        checkpoint.save(model, network.state_dict())
    assert run(tmp_path / name, out=tmp_path / "out", model=model) == 0
    (made,) = (tmp_path / "out").iterdir()
    pixels = open_pixels(made)
    colour, alpha = pixels[..., :-1], pixels[..., -1]
    assert (alpha == 255).any() and (alpha == 0).any()
    assert colour[alpha > 0].min() >= 254


def test_sixteen_bits_get_no_dark_rim(tmp_path):
    pixels = np.asarray(disc("RGBA")).astype(np.uint16) * 257
    pyvips.Image.new_from_array(pixels, interpretation="rgb16").write_to_file(tmp_path / "a.png")
    assert run(tmp_path / "a.png", out=tmp_path / "out") == 0
    made = open_pixels(tmp_path / "out" / "a.png")
    assert made.dtype == np.uint16 and made[..., :3][made[..., 3] > 0].min() >= 65000


def test_picture_that_is_transparent_everywhere_or_nowhere_keeps_its_colours(tmp_path):
    for value in (0, 255):
        Image.new("RGBA", (8, 8), (10, 200, 30, value)).save(tmp_path / f"{value}.png")
        assert run(tmp_path / f"{value}.png", out=tmp_path / "out") == 0
        assert open_pixels(tmp_path / "out" / f"{value}.png")[16, 16].tolist() == [
            10, 200, 30, value
        ]  # fmt: skip


def pages(path: Path, *pictures: np.ndarray, **tags) -> None:
    """Write a TIFF of several pages; `tags` are of the first."""
    with tifffile.TiffWriter(path) as writer:
        for i, pixels in enumerate(pictures):
            writer.write(pixels, photometric="rgb", **({} if i else tags))


def test_self_ensemble_is_for_the_command_and_the_evaluation(tmp_path):
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "a.pth", GeneratorRRDB(1, 8, 4).state_dict())
    write_image(tmp_path / "hr" / "photo.png", PHOTO)
    models = {"model": tmp_path / "a.pth", "self_ensemble": True}
    assert run(tmp_path / "hr" / "photo.png", out=tmp_path / "out", **models) == 0
    expected = load_model(tmp_path / "a.pth", "cpu", self_ensemble=True).upscale(PHOTO)
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "photo.png"), expected)
    options = {"models": (str(tmp_path / "a.pth"),), "hr": tmp_path / "hr", "device": "cpu"}
    (with_it,) = evaluate(self_ensemble=True, **options)
    assert with_it["psnr_y"] != evaluate(**options)[0]["psnr_y"]


def test_of_a_tiff_that_begins_with_a_thumbnail_the_photo_is_enlarged(tmp_path, capsys):
    pages(tmp_path / "a.tif", PHOTO[::4, ::4], PHOTO, PHOTO[::2, ::2], subfiletype=1)
    assert run(tmp_path / "a.tif", out=tmp_path / "out") == 0
    assert "a.tif: page 2, the largest, of 3 pages" in capsys.readouterr().err
    expected = load_model("bicubic").upscale(PHOTO)
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "a.tif"), expected)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), PHOTO)  # as training reads it
    assert image_size(tmp_path / "a.tif") == PHOTO.shape[:2]


@pytest.mark.parametrize(
    "tags",
    [{"extratags": [(50706, 1, 4, b"\1\4\0\0", True)]}, {"subfiletype": 1, "subifds": 1}],
    ids=["DNG", "preview with the photo below it"],
)
def test_a_cameras_raw_file_is_named_as_such(tags, tmp_path, capsys):
    pages(tmp_path / "a.tif", PHOTO[::4, ::4], PHOTO, **tags)
    assert run(tmp_path / "a.tif", out=tmp_path / "out") == 1
    assert "a camera's raw file: develop it to a TIFF, PNG or JPEG" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"a\.tif: .*a camera's raw file"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.webp"])
def test_of_an_animation_the_first_frame_is_enlarged_and_that_is_said(name, tmp_path, capsys):
    frames = [Image.fromarray(PHOTO + 40 * i) for i in range(3)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=100)
    assert run(tmp_path / name, out=tmp_path / "out") == 0
    assert f"{name}: the first of 3 frames" in capsys.readouterr().err


def test_a_photo_that_memory_is_too_small_for_is_named_and_the_others_are_enlarged(
    tmp_path, monkeypatch, capsys
):
    for i, name in enumerate("abc"):
        write_image(tmp_path / "photos" / f"{name}.png", PHOTO[: 20 + i])
    original = photos.Photo.read

    def read(photo, *place):
        if photo.size[0] == 21:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")
        return original(photo, *place)

    monkeypatch.setattr(photos.Photo, "read", read)
    assert run(tmp_path / "photos", out=tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "not enlarged: " in said.err and "b.png: a tile of" in said.err
    assert "2 of 3 photos enlarged" in said.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]

    def save(*_):
        raise pyvips.Error("out of memory -- size == 9GB")

    monkeypatch.setattr(photos.Photo, "read", original)
    monkeypatch.setattr(upscale, "save_photo", save)
    assert run(tmp_path / "photos", out=tmp_path / "other") == 3
    assert capsys.readouterr().err.count("out of memory -- size") == 3


def test_ctrl_c_leaves_what_is_done_without_a_traceback(tmp_path, monkeypatch, capsys):
    for name in "abc":
        write_image(tmp_path / "photos" / f"{name}.png", PHOTO)
    original = upscale.save_photo

    def save(path, *more):
        if path.name == "b.png":
            raise KeyboardInterrupt
        original(path, *more)

    monkeypatch.setattr(upscale, "save_photo", save)
    folders = [str(tmp_path / "photos"), "-o", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["upscale.py", *folders, "-m", "bicubic", "--device", "cpu"])
    with pytest.raises(SystemExit, match="130"):
        command_line(upscale.upscale)
    said = capsys.readouterr()
    assert "1 of 3 photos enlarged" in said.out and said.err.endswith("stopped\n")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


def test_files_of_killed_runs_are_cleared(tmp_path):
    write_image(tmp_path / "a.png", PHOTO)
    of_this, of_another, at_work = (f"out/.{name}.77.tmp.png" for name in ("a", "old", "new"))
    for name in (of_this, of_another, at_work):
        write_image(tmp_path / name, PHOTO)
    os.utime(tmp_path / of_another, (0, 0))  # the third may be of a process that is at work
    assert run(tmp_path / "a.png", out=tmp_path / "out") == 0
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"a.png", ".new.77.tmp.png"}


@pytest.mark.parametrize("has_profile", [False, True])
@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_looks_the_same_to_command_training_and_notebook(suffix, has_profile, tmp_path):
    path = tmp_path / f"a.{suffix}"
    inks = np.dstack([255 - PHOTO, np.full(PHOTO.shape[:2], 40, np.uint8)])
    profile = bytes(pyvips.Operation.call("profile_load", "cmyk")) if has_profile else None
    Image.fromarray(inks, "CMYK").save(path, icc_profile=profile, quality=95)
    colours = read_image(path)
    np.testing.assert_array_equal(photos.open_photo(path).colour.numpy(), colours)
    sr = load_model("bicubic").upscale(Image.open(path))
    np.testing.assert_array_equal(sr, load_model("bicubic").upscale(Image.fromarray(colours)))
    if has_profile:  # as another program has it, and far from the plain formula
        expected = pyvips.Image.new_from_file(str(path)).icc_transform("srgb", embedded=True)
        assert np.abs(colours.astype(int) - expected.numpy()).mean() < 2
        plain = Image.open(path).convert("RGB")
        assert np.abs(colours.astype(int) - np.asarray(plain)).mean() > 10
