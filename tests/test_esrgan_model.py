"""ESRGAN's networks, and their exchange with the public tools."""

import re

import pytest
import torch
from spandrel import ModelLoader
from spandrel.architectures.ESRGAN import ESRGAN as SpandrelRRDB
from torch import nn

from ESRGAN.model import (
    RRDB,
    Discriminator,
    GeneratorRRDB,
    interpolate,
    load_published,
    set_weights,
    to_published,
)

SMALL = {"n_blocks": 2, "n_features": 16, "growth": 8}


def n_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def published_weights() -> dict[str, torch.Tensor]:
    """Random weights of another implementation of the published network, "old" key names."""
    torch.manual_seed(1)
    peer = SpandrelRRDB(num_filters=16, num_blocks=2)
    return peer.state_dict()


def test_published_network_has_the_published_number_of_parameters():
    with torch.device("meta"):
        assert n_parameters(GeneratorRRDB(conv_last=False)) == 16_697_987
        # and a 3x3 convolution of 64 to 64 channels with bias for each RRDB on top
        assert n_parameters(GeneratorRRDB()) == 16_697_987 + 23 * (64 * 64 * 9 + 64)


def test_generator_has_the_documented_submodules():
    with torch.device("meta"):
        generator = GeneratorRRDB()
    names = [name for name, _ in generator.named_children()]
    expected = "conv_first body trunk_conv upconv1 upconv2 HR_conv conv_last lrelu"
    assert names == expected.split()
    assert len(generator.body) == 23
    block = generator.body[0]
    assert [name for name, _ in block.named_children()] == ["dense_blocks", "conv_last"]
    assert isinstance(block.dense_blocks, nn.Sequential) and len(block.dense_blocks) == 3
    assert block.conv_last.weight.shape == (64, 64, 3, 3)


@pytest.mark.parametrize("h, w", [(1, 1), (5, 9), (32, 32)])
def test_generator_enlarges_four_times(h, w):
    assert GeneratorRRDB(**SMALL)(torch.rand(2, 3, h, w)).shape == (2, 3, 4 * h, 4 * w)


def test_rrdb_equals_its_formula_written_out():
    torch.manual_seed(0)
    block = RRDB(8, 4, conv_last=False).double()
    x = torch.randn(1, 8, 6, 6, dtype=torch.float64)
    out = x
    for dense in block.dense_blocks:
        seen = [out]
        for k in range(1, 5):
            conv = getattr(dense, f"conv{k}")
            y = nn.functional.conv2d(torch.cat(seen, 1), conv.weight, conv.bias, padding=1)
            seen.append(torch.where(y > 0, y, 0.2 * y))
        last = nn.functional.conv2d(
            torch.cat(seen, 1), dense.conv5.weight, dense.conv5.bias, padding=1
        )
        out = last * 0.2 + out
    torch.testing.assert_close(block(x), out * 0.2 + x)


def test_new_conv_last_changes_nothing():
    torch.manual_seed(0)
    without = GeneratorRRDB(**SMALL, conv_last=False)
    with_it = GeneratorRRDB(**SMALL)
    with_it.load_state_dict(without.state_dict(), strict=False)
    lr = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(with_it(lr), without(lr))


@pytest.mark.parametrize("patch_size", [32, 64, 96, 128])
def test_discriminator_gives_one_logit_for_any_patch_its_strides_allow(patch_size):
    logits = Discriminator(patch_size, n_features=8)(torch.rand(2, 3, patch_size, patch_size))
    assert logits.shape == (2, 1)


def test_discriminator_is_the_vgg_style_one():
    with torch.device("meta"):
        discriminator = Discriminator()
    convolutions = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d)]
    assert [c.stride[0] for c in convolutions] == [1, 2] * 5
    linear = [m for m in discriminator.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(8192, 100), (100, 1)]
    # 14,502,281 in the authors' code, worked out: convolutions, batch norms, linear layers
    widths = [64, 64, 128, 128, 256, 256, 512, 512, 512, 512]
    kernels = [9, 16] * 5
    convs = sum(a * b * k for a, b, k in zip([3, *widths], widths, kernels, strict=False)) + 64
    norms = 2 * sum(widths[1:])
    assert n_parameters(discriminator) == convs + norms + 8192 * 100 + 100 + 100 + 1


@pytest.mark.parametrize("patch_size", [0, 100, 16])
def test_patch_that_does_not_fit_the_strides_is_refused(patch_size):
    with pytest.raises(ValueError, match=f"patch_size is {patch_size}, expected a multiple of 32"):
        Discriminator(patch_size)


