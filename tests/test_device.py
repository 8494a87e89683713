"""`common/device.py`: which precision a device gets, and what it keeps."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.device import choose_bfloat16, choose_device, describe, record_passes
from ESRGAN import train_esrgan as script

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "found, expected",
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),  # Zen 4
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx512_bf16": False, "avx512_f": True}, False),  # Skylake
        ({"neon": True, "bf16": True}, False),  # Apple: torch has no fast convolutions in it there
    ],
)
def test_cpus_with_instructions_for_bfloat16_have_it(monkeypatch, found, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert choose_bfloat16(CPU) is expected


def test_names_that_are_wanted_are_few():
    with pytest.raises(ValueError, match=r'"gpu", expected auto, cuda, cuda:1, cpu: no such kind$'):
        choose_device("gpu")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_that_was_freed_is_not_cleared_anew():
    """A page that the process gets anew is a fault: 160 MB of 4 KB each are 39,062."""
    program = """
import resource, torch
from common.device import choose_device
choose_device("cpu")
torch.ones(100_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):
    torch.ones(40_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert int(done.stdout) < 15 * 39_062  # given back, it would be 30 times


def test_an_older_torch_that_cannot_tell_has_none(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not choose_bfloat16(CPU)


@pytest.mark.parametrize("capability, expected", [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus_have_it_since_ampere(monkeypatch, capability, expected):
    """A T4, 7.5, holds such numbers, and says so when asked, but has no convolutions of them."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_bfloat16(torch.device("cuda:0")) is expected


@pytest.mark.parametrize(
    "has_it, wanted, used",
    [(True, None, True), (False, None, False), (True, False, False), (False, True, True)],
)
def test_training_takes_it_where_the_device_has_it_or_as_told(
    dataset, tmp_path, monkeypatch, capsys, has_it, wanted, used
):
    class Seen(Exception):
        pass

    def l1_loss(sr, hr):
        assert (sr.dtype == torch.bfloat16) is used
        raise Seen

    found = {"avx512_bf16": has_it, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    monkeypatch.setattr(torch.nn.functional, "l1_loss", l1_loss)
    settings = {"n_blocks": 1, "n_features": 8, "growth": 4, "patch_size": 32, "workers": 0}
    settings |= {"perceptual_weight": 0.0, "device": "cpu", "bfloat16": wanted}
    with pytest.raises(Seen):
        script.train_esrgan(**dataset.folders(), **settings, out_dir=tmp_path / "run")
    assert f"on {describe(CPU, used)}, writing" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "config.json").read_text())["bfloat16"] is used
    assert ("in bfloat16" in describe(CPU, used)) is used


def test_recorded_passes_are_for_gradients_and_for_crops_of_their_size_only(monkeypatch):
    """The recording itself needs a GPU; here one stands in that gives 7s."""

    def graphed(network, examples):
        network.forward = lambda x: torch.full_like(x, 7)

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphed)
    network, crop = torch.nn.Conv2d(3, 3, 1), torch.rand(2, 3, 8, 8)
    expected = network(crop)
    record_passes(network, torch.zeros_like(crop), bfloat16=False)
    assert (network(crop) == 7).all()
    with torch.no_grad():
        assert torch.equal(network(crop), expected)
    assert torch.equal(network(crop[:1]), expected[:1])


@pytest.mark.cuda
def test_recorded_passes_give_the_same_gradients():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 3, 3)).cuda()
    crops = torch.rand(3, 2, 3, 16, 16, device="cuda")

    def gradients() -> list[torch.Tensor]:
        found = []
        for crop in crops:
            network.zero_grad()
            network(crop).square().mean().backward()
            found += [weight.grad.clone() for weight in network.parameters()]
        return found

    expected = gradients()
    record_passes(network, torch.zeros_like(crops[0]), bfloat16=False)
    torch.testing.assert_close(gradients(), expected)
