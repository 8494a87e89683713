"""The page in the browser: what it makes, shows, refuses, stops and deletes."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from common import checkpoint
from common.data.photos import read_image, write_image
from common.data.resize import imresize
from CVAE.model import CVAE
from CycleGAN.model import GeneratorSR
from ESRGAN.model import GeneratorRRDB
from scripts.demo import build, demo
from scripts.inference.models import FAMILIES, Model, load_model
from scripts.inference.named import SHIPPED
from scripts.inference.pictures import example_photos
from scripts.inference.service import (
    GOOD_FOR,
    ROOT,
    Bounds,
    Service,
    Wish,
    find_checkpoints,
    first_choice,
    refuse_large,
    titles_of,
)
from scripts.inference.visits import Stopped, Visits, stoppable
from SRVAE.model import SRVAE
from tests.conftest import SKIMAGE_DATA

PHOTO = read_image(SKIMAGE_DATA / "chelsea.png")[100:120, 100:130]  # 30x20
BOUNDS = Bounds(16, 256)


def quiet(*_: object) -> None:
    """Take no notice."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    networks = {
        "cvae/cvae": CVAE(4, 32),
        "cyclegan/G_LR2HR": GeneratorSR(4, 3),
        "esrgan/generator": GeneratorRRDB(1, 8, 4),
        "esrgan/generator_psnr": GeneratorRRDB(1, 8, 4),
        "srvae/srvae": SRVAE(6, 2, 1),
    }
    for i, (name, network) in enumerate(networks.items()):
        torch.manual_seed(i)
        for weight in network.parameters():
            nn.init.normal_(weight, 0, 0.05)
        checkpoint.save(folder / f"{name}.pth", network.state_dict())
    return folder


@pytest.fixture
def service(checkpoints, tmp_path, monkeypatch) -> Service:
    served = tmp_path / "served"
    served.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(served))
    return Service(find_checkpoints((checkpoints,)), "cpu", served, BOUNDS)


@pytest.fixture
def photo(tmp_path) -> Path:
    write_image(tmp_path / "photo.png", PHOTO)
    return tmp_path / "photo.png"


def wish_for(photo: Path, name: str = "bicubic", compared: str = "bicubic", **others) -> Wish:
    return Wish(
        photo, name, compared, **{"scale": 4, "samples": 0, "temperature": 1, "seed": 0} | others
    )


class Layered(nn.Module):
    """Bicubic by 4, after a layer that is called `n` times and tells `called` each time."""

    def __init__(self, n: int, called: Callable[[], object]):
        super().__init__()
        self.n, self.called, self.calls = n, called, 0
        self.layer = nn.Identity()
        self.layer.register_forward_hook(lambda *_: self._count())

    def _count(self) -> None:
        self.calls += 1
        self.called()

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        for _ in range(self.n):
            lr = self.layer(lr)
        return nn.functional.interpolate(lr, scale_factor=4)


def use(network: nn.Module, service: Service, monkeypatch) -> None:
    """Let the service enlarge with `network`, whatever is chosen."""
    stoppable(network)
    model = Model("bicubic", network, torch.device("cpu"))
    monkeypatch.setattr(service, "model", lambda name: model)


def test_result_comparison_and_samples_are_the_models(service, checkpoints, photo):
    names = str(checkpoints / "srvae" / "srvae.pth"), str(checkpoints / "esrgan" / "generator.pth")
    wish = wish_for(photo, *names, samples=3, temperature=0.5, seed=7)
    told = []
    made = service.make("a", wish, told.append)
    assert [path.name for path in made.results] == ["photo_x4.png", "photo_x4_compared.png"]
    ours, other = (load_model(name, "cpu") for name in names)
    np.testing.assert_array_equal(read_image(made.results[0]), ours.upscale(PHOTO))
    np.testing.assert_array_equal(read_image(made.results[1]), other.upscale(PHOTO))
    expected = ours.sample(PHOTO, 3, temperature=0.5, seed=7)
    for paths in (made.samples, made.shown_samples):
        for path, sample in zip(paths, expected, strict=True):
            np.testing.assert_array_equal(read_image(path), sample)
    np.testing.assert_array_equal(read_image(made.before), other.upscale(PHOTO))
    np.testing.assert_array_equal(read_image(made.after), ours.upscale(PHOTO))
    assert made.text.startswith("30x20 to 120x80, SRVAE and ESRGAN on CPU")
    assert told == [(0, 1800), (600, 1800), (1200, 1800), (1800, 1800)]  # 30 x 20 pixels, 3 times


