"""What `load_model` takes and refuses, and what its models do; see test_every_network.py, too."""

import io
import pickle
import signal
import sys
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from spandrel.architectures import (
    ATD,
    DAT,
    DRCT,
    ESRGAN,
    HAT,
    PLKSR,
    RCAN,
    RGT,
    SAFMN,
    SPAN,
    Compact,
    OmniSR,
    Swin2SR,
    SwinIR,
)

from common import checkpoint
from common.data.photos import to_tensor, to_uint8
from common.data.resize import imresize
from CVAE.model import CVAE, Recognition
from CycleGAN.model import Discriminator, GeneratorDown
from ESRGAN.model import DenseBlock, GeneratorRRDB, to_published
from scripts.inference.models import Model, load_model
from scripts.inference.weights import describe_weights
from tests.test_every_network import make

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)


def test_published_names_are_found(tmp_path):
    network = GeneratorRRDB(2, 8, 4, conv_last=False).eval()
    checkpoint.save(tmp_path / "a.pth", {"params_ema": to_published(network)})
    lr = to_tensor(PIXELS)
    with torch.inference_mode():
        expected = network(lr).clamp(0, 1)
    found = load_model(tmp_path / "a.pth", "cpu", precision="full").upscale(lr)
    torch.testing.assert_close(found, expected)


def test_of_several_networks_in_a_file_none_is_guessed(tmp_path):
    weights = make("ESRGAN").state_dict()
    other = {key: weight + 1 for key, weight in weights.items()}
    checkpoint.save(tmp_path / "a.pth", {"first": weights, "second": other})
    with pytest.raises(ValueError, match=r"a\.pth holds several networks: .*first, second"):
        load_model(tmp_path / "a.pth", "cpu")
    checkpoint.save(tmp_path / "a.pth", {"params": weights, "params_ema": other})
    found = load_model(tmp_path / "a.pth", "cpu").network.state_dict()
    assert torch.equal(found["conv_first.bias"], other["conv_first.bias"])


@pytest.fixture
def esrgan(tmp_path):
    checkpoint.save(tmp_path / "a.pth", make("ESRGAN").state_dict())
    return load_model(tmp_path / "a.pth", "cpu")


def test_image_comes_back_as_it_was_given(esrgan):
    tensor = to_tensor(PIXELS)
    expected = esrgan.upscale(tensor)
    assert expected.shape == (1, 3, 28, 36) and esrgan.upscale(tensor[0]).shape == (3, 28, 36)
    pixels = esrgan.upscale(PIXELS)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, to_uint8(expected))
    picture = esrgan.upscale(Image.fromarray(PIXELS))
    np.testing.assert_array_equal(np.asarray(picture), pixels)
    deep = esrgan.upscale(PIXELS.astype(np.uint16) * 257)
    assert deep.dtype == np.uint16 and np.abs(deep / 257 - pixels).max() <= 0.51
    floats = esrgan.upscale(PIXELS.astype(np.float32) / 255)
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats, expected[0].permute(1, 2, 0).numpy(), atol=1e-6)
    assert esrgan.upscale(Image.fromarray(PIXELS).convert("L")).mode == "RGB"


@pytest.mark.parametrize(
    "image",
    [PIXELS[..., 0], PIXELS.astype(np.int64), torch.zeros(1, 3, 4, 4).byte(), torch.zeros(4, 4), 3],
    ids=["gray", "int64", "byte tensor", "2-d tensor", "number"],
)
def test_other_images_are_refused(esrgan, image):
    with pytest.raises(ValueError, match=r"found .*expected a PIL image"):
        esrgan.upscale(image)


def test_path_is_no_image(esrgan):
    with pytest.raises(ValueError, match=r'is a path, expected .* Image\.open\("photo\.jpg"'):
        esrgan.upscale("photo.jpg")
    with pytest.raises(ValueError, match="found int, expected"):
        esrgan.upscale(3)


@pytest.mark.parametrize("name", ["CVAE", "SRVAE"])
def test_samples_of_a_vae(name, tmp_path):
    checkpoint.save(tmp_path / "a.pth", make(name).state_dict())
    model = load_model(tmp_path / "a.pth", "cpu")
    versions = model.sample(Image.fromarray(PIXELS), 3, seed=1)
    assert len(versions) == 3 and all(version.size == (36, 28) for version in versions)
    same = model.sample(PIXELS, 3, seed=1)
    np.testing.assert_array_equal(np.stack(same), np.stack([np.asarray(v) for v in versions]))
    with pytest.raises(ValueError, match="1 or more samples"):
        model.sample(PIXELS, 0)


