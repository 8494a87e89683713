"""EDSR: the published network, its weights in and out, and its training written out once more."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from common import checkpoint
from common.run.recipes import named, start_from
from EDSR.dataset import crops_and_validation
from EDSR.model import EDSR, from_weights
from EDSR.train_edsr import FOLDER, train_edsr
from ESRGAN.model import GeneratorRRDB
from scripts.inference.models import load_model
from tests.conftest import assert_moved_alike, rows_of, smooth_adam

MEAN = (0.4488, 0.4371, 0.4040)
EPS = 1e-4


def paper(w: dict, lr: torch.Tensor, scale: float) -> torch.Tensor:
    """The network layer by layer, from its weights; (N, 3, H, W) in [0, 1]."""

    def conv(name, x):
        return functional.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)

    mean = 255 * torch.tensor(MEAN, dtype=lr.dtype).view(1, 3, 1, 1)
    features = x = conv("head.0", 255 * lr - mean)
    n_blocks = sum(".body.0.weight" in name for name in w)
    for i in range(n_blocks):
        x = x + scale * conv(f"body.{i}.body.2", conv(f"body.{i}.body.0", x).relu())
    x = conv(f"body.{n_blocks}", x) + features
    for name in ("tail.0.0", "tail.0.2"):
        x = functional.pixel_shuffle(conv(name, x), 2)
    return (conv("tail.1", x) + mean) / 255


def numbers(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters() if weight.requires_grad)


def test_networks_have_the_published_sizes():
    assert numbers(EDSR()) == 1_517_571
    with torch.device("meta"):
        assert numbers(EDSR(32, 256)) == 43_089_923


@pytest.mark.parametrize("n_features, scale", [(8, 1.0), (256, 0.1)])
@pytest.mark.parametrize("size", [(9, 14), (1, 1), (16, 21)])
def test_network_is_the_papers(n_features, scale, size):
    torch.manual_seed(0)
    network = EDSR(2, n_features).eval()
    lr = torch.rand(2, 3, *size)
    with torch.inference_mode():
        expected = paper(network.state_dict(), lr, scale)
        torch.testing.assert_close(network(lr), expected, atol=1e-5, rtol=0)
    assert expected.shape == (2, 3, 4 * size[0], 4 * size[1])


def test_names_are_the_published_ones():
    names = {name.removesuffix(".weight") for name in EDSR(2, 8).state_dict() if "weight" in name}
    body = {f"body.{i}.body.{j}" for i in (0, 1) for j in (0, 2)}
    tail = {"body.2", "tail.0.0", "tail.0.2", "tail.1"}
    assert names == {"sub_mean", "add_mean", "head.0"} | body | tail


@pytest.mark.parametrize("has_means", [True, False])
def test_published_files_load_with_and_without_the_mean(has_means, tmp_path):
    torch.manual_seed(0)
    network = EDSR(3, 8).eval()
    weights = network.state_dict()
    weights = weights if has_means else {k: v for k, v in weights.items() if "_mean" not in k}
    torch.save(weights, tmp_path / "edsr_x4.pt")
    lr = torch.rand(1, 3, 7, 9)
    model = load_model(tmp_path / "edsr_x4.pt", "cpu", precision="full")
    assert model.name == "EDSR" and len(model.network.body) == 4
    torch.testing.assert_close(model.upscale(lr), network(lr).clamp(0, 1).detach())


def other_scale(scale: int) -> dict:
    """Weights as the authors' code names them for 2x and 3x: one convolution before the shuffle."""
    torch.manual_seed(1)
    weights = EDSR(2, 8).state_dict()
    del weights["tail.0.2.weight"], weights["tail.0.2.bias"]
    if scale == 3:
        weights["tail.0.0.weight"], weights["tail.0.0.bias"] = (
            torch.rand(72, 8, 3, 3),
            torch.rand(72),
        )
    return weights


@pytest.mark.parametrize("scale", [2, 3])
def test_other_scales_are_named(scale):
    with pytest.raises(ValueError, match="an EDSR for another scale than 4"):
        from_weights(other_scale(scale))