def test_before_is_the_photo_at_the_results_size(service, photo):
    made = service.make("a", wish_for(photo, scale=2.5), quiet)
    assert [path.name for path in made.results] == ["photo_x2.5.png"] and not made.samples
    before, after = read_image(made.before), read_image(made.after)
    assert before.shape == after.shape == (50, 75, 3)
    expected = Image.fromarray(PHOTO).resize((75, 50), Image.Resampling.BICUBIC)
    assert np.abs(before[8:-8, 8:-8] - np.asarray(expected, float)[8:-8, 8:-8]).mean() < 1


@pytest.mark.parametrize(
    ("mode", "size", "shown"),
    [("RGBA", (30, 20), (20, 30, 4)), ("I;16", (30, 20), (20, 30)), ("L", (4000, 10), (4, 1600))],
)
def test_photo_is_shown_whatever_its_kind(service, tmp_path, mode, size, shown):
    Image.new(mode, size, 32896 if mode == "I;16" else None).save(tmp_path / "photo.tif")
    picture, (height, width) = service.look_at(tmp_path / "photo.tif")
    assert picture.shape == shown and picture.dtype == np.uint8 and (width, height) == size
    assert mode != "I;16" or (picture == 128).all()  # 32896 = 128 x 257


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("bicubic", "Interpolation without a network"),
        ("esrgan/generator_psnr.pth", "One faithful answer"),
        ("esrgan/generator.pth", "GAN stage"),
        ("cyclegan/G_LR2HR.pth", "without pairs"),
        ("srvae/srvae.pth", "samples"),
        ("cvae/cvae.pth", "several answers"),
    ],
)
def test_each_checkpoint_says_what_it_is_good_for(service, checkpoints, name, line):
    path = name if name == "bicubic" else str(checkpoints / name)
    assert line in service.good_for(path) and len(service.good_for(path)) < 80


def test_checkpoints_are_called_by_their_paths_and_no_others_are_loaded(service, checkpoints):
    titles = titles_of([*service.checkpoints, str(ROOT / "ESRGAN" / "a.pth")])
    assert titles["bicubic"] == "bicubic"
    assert titles[str(checkpoints / "cvae" / "cvae.pth")] == str(Path("cvae", "cvae.pth"))
    assert titles[str(ROOT / "ESRGAN" / "a.pth")] == str(Path("ESRGAN", "a.pth"))
    with pytest.raises(ValueError, match="not among those found"):
        service.model(str(checkpoints / "other.pth"))


def test_page_begins_with_what_upscale_takes_and_calls_it_by_its_name():
    found = find_checkpoints(())
    real = str(SHIPPED["real"])
    assert first_choice(found) == real and titles_of(found)[real] == "real"
    assert Service(found, "cpu", ROOT, BOUNDS).good_for(real).startswith("Photos as people have")
    assert Service(found, "cpu", ROOT, BOUNDS).good_for(real).endswith(", noise and JPEG.")
    assert first_choice(["bicubic", "a.pth"]) == "a.pth"


def test_page_offers_what_enlarges(checkpoints, tmp_path):
    for name in ("state", "state_previous", "recognition", "F_HR2LR", "D_HR", "discriminator"):
        shutil.copy(checkpoints / "srvae" / "srvae.pth", tmp_path / f"{name}.pth")
    shutil.copy(checkpoints / "srvae" / "srvae.pth", tmp_path)
    assert find_checkpoints((tmp_path,)) == ["bicubic", str(tmp_path / "srvae.pth")]
    with pytest.raises(ValueError, match="no such file or folder"):
        find_checkpoints((tmp_path / "none",))


