"""The picture that shows checkpoints side by side."""

from pathlib import Path

import numpy as np
import pytest
import torch

from common import checkpoint
from common.data.photos import read_image, write_image
from common.data.resize import imresize
from common.measure.metrics import psnr_ssim_y
from scripts import compare as script
from scripts.compare import Result, compare, draw
from SRVAE.model import SRVAE
from tests.conftest import SKIMAGE_DATA

PHOTO = read_image(SKIMAGE_DATA / "chelsea.png")[60:163, 100:290]


@pytest.fixture
def photo(tmp_path):
    write_image(tmp_path / "photo.png", PHOTO)
    return tmp_path / "photo.png"


@pytest.fixture
def srvae(tmp_path) -> str:
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "srvae.pth", SRVAE(6, 2, 1).state_dict())
    return str(tmp_path / "srvae.pth")


def test_picture_has_every_model_its_samples_and_scores(
    photo, srvae, tmp_path, monkeypatch, capsys
):
    drawn = []

    def record(whole, results, places, crop):
        drawn.append((whole, results, places, crop))
        return draw(whole, results, places, crop)

    monkeypatch.setattr(script, "draw", record)
    out = tmp_path / "out.png"
    compare(photo, models=("bicubic", srvae), samples=2, crop=40, out=out, device="cpu")
    ((whole, results, places, crop),) = drawn
    names = ["bicubic", "srvae", "srvae, sample 1", "srvae, sample 2", "HR"]
    assert [result.name for result in results] == names
    hr = PHOTO[:100, :188]
    np.testing.assert_array_equal(whole, hr)
    bicubic = imresize(imresize(hr, 1 / 4), 4)
    psnr, ssim = psnr_ssim_y(*(torch.tensor(x / 255).permute(2, 0, 1)[None] for x in (bicubic, hr)))
    shown_psnr, shown_ssim = map(float, results[0].score.split(" / "))
    assert shown_psnr == pytest.approx(psnr, abs=0.02)
    assert shown_ssim == pytest.approx(ssim, abs=5e-4)
    assert len(places) == 2 and places[0][1] < 94 <= places[1][1]  # one in each half
    assert all(0 <= top <= 60 and 0 <= left <= 148 for top, left in places) and crop == 40
    assert min(read_image(out).shape[:2]) > 500
    said = capsys.readouterr().out
    assert f"{photo} is taken for HR: scaled down to 47x25" in said and "--is-lr enlarges" in said


def test_crops_are_framed_and_shown_as_they_are():
    red, blue = (np.full((64, 96, 3), c, np.uint8) for c in ((200, 0, 0), (0, 0, 200)))
    figure = draw(red, [Result("a", red), Result("b", blue)], [(8, 16), (30, 40)], 24)
    photo, *crops = (axes for sub in figure.subfigs for axes in sub.axes)
    frames = [(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in photo.patches]
    assert frames == [(15.5, 7.5, 24, 24), (39.5, 29.5, 24, 24)]
    shown = [axes.images[0].get_array() for axes in crops]
    assert [tuple(x[0, 0]) for x in shown] == [(200, 0, 0), (0, 0, 200)] * 2
    assert all(x.shape == (24, 24, 3) for x in shown)


def test_an_lr_photo_has_no_scores(photo, tmp_path, capsys):
    out = tmp_path / "out.pdf"
    compare(photo, models=("bicubic",), is_lr=True, n_crops=1, crop=64, out=out, device="cpu")
    assert out.read_bytes().startswith(b"%PDF")
    assert "taken for HR" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, message",
    [
        ({"models": ()}, "names no model"),
        ({"names": ("a", "b")}, "a name for each"),
        ({"n_crops": 5}, "1 to 4 crops"),
        ({"out": Path("a.txt")}, r"a\.txt: expected a name that ends in"),
        ({"crop_at": ((0, 180),), "models": ("none.pth",)}, "is not inside .* 188x100 HR"),
        ({"models": ("none.pth",)}, "there is no such file"),
    ],
)
def test_bad_arguments_are_refused(options, message, photo, tmp_path):
    settings = {"models": ("bicubic",), "out": tmp_path / "out.png", "device": "cpu"} | options
    with pytest.raises(ValueError, match=message):
        compare(photo, **settings)
    assert not (tmp_path / "out.png").exists()


def test_a_picture_is_not_overwritten(photo, tmp_path):
    (tmp_path / "out.png").write_text("mine")
    with pytest.raises(FileExistsError, match="there already"):
        compare(photo, models=("bicubic",), out=tmp_path / "out.png", device="cpu")
    assert (tmp_path / "out.png").read_text() == "mine"
