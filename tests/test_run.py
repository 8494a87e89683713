"""What a run promises when something goes wrong: ESRGAN's training, at small widths."""

import contextlib
import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from common import checkpoint
from common.data.photos import read_image
from common.files import locked
from common.run import log, training
from common.run.folder import RunFolder
from common.run.log import LossMeter
from ESRGAN import train_esrgan as script
from ESRGAN.train_esrgan import train_esrgan
from scripts.benchmarks.stress import differences
from tests.conftest import rows_of, stop_in_step

SMALL = {
    "n_blocks": 1, "n_features": 8, "growth": 4, "discriminator_features": 4, "patch_size": 32,
    "batch_size": 2, "workers": 0, "perceptual_weight": 0.0, "n_epochs": 3, "n_epochs_gan": 2,
    "steps_per_epoch": 3, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(dataset, tmp_path_factory) -> Path:
    out_dir = tmp_path_factory.mktemp("run") / "unbroken"
    return train_esrgan(**dataset.folders(), **SMALL, out_dir=out_dir)


@pytest.fixture(scope="module")
def stopped(dataset, tmp_path_factory) -> Path:
    """A run that was stopped in step 8, in the third epoch."""
    out_dir = tmp_path_factory.mktemp("run") / "stopped"
    with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(SystemExit):
        stop_in_step(8, monkeypatch)
        train_esrgan(**dataset.folders(), **SMALL, out_dir=out_dir)
    return out_dir


@pytest.fixture
def broken(stopped, tmp_path) -> Path:
    """A copy of that run, to do damage to."""
    return shutil.copytree(stopped, tmp_path / "broken")


def resume(dataset, out_dir: Path, **settings) -> Path:
    return train_esrgan(**dataset.folders() | SMALL | {"resume": True} | settings, out_dir=out_dir)


def flip_a_byte(path: Path) -> None:
    """Change the largest tensor of a checkpoint."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as zipped:
        largest = max(zipped.infolist(), key=lambda member: member.file_size)
        place = content.index(zipped.read(largest))
    content[place + largest.file_size // 2] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)  # which does not see it


def test_damaged_state_is_recognised_and_the_one_before_it_taken(dataset, unbroken, broken, capsys):
    flip_a_byte(broken / "state.pth")
    resume(dataset, broken)
    out = capsys.readouterr().out
    assert "state.pth is damaged or no checkpoint of tensors: the checksum of" in out
    assert (
        "last good checkpoint" in out and "state_previous.pth: stage psnr, epoch 2, step 0" in out
    )
    assert (broken / "damaged_state.pth").exists()
    (broken / "damaged_state.pth").unlink()
    assert differences(unbroken, broken) == []


def test_state_that_was_moved_but_not_replaced_when_killed_is_gone_on_from(
    dataset, unbroken, broken
):
    (broken / "state.pth").replace(broken / "state_previous.pth")
    (broken / ".state.99999.tmp.pth").write_bytes(b"half")
    resume(dataset, broken, workers=2)
    assert differences(unbroken, broken) == []


def test_without_a_good_state_networks_are_not_overwritten(dataset, broken):
    for name in ("state.pth", "state_previous.pth"):
        flip_a_byte(broken / name)
    before = (broken / "generator.pth").read_bytes()
    with pytest.raises(ValueError, match=r"generator\.pth.* no good state\.pth.*--overwrite"):
        resume(dataset, broken)
    assert (broken / "generator.pth").read_bytes() == before


def test_row_that_was_logged_and_not_saved_comes_once(dataset, unbroken, broken):
    log = (broken / "log.csv").read_text()
    (broken / "log.csv").write_text(log + log.splitlines()[-1].replace("psnr,2,6", "psnr,3,9"))
    resume(dataset, broken)
    assert rows_of(broken) == rows_of(unbroken)


def test_full_disk_leaves_the_state_before(dataset, unbroken, tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    out_dir = tmp_path / "run"
    epochs = []

    def plot_curves(path, *args):
        original(path, *args)
        epochs.append(path)
        if len(epochs) == 3:  # what is saved next does not fit
            size = (out_dir / "state.pth").stat().st_size // 2
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))

    original = training.plot_curves
    monkeypatch.setattr(training, "plot_curves", plot_curves)
    try:
        with pytest.raises(
            OSError, match=r"(?s)cannot be written.*disk full.*last good .*state\.pth, .*epoch 2, "
        ):
            train_esrgan(**dataset.folders(), **SMALL, out_dir=out_dir)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(epochs) == 3 and not list(out_dir.rglob(".*.tmp*"))
    assert checkpoint.load(out_dir / "state.pth")["progress"]["epoch"] == 2
    resume(dataset, out_dir)
    assert differences(unbroken, out_dir) == []


def test_checkpoint_survives_a_disk_without_room_for_the_next(tmp_path):
    """A file system of 1 MB, where the system lets us make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot make a file system here")
    try:
        checkpoint.save(disk / "a.pth", {"w": torch.ones(150_000)})
        with pytest.raises(OSError, match=r"a\.pth cannot be written .*disk full"):
            checkpoint.save(disk / "a.pth", {"w": torch.zeros(150_000)})
        assert torch.equal(checkpoint.load(disk / "a.pth")["w"], torch.ones(150_000))
        assert [path.name for path in disk.iterdir()] == ["a.pth"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_second_run_in_one_folder_is_refused_and_the_first_unharmed(dataset, broken, unbroken):
    code = (
        "import sys; from common.files import locked\n"
        f"with locked({str(broken / 'run')!r}, wait_for=None):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline().strip() == b"held"
        before = {path: path.read_bytes() for path in broken.iterdir() if path.is_file()}
        for how in ({"resume": True}, {"resume": False, "overwrite": True}):
            with pytest.raises(BlockingIOError, match=r"another run writes to .*--out-dir"):
                resume(dataset, broken, **how)
        assert before == {path: path.read_bytes() for path in before}
    finally:
        holder.kill()  # its lock goes with it
        holder.communicate()
    resume(dataset, broken)
    assert differences(unbroken, broken) == []


def test_run_that_another_finished_meanwhile_is_not_written_to(dataset, tmp_path, monkeypatch):
    """Both looked at an empty folder; one was faster."""
    settings = dataset.folders() | SMALL | {"n_epochs": 1, "n_epochs_gan": 0}

    def crops_and_validation(*args, **kwargs):
        monkeypatch.undo()
        train_esrgan(**settings, out_dir=tmp_path / "a")
        return script.crops_and_validation(*args, **kwargs)

    monkeypatch.setattr(script, "crops_and_validation", crops_and_validation)
    with pytest.raises(BlockingIOError, match="another run has written to"):
        train_esrgan(**settings, out_dir=tmp_path / "a")
    assert len(rows_of(tmp_path / "a")) == 1


def test_folder_is_free_again_after_an_error(dataset, tmp_path):
    with pytest.raises(FloatingPointError) as kept:  # as a notebook keeps the last error
        train_esrgan(**dataset.folders(), **SMALL, learning_rate=1e30, out_dir=tmp_path / "a")
    assert kept.value.__traceback__
    with locked(tmp_path / "a" / "run", wait_for=None):
        pass
    resume(dataset, tmp_path / "a", learning_rate=1e-4, n_epochs=1, n_epochs_gan=0)
    assert len(rows_of(tmp_path / "a")) == 1


def test_hyperparameters_that_may_change_do_and_are_noted(dataset, broken, capsys):
    resume(dataset, broken, betas=(0.5, 0.6), learning_rate=1e-5, n_epochs_gan=0, workers=1)
    out = capsys.readouterr().out
    for change in ("betas (0.9, 0.99) -> (0.5, 0.6)", "learning_rate 0.0002 -> 1e-05"):
        assert f"resuming with {change}" in out
    state = checkpoint.load(broken / "state.pth")
    assert state["optimizer_g"]["param_groups"][0]["betas"] == (0.5, 0.6)
    assert float(rows_of(broken)[-1]["learning_rate"]) == pytest.approx(1e-5 / 16)  # at 8/9
    (noted,) = json.loads((broken / "config.json").read_text())["changes"]
    assert noted["at"]["epoch"] == 2 and noted["at"]["step"] == 2
    assert noted["changed"]["workers"] == [0, 1]
    assert "resume" not in noted["changed"] and "seed" not in noted["changed"]


def test_state_of_an_earlier_version_is_named_as_such(dataset, broken):
    state = checkpoint.load(broken / "state.pth")
    del state["version"]
    checkpoint.save(broken / "state.pth", state)
    with pytest.raises(ValueError, match=r"state of an earlier version: .*--overwrite"):
        resume(dataset, broken)


def test_patience_is_counted_across_a_resume(dataset, tmp_path, monkeypatch):
    settings = {"learning_rate": 1e-30, "n_epochs": 50, "n_epochs_gan": 0, "patience": 3}
    stop_in_step(8, monkeypatch)
    with pytest.raises(SystemExit):
        train_esrgan(**dataset.folders(), **SMALL | settings, out_dir=tmp_path / "a")
    best = (tmp_path / "a" / "generator_psnr.pth").read_bytes()
    resume(dataset, tmp_path / "a", **settings)
    assert len(rows_of(tmp_path / "a")) == 4  # the first is the best, three are not
    assert (tmp_path / "a" / "generator_psnr.pth").read_bytes() == best


def test_too_little_memory_names_what_to_lower(dataset, tmp_path, monkeypatch):
    def update_ema(*args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")

    monkeypatch.setattr(script, "update_ema", update_ema)
    with pytest.raises(MemoryError, match=r"lower batch_size \(now 2\), patch_size \(now 32\)"):
        train_esrgan(**dataset.folders(), **SMALL, out_dir=tmp_path / "a")


def test_step_that_is_not_finite_is_named_with_its_photos(dataset, tmp_path, monkeypatch):
    """The gradient alone, its loss is a number; the photos are found from the crops' pixels."""
    batches, networks = [], []

    def prepare_network(network, *where, **layout):
        networks.append(network)
        return network

    def to_device(batch, device):
        batches.append(batch)
        if len(batches) == 5:
            networks[0].conv_first.weight.register_hook(lambda gradient: gradient / 0)
        return original(batch, device)

    original = training.to_device
    monkeypatch.setattr(training, "prepare_network", prepare_network)
    monkeypatch.setattr(training, "to_device", to_device)
    with pytest.raises(FloatingPointError) as error:
        train_esrgan(**dataset.folders(), **SMALL, out_dir=tmp_path / "a")
    message = str(error.value)
    assert "PSNR stage, epoch 2/3, step 2: loss_pixel 0." in message
    assert re.search("norm of the gradients (inf|nan)", message)
    assert "state.pth, stage psnr, epoch 1, step 0" in message
    named = message.partition("photos: ")[2].partition(". The last")[0].split(", ")
    crops = batches[4][1].permute(0, 2, 3, 1).numpy()
    photos = {path.name: read_image(path) for path in dataset.hr.iterdir()}
    assert set(named) == {name for name in photos for crop in crops if holds(photos[name], crop)}


def holds(photo: np.ndarray, crop: np.ndarray) -> bool:
    """Return whether `crop`, turned and flipped in any way, is cut from `photo`."""
    n = len(crop)
    windows = np.lib.stride_tricks.sliding_window_view(photo, (n, n, 3))[:, :, 0]
    for flip, turns in itertools.product((1, -1), range(4)):
        turned = np.rot90(crop[:, ::flip], turns)
        alike = windows[(windows[:, :, 0, 0] == turned[0, 0]).all(axis=2)]  # in the first pixel
        if (alike == turned).all(axis=(1, 2, 3)).any():
            return True
    return False


def test_losses_are_averaged_whenever_they_are_asked_for():
    network = nn.Linear(1, 1)
    network(torch.ones(1, 1)).backward()
    meter, often = (LossMeter(2, lambda ks: [f"{k}.png" for k in ks]) for _ in range(2))
    for value in (1.0, 2.0, 6.0):
        for one in (meter, often):
            one.add({"a": torch.tensor(value)}, network.parameters())
        often.means()
    assert meter.means() == often.means() == {"loss_a": 3.0}
    state = meter.state_dict()
    meter.add({"a": torch.tensor(float("inf"))}, network.parameters())
    with pytest.raises(FloatingPointError, match=r"step 4: loss_a inf, .*photos: 6\.png, 7\.png"):
        meter.means()
    often.load_state_dict(state)
    assert often.means() == {"loss_a": 3.0}


@pytest.mark.cuda
def test_losses_are_noted_without_waiting_for_the_gpu():
    network = nn.Linear(8, 8, device="cuda")
    network(torch.ones(1, 8, device="cuda")).sum().backward()
    meter = LossMeter(1, lambda ks: [])
    torch.cuda.set_sync_debug_mode("error")
    try:
        meter.add({"a": torch.ones((), device="cuda")}, network.parameters())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert meter.means() == {"loss_a": 1.0}


@pytest.mark.cuda
@pytest.mark.parametrize("stop_at", [2, 7, 11])
def test_resumed_run_equals_unbroken_run_on_cuda(dataset, tmp_path, monkeypatch, stop_at):
    settings = dataset.folders() | SMALL | {"device": "cuda", "deterministic": True}
    train_esrgan(**settings, out_dir=tmp_path / "a")
    stop_in_step(stop_at, monkeypatch)
    with pytest.raises(SystemExit):
        train_esrgan(**settings, out_dir=tmp_path / "b")
    train_esrgan(**settings, out_dir=tmp_path / "b", resume=True)
    assert differences(tmp_path / "a", tmp_path / "b") == []


def test_folder_that_cannot_be_written_to_is_refused_first(dataset, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out_dir in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(NotADirectoryError, match="is no folder: choose another"):
            train_esrgan(**SMALL, lr_folder="no", hr_folder="no", out_dir=out_dir)


def test_run_that_was_killed_in_its_first_write_can_be_resumed(dataset, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".state_previous.99999.tmp.pth").write_bytes(b"half")
    resume(dataset, tmp_path / "a", n_epochs=1, n_epochs_gan=0)
    assert len(rows_of(tmp_path / "a")) == 1


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    run = RunFolder({"out_dir": tmp_path / "a", "resume": False, "overwrite": False}, ())
    run.restore({}, torch.device("cpu"))
    for name in (".state.1.tmp.pth", "samples/.0001.1.tmp.png", ".mine", "notes.tmp"):
        (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / name).write_bytes(b"half")
    with run.held():
        pass
    assert {path.name for path in (tmp_path / "a").rglob("*")} == {
        "samples", ".mine", "notes.tmp", "config.json", "state.pth", ".run.lock"
    }  # fmt: skip


def test_signal_while_saving_is_kept_for_later(dataset, tmp_path, monkeypatch):
    """SIGTERM in the validation: the epoch is saved, and then the run leaves."""

    def plot_curves(*args):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(training, "plot_curves", plot_curves)
    with pytest.raises(SystemExit):
        train_esrgan(**dataset.folders(), **SMALL, out_dir=tmp_path / "a")
    state = checkpoint.load(tmp_path / "a" / "state.pth")
    assert state["progress"]["epoch"] == 1 and len(rows_of(tmp_path / "a")) == 1


def test_curves_of_one_epoch_have_whole_steps(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(log, "Figure", lambda **o: figures.append(Figure(**o)) or figures[0])
    log.plot_curves(tmp_path / "a.png", [{"step": 2, "psnr_y": 30.0, "loss_a": 0.1}], 29.0)
    for axes in figures[0].axes:
        assert all(place == round(place) for place in axes.get_xticks())


def test_promises_are_kept_by_tests_that_exist():
    folder = Path(__file__).parent
    code = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", (folder / "README.md").read_text(encoding="utf-8"))
    assert len(named) > 40
    assert [name for name in named if f"def {name}(" not in code] == []