def test_examples_are_small_real_photos(tmp_path):
    found = {path.name: read_image(path) for path in example_photos(tmp_path)}
    sizes = {name: pixels.shape[1::-1] for name, pixels in found.items()}
    assert sizes == {"chelsea.png": (113, 75), "coffee.png": (150, 100), "page.png": (192, 96)}
    expected = imresize(read_image(SKIMAGE_DATA / "chelsea.png"), 1 / 4)  # 451x300
    np.testing.assert_array_equal(found["chelsea.png"], expected)


@pytest.mark.parametrize(
    ("size", "scale", "n_pictures", "message"),
    [
        # 12 x 8 = 96
        ((12000, 8000), 8, 1, "12000x8000 are 96.0 megapixels, expected 16 at most: take a part"),
        ((4000, 4000), 4, 1, ""),  # 16, and 16 x 4 x 4 = 256
        ((4000, 3000), 1, 1, ""),  # 12, and 12 x 4 x 4 = 192: networks enlarge 4 times first
        # 12 x 8 x 8 = 768
        ((4000, 3000), 8, 1, "1 such 768.0, expected 256 at most: choose a smaller photo or a sma"),
        # 12 x 4 x 4 = 192, and 5 of them are 960
        ((4000, 3000), 2, 5, "192.0 megapixels, 5 such 960.0, expected 256 .* or fewer samples"),
    ],
)
def test_too_many_megapixels_are_refused(tmp_path, size, scale, n_pictures, message):
    path = tmp_path / "photo.png"
    Image.new("1", size).save(path)
    if not message:
        return refuse_large(path, BOUNDS, scale, n_pictures)
    with pytest.raises(ValueError, match=message) as error:
        refuse_large(path, BOUNDS, scale, n_pictures)
    assert str(error.value).startswith(str(path)) and "--megapixels" in str(error.value)


def test_refusal_comes_before_the_work(service, checkpoints, tmp_path, monkeypatch):
    Image.new("1", (4000, 3000)).save(tmp_path / "photo.png")
    network = Layered(1, quiet)
    use(network, service, monkeypatch)
    told = []
    with pytest.raises(ValueError, match=r"768\.0"):
        service.make("a", wish_for(tmp_path / "photo.png", scale=8), told.append)
    assert network.calls == 0 and not told and not [*service.visits.folder.iterdir()]
    with pytest.raises(ValueError, match="expected above 0"):
        demo((checkpoints,), megapixels=0)


def test_results_go_when_new_ones_are_made_or_the_visitor_leaves(service, photo, tmp_path):
    (tmp_path / "bad.png").write_text("no photo")
    first, second, others = (service.make(who, wish_for(photo), quiet) for who in "aab")
    assert not first.results[0].parent.exists()
    with pytest.raises(ValueError, match=r"bad\.png: cannot be read as an image"):
        service.make("a", wish_for(tmp_path / "bad.png"), quiet)
    kept = {second.results[0].parent, others.results[0].parent}
    assert {*service.visits.folder.iterdir()} == kept  # nothing of what failed
    service.visits.leave("a")
    assert {*service.visits.folder.iterdir()} == {others.results[0].parent}
    service.visits.leave("a")  # twice is no error


def test_work_stops_at_the_next_layer(service, photo, monkeypatch):
    def called() -> None:
        if network.calls == 5:
            service.visits.stop("a")

    network = Layered(100, called)
    use(network, service, monkeypatch)
    told = []
    with pytest.raises(Stopped):
        service.make("a", wish_for(photo), told.append)
    assert network.calls == 5 and told == [(0, 600)]
    assert not [*service.visits.folder.iterdir()]
    made = service.make("a", wish_for(photo), quiet)  # the next is not stopped
    assert network.calls == 105 and made.results[0].exists()


