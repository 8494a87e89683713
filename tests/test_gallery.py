"""Every model by one command; the notebook on its checkpoints, and the page's list of them."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from common.data.photos import read_image
from scripts.evidence import gallery
from scripts.inference.models import FAMILIES, load_model
from scripts.inference.service import find_checkpoints

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
    assert len(results) == 10 and results[0]["model"] == "bicubic"
    for result in results[1:]:
        assert load_model(result["model"], "cpu").name in FAMILIES
        assert 3 < result["psnr_y"] < 50 and len(result["images"]) == 2
    assert sum("diversity" in result for result in results) == 2
    assert (runs / f"{name}.md").read_text().count("\n|") == 11
    assert read_image(runs / f"{name}.png").shape[1] > 1500


def outputs_of_the_notebook(gallery_folder: Path, monkeypatch) -> list:
    monkeypatch.setenv("GALLERY", str(gallery_folder))
    notebook = nbformat.read(NOTEBOOK, 4)
    client = NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    )
    client.execute()
    return [o for cell in notebook.cells for o in cell.get("outputs", [])]


def test_notebook_runs_from_start_to_end(runs, monkeypatch):
    outputs = outputs_of_the_notebook(runs, monkeypatch)
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 7
    assert "SRVAE                SRVAE" in "".join(o.get("text", "") for o in outputs)


def test_notebook_runs_on_a_fresh_clone(tmp_path, monkeypatch):
    outputs = outputs_of_the_notebook(tmp_path / "none", monkeypatch)
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 3
    assert "gallery.py" in "".join(o.get("text", "") for o in outputs)


def test_notebook_is_committed_with_its_outputs():
    notebook = nbformat.read(NOTEBOOK, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count == i for i, cell in enumerate(code, 1))
    outputs = [o for cell in code for o in cell.outputs]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 3
    assert all(o.output_type != "error" and o.get("name") != "stderr" for o in outputs)


def test_page_offers_what_enlarges(runs, tmp_path):
    found = find_checkpoints((runs,))
    names = {Path(path).relative_to(runs).as_posix() for path in found[1:]}
    assert found[0] == "bicubic"
    assert {"cvae/cvae.pth", "srvae/srvae.pth", "cyclegan_v3/G_LR2HR.pth"} <= names
    assert {"esrgan/generator.pth", "esrgan/generator_psnr.pth"} <= names
    for path in found:
        load_model(path, "cpu")  # none that is not a network that enlarges
    with pytest.raises(ValueError, match="no such file or folder"):
        find_checkpoints((tmp_path / "none",))
