"""The notebook on the checkpoints that come along."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

from scripts.inference.named import SHIPPED

NOTEBOOK = Path(__file__).resolve().parents[1] / "scripts" / "checkpoints.ipynb"
N_PICTURES = 7


def pictures_and_text(notebook: nbformat.NotebookNode) -> tuple[int, str]:
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    assert all(o.output_type != "error" and o.get("name") != "stderr" for o in outputs)
    pictures = sum("image/png" in o.get("data", {}) for o in outputs)
    return pictures, "".join(o.get("text", "") for o in outputs)


def test_notebook_runs_from_start_to_end():
    notebook = nbformat.read(NOTEBOOK, 4)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=600, resources=resources).execute()
    pictures, text = pictures_and_text(notebook)
    assert pictures == N_PICTURES
    assert all(f"{name} " in text for name in SHIPPED if name != "real")


def test_notebook_is_committed_with_its_outputs():
    notebook = nbformat.read(NOTEBOOK, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count == i for i, cell in enumerate(code, 1))
    assert pictures_and_text(notebook)[0] == N_PICTURES
