"""Training as several processes that torchrun starts: two on the CPU."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common import checkpoint, processes
from common.crops import crops_of_step
from CVAE import train_cvae as cvae
from CycleGAN.CycleGAN_w_v1 import CycleGAN as v1
from CycleGAN.CycleGAN_w_v2 import CycleGAN2 as v2
from CycleGAN.CycleGAN_w_v3 import CycleGAN5_2 as v3
from ESRGAN import train_esrgan as esrgan
from SRVAE import train_srvae as srvae
from tests.conftest import rows_of

SMALL = {"batch_size": 2, "workers": 0, "n_epochs": 1, "steps_per_epoch": 2, "device": "cpu"}
_CYCLEGAN = {"n_features": 4, "lr_size": 24, "hr_size": 96}
SCRIPTS = {
    "esrgan": (esrgan, {
        "n_blocks": 1, "n_features": 8, "growth": 4, "discriminator_features": 4, "patch_size": 32,
        "perceptual_weight": 0.0, "n_epochs_gan": 1,
    }),
    "cyclegan_v1": (v1, _CYCLEGAN),
    "cyclegan_v2": (v2, _CYCLEGAN | {"fake_lr_noise": 0.0, "pool_size": 0}),
    "cyclegan_v3": (v3, _CYCLEGAN | {"noise_channel": False, "pool_size": 0, "relativistic": True}),
    "srvae": (srvae, {"n_features": 6, "n_latent": 2, "valid_patches": 2, "patch_size": 64}),
    "cvae": (cvae, {"n_features": 4, "n_latent": 16, "valid_patches": 2}),
}  # fmt: skip


def train(name: str, settings: dict) -> Path:
    script = SCRIPTS[name][0]
    function = getattr(script, f"train_{name}", None) or script.train_cyclegan_sr
    return function(**settings)


def run_as(rank: int, count: int, port: int, name: str, settings: dict, output: Path) -> None:
    """Train as torchrun would have it."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sys.stdout = sys.stderr = output.open("w")
    train(name, settings)


def train_together(name: str, settings: dict, count: int, outputs: Path) -> list[str]:
    """Train as `count` processes and return what each printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    if os.name == "posix":
        context.set_forkserver_preload(["scripts.stress", __name__])
    outputs.mkdir()
    files = [outputs / f"{rank}.txt" for rank in range(count)]
    started = [
        context.Process(target=run_as, args=(rank, count, port, name, settings, file))
        for rank, file in enumerate(files)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(200)
    texts = [file.read_text() for file in files]
    assert [process.exitcode for process in started] == [0] * count, texts
    return texts


@pytest.mark.parametrize("name", ["esrgan", "cyclegan_v1", "cyclegan_v2", "cyclegan_v3"])
def test_two_processes_take_the_steps_of_one_with_twice_the_batch(large_dataset, tmp_path, name):
    settings = large_dataset.folders() | SMALL | SCRIPTS[name][1]
    texts = train_together(name, settings | {"out_dir": tmp_path / "two"}, 2, tmp_path / "texts")
    one = train(name, settings | {"batch_size": 4, "out_dir": tmp_path / "one"})
    for row, expected in zip(rows_of(tmp_path / "two"), rows_of(one), strict=True):
        for column in (c for c in expected if c.startswith("loss_") and expected[c]):
            assert float(row[column]) == pytest.approx(float(expected[column]), rel=1e-4), column
    wrong = n = 0
    for path in (p for p in one.glob("*.pth") if not p.name.startswith("state")):
        ours, theirs = checkpoint.load(tmp_path / "two" / path.name), checkpoint.load(path)
        for key in (key for key in theirs if theirs[key].is_floating_point()):
            # Adam divides gradients by their size: where they are rounding, its steps differ.
            wrong += (~torch.isclose(ours[key], theirs[key], rtol=1e-3, atol=1e-5)).sum().item()
            n += theirs[key].numel()
    assert wrong < 0.01 * n
    assert "PSNR-Y" in texts[0] and texts[0].count("complete: ") == 1 and texts[1] == ""


@pytest.mark.parametrize("name", ["srvae", "cvae"])
def test_vaes_train_as_two_processes(large_dataset, tmp_path, name):
    settings = large_dataset.folders() | SMALL | SCRIPTS[name][1] | {"out_dir": tmp_path / "two"}
    train_together(name, settings, 2, tmp_path / "texts")
    state = checkpoint.load(tmp_path / "two" / "state.pth")
    assert len(rows_of(tmp_path / "two")) == 1
    assert not torch.equal(*(random["cpu"] for random in state["random"]))  # other draws of z


def test_run_goes_on_with_another_number_of_processes(large_dataset, tmp_path):
    settings = large_dataset.folders() | SMALL | SCRIPTS["esrgan"][1]
    settings |= {"out_dir": tmp_path / "run", "n_epochs": 2, "n_epochs_gan": 0}
    train("esrgan", settings | {"n_epochs": 1})
    train_together("esrgan", settings | {"resume": True}, 2, tmp_path / "texts")
    train("esrgan", settings | {"resume": True, "n_epochs": 3})
    assert [row["step"] for row in rows_of(tmp_path / "run")] == ["2", "4", "6"]


def test_torchrun_starts_a_script_and_ends_all_when_one_fails(large_dataset, tmp_path):
    settings = large_dataset.folders() | SMALL | SCRIPTS["esrgan"][1] | {"out_dir": tmp_path / "a"}
    flags = [w for k, v in settings.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    options = {"capture_output": True, "text": True, "timeout": 200}
    options["env"] = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, esrgan.__file__, *flags], **options)
    assert done.returncode == 0 and done.stdout.count("complete: ") == 1, done.stderr
    again = subprocess.run([*command, esrgan.__file__, *flags], **options)
    assert again.returncode and "holds an earlier run" in again.stderr


def test_no_two_processes_take_one_crop(monkeypatch):
    taken = []
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        taken += [k for step in range(4) for k in crops_of_step(step, batch_size=5)]
    assert sorted(taken) == list(range(3 * 4 * 5))


def _normalised(rank: int, port: int, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    processes.join(torch.device("cpu"))
    layer, x, weight = torch.load(folder / "in.pth", weights_only=False)
    processes.share_batch_norm(net := torch.nn.Sequential(layer))
    part = x[rank * 2 : rank * 2 + 2].clone().requires_grad_()
    y = net(part)
    (y * weight[rank * 2 : rank * 2 + 2]).sum().div(2).backward()
    processes.average_gradients(net)
    result = y.detach(), part.grad, layer.weight.grad, layer.running_mean, layer.running_var
    torch.save(result, folder / f"{rank}.pth")


def test_batch_norm_looks_at_all_processes_batches(tmp_path):
    torch.manual_seed(0)
    x, weight = torch.randn(4, 3, 5, 5) * 2 + 1, torch.randn(4, 3, 5, 5)
    layer = torch.nn.BatchNorm2d(3)
    torch.nn.init.uniform_(layer.weight)
    torch.save((layer, x, weight), tmp_path / "in.pth")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    started = [context.Process(target=_normalised, args=(r, port, tmp_path)) for r in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(100)
    x.requires_grad_()
    y = layer(x)
    (y * weight).sum().div(4).backward()
    parts = [torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(2)]
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), y.detach())
    torch.testing.assert_close(torch.cat([part[1] for part in parts]) / 2, x.grad)
    for part in parts:
        torch.testing.assert_close(part[2], layer.weight.grad)
        torch.testing.assert_close(part[3], layer.running_mean)
        torch.testing.assert_close(part[4], layer.running_var)