def test_start_from_another_scale_leaves_the_tail_that_does_not_fit(tmp_path, capsys):
    torch.manual_seed(0)
    network = EDSR(2, 8)
    before = copy.deepcopy(network.state_dict())
    checkpoint.save(tmp_path / "x3.pth", {"params": other_scale(3)})
    start_from(network, tmp_path / "x3.pth", ("tail.",))
    left = ["tail.0.0.weight", "tail.0.0.bias", "tail.0.2.weight", "tail.0.2.bias"]
    assert f"except {', '.join(left)}\n" in capsys.readouterr().out
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, before[name] if name in left else other_scale(3)[name]), name


def test_start_from_takes_the_name_of_what_comes_along():
    network = EDSR()
    start_from(network, named(Path("edsr"), FOLDER), ("tail.",))
    shipped = checkpoint.load(FOLDER / "pretrained" / "edsr.pth")
    assert all(torch.equal(v, shipped[k].float()) for k, v in network.state_dict().items())
    assert named(Path("a.pth"), FOLDER) == Path("a.pth")


def test_start_from_a_network_of_another_size_is_refused(tmp_path):
    checkpoint.save(tmp_path / "a.pth", EDSR(1, 8).state_dict())
    with pytest.raises(ValueError, match=r"a\.pth does not fit this network: body\.1\.body\.0"):
        start_from(EDSR(2, 8), tmp_path / "a.pth", ("tail.",))
    checkpoint.save(tmp_path / "esrgan.pth", GeneratorRRDB(1, 8, 4).state_dict())
    with pytest.raises(ValueError, match=r"does not fit .* 16 in all; found conv_first"):
        start_from(EDSR(2, 8), tmp_path / "esrgan.pth", ("tail.",))
    broken = EDSR(2, 8).state_dict()
    broken["head.0.bias"][0] = torch.nan
    checkpoint.save(tmp_path / "b.pth", broken)
    with pytest.raises(ValueError, match=r"b\.pth holds weights that are not finite"):
        start_from(EDSR(2, 8), tmp_path / "b.pth", ("tail.",))


def test_checkpointing_changes_no_gradient():
    torch.manual_seed(0)
    network, lr = EDSR(2, 8), torch.rand(1, 3, 8, 8)
    gradients = []
    for network.checkpointing in (False, True):
        network.zero_grad()
        network(lr).square().mean().backward()
        gradients.append([w.grad.clone() for w in network.parameters() if w.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_patch_size_that_cannot_be_is_refused_before_photos_are_looked_for(tmp_path):
    with pytest.raises(ValueError, match="patch_size is 30, expected a multiple of 4"):
        train_edsr(patch_size=30, lr_folder=tmp_path / "none", hr_folder=tmp_path / "none",
                   out_dir=tmp_path / "run", device="cpu")  # fmt: skip


def test_trained_weights_are_those_of_l1_written_out(dataset, tmp_path, monkeypatch):
    smooth_adam(monkeypatch, EPS)
    settings = {"n_blocks": 2, "n_features": 8, "patch_size": 32, "batch_size": 2, "workers": 0}
    settings |= {"n_epochs": 2, "steps_per_epoch": 2, "learning_rate": 1e-2, "milestones": (0.5,)}
    run = train_edsr(
        **dataset.folders(), **settings, device="cpu", bfloat16=False, out_dir=tmp_path / "run"
    )
    torch.manual_seed(0)
    weights = {k: v.clone().double() for k, v in EDSR(2, 8).state_dict().items()}
    before = {k: v.clone() for k, v in weights.items()}
    trained = {k: w.requires_grad_() for k, w in weights.items() if "_mean" not in k}
    adam = torch.optim.Adam(trained.values(), betas=(0.9, 0.999), eps=EPS)
    crops = crops_and_validation(
        *dataset.folders().values(), n_valid=1, valid_crop=64, patch_size=32, seed=0
    )[0]
    losses = []
    for epoch, step, rate in ((0, 0, 1e-2), (0, 1, 1e-2), (1, 0, 5e-3), (1, 1, 5e-3)):
        lr, hr = (x.double() / 255 for x in crops[epoch, range(2 * step, 2 * step + 2)])
        loss = (paper(weights, lr, 1.0) - hr).abs().mean()
        adam.param_groups[0]["lr"] = rate
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    ours = checkpoint.load(run / "edsr.pth")
    assert_moved_alike(ours, {k: w.detach() for k, w in weights.items()}, before, share=1e-3)
    means = [float(row["loss_pixel"]) for row in rows_of(run)]
    assert means == pytest.approx([sum(losses[:2]) / 2, sum(losses[2:]) / 2], rel=1e-4)
