"""Every model by one command; the notebook and the page on its checkpoints."""

import inspect
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from common.data.photos import read_image, write_image
from scripts import demo
from scripts.evidence import gallery
from scripts.inference.models import load_model

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "scripts" / "checkpoints.ipynb"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, large_dataset) -> Path:
    out = tmp_path_factory.mktemp("gallery")
    folders = {"photos": large_dataset.hr, "test": (large_dataset.valid_hr,)}
    short = {"n_epochs": 1, "batch_size": 2, "n_valid": 1}
    more = {"cvae": {"valid_patches": 2}, "srvae": {"valid_patches": 2}}
    few = {
        name: method._replace(minutes=method.minutes | short | more.get(name, {}))
        for name, method in gallery.METHODS.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery, "METHODS", few)
        return gallery.gallery(**folders, share=0.002, out=out, device="cpu")


def test_gallery_trains_measures_and_draws_every_model(runs):
    (name,) = (path.stem for path in runs.glob("*.png"))
    results = json.loads((runs / f"{name}.json").read_text())
    assert len(results) == 8 and results[0]["model"] == "bicubic"
    for result in results[1:]:
        assert load_model(result["model"], "cpu").name in ("CycleGAN", "ESRGAN", "CVAE", "SRVAE")
        assert 3 < result["psnr_y"] < 50 and len(result["images"]) == 2
    assert sum("diversity" in result for result in results) == 2
    assert (runs / f"{name}.md").read_text().count("\n|") == 9
    assert read_image(runs / f"{name}.png").shape[1] > 1500


def test_notebook_runs_from_start_to_end(runs, monkeypatch):
    monkeypatch.setenv("GALLERY", str(runs))
    notebook = nbformat.read(NOTEBOOK, 4)
    client = NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    )
    client.execute()
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 5
    assert "SRVAE                SRVAE" in "".join(o.get("text", "") for o in outputs)


def test_notebook_trains_first_on_a_fresh_clone(runs, tmp_path, monkeypatch):
    calls, arguments = [], inspect.signature(gallery.gallery).parameters
    monkeypatch.setattr(gallery, "gallery", lambda **options: calls.append(options) or runs)
    monkeypatch.setenv("GALLERY", str(tmp_path / "none"))
    first = next(cell for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code")
    names: dict = {}
    monkeypatch.chdir(NOTEBOOK.parent)
    exec(first.source, names)
    assert calls == [{"share": 0.05, "out": ROOT / "runs" / "notebook"}]
    assert names["RUNS"] == runs and calls[0].keys() <= arguments.keys()


def test_notebook_is_committed_with_its_outputs():
    notebook = nbformat.read(NOTEBOOK, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count == i for i, cell in enumerate(code, 1))
    outputs = [o for cell in code for o in cell.outputs]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 5
    assert all(o.output_type != "error" and o.get("name") != "stderr" for o in outputs)


def test_page_offers_what_enlarges(runs, tmp_path):
    found = demo.find_checkpoints((runs,))
    names = {Path(path).relative_to(runs).as_posix() for path in found[1:]}
    assert found[0] == "bicubic"
    assert {"cvae/cvae.pth", "srvae/srvae.pth", "cyclegan_v3/G_LR2HR.pth"} <= names
    assert {"esrgan/generator.pth", "esrgan/generator_psnr.pth"} <= names
    for path in found:
        load_model(path, "cpu")  # none that is not a network that enlarges
    with pytest.raises(ValueError, match="no such file or folder"):
        demo.find_checkpoints((tmp_path / "none",))


def test_page_names_gradio_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r'pip install "gradio>=6"'):
        demo.build(["bicubic"], "cpu")


@pytest.fixture
def page(runs):
    """The page in Chromium, which asks no other machine for anything."""
    playwright = pytest.importorskip("playwright.sync_api")
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser_path:
        pytest.skip("no Chromium here")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), str(runs / "srvae" / "srvae.pth")]
    command += ["--port", port, "--no-open-browser", "--device", "cpu"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(url, timeout=1)
                break
            except OSError:
                time.sleep(0.5)
        with playwright.sync_playwright() as driver:
            options = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
            browser = driver.chromium.launch(executable_path=browser_path, args=[*options])
            tab = browser.new_page(viewport={"width": 1300, "height": 1000})
            asked: list[str] = []
            tab.on("request", lambda request: asked.append(request.url))
            tab.goto(url)
            tab.wait_for_selector("text=Enlarge")
            yield tab
            hosts = {address.split("/")[2] for address in asked if address.startswith("http")}
            assert hosts == {f"127.0.0.1:{port}"}
            browser.close()
    finally:
        server.terminate()
        server.wait(10)


def test_page_in_a_browser(page, runs, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    write_image(tmp_path / "photo.png", pixels)
    (tmp_path / "bad.png").write_text("no photo")
    enlarge = page.get_by_role("button", name="Enlarge")

    enlarge.click()
    page.wait_for_selector("text=Choose a photo first")
    page.set_input_files("input[type=file]", tmp_path / "bad.png")
    page.wait_for_selector("text=bad.png")
    enlarge.click()
    page.wait_for_selector("text=bad.png: cannot be read as a photo")
    page.get_by_label("Clear").first.click()
    page.set_input_files("input[type=file]", tmp_path / "photo.png")
    page.wait_for_selector("text=photo.png")
    enlarge.click()
    page.wait_for_selector("text=30x20 to 120x80, SRVAE on CPU", timeout=60000)
    page.wait_for_selector("text=sample 4")
    with page.expect_download() as download:
        page.locator("a[download='photo_x4.png']").first.click()
    with Image.open(download.value.path()) as result:
        expected = load_model(runs / "srvae" / "srvae.pth", "cpu").upscale(pixels)
        np.testing.assert_array_equal(np.asarray(result), expected)
