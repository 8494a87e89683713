"""Checkpoints taken by their names: shipped, published (from a server here), and by spandrel."""

import hashlib
import http.server
import re
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from spandrel.architectures.SPAN import SPAN

from common import checkpoint
from common.data.photos import read_image, to_tensor, to_uint8
from common.data.resize import imresize
from common.measure.metrics import psnr_ssim_y
from common.measure.validation import busiest_crop
from ESRGAN.model import GeneratorRRDB, to_published
from scripts.evaluate import evaluate
from scripts.evidence.real import real
from scripts.inference import foreign, named
from scripts.inference.models import load_model
from scripts.upscale import upscale
from tests.conftest import SKIMAGE_DATA


def test_shipped_checkpoints_are_called_by_name_and_have_a_card():
    photo = read_image(SKIMAGE_DATA / "chelsea.png")[:200, :300]
    lr = imresize(photo, 1 / 4)
    psnr, shift = {}, {}
    for name in ("bicubic", *named.SHIPPED):
        sr = load_model(name, "cpu").upscale(lr)
        psnr[name] = psnr_ssim_y(to_tensor(sr), to_tensor(photo))[0]
        shift[name] = np.abs((sr.astype(float) - photo).mean((0, 1))).max()
    assert psnr["esrgan-psnr"] > psnr["bicubic"] + 0.6
    assert shift.pop("cyclegan-v1") < 6  # nothing in the plain method holds colours
    assert max(shift.values()) < 2
    for name, path in named.SHIPPED.items():
        assert f"| `{name}` |" in (path.parent / "README.md").read_text(encoding="utf-8")
        weights = checkpoint.load(path).values()
        assert all(w.dtype == torch.float16 for w in weights if w.is_floating_point())
    assert sum(path.stat().st_size for path in named.SHIPPED.values()) < 32 * 2**20


def test_unknown_name_is_told_those_there_are():
    with pytest.raises(ValueError, match=r"^edrs: there is no such file.*bicubic.*swinir-cl"):
        load_model("edrs", "cpu")