def test_other_networks_have_one_answer(esrgan):
    with pytest.raises(ValueError, match="ESRGAN has one answer"):
        esrgan.sample(PIXELS, 2)


def test_self_ensemble_is_the_mean_over_eight_ways_to_turn_and_flip(tmp_path):
    torch.manual_seed(0)
    network = GeneratorRRDB(1, 8, 4).eval()
    checkpoint.save(tmp_path / "a.pth", network.state_dict())
    model = load_model(tmp_path / "a.pth", "cpu", precision="full", self_ensemble=True)
    lr = torch.rand(1, 3, 5, 9)
    answers = []
    with torch.inference_mode():
        for flip in (False, True):
            for turns in range(4):
                x = np.rot90(lr.numpy(), turns, (2, 3))
                x = x[:, :, ::-1] if flip else x
                y = network(torch.tensor(x.copy())).numpy()
                y = y[:, :, ::-1] if flip else y
                answers.append(np.rot90(y, -turns, (2, 3)))
    expected = np.mean(answers, 0).clip(0, 1)
    np.testing.assert_allclose(model.upscale(lr).numpy(), expected, atol=1e-6)
    assert model.margin == 48
    model.tile = 24
    assert model.upscale(torch.rand(1, 3, 30, 50)).shape == (1, 3, 120, 200)


def test_self_ensemble_is_of_networks_of_one_answer(tmp_path):
    checkpoint.save(tmp_path / "a.pth", make("SRVAE").state_dict())
    with pytest.raises(ValueError, match="SRVAE, which has many answers: leave self_ensemble out"):
        load_model(tmp_path / "a.pth", "cpu", self_ensemble=True)


@pytest.mark.parametrize(
    "name, network",
    [
        ("HAT", HAT.HAT),
        ("ATD", ATD.ATD),
        ("DRCT", DRCT.DRCT),
        ("DAT", DAT.DAT),
        ("RGT", RGT.RGT),
        ("Swin2SR", partial(Swin2SR.Swin2SR, window_size=8)),
        ("SwinIR", partial(SwinIR.SwinIR, upscale=2, window_size=8)),
        ("SPAN", partial(SPAN.SPAN, num_in_ch=3, num_out_ch=3)),
        ("OmniSR", OmniSR.OmniSR),
        ("PLKSR", PLKSR.PLKSR),
        ("SAFMN", partial(SAFMN.SAFMN, dim=36)),
        ("RCAN", RCAN.RCAN),
        ("Real-ESRGAN Compact", Compact.Compact),
    ],
)
def test_checkpoints_of_other_tools_are_named(name, network):
    keys = network().state_dict()
    assert describe_weights(keys).startswith(f"of {name}")


@pytest.mark.parametrize("scale", [1, 2, 8])
def test_rrdb_network_of_another_scale_is_named(scale, tmp_path):
    public = ESRGAN.ESRGAN(num_filters=8, num_blocks=1, scale=scale)
    checkpoint.save(tmp_path / "a.pth", public.state_dict())
    message = rf"a\.pth holds no .*an RRDB network that enlarges {scale} times, expected 4 times"
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "a.pth", "cpu")


@pytest.mark.parametrize(
    "weights, message",
    [
        (GeneratorDown(4).state_dict(), "no network that enlarges"),
        (Discriminator(4).state_dict(), "no network that enlarges"),
        (Recognition(4, 32).state_dict(), "no network that enlarges"),
        ({"a": torch.zeros(1)}, "found weights with keys like a"),
        ({}, "no network that enlarges images: found nothing"),
        ({"fc_mu.weight": torch.zeros(2, 2)}, "no network that enlarges"),
        ({"fc_mu.weight": 3, "enc_conv1.0.weight": None}, "no network that enlarges"),
        ({"at": {}, "config": {}}, "what a run resumes from: take .* beside it"),
        ({"progress": {}, "config": {}}, "what a run resumes from: take .*, edsr.pth, swinir.pth"),
        (CVAE(4, 32).state_dict() | {"fc_mu.bias": torch.zeros(3)}, "no network that enlarges"),
    ],
    ids=[
        "F",
        "D",
        "recognition",
        "unknown",
        "empty",
        "part",
        "numbers",
        "older state",
        "state",
        "other shape",
    ],
)
def test_other_checkpoints_are_refused(weights, message, tmp_path):
    checkpoint.save(tmp_path / "a.pth", weights)
    with pytest.raises(ValueError, match=rf"a\.pth.*{message}"):
        load_model(tmp_path / "a.pth", "cpu")


