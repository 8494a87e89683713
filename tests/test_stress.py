"""The short form of the stress test: each training script, killed and started again."""

from pathlib import Path

import pytest
import torch

from common import checkpoint
from scripts.benchmarks.stress import differences, lay_out, stress_script
from scripts.evidence.methods import METHODS


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> dict[str, Path]:
    return lay_out(tmp_path_factory.mktemp("stress"))


@pytest.mark.parametrize("name", METHODS)
def test_run_that_was_killed_ends_like_one_that_was_not(photos, tmp_path, name):
    few = {"n_epochs": 2} | ({"n_epochs_gan": 2} if name == "esrgan" else {})
    problems, moments = stress_script(name, photos | few, tmp_path, kills=2, seed=0)
    assert problems == [] and moments.total() >= 2


def test_each_difference_between_runs_is_found(tmp_path):
    rows = [{"epoch": 1, "seconds": 1.0, "psnr_y": 20.5}]
    state = {"w": torch.zeros(3), "rows": rows, "config": {"workers": 1}, "changes": []}
    for run, seconds in (("a", 1.0), ("b", 2.0)):
        rows[0]["seconds"] = seconds
        state["config"]["workers"] += 1
        checkpoint.save(tmp_path / run / "state.pth", state)
        (tmp_path / run / "log.csv").write_text(f"epoch,seconds,psnr_y\n1,{seconds},20.5\n")
        (tmp_path / run / "samples").mkdir()
        (tmp_path / run / "samples" / "1.png").write_bytes(b"pixels")
    a, b = tmp_path / "a", tmp_path / "b"
    assert differences(a, b) == []
    checkpoint.save(b / "state.pth", state | {"w": torch.tensor([0.0, 0.0, 1e-30])})
    assert differences(a, b) == [f"{b / 'state.pth'} differs"]
    checkpoint.save(b / "state.pth", state)
    (b / "log.csv").write_text("epoch,seconds,psnr_y\n1,2.0,20.5\n1,2.0,20.5\n")
    (b / "samples" / "1.png").write_bytes(b"others")
    assert len(differences(a, b)) == 2
    (b / "more.txt").touch()
    assert "hold other files" in differences(a, b)[0]