@pytest.mark.parametrize(("who", "ends"), [("b", False), ("a", True)])
def test_visitor_who_leaves_stops_the_own_work_only(service, photo, monkeypatch, who, ends):
    network = Layered(10, lambda: service.visits.leave(who))
    use(network, service, monkeypatch)
    if ends:
        with pytest.raises(Stopped):
            service.make("a", wish_for(photo), quiet)
    else:
        service.make("a", wish_for(photo), quiet)
    assert network.calls == (1 if ends else 10)
    assert len([*service.visits.folder.iterdir()]) == (not ends)


def test_visitor_who_begins_anew_stops_the_earlier_work(tmp_path):
    visits, layer = Visits(tmp_path), nn.Identity()
    stoppable(layer)
    with pytest.raises(Stopped), visits.work("a"):
        with visits.work("a") as newer:
            layer(torch.zeros(1))
        layer(torch.zeros(1))
    layer(torch.zeros(1))  # of nobody
    assert [*tmp_path.iterdir()] == [newer]


def test_page_that_ends_stops_all_work_and_waits_for_it(service, photo, monkeypatch):
    def called() -> None:
        if network.calls == 1:
            ending.start()
        time.sleep(0.02)

    ending = threading.Thread(target=service.visits.end, args=(60,))
    network = Layered(6000, called)  # two minutes, if nothing stops them
    use(network, service, monkeypatch)
    with pytest.raises(Stopped):
        service.make("a", wish_for(photo), quiet)
    ending.join(60)
    assert network.calls < 6000 and not ending.is_alive()


def test_page_names_gradio_where_it_is_missing(service, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r'pip install "gradio>=6"'):
        build(service, [])


@pytest.fixture
def launched(service, tmp_path):
    """The page in this process, and a visitor of it."""
    pytest.importorskip("gradio")
    client = pytest.importorskip("gradio_client")
    pages = []

    def launch(kept: int = 3600):
        (tmp_path / "examples").mkdir()
        page, options = build(service, example_photos(tmp_path / "examples"), kept)
        _, url, _ = page.launch(prevent_thread_lock=True, **options)
        pages.append(page)
        return client.Client(url, verbose=False, download_files=False)

    yield launch
    for page in pages:
        page.close(verbose=False)


def test_cancel_on_the_page_stops_the_work(launched, service, photo, monkeypatch):
    from gradio_client import handle_file

    begun = threading.Event()

    def called() -> None:
        begun.set()
        time.sleep(0.02)

    network = Layered(6000, called)  # two minutes, if nothing stops them
    use(network, service, monkeypatch)
    visitor = launched()
    choice = ("bicubic", "bicubic", 4, 0, 1, 0)
    job = visitor.submit(handle_file(photo), *choice, api_name="/enlarge")
    assert begun.wait(60)
    assert visitor.predict(api_name="/cancel") == "Stopped."
    assert "Stopped" in str(job.exception(60))
    calls = network.calls
    time.sleep(0.5)
    assert network.calls == calls < 6000


def test_photos_and_results_go_after_a_while_and_examples_stay(launched, service, photo):
    from gradio_client import handle_file

    visitor = launched(kept=8)  # long enough to be seen by a slow machine
    served = service.visits.folder
    examples = {path for path in served.rglob("*.png")}
    assert len(examples) == 3
    visitor.predict(handle_file(photo), "bicubic", "bicubic", 4, 0, 1, 0, api_name="/enlarge")
    later = {path for path in served.rglob("*.png")} - examples
    assert {path.name for path in later} == {
        "photo.png",
        "photo_x4.png",
        "shown_0.png",
        "shown_1.png",
    }
    for _ in range(240):
        if not any(path.exists() for path in later):
            break
        time.sleep(0.25)
    assert {path for path in served.rglob("*.png")} == examples


