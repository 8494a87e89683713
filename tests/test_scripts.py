"""What the README tells people to run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.images import list_pairs, read_image
from common.pictures import busiest_crop, grid
from ESRGAN.train_esrgan import train_esrgan
from scripts import benchmark
from scripts.quickstart import quickstart, table

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_quickstart_goes_from_photos_to_a_picture_and_can_be_run_again(tmp_path, capsys):
    data_dir, out_dir = tmp_path / "data", tmp_path / "run"
    settings = {"data_dir": data_dir, "out_dir": out_dir, "device": "cpu"}
    settings |= {"n_epochs": 1, "n_epochs_gan": 1, "steps_per_epoch": 2}
    out_dir.mkdir()  # as a run leaves it that was killed before its first checkpoint
    (out_dir / "config.json").write_text("{}")
    quickstart(**settings)
    out = capsys.readouterr().out
    assert len(list_pairs(
        data_dir / "DIV2K_train_LR_bicubic" / "X4", data_dir / "DIV2K_train_HR"
    )) == 13  # fmt: skip
    # Bicubic on the two held-out photos, by an independent implementation of the protocol.
    assert re.search(r"mean +29\.37 / 0\.784\d", out)
    assert "chelsea" in out and "coffee" in out
    assert str(out_dir / "comparison.png") in out and str(out_dir / "generator.pth") in out
    assert read_image(out_dir / "comparison.png").shape[1] > 1400  # five columns of 280 pixels
    assert read_image(out_dir / "coffee_gan.png").shape == (400, 600, 3)
    times = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*.png")}
    weights = (out_dir / "generator.pth").read_bytes()
    quickstart(**settings)
    assert times == {path: path.stat().st_mtime_ns for path in data_dir.rglob("*.png")}
    assert weights == (out_dir / "generator.pth").read_bytes()


def test_table_has_the_means_of_its_columns():
    scores = {
        "a": {"bicubic": (20.0, 0.5), "ours": (22.0, 0.7)},
        "b": {"bicubic": (30.0, 0.7), "ours": (31.0, 0.8)},
    }
    assert re.search(r"mean +25\.00 / 0\.6000 +26\.50 / 0\.7500$", table(scores))


def test_benchmark_of_the_data_measures_both_sides(capsys):
    ratio = benchmark.data(n_photos=1, rounds=1)
    out = capsys.readouterr().out
    assert "decoding per crop" in out and "pixel store" in out and f"{ratio:.1f}" in out
    assert ratio > 10


def test_benchmark_of_training_measures_both_sides(capsys):
    benchmark.train(n_blocks=1, batch_size=1, lr_size=8, rounds=1)
    out = capsys.readouterr().out
    assert "spandrel" in out and "ours, published network" in out


@pytest.mark.parametrize(
    "script, says",
    [
        (
            "ESRGAN/train_esrgan.py",
            "growth INT channels that each convolution in a dense block adds (paper)",
        ),
        ("common/div2k.py", "track {bicubic,unknown,mild,difficult,wild}"),
        ("scripts/prepare_dataset.py", "split {train,valid} which of DIV2K's folders"),
        ("scripts/benchmark.py", "data"),
        ("scripts/builtin_photos.py", "PATH"),
        ("scripts/quickstart.py", "steps-per-epoch INT"),
    ],
)
def test_scripts_start_from_any_directory_and_explain_their_flags(script, says, tmp_path):
    command = [sys.executable, str(ROOT / script), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert says in re.sub(r"[\s│]+", " ", done.stdout)


def test_importing_a_script_does_nothing_else(tmp_path):
    code = "import ESRGAN.train_esrgan, scripts.quickstart, scripts.benchmark, common.div2k"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_grid_places_pictures_below_their_captions():
    red = np.full((10, 20, 3), (255, 0, 0), np.uint8)
    sheet = grid([[("one", red), ("two", red)], [("", red)]])
    is_red = (sheet == (255, 0, 0)).all(axis=2)
    assert is_red.sum() == 3 * 200
    rows, columns = is_red.any(axis=1).nonzero()[0], is_red.any(axis=0).nonzero()[0]
    assert len(rows) == 20 and len(columns) == 40


def test_busiest_crop_is_where_the_edges_are():
    image = np.full((40, 60, 3), 100, np.uint8)
    image[20:28:2, 30:38] = 255
    top, left = busiest_crop(image, 10)
    assert top <= 20 and top + 10 >= 28 and left <= 30 and left + 10 >= 38
    assert busiest_crop(image[:5, :5], 10) == (0, 0)


def test_readme_names_files_and_flags_that_exist():
    for path in re.findall(r"(?:python|bash) ([\w./]+\.(?:py|sh))", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).exists(), path
    parameters = set(train_esrgan.__kwdefaults__)
    commands = re.findall(
        r"python ESRGAN/train_esrgan\.py((?: |\\\n)[^`]*?)(?=\n\w|\n```|`)", README
    )
    flags = [flag for command in commands for flag in re.findall(r"--([\w-]+)", command)]
    names = {flag.removeprefix("no-").replace("-", "_") for flag in flags}
    assert "n_blocks" in names and names <= parameters | {"help"}


def test_readme_python_runs(tmp_path, dataset, monkeypatch):
    """The notebook's lines, with the run's folder replaced by a small run's."""
    import torch

    from ESRGAN import model

    (block,) = [
        b for b in re.findall(r"```python\n(.*?)```", README, re.S) if "load_state_dict" in b
    ]
    settings = {"n_blocks": 1, "n_features": 8, "growth": 4, "patch_size": 32, "n_epochs": 1}
    settings |= {"n_epochs_gan": 0, "steps_per_epoch": 1, "workers": 0, "device": "cpu"}
    run = train_esrgan(**dataset.folders(), **settings, out_dir=tmp_path / "run")
    block = block.replace("ESRGAN/runs/default", run.as_posix())
    block = block.replace("photo.jpg", next(dataset.valid_lr.iterdir()).as_posix())
    small = model.GeneratorRRDB
    monkeypatch.setattr(model, "GeneratorRRDB", lambda: small(1, 8, 4))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(block, names)
    assert isinstance(names["sr"], torch.Tensor) and names["sr"].shape[1] == 3
