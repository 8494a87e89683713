"""What a run does in its folder: nothing of the user's is lost, no good state is called damaged."""

import errno
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from common import checkpoint
from common.data import crops
from common.run import training
from EDSR.train_edsr import train_edsr
from ESRGAN.train_esrgan import train_esrgan
from scripts.benchmarks.stress import differences
from tests.conftest import rows_of, stop_in_step

SMALL = {
    "n_blocks": 1, "n_features": 8, "growth": 4, "discriminator_features": 4, "patch_size": 32,
    "batch_size": 2, "workers": 0, "perceptual_weight": 0.0, "n_epochs": 2, "n_epochs_gan": 1,
    "steps_per_epoch": 2, "n_valid": 1, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory) -> Path:
    out_dir = tmp_path_factory.mktemp("folder") / "run"
    return train_esrgan(**dataset.folders(), **SMALL, out_dir=out_dir)


@pytest.fixture
def copy(run, tmp_path) -> Path:
    return shutil.copytree(run, tmp_path / "copy")


def resume(dataset, out_dir: Path, **settings) -> Path:
    return train_esrgan(**dataset.folders() | SMALL | {"resume": True} | settings, out_dir=out_dir)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EIO, "Input/output error"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_state_that_cannot_be_read_now_is_not_called_damaged(dataset, copy, monkeypatch, error):
    def load(*args, **options):
        raise error

    before = {path.name for path in copy.iterdir()}
    with monkeypatch.context() as patched, pytest.raises(type(error)):
        patched.setattr(torch, "load", load)
        resume(dataset, copy)
    assert {path.name for path in copy.iterdir()} == before
    resume(dataset, copy, n_epochs_gan=2)
    assert len(rows_of(copy)) == 4


def test_overwrite_deletes_what_a_run_has_written_and_nothing_else(dataset, copy):
    (copy / "mine.pth").write_bytes(b"weights")
    (copy / "samples" / "holiday.png").write_bytes(b"photo")
    (copy / "samples" / "letters").mkdir()
    settings = {"overwrite": True, "resume": False, "n_epochs": 1, "n_epochs_gan": 0}
    resume(dataset, copy, **settings)
    assert (copy / "mine.pth").read_bytes() == b"weights"
    assert {path.name for path in (copy / "samples").iterdir()} == {
        "psnr_0001.png", "holiday.png", "letters"
    }  # fmt: skip
    assert not (copy / "generator_best.pth").exists() and not (copy / "discriminator.pth").exists()
    assert json.loads((copy / "config.json").read_text())["networks"] == [
        "generator", "generator_psnr"
    ]  # fmt: skip


