"""SwinIR: the published networks, their weights in and out, training written out once more."""

import copy

import pytest
import spandrel
import torch
from spandrel.architectures.SwinIR import SwinIR as Theirs

from common import checkpoint
from common.run.recipes import start_from
from scripts.inference.models import load_model
from SwinIR import model as module
from SwinIR.dataset import crops_and_validation
from SwinIR.model import SwinIR, from_weights
from SwinIR.train_swinir import TAIL, train_swinir
from tests.conftest import assert_moved_alike, smooth_adam

EPS = 1e-4
KINDS = {  # ours and theirs
    "lightweight": (
        {"depths": (2, 3), "dim": 12, "n_heads": 2},
        {"depths": [2, 3], "embed_dim": 12, "num_heads": [2, 2], "upsampler": "pixelshuffledirect"},
    ),
    "classical": (
        {"depths": (2, 2), "dim": 18, "n_heads": 3, "upsampler": "pixelshuffle"},
        {"depths": [2, 2], "embed_dim": 18, "num_heads": [3, 3], "upsampler": "pixelshuffle"},
    ),
    "real, large": (
        {"dim": 16, "n_heads": 4, "upsampler": "nearest+conv", "three_convolutions": True}
        | {"depths": (2,)},
        {"depths": [2], "embed_dim": 16, "num_heads": [4], "upsampler": "nearest+conv"}
        | {"resi_connection": "3conv"},
    ),
}


def theirs(kind: str, upscale: int = 4, img_size: int = 48) -> torch.nn.Module:
    """spandrel's network, its weights far enough from their start for each to count."""
    fixed = {"window_size": 8, "mlp_ratio": 2, "img_range": 1.0, "patch_size": 1, "in_chans": 3}
    torch.manual_seed(0)
    network = Theirs(img_size=img_size, upscale=upscale, **fixed, **KINDS[kind][1]).eval()
    for weight in network.parameters():
        weight.data += 0.03 * torch.randn_like(weight)
    return network


@pytest.mark.parametrize(
    "settings, n",
    [
        ({}, 929_628),
        ({"depths": (6,) * 6, "dim": 180, "upsampler": "pixelshuffle"}, 11_900_199),
        ({"depths": (6,) * 6, "dim": 180, "upsampler": "nearest+conv"}, 11_715_559),
        (
            {"depths": (6,) * 9, "dim": 240, "n_heads": 8, "upsampler": "nearest+conv"}
            | {"three_convolutions": True},
            28_013_059,
        ),
    ],
    ids=["lightweight", "classical", "real, medium", "real, large"],
)
def test_networks_have_the_published_sizes(settings, n):
    with torch.device("meta"):
        network = SwinIR(**settings)
    assert sum(weight.numel() for weight in network.parameters()) == n


@pytest.mark.parametrize("size", [(16, 24), (17, 23), (9, 5), (8, 8)])
@pytest.mark.parametrize("kind", KINDS)
def test_network_is_spandrels(kind, size):
    network, ours = theirs(kind), from_weights(theirs(kind).state_dict()).eval()
    lr = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(lr), network(lr), atol=1e-5, rtol=1e-5)
    with torch.enable_grad():  # attention has another form there
        torch.testing.assert_close(ours(lr), network(lr), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (3, 20), (7, 2)])