@pytest.fixture(scope="module")
def server(checkpoints, tmp_path_factory):
    """The page as the command shows it, its address and where it keeps files; ended in the end."""
    pytest.importorskip("gradio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    files = tmp_path_factory.mktemp("files")
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), str(checkpoints)]
    command += ["--port", port, "--no-open-browser", "--device", "cpu"]
    environment = os.environ | {"TMPDIR": str(files)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(480):
            try:
                urllib.request.urlopen(url, timeout=1)
                break
            except OSError:
                time.sleep(0.25)
        yield url, files, process
    finally:
        process.kill()
        process.wait(60)


@pytest.fixture(params=[1280, 480])
def page(request, server):
    """The page in Chromium at a width of a screen, and of a phone; it asks no other machine."""
    playwright = pytest.importorskip("playwright.sync_api")
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser_path:
        pytest.skip("no Chromium here")
    url, *_ = server
    with playwright.sync_playwright() as driver:
        options = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
        browser = driver.chromium.launch(executable_path=browser_path, args=[*options])
        tab = browser.new_page(viewport={"width": request.param, "height": 900})
        tab.set_default_timeout(120_000)
        asked: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(url)
        tab.wait_for_selector("text=Enlarge")
        yield tab
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        hosts = {address.split("/")[2] for address in asked if address.startswith("http")}
        assert hosts == {url.split("/")[2]}
        browser.close()


def choose(page, label: str, name: str) -> None:
    box = page.get_by_label(label, exact=True)
    box.click()
    choices = page.locator(f"#{box.get_attribute('aria-controls')}")
    choices.get_by_role("option", name=name, exact=True).click()


def test_photo_of_ones_own_in_a_browser(page, checkpoints, photo, tmp_path):
    (tmp_path / "bad.png").write_text("no photo")
    Image.new("1", (12000, 8000)).save(tmp_path / "large.png")
    enlarge = page.get_by_role("button", name="Enlarge")

    enlarge.click()
    page.wait_for_selector("text=Choose a photo first")
    page.set_input_files("input[type=file]", tmp_path / "bad.png")
    page.wait_for_selector("text=bad.png: cannot be read as an image")
    page.get_by_label("Clear").first.click()
    page.set_input_files("input[type=file]", tmp_path / "large.png")
    page.wait_for_selector("text=large.png: 12000x8000 are 96.0 megapixels, expected 16 at most")
    page.get_by_label("Clear").first.click()
    page.set_input_files("input[type=file]", photo)
    page.wait_for_selector("text=Your photo, 30x20")
    enlarge.click()
    page.wait_for_selector("text=30x20 to 120x80, SRVAE on CPU")
    page.wait_for_selector(f"text=After: {Path('srvae', 'srvae.pth')}")
    assert page.get_by_text("Before: bicubic").is_visible()
    page.wait_for_selector("text=Samples, seed 0, temperature 1")
    page.wait_for_selector("text=sample 4")
    with page.expect_download() as download:
        page.locator("a[download='photo_x4.png']").first.click()
    with Image.open(download.value.path()) as result:
        expected = load_model(checkpoints / "srvae" / "srvae.pth", "cpu").upscale(PHOTO)
        np.testing.assert_array_equal(np.asarray(result), expected)


def test_example_and_comparison_in_a_browser(page):
    page.wait_for_selector("text=several that fit the photo")  # what an SRVAE is good for
    assert page.get_by_label("Seed").is_visible()
    choose(page, "Checkpoint", str(Path("esrgan", "generator.pth")))
    page.wait_for_selector("text=GAN stage: the sharpest")
    page.get_by_label("Seed").wait_for(state="hidden")  # there are no samples
    choose(page, "Compare with", str(Path("esrgan", "generator_psnr.pth")))
    page.locator("button.gallery-item").first.click()
    page.wait_for_selector("text=Your photo, 113x75")
    page.get_by_role("button", name="Enlarge").click()
    page.wait_for_selector("text=113x75 to 452x300, ESRGAN on CPU")
    for label in (
        f"Left: {Path('esrgan', 'generator_psnr.pth')}",
        f"Right: {Path('esrgan', 'generator.pth')}",
    ):
        assert page.get_by_text(label).is_visible()


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without asking it")
def test_nothing_is_left_on_the_disk_when_the_page_ends(server):
    _, files, process = server
    assert len([*files.glob("super_resolution_*")]) == 1
    process.terminate()
    process.wait(60)
    assert not [*files.iterdir()]


def test_every_family_is_said_to_be_good_for_something():
    assert set(FAMILIES) <= set(GOOD_FOR)
