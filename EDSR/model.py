"""EDSR's network, under the key names of its published checkpoints.

Lim et al. 2017, "Enhanced Deep Residual Networks for Single Image Super-Resolution",
arXiv 1707.02921, section 3.
"""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint_sequential

GRID = 1  # LR pixels: parts may begin anywhere
MARGIN = 68  # LR pixels that the published networks see beyond a part, at most (EDSR.margin)

Weights = dict[str, torch.Tensor]

_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K's photos
_WHITE = 255.0
_WIDE = 256  # features, from which on residuals are scaled (section 3.3)


class MeanShift(nn.Conv2d):
    """Adds a color to each pixel (N, 3, H, W), in full precision; not trained."""

    def __init__(self, color: torch.Tensor):
        super().__init__(3, 3, 1)
        self.weight.data = torch.eye(3).view(3, 3, 1, 1)
        self.bias.data = color
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions without batch norm, scaled and added to the input."""

    def __init__(self, n_features: int, scale: float):
        super().__init__()
        first, second = (nn.Conv2d(n_features, n_features, 3, 1, 1) for _ in range(2))
        self.body = nn.Sequential(first, nn.ReLU(inplace=True), second)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.add(x, self.body(x), alpha=self.scale)


class EDSR(nn.Module):
    """LR (N, 3, H, W) in [0, 1] to SR (N, 3, 4H, 4W), not clamped; within, values are to 255.

    The defaults are the published baseline (1,517,571 parameters that are trained); 32 blocks and
    256 features the full network (43,089,923).

    Args:
        n_blocks: residual blocks.
        n_features: channels; from 256 on residuals are scaled by 0.1, or training is unstable.
    Attributes:
        checkpointing: whether what is inside the blocks is computed again in the backward pass
            instead of kept.
    """

    def __init__(self, n_blocks: int = 16, n_features: int = 64):
        super().__init__()
        self.checkpointing = False
        scale = 0.1 if n_features >= _WIDE else 1.0
        mean = _WHITE * torch.tensor(_MEAN)

        def conv(n_in: int, n_out: int) -> nn.Conv2d:
            return nn.Conv2d(n_in, n_out, 3, 1, 1)

        n = n_features
        self.sub_mean, self.add_mean = MeanShift(-mean), MeanShift(mean)
        self.head = nn.Sequential(conv(3, n))
        self.body = nn.Sequential(*(ResidualBlock(n, scale) for _ in range(n_blocks)), conv(n, n))
        twice = conv(n, 4 * n), nn.PixelShuffle(2), conv(n, 4 * n), nn.PixelShuffle(2)
        self.tail = nn.Sequential(nn.Sequential(*twice), conv(n, 3))

    @property
    def margin(self) -> int:
        """LR pixels that a part of a photo sees beyond its own: all that any of its pixels sees."""
        return 2 * len(self.body) + 2  # two a block, one each of head, body's end and tail, and 1

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        x = self.head(self.sub_mean(_WHITE * lr))  # (N, F, H, W)
        x = x + self._through_body(x)
        return self.add_mean(self.tail(x)) / _WHITE

    def _through_body(self, x: torch.Tensor) -> torch.Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint_sequential(self.body, len(self.body), x, use_reentrant=False)
        return self.body(x)


def from_weights(weights: Weights) -> EDSR | None:
    """Return the network that a state_dict is of, ours or published; None: another network.

    Raises:
        KeyError, RuntimeError, ValueError: names or shapes do not fit a 4x EDSR on RGB.
    """
    if "head.0.weight" not in weights or "body.0.body.0.weight" not in weights:
        return None
    if "tail.0.2.weight" not in weights or "tail.0.4.weight" in weights:
        raise ValueError("an EDSR for another scale than 4")
    n_blocks = sum(name.endswith(".body.0.weight") for name in weights)
    network = EDSR(n_blocks, len(weights["head.0.weight"]))
    means = {k: v for k, v in network.state_dict().items() if "_mean." in k}  # some files lack them
    network.load_state_dict(means | weights)
    return network