class Malicious:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


@pytest.mark.parametrize("n_bytes", [0, 5000, -10])
def test_a_file_that_is_cut_off_is_named_as_such_with_its_size(n_bytes, tmp_path):
    checkpoint.save(tmp_path / "a.pth", make("SRVAE").state_dict())
    content = (tmp_path / "a.pth").read_bytes()[:n_bytes]
    (tmp_path / "a.pth").write_bytes(content)
    for load in (checkpoint.load, load_model):
        with pytest.raises(ValueError, match=rf"it is cut off, after {len(content):,} bytes"):
            load(tmp_path / "a.pth")
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=rf"is damaged or .* \({len(content):,} bytes\)"):
        load_model(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["run", "run.pth", "run.safetensors"])
def test_a_folder_is_no_checkpoint(name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=f"{name}: this is a folder: name the .pth in it"):
        load_model(tmp_path / name, "cpu")


def test_damaged_and_malicious_files_are_refused(tmp_path):
    whole = io.BytesIO()
    torch.save(make("SRVAE").state_dict(), whole)
    bad = {
        "cut.pth": whole.getvalue()[:5000],
        "empty.pth": b"",
        "text.pth": b"no weights",
        "code.pth": pickle.dumps({"fc_mu.weight": Malicious()}),
        "empty.safetensors": b"",
        "cut.safetensors": b"\x10\x00\x00\x00\x00\x00\x00\x00{}",
        "long.safetensors": b"\xff" * 64,
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} is damaged or no") as refused:
            load_model(tmp_path / name, "cpu")
        assert "weights_only" not in str(refused.value)  # no advice to execute it
    for name in ("none.pth", "none.safetensors"):
        with pytest.raises(ValueError, match=rf"{name}: there is no such file"):
            load_model(tmp_path / name, "cpu")


def test_where_float16_overflows_full_precision_is_taken():
    network = make("ESRGAN")
    with torch.no_grad():
        network.HR_conv.weight.mul_(1e7)
        network.conv_last.weight.mul_(1e-7)
    lr = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), torch.autocast("cpu", torch.float16):
        assert not network(lr[None]).isfinite().all()
    full, half = (Model("ESRGAN", network, torch.device("cpu"), p) for p in ("full", "half"))
    assert torch.equal(half.upscale(lr), full.upscale(lr))


@pytest.mark.parametrize("name", ["ESRGAN", "CycleGAN, residual"])
def test_openvino_gives_the_same_image_at_any_size(name, tmp_path):
    pytest.importorskip("openvino")
    checkpoint.save(tmp_path / "a.pth", make(name).state_dict())
    plain = load_model(tmp_path / "a.pth", "cpu", precision="full")
    fast = load_model(tmp_path / "a.pth", backend="openvino")
    assert fast.device.type == "cpu" and fast.name == plain.name
    precision = fast.network.compiled.get_property("INFERENCE_PRECISION_HINT")
    assert precision.get_type_name() == "f32"  # not bfloat16
    for size in ((3, 1, 1), (2, 3, 13, 50), (3, 33, 20)):
        lr = torch.rand(size, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(fast.upscale(lr), plain.upscale(lr), rtol=0, atol=1e-5)
    plain.tile = fast.tile = 24
    lr = torch.rand(3, 30, 70, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fast.upscale(lr), plain.upscale(lr), rtol=0, atol=1e-5)


def test_openvino_is_refused_where_it_cannot_be(tmp_path, monkeypatch):
    for name in ("ESRGAN", "CVAE"):
        checkpoint.save(tmp_path / f"{name}.pth", make(name).state_dict())
    with pytest.raises(ValueError, match="CVAE, which has many answers"):
        load_model(tmp_path / "CVAE.pth", backend="openvino")
    with pytest.raises(ValueError, match="has no half precision"):
        load_model(tmp_path / "ESRGAN.pth", backend="openvino", precision="half")
    with pytest.raises(ValueError, match='backend "ncnn": expected'):
        load_model(tmp_path / "ESRGAN.pth", backend="ncnn")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ValueError, match="pip install openvino"):
        load_model(tmp_path / "ESRGAN.pth", backend="openvino")