def in_format(old: dict[str, torch.Tensor], kind: str) -> dict:
    """Return weights with "old" key names under the other public names, by the published tables."""
    new = {}
    for key, weight in old.items():
        if match := re.fullmatch(r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.(\w+)", key):
            i, j, k, part = match.groups()
            names = {
                "new": f"RRDB_trunk.{i}.RDB{j}.conv{k}.{part}",
                "toolkit": f"body.{i}.rdb{j}.conv{k}.{part}",
            }
        else:
            layer, _, part = key.rpartition(".")
            column = 0 if kind == "new" else 1
            layer = {
                "model.0": ("conv_first", "conv_first"),
                "model.3": ("upconv1", "conv_up1"),
                "model.6": ("upconv2", "conv_up2"),
                "model.8": ("HRconv", "conv_hr"),
                "model.10": ("conv_last", "conv_last"),
            }.get(layer, ("trunk_conv", "conv_body"))[column]
            names = dict.fromkeys(("new", "toolkit"), f"{layer}.{part}")
        new[names[kind]] = weight
    return new


@pytest.mark.parametrize("conv_last", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: in_format(w, "new"),
        lambda w: in_format(w, "toolkit"),
        lambda w: {"params": in_format(w, "toolkit")},
        lambda w: {"params": {}, "params_ema": in_format(w, "toolkit")},
        lambda w: {"state_dict": in_format(w, "new"), "epoch": 3},
        lambda w: {f"module.{k}": v for k, v in w.items()},
        lambda w: {"state_dict": {f"generator.{k}": v for k, v in in_format(w, "toolkit").items()}},
    ],
    ids=["old", "new", "toolkit", "params", "params_ema", "state_dict", "module", "generator"],
)
def test_published_weights_give_the_peers_output(wrap, conv_last):
    weights = published_weights()
    peer = SpandrelRRDB(num_filters=16, num_blocks=2)
    peer.load_state_dict(weights)
    generator = load_published(wrap(weights), conv_last)
    lr = torch.rand(1, 3, 12, 10)
    with torch.inference_mode():
        torch.testing.assert_close(generator(lr), peer(lr), atol=1e-5, rtol=0)


def test_full_size_published_network_is_recognised():
    peer = SpandrelRRDB(num_blocks=23)
    generator = load_published(peer.state_dict())
    assert len(generator.body) == 23 and generator.conv_first.out_channels == 64
    assert generator.body[0].dense_blocks[0].conv1.out_channels == 32


def test_exported_weights_give_the_same_output_in_spandrel():
    torch.manual_seed(2)
    generator = GeneratorRRDB(2, 16, 32, conv_last=False)
    descriptor = ModelLoader().load_from_state_dict(to_published(generator))
    assert descriptor.scale == 4
    lr = torch.rand(1, 3, 9, 11)
    with torch.inference_mode():
        torch.testing.assert_close(descriptor.model(lr), generator(lr), atol=1e-5, rtol=0)


def test_untrained_conv_last_is_dropped_and_a_trained_one_refused():
    generator = GeneratorRRDB(**SMALL)
    assert len(to_published(generator)) == 2 * (2 * 15 + 6)
    generator.body[1].conv_last.bias.data[3] = 0.01
    with pytest.raises(
        ValueError, match=r"body\.1\.conv_last\.bias has been trained.*no-rrdb|False"
    ):
        to_published(generator)


def test_import_and_export_are_inverse():
    weights = in_format(published_weights(), "new")
    back = to_published(load_published(weights))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in weights)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (
            lambda w: {"head.weight": torch.zeros(1)},
            "not the weights of an RRDB network.*head.weight",
        ),
        (lambda w: {}, "not the weights of an RRDB network"),
        (lambda w: w | {"model.0.weight": torch.zeros(16, 12, 3, 3)}, "12 input channels"),
        (lambda w: {k: v for k, v in w.items() if k != "model.6.weight"}, "upconv2.weight"),
        (lambda w: w | {"model.13.weight": torch.zeros(1)}, "enlarges 8 times, expected 4"),
        (lambda w: {k: v for k, v in w.items() if "RDB1.conv1" not in k}, "first block is missing"),
    ],
)
def test_other_networks_are_refused_with_a_reason(spoil, message):
    with pytest.raises(ValueError, match=message):
        load_published(spoil(published_weights()))


def test_weights_of_another_size_are_refused():
    generator = GeneratorRRDB(**SMALL)
    with pytest.raises(ValueError, match=r"(?s)another size.*size mismatch"):
        set_weights(generator, GeneratorRRDB(2, 24, 8).state_dict())
    with pytest.raises(ValueError, match="another size"):
        set_weights(generator, published_weights())  # of growth 32


def test_interpolation_is_linear_in_the_weights():
    psnr, gan = {"w": torch.tensor([0.0, 2.0])}, {"w": torch.tensor([1.0, 4.0])}
    assert interpolate(psnr, gan, 0.0)["w"].tolist() == [0, 2]
    assert interpolate(psnr, gan, 0.25)["w"].tolist() == [0.25, 2.5]
    assert interpolate(psnr, gan, 1.0)["w"].tolist() == [1, 4]


def test_checkpointing_changes_memory_and_nothing_else():
    torch.manual_seed(0)
    network = GeneratorRRDB(n_blocks=3, n_features=8, growth=4)
    lr = torch.rand(1, 3, 12, 12)
    gradients, kept = [], []
    for network.checkpointing in (False, True):
        tensors: dict[int, int] = {}

        def note(tensor: torch.Tensor, tensors=tensors) -> torch.Tensor:
            tensors[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = network(lr).square().mean()
        loss.backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
        network.zero_grad()
        kept.append(sum(tensors.values()))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
    assert kept[1] < 0.7 * kept[0]


def test_start_as_nearest_is_nearly_nearest_neighbour_enlargement():
    """Of an image in [0, 1]; also where it is black, and for each channel on its own."""
    torch.manual_seed(0)
    generator = GeneratorRRDB(2, 24, 12)
    generator.start_as_nearest()
    lr = torch.rand(1, 3, 12, 14)
    lr[..., :5] = 0
    lr[:, 0, 6:] = 1
    with torch.inference_mode():
        sr = generator(lr)
    nearest = lr.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert (sr - nearest).abs().max() < 0.1 and (sr - nearest).abs().mean() < 0.05
    with torch.no_grad():
        generator.trunk_conv.weight.zero_()
        torch.testing.assert_close(generator(lr), nearest, rtol=0, atol=1e-6)
