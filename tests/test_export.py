"""Checkpoints in other formats are the same networks."""

import numpy as np
import onnx
import onnxruntime
import pytest
import spandrel
import torch

from common import checkpoint
from CVAE.model import CVAE
from CycleGAN.model import GeneratorSR, ResidualGeneratorSR
from EDSR.model import EDSR
from ESRGAN.model import GeneratorRRDB
from scripts import export as script
from scripts.export import export
from scripts.inference.models import load_model
from SRVAE.model import SRVAE
from SwinIR.model import SwinIR


def networks() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    residual = ResidualGeneratorSR(4, 2, back_projections=2)
    torch.nn.init.normal_(residual.conv_out.weight, 0, 0.05)
    return {
        "ESRGAN": GeneratorRRDB(1, 8, 4),
        "EDSR": EDSR(1, 8),
        "SwinIR": SwinIR((2,), 12, 2),
        "SwinIR, real": SwinIR((2,), 12, 2, "nearest+conv", True),
        "CycleGAN v1": GeneratorSR(4, 2),
        "CycleGAN v3": residual,
        "SRVAE": SRVAE(6, 2, 1),
    }


@pytest.mark.parametrize("name", networks())
def test_onnx_gives_the_same_image_at_any_size(name, tmp_path):
    checkpoint.save(tmp_path / "a.pth", networks()[name].state_dict())
    path = export(tmp_path / "a.pth", tmp_path / "a.onnx")
    onnx.checker.check_model(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    model = load_model(tmp_path / "a.pth", "cpu", precision="full")
    for shape in ((1, 3, 9, 30), (2, 3, 16, 5), (1, 3, 1, 1)):
        lr = torch.rand(*shape)
        (sr,) = session.run(["sr"], {"lr": lr.numpy()})
        np.testing.assert_allclose(sr, model.upscale(lr).numpy(), atol=2e-5)


def test_an_onnx_file_that_differs_is_not_kept(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "a.pth", networks()["CycleGAN v1"].state_dict())
    monkeypatch.setattr(script, "_TOLERANCE", 0.0)
    with pytest.raises(ValueError, match="the file is not kept"):
        export(tmp_path / "a.pth", tmp_path / "a.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize("name", [*networks(), "CVAE"])
def test_safetensors_and_back(name, tmp_path):
    network = CVAE(4, 32) if name == "CVAE" else networks()[name]
    before = network.state_dict()
    checkpoint.save(tmp_path / "a.pth", before)
    export(tmp_path / "a.pth", tmp_path / "a.safetensors")
    export(tmp_path / "a.safetensors", tmp_path / "b.pth")
    after = checkpoint.load(tmp_path / "b.pth")
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_float16_halves_a_file_and_rounds_the_weights(tmp_path):
    network = networks()["SRVAE"]
    checkpoint.save(tmp_path / "a.pth", network.state_dict())
    export(tmp_path / "a.pth", tmp_path / "b.pth", float16=True)
    export(tmp_path / "b.pth", tmp_path / "c.pth")  # as it is read again
    for name, weight in checkpoint.load(tmp_path / "c.pth").items():
        assert torch.equal(weight, network.state_dict()[name].half().float()), name
    weights = sum(weight.nbytes for weight in network.state_dict().values())
    sizes = [(tmp_path / name).stat().st_size for name in ("a.pth", "b.pth")]
    assert sizes[0] - sizes[1] == pytest.approx(weights / 2, rel=0.1)  # (padding)


def test_published_names_load_in_spandrel(tmp_path):
    torch.manual_seed(0)
    network = GeneratorRRDB(1, 64, 32, conv_last=False).eval()
    checkpoint.save(tmp_path / "a.pth", network.state_dict())
    for name in ("b.pth", "b.safetensors"):
        export(tmp_path / "a.pth", tmp_path / name, published=True)
        other = spandrel.ModelLoader().load_from_file(tmp_path / name)
        lr = torch.rand(1, 3, 12, 9)
        with torch.inference_mode():
            torch.testing.assert_close(other.model(lr), network(lr), atol=1e-5, rtol=0)


def test_what_cannot_be_exported_is_refused(tmp_path):
    checkpoint.save(tmp_path / "cvae.pth", CVAE(4, 32).state_dict())
    checkpoint.save(tmp_path / "a.pth", networks()["ESRGAN"].state_dict())
    trained = {name: weight + 0.1 for name, weight in networks()["ESRGAN"].state_dict().items()}
    checkpoint.save(tmp_path / "trained.pth", trained)
    checkpoint.save(tmp_path / "empty.pth", {})
    for options, message in (
        ({"model": "cvae.pth", "out": "a.onnx"}, "there is no ONNX of it"),
        ({"model": "cvae.pth", "out": "b.pth", "published": True}, "only ESRGAN has public"),
        ({"model": "a.pth", "out": "a.onnx", "published": True}, "--published is for .pth"),
        ({"model": "a.pth", "out": "a.onnx", "float16": True}, "--float16 is for .pth"),
        ({"model": "a.pth", "out": "a.bin"}, "ends in .pth, .safetensors, .onnx"),
        ({"model": "none.pth", "out": "b.pth"}, "there is no such file"),
        ({"model": "trained.pth", "out": "b.pth", "published": True}, "--no-rrdb-conv-last"),
        ({"model": "empty.pth", "out": "b.pth"}, "no network that enlarges images: found nothing"),
    ):
        options = {k: tmp_path / v if isinstance(v, str) else v for k, v in options.items()}
        with pytest.raises(ValueError, match=message):
            export(**options)
    with pytest.raises(ValueError, match="bicubic has no weights"):
        export("bicubic", tmp_path / "b.pth")
    assert not (tmp_path / "b.pth").exists()
    with pytest.raises(FileExistsError, match=r"cvae\.pth is there already"):
        export(tmp_path / "a.pth", tmp_path / "cvae.pth")
