"""Training as several processes that torchrun starts: two on the CPU."""

import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common import checkpoint, processes
from common.data.crops import crops_of_step
from CVAE import train_cvae as cvae
from CycleGAN.CycleGAN_w_v1 import CycleGAN as v1
from CycleGAN.CycleGAN_w_v2 import CycleGAN2 as v2
from CycleGAN.CycleGAN_w_v3 import CycleGAN5_2 as v3
from EDSR import train_edsr as edsr
from ESRGAN import train_esrgan as esrgan
from SRVAE import train_srvae as srvae
from SwinIR import train_swinir as swinir
from tests.conftest import PRELOADED, rows_of

SMALL = {"batch_size": 2, "workers": 0, "n_epochs": 1, "steps_per_epoch": 2, "device": "cpu"}
SMALL["bfloat16"] = False  # its rounding hides what is compared
_CYCLEGAN = {"n_features": 4, "lr_size": 24, "hr_size": 96}
SCRIPTS = {
    "esrgan": (esrgan, {
        "n_blocks": 1, "n_features": 8, "growth": 4, "discriminator_features": 4, "patch_size": 32,
        "perceptual_weight": 0.0, "n_epochs_gan": 1,
    }),
    "cyclegan_v1": (v1, _CYCLEGAN),
    "cyclegan_v2": (v2, _CYCLEGAN | {"fake_lr_noise": 0.0, "pool_size": 0}),
    "cyclegan_v3": (v3, _CYCLEGAN | {"noise_channel": False, "pool_size": 0, "relativistic": True}),
    "edsr": (edsr, {"n_blocks": 1, "n_features": 8, "patch_size": 32}),
    "swinir": (swinir, {"depths": (2,), "dim": 12, "n_heads": 2, "patch_size": 32}),
    "srvae": (srvae, {"n_features": 6, "n_blocks": 2, "valid_patches": 2, "patch_size": 64}),
    "cvae": (cvae, {"n_features": 4, "n_latent": 16, "valid_patches": 2}),
}  # fmt: skip


def train(name: str, settings: dict) -> Path:
    script = SCRIPTS[name][0]
    function = getattr(script, f"train_{name}", None) or script.train_cyclegan_sr
    return function(**settings)


def run_as(rank: int, count: int, port: int, output: Path, function, *arguments) -> None:
    """Call a function as torchrun would have it."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sys.stdout = sys.stderr = output.open("w")
    function(*arguments)


def together(count: int, folder: Path, function, *arguments) -> list[str]:
    """Call a function in `count` processes and return what each printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    if os.name == "posix":
        context.set_forkserver_preload(PRELOADED)
    files = [folder / f"{rank}.txt" for rank in range(count)]
    started = [
        context.Process(target=run_as, args=(rank, count, port, file, function, *arguments))
        for rank, file in enumerate(files)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(200)
    texts = [file.read_text() for file in files]
    assert [process.exitcode for process in started] == [0] * count, texts
    return texts


@pytest.mark.parametrize("name", [name for name in SCRIPTS if "vae" not in name])
def test_two_processes_take_the_steps_of_one_with_twice_the_batch(large_dataset, tmp_path, name):
    settings = large_dataset.folders() | SMALL | SCRIPTS[name][1]
    texts = together(2, tmp_path, train, name, settings | {"out_dir": tmp_path / "two"})
    one = train(name, settings | {"batch_size": 4, "out_dir": tmp_path / "one"})
    for row, expected in zip(rows_of(tmp_path / "two"), rows_of(one), strict=True):
        for column in (c for c in expected if c.startswith("loss_") and expected[c]):
            assert float(row[column]) == pytest.approx(
                float(expected[column]), rel=1e-4, abs=1e-6
            ), column
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
    together(2, tmp_path, train, name, settings)
    state = checkpoint.load(tmp_path / "two" / "state.pth")
    assert len(rows_of(tmp_path / "two")) == 1
    assert not torch.equal(*(random["cpu"] for random in state["random"]))  # other draws of z


def test_run_goes_on_with_another_number_of_processes(large_dataset, tmp_path):
    settings = large_dataset.folders() | SMALL | SCRIPTS["esrgan"][1]
    settings |= {"out_dir": tmp_path / "run", "n_epochs": 2, "n_epochs_gan": 0}
    train("esrgan", settings | {"n_epochs": 1})
    together(2, tmp_path, train, "esrgan", settings | {"resume": True})
    train("esrgan", settings | {"resume": True, "n_epochs": 3})
    assert [row["step"] for row in rows_of(tmp_path / "run")] == ["2", "4", "6"]


def test_torchrun_ends_all_when_one_fails_and_its_message_is_seen(large_dataset, tmp_path):
    """The first alone looks into the folder; the other waits for it."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "generator.pth").write_bytes(b"mine")
    settings = (
        large_dataset.folders() | SMALL | SCRIPTS["esrgan"][1] | {"out_dir": tmp_path / "run"}
    )
    flags = [w for k, v in settings.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, esrgan.__file__, *flags],
        capture_output=True, text=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode and "holds an earlier run (generator.pth)" in done.stderr
    assert (tmp_path / "run" / "generator.pth").read_bytes() == b"mine"


def test_no_two_processes_take_one_crop(monkeypatch):
    taken = []
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        taken += [k for step in range(4) for k in crops_of_step(step, batch_size=5)]
    assert sorted(taken) == list(range(3 * 4 * 5))


def normalise(folder: Path) -> None:
    processes.join(torch.device("cpu"))
    x, weight = checkpoint.load(folder / "in.pth").values()
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    processes.share_batch_norm(network)
    rows = slice(2 * processes.rank(), 2 * processes.rank() + 2)
    x = x[rows].clone().requires_grad_()
    y = network(x)
    (y * weight[rows]).sum().div(2).backward()
    processes.average_gradients(torch.optim.SGD(network.parameters()))
    results = {"y": y.detach(), "of_x": x.grad, "of_weight": network[0].weight.grad}
    checkpoint.save(folder / f"{processes.rank()}.pth", results | network.state_dict())


def test_batch_norm_looks_at_all_processes_batches(tmp_path):
    torch.manual_seed(0)
    x, weight = torch.randn(4, 3, 5, 5) * 2 + 1, torch.randn(4, 3, 5, 5)
    checkpoint.save(tmp_path / "in.pth", {"x": x, "weight": weight})
    together(2, tmp_path, normalise, tmp_path)
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    x.requires_grad_()
    y = network(x)
    (y * weight).sum().div(4).backward()
    parts = [checkpoint.load(tmp_path / f"{rank}.pth") for rank in range(2)]
    torch.testing.assert_close(torch.cat([part["y"] for part in parts]), y.detach())
    torch.testing.assert_close(torch.cat([part["of_x"] for part in parts]) / 2, x.grad)
    for part in parts:
        torch.testing.assert_close(part["of_weight"], network[0].weight.grad)
        for key, value in network.state_dict().items():
            torch.testing.assert_close(part[key], value)