def test_overwrite_deletes_nothing_where_no_run_lies(dataset, tmp_path):
    for name in ("mine.pth", "samples/0001.png", "log.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"mine")
    settings = dataset.folders() | SMALL | {"n_epochs": 1, "n_epochs_gan": 0}
    with pytest.raises(FileExistsError, match="holds an earlier run"):
        train_esrgan(**settings, out_dir=tmp_path)
    train_esrgan(**settings, out_dir=tmp_path, overwrite=True)
    for name in ("mine.pth", "samples/0001.png"):
        assert (tmp_path / name).read_bytes() == b"mine"


@pytest.mark.parametrize("flag", ["resume", "overwrite"])
def test_run_of_another_script_is_neither_resumed_nor_deleted(dataset, copy, flag):
    before = {path.name for path in copy.iterdir()}
    message = r"copy holds a run of train_esrgan\.py, this is train_edsr\.py: choose.*--out-dir"
    with pytest.raises(ValueError, match=message):
        train_edsr(**dataset.folders(), out_dir=copy, device="cpu", **{flag: True})
    assert {path.name for path in copy.iterdir()} == before


def test_run_from_before_scripts_were_named_is_resumed(dataset, copy):
    config = json.loads((copy / "config.json").read_text())
    assert config.pop("script") == "train_esrgan.py"
    (copy / "config.json").write_text(json.dumps(config))
    state = checkpoint.load(copy / "state.pth")
    del state["config"]["script"]
    checkpoint.save(copy / "state.pth", state)
    resume(dataset, copy, n_epochs_gan=2)
    assert len(rows_of(copy)) == 4
    assert json.loads((copy / "config.json").read_text())["script"] == "train_esrgan.py"


@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"overwrite": True}])
def test_folder_of_other_files_is_left_alone(dataset, tmp_path, flags):
    (tmp_path / ".DS_Store").write_bytes(b"hidden")
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    settings = dataset.folders() | SMALL | {"n_epochs": 1, "n_epochs_gan": 0}
    with pytest.raises(FileExistsError, match="holds other files and no run: choose an empty"):
        train_esrgan(**settings, out_dir=tmp_path, **flags)
    (tmp_path / "photo.jpg").unlink()
    train_esrgan(**settings, out_dir=tmp_path, **flags)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"learning_rate": 0.0}, r"learning_rate 0\.0: expected a number above 0"),
        ({"learning_rate_gan": -1e-4}, r"learning_rate_gan -0\.0001: expected a number"),
        ({"learning_rate": float("inf")}, "learning_rate inf: expected a number"),
        ({"n_epochs": 0, "n_epochs_gan": 0}, "n_epochs 0: expected 1 or more"),
        ({"n_epochs": -1}, "n_epochs -1: expected 0 or more"),
        ({"n_epochs_gan": -1}, "n_epochs_gan -1: expected 0 or more"),
        ({"n_blocks": 0}, "n_blocks 0: expected 1 or more"),
        ({"n_features": 0}, "n_features 0: expected 1 or more"),
        ({"growth": -1}, "growth -1: expected 1 or more"),
        ({"workers": -1}, "workers -1: expected 0 or more"),
        ({"show_every": 0}, "show_every 0: expected 1 or more"),
    ],
)
def test_nonsense_is_refused_before_photos_are_looked_for(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        train_esrgan(**SMALL | change, lr_folder="no", hr_folder="no", out_dir=tmp_path / "a")


def test_weights_that_lie_in_the_folder_are_not_taken_for_the_psnr_stages(dataset, run, tmp_path):
    """A GAN stage of a run without a PSNR stage starts from its own weights."""
    settings = dataset.folders() | SMALL | {"n_epochs": 0}
    train_esrgan(**settings, out_dir=tmp_path / "clean")
    (tmp_path / "b").mkdir()
    shutil.copy(run / "generator_psnr.pth", tmp_path / "b")
    train_esrgan(**settings, out_dir=tmp_path / "b", overwrite=True)
    assert differences(tmp_path / "clean", tmp_path / "b") == []


def test_runs_in_one_folder_by_two_names_exclude_each_other(dataset, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a", target_is_directory=True)

    def to_device(*args):
        monkeypatch.undo()
        with pytest.raises(BlockingIOError, match="another run writes to"):
            train_esrgan(**dataset.folders(), **SMALL, out_dir=tmp_path / "link", overwrite=True)
        return crops.to_device(*args)

    monkeypatch.setattr(training, "to_device", to_device)
    train_esrgan(**dataset.folders(), **SMALL, out_dir=tmp_path / "a")
    assert len(rows_of(tmp_path / "a")) == 3


def test_run_takes_the_current_folder_and_the_longest_name(dataset, tmp_path, monkeypatch):
    settings = {"n_epochs": 1, "n_epochs_gan": 0, "resume": False}
    for name in (".", "n" * 251):
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path)
        resume(dataset, Path(name), **settings)
        assert len(rows_of(tmp_path / name)) == 1


def test_more_epochs_for_a_stage_that_has_ended_are_refused(dataset, copy):
    config = (copy / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r"PSNR stage ended after the 2 epochs.*cannot have 3"):
        resume(dataset, copy, n_epochs=3)
    assert (copy / "config.json").read_bytes() == config
    resume(dataset, copy, n_epochs_gan=2)
    assert [row["stage"] for row in rows_of(copy)] == ["psnr", "psnr", "gan", "gan"]


def test_more_psnr_epochs_are_trained_where_the_gan_stage_has_not_begun(dataset, tmp_path):
    stages = {"n_epochs": 1, "n_epochs_gan": 0}
    resume(dataset, tmp_path / "a", **stages)
    resume(dataset, tmp_path / "a", n_epochs=2, n_epochs_gan=1)
    assert [row["stage"] for row in rows_of(tmp_path / "a")] == ["psnr", "psnr", "gan"]


def test_killed_loader_worker_is_named(dataset, tmp_path, monkeypatch):
    def update_ema(*args):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    monkeypatch.setattr("ESRGAN.train_esrgan.update_ema", update_ema)
    with pytest.raises(ChildProcessError, match=r"process that cuts crops was killed.*workers"):
        train_esrgan(**dataset.folders(), **SMALL, out_dir=tmp_path / "a")


def test_stopped_run_says_how_it_goes_on(dataset, tmp_path, monkeypatch, capsys):
    for flags, how in (
        ({"resume": False}, r"continue with resume=True \(--resume\)"),
        ({"resume": True}, "run the same command again"),  # as scripts/quickstart.py has it
    ):
        stop_in_step(2, monkeypatch)
        with pytest.raises(SystemExit):
            resume(dataset, tmp_path / "a", **flags)
        assert re.search(f"saved: {how}, out_dir", capsys.readouterr().out)


def test_stopped_run_names_its_networks_once(dataset, tmp_path, monkeypatch):
    stop_in_step(5, monkeypatch)
    with pytest.raises(SystemExit):
        train_esrgan(**dataset.folders(), **SMALL, out_dir=tmp_path / "a")
    resume(dataset, tmp_path / "a")
    state = checkpoint.load(tmp_path / "a" / "state.pth")
    assert sorted(state["progress"]["networks"]) == [
        "discriminator", "generator", "generator_best", "generator_psnr"
    ]  # fmt: skip