def test_bfloat16_adds_up_in_full_precision(tmp_path):
    torch.manual_seed(0)
    network = GeneratorRRDB(8, 16, 8, conv_last=False)
    checkpoint.save(tmp_path / "a.pth", network.state_dict())
    network = load_model(tmp_path / "a.pth", "cpu", precision="bfloat16").network
    sums, products = [], []
    for block in network.body.modules():
        if isinstance(block, DenseBlock):
            block.register_forward_hook(lambda m, arguments, sr: sums.append(sr.dtype))
            block.conv5.register_forward_hook(lambda m, arguments, sr: products.append(sr.dtype))
    lr = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert network(lr).dtype == torch.float32
    assert set(sums) == {torch.float32} and set(products) == {torch.bfloat16}
    assert network.conv_first.weight.dtype == network.conv_last.weight.dtype == torch.float32


def test_foreign_networks_have_no_bfloat16(tmp_path, monkeypatch):
    found = {"avx512_bf16": True, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    foreign = SPAN.SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=4)
    checkpoint.save(tmp_path / "a.pth", foreign.state_dict())
    assert load_model(tmp_path / "a.pth", "cpu").precision == "full"
    with pytest.raises(ValueError, match=r"SPAN .*, which has no bfloat16: leave precision out"):
        load_model(tmp_path / "a.pth", "cpu", precision="bfloat16")


def test_openvinos_own_bfloat16_is_taken_only_when_asked_for(tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    found = {"avx512_bf16": True, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    checkpoint.save(tmp_path / "a.pth", make("ESRGAN").state_dict())
    for precision, expected in (("auto", "f32"), ("bfloat16", "bf16")):
        model = load_model(tmp_path / "a.pth", backend="openvino", precision=precision)
        hint = model.network.compiled.get_property("INFERENCE_PRECISION_HINT")
        assert hint.get_type_name() == expected


def test_a_signal_after_two_openvino_networks_is_handled(tmp_path):
    """The process would crash here, where each network had its own core."""
    pytest.importorskip("openvino")
    checkpoint.save(tmp_path / "a.pth", make("ESRGAN").state_dict())
    both = [load_model(tmp_path / "a.pth", backend="openvino") for _ in range(2)]
    while both:
        del both[0]
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    signal.raise_signal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


def test_bicubic_is_matlabs():
    model = load_model("bicubic", "cpu")
    pixels = 96 + PIXELS // 4  # far enough from 0 and 255, where imresize clamps between
    difference = model.upscale(pixels).astype(int) - imresize(pixels, 4)
    assert model.name == "bicubic" and np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 0.3  # imresize rounds between rows and columns


def test_pil_images_of_every_mode_are_read_as_the_command_reads_them():
    """A mid grey in each: 32768 of 65535 and 0.5 are 127.5 of 255."""
    model = load_model("bicubic", "cpu")
    grey = {
        "L": Image.new("L", (8, 8), 128),
        "P": Image.new("L", (8, 8), 128).convert("P"),
        "I;16": Image.fromarray(np.full((8, 8), 32768, np.uint16)),
        "I": Image.new("I", (8, 8), 32768),
        "F": Image.new("F", (8, 8), 0.5),
        "CMYK": Image.new("CMYK", (8, 8), (0, 0, 0, 127)),
    }
    for mode, image in grey.items():
        assert image.mode == mode
        sr = np.asarray(model.upscale(image)).astype(int)
        assert sr.shape == (32, 32, 3) and np.abs(sr - 127.5).max() <= 1, mode


def test_pil_image_is_turned_upright_and_transparency_is_not_dropped_silently():
    model = load_model("bicubic", "cpu")
    image = Image.new("RGB", (8, 4))
    image.getexif()[0x0112] = 6
    assert model.upscale(image).size == (16, 32)
    with pytest.raises(ValueError, match=r"transparent parts: image\.convert"):
        model.upscale(Image.new("RGBA", (8, 8)))


@pytest.mark.parametrize("value", [-0.1, 1.5, 255.0, float("nan")])
def test_float_values_outside_of_0_to_1_are_refused(value):
    model = load_model("bicubic", "cpu")
    array = np.full((8, 8, 3), 0.5, np.float32)
    array[0, 0, 0] = value
    for image in (array, torch.from_numpy(array).permute(2, 0, 1)):
        with pytest.raises(ValueError, match=r"float values from .* expected 0 to 1"):
            model.upscale(image)