def test_list_has_a_line_for_each_name(capsys):
    assert upscale((), model="list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["bicubic", *named.SHIPPED, *named.PUBLISHED]
    shipped = lines[1 : 1 + len(named.SHIPPED)]
    assert "clean photos, faithful" in lines[1 + list(named.SHIPPED).index("esrgan-psnr")]
    assert all(re.match(r"\S+ +[A-Za-z][A-Za-z ,;:-]+ +\d\.\d MB", line) for line in shipped)
    assert evaluate(models=("list",)) == []
    assert capsys.readouterr().out.splitlines() == lines


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A small network on a server of this machine, under a name; returns where it will lie."""
    torch.manual_seed(0)
    network = GeneratorRRDB(1, 8, 32, conv_last=False)
    checkpoint.save(tmp_path / "site" / "net.pth", {"params_ema": to_published(network)})
    content = (tmp_path / "site" / "net.pth").read_bytes()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "site"))

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/net.pth"
    entry = named.Published(url, hashlib.sha256(content).hexdigest(), "1 MB", "tests", "us, MIT")
    monkeypatch.setitem(named.PUBLISHED, "net", entry)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    yield network, tmp_path / "hub" / "checkpoints" / "net.pth"
    server.shutdown()
    server.server_close()


def test_published_checkpoint_is_downloaded_once_and_its_licence_shown_once(published, capsys):
    network, path = published
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        expected = network(x).clamp(0, 1)
    torch.testing.assert_close(load_model("net", "cpu").upscale(x), expected)
    assert path.exists() and "us, MIT" in capsys.readouterr().out
    named.PUBLISHED["net"] = named.PUBLISHED["net"]._replace(url="http://127.0.0.1:9/net.pth")
    load_model("net", "cpu")
    assert capsys.readouterr().out == ""


def test_file_that_is_not_the_published_one_is_refused(published):
    named.PUBLISHED["net"] = named.PUBLISHED["net"]._replace(sha256="0" * 64)
    with pytest.raises(ConnectionError, match="wrong SHA256"):
        load_model("net", "cpu")
    assert not published[1].exists()


def test_offline_the_address_and_the_folder_are_named(published, monkeypatch):
    monkeypatch.setattr("common.download.PAUSE", 0)
    named.PUBLISHED["net"] = named.PUBLISHED["net"]._replace(url="http://127.0.0.1:9/net.pth")
    with pytest.raises(ConnectionError, match=r"9/net\.pth by hand into .*checkpoints.*psnr"):
        load_model("net", "cpu")


def test_digests_begin_as_those_in_the_authors_file_names():
    checked = 0
    for url, sha256, *_ in named.PUBLISHED.values():
        assert len(sha256) in (8, 64)
        digits = url.removesuffix(".pth").removesuffix(".pt").rpartition("-")[2]
        if digits.isalnum() and len(digits) == 8:
            assert sha256.startswith(digits)
            checked += 1
    assert checked == 3


def test_other_networks_are_opened_by_spandrel_and_enlarge_in_tiles(tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = SPAN(num_in_ch=3, num_out_ch=3, feature_channels=16, upscale=4).eval()
    checkpoint.save(tmp_path / "span.pth", {"params": network.state_dict()})
    model = load_model(tmp_path / "span.pth", "cpu")
    assert model.name == "SPAN (by spandrel)"
    x = torch.rand(1, 3, 50, 60)
    with torch.no_grad():
        expected = network(x).clamp(0, 1)
    torch.testing.assert_close(model.upscale(x), expected, atol=2e-5, rtol=0)
    model.tile = 24
    torch.testing.assert_close(model.upscale(x), expected, atol=2e-4, rtol=0)

    two = SPAN(num_in_ch=3, num_out_ch=3, feature_channels=16, upscale=2)
    checkpoint.save(tmp_path / "two.pth", two.state_dict())
    with pytest.raises(ValueError, match=r"two\.pth holds .* SPAN that enlarges 2 times"):
        load_model(tmp_path / "two.pth", "cpu")

    monkeypatch.setattr(foreign, "IS_INSTALLED", False)
    monkeypatch.setattr(foreign, "HINT", " (pip install spandrel ...)")
    with pytest.raises(ValueError, match=r"weights of SPAN, known are .*pip install spandrel"):
        load_model(tmp_path / "span.pth", "cpu")


def test_photo_is_enlarged_beside_itself_without_further_arguments(tmp_path, capsys):
    pixels = read_image(SKIMAGE_DATA / "chelsea.png")[:24, :30]
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    assert upscale((tmp_path / "cat.png",)) == 0
    assert f"1 of 1 photos enlarged: {tmp_path / 'cat_4x.png'}\n" in capsys.readouterr().out
    expected = load_model(named.DEFAULT, "cpu").upscale(to_tensor(pixels))
    found = read_image(tmp_path / "cat_4x.png")
    np.testing.assert_allclose(found.astype(int), to_uint8(expected).astype(int), atol=1)
    assert upscale((tmp_path,), scale=2.0, model="bicubic", format="jpg") == 0
    beside = tmp_path.with_name(f"{tmp_path.name}_2x")
    assert sorted(p.name for p in beside.iterdir()) == ["cat.jpg", "cat_4x.jpg"]
    with pytest.raises(ValueError, match="2 inputs: name the folder for their results"):
        upscale((tmp_path / "cat.png", tmp_path / "cat_4x.png"))
    with pytest.raises(ValueError, match="no photos are named"):
        upscale(())


def test_crops_of_real_photos_are_those_of_the_whole_photo(tmp_path):
    pixels = read_image(SKIMAGE_DATA / "chelsea.png")[:90, :100]
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    photos = (tmp_path / "cat.png",) * 2
    picture = read_image(
        real(photos, models=("bicubic", "bicubic"), crop=20, out=tmp_path / "o.png")
    )
    assert picture.shape == (2 * (20 + 80 + 12), 2 * (80 + 6) + 6, 3)
    whole = load_model("bicubic", "cpu").upscale(pixels)
    top, left = busiest_crop(pixels, 20)
    expected = whole[4 * top : 4 * top + 80, 4 * left : 4 * left + 80].astype(int)
    assert np.abs(picture[26:106, 6:86] - expected).max() <= 1
    with pytest.raises(ValueError, match="smaller than a crop of 91x91"):
        real(photos, models=("bicubic",), crop=91, out=tmp_path / "p.png")