def test_images_smaller_than_a_window_are_mirrored_as_often_as_needed(size):
    torch.manual_seed(0)
    network, lr = SwinIR((2,), 12, 2).eval(), torch.rand(1, 3, *size)
    tall, wide = (-(-n // 8) * 8 for n in size)
    across = lr.repeat(1, 1, 8, 8)[..., :tall, :wide]  # each value by hand:
    for i in range(tall):
        for j in range(wide):
            at = [
                abs((k + n - 1) % max(1, 2 * n - 2) - n + 1)
                for k, n in zip((i, j), size, strict=True)
            ]
            across[..., i, j] = lr[..., at[0], at[1]]
    with torch.inference_mode():
        whole = network(across)
        expected = whole[..., : 4 * size[0], : 4 * size[1]]
        torch.testing.assert_close(network(lr), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_our_files_load_in_spandrel(kind):
    torch.manual_seed(0)
    network = SwinIR(**KINDS[kind][0]).eval()
    found = spandrel.ModelLoader("cpu").load_from_state_dict(dict(network.state_dict()))
    assert found.architecture.id == "SwinIR" and found.scale == 4
    lr = torch.rand(1, 3, 24, 16)
    with torch.inference_mode():
        torch.testing.assert_close(network(lr), found.model.eval()(lr), atol=1e-5, rtol=1e-5)


def test_published_files_load_with_buffers_of_any_size_and_without(tmp_path):
    published = theirs("lightweight", img_size=64).state_dict()
    assert published["layers.0.residual_group.blocks.1.attn_mask"].shape[0] == 64
    checkpoint.save(tmp_path / "a.pth", {"params_ema": published})
    bare = {k: v for k, v in published.items() if not k.endswith(module._BUFFERS)}
    checkpoint.save(tmp_path / "b.pth", {"params": bare})
    a, b = (load_model(tmp_path / name, "cpu") for name in ("a.pth", "b.pth"))
    assert a.name == b.name == "SwinIR"
    weights = [model.network.state_dict() for model in (a, b)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("kind", KINDS)
def test_other_scales_are_named(kind):
    with pytest.raises(ValueError, match="a SwinIR for another scale"):
        from_weights(theirs(kind, upscale=2).state_dict())


def test_start_from_another_scale_leaves_the_tail_that_does_not_fit(tmp_path, capsys):
    published = theirs("lightweight", upscale=2).state_dict()
    checkpoint.save(tmp_path / "x2.pth", {"params": published})
    network = SwinIR(**KINDS["lightweight"][0])
    before = copy.deepcopy(network.state_dict())
    start_from(network, tmp_path / "x2.pth", TAIL)
    assert "except upsample.0.weight, upsample.0.bias\n" in capsys.readouterr().out
    for name, weight in network.state_dict().items():
        is_own = name.startswith("upsample") or name.endswith(module._BUFFERS)
        assert torch.equal(weight, before[name] if is_own else published[name]), name


def test_checkpointing_and_bfloat16_change_little():
    torch.manual_seed(0)
    network, lr = SwinIR((2, 2), 12, 2), torch.rand(2, 3, 16, 16)
    gradients = []
    for network.checkpointing in (False, True):
        network.zero_grad()
        network(lr).square().mean().backward()
        gradients.append([weight.grad.clone() for weight in network.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
    network.eval()
    with torch.inference_mode():
        full = network(lr)
        with torch.autocast("cpu", torch.bfloat16):
            assert (network(lr) - full).abs().max() < 0.02


def test_what_is_kept_for_a_size_serves_training_after_enlarging():
    network, lr = SwinIR((2,), 12, 2), torch.rand(1, 3, 24, 32)
    module._windows.cache_clear()
    with torch.inference_mode():
        network(lr)
    network(lr).sum().backward()
    assert module._windows.cache_info().misses == 1


def test_trained_weights_are_those_of_l1_and_averages_written_out(dataset, tmp_path, monkeypatch):
    """By spandrel's network in double precision."""
    smooth_adam(monkeypatch, EPS)
    ours, other = KINDS["lightweight"]
    settings = ours | {"patch_size": 64, "batch_size": 2, "workers": 0, "n_epochs": 2}
    settings |= {"steps_per_epoch": 2, "learning_rate": 1e-2, "milestones": (0.25, 0.5)}
    folders = dataset.folders()
    settings |= {"ema_decay": 0.15, "device": "cpu", "bfloat16": False}
    run = train_swinir(**folders, **settings, out_dir=tmp_path / "run")

    torch.manual_seed(0)
    start = SwinIR(**ours).state_dict()
    fixed = {"window_size": 8, "mlp_ratio": 2, "img_range": 1.0, "patch_size": 1, "in_chans": 3}
    network = Theirs(img_size=16, upscale=4, drop_path_rate=0.0, **fixed, **other).double()
    network.load_state_dict(start)
    average = copy.deepcopy(network)
    adam = torch.optim.Adam(network.parameters(), betas=(0.9, 0.99), eps=EPS)
    sizes = {"n_valid": 1, "valid_crop": 64, "patch_size": 64, "seed": 0}
    crops = crops_and_validation(*folders.values(), **sizes)[0]
    for k, rate in enumerate((1e-2, 5e-3, 2.5e-3, 2.5e-3)):
        step = k % 2
        lr, hr = (x.double() / 255 for x in crops[k // 2, range(2 * step, 2 * step + 2)])
        adam.param_groups[0]["lr"] = rate
        adam.zero_grad()
        (network(lr) - hr).abs().mean().backward()
        adam.step()
        decay = min(0.15, (1 + k) / (10 + k))
        for mean, weight in zip(average.parameters(), network.parameters(), strict=True):
            mean.data = decay * mean.data + (1 - decay) * weight.data
    weights = {k: v for k, v in average.state_dict().items() if not k.endswith(module._BUFFERS)}
    found = {k: v for k, v in checkpoint.load(run / "swinir.pth").items() if k in weights}
    assert_moved_alike(found, weights, start, share=1e-3)
