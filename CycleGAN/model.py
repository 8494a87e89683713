"""The networks of the three CycleGANs.

Zhu et al. 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks",
arXiv 1703.10593, with a generator that enlarges four times and one that reduces as much.

Version 1 has GeneratorSR, GeneratorDown and Discriminator; versions 2 and 3 have the two residual
generators, of the same size. All images are in [0, 1]; tanh's range stays inside `forward`.
"""

import torch
from torch import nn

from common.data.resize import project, resize

MARGIN = 24  # LR pixels that a part of a photo sees beyond its own when it is enlarged by itself
GRID = 1  # LR pixels: parts may begin anywhere
# Of what a residual generator adds. Adam moves all weights of the last, zero convolution (3,136 an
# output) by the learning rate at once: unscaled, the first steps throw the image far off, and the
# network needs hundreds of steps to come back.
_SCALE = 0.1
_MOST_PROJECTIONS = 100  # a checkpoint that asks for more is taken for an attack


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions whose result is added to the input."""

    def __init__(self, n_features: int):
        super().__init__()
        self.conv1 = nn.Conv2d(n_features, n_features, 3, 1, 1)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(n_features, n_features, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(self.relu(self.conv1(x)))


class GeneratorSR(nn.Module):
    """G, LR to HR: (N, 3, H, W) in [0, 1] to (N, 3, 4H, 4W) in [0, 1].

    Args:
        n_features: channels.
        n_blocks: residual blocks.
    """

    def __init__(self, n_features: int = 64, n_blocks: int = 6):
        super().__init__()

        def up() -> nn.Sequential:
            conv = nn.Conv2d(n_features, 4 * n_features, 3, 1, 1)
            return nn.Sequential(conv, nn.PixelShuffle(2), nn.ReLU())

        self.conv1 = nn.Sequential(nn.Conv2d(3, n_features, 7, 1, 3), nn.ReLU())
        self.res_blocks = nn.Sequential(*(ResidualBlock(n_features) for _ in range(n_blocks)))
        self.up1 = up()
        self.up2 = up()
        self.conv_out = nn.Conv2d(n_features, 3, 7, 1, 3)
        self.tanh = nn.Tanh()

    def features(self, lr: torch.Tensor) -> torch.Tensor:
        x = self.conv1(lr * 2 - 1)  # (N, 64, H, W)
        x = self.up1(self.res_blocks(x))  # (N, 64, 2H, 2W)
        return self.conv_out(self.up2(x))  # (N, 3, 4H, 4W)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        return (self.tanh(self.features(lr)) + 1) / 2


class GeneratorDown(nn.Module):
    """F, HR to LR: (N, 3, 4H, 4W) in [0, 1] to (N, 3, H, W) in [0, 1].

    Args:
        n_features: channels of the first convolution; doubled by each of the two strides.
        n_blocks: residual blocks.
        n_in: channels of the input.
    """

    def __init__(self, n_features: int = 64, n_blocks: int = 2, n_in: int = 3):
        super().__init__()
        n = n_features
        self.down = nn.Sequential(
            nn.Conv2d(n_in, n, 7, 1, 3),
            nn.ReLU(),
            nn.Conv2d(n, 2 * n, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(2 * n, 4 * n, 4, 2, 1),
            nn.ReLU(),
        )
        self.res_blocks = nn.Sequential(*(ResidualBlock(4 * n) for _ in range(n_blocks)))
        self.out_conv = nn.Conv2d(4 * n, 3, 7, 1, 3)
        self.tanh = nn.Tanh()

    def features(self, hr: torch.Tensor) -> torch.Tensor:
        x = self.down(hr * 2 - 1)  # (N, 256, H, W)
        return self.out_conv(self.res_blocks(x))  # (N, 3, H, W)

    def forward(self, hr: torch.Tensor) -> torch.Tensor:
        return (self.tanh(self.features(hr)) + 1) / 2


class ResidualGeneratorSR(GeneratorSR):
    """G that adds detail to bicubic enlargement; it starts as bicubic. The result is not clamped.

    Args:
        back_projections: how often what the result, scaled down again, lacks of LR is added to it
            (Irani and Peleg 1991); for LR that is made by bicubic. The state_dict holds it.
    """

    def __init__(self, n_features: int = 64, n_blocks: int = 6, back_projections: int = 0):
        super().__init__(n_features, n_blocks)
        self.tanh = nn.Identity()
        self.back_projections = back_projections
        start_without_checkerboard(self.up1[0])
        start_without_checkerboard(self.up2[0])
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        sr = resize(lr, 4) + _SCALE * self.features(lr)  # (N, 3, 4H, 4W)
        return project(sr, lr, self.back_projections)

    def get_extra_state(self) -> torch.Tensor:
        return torch.tensor(self.back_projections)

    def set_extra_state(self, state: torch.Tensor) -> None:
        if not 0 <= int(state) <= _MOST_PROJECTIONS:
            raise ValueError(f"{int(state)} back-projections, expected 0 to {_MOST_PROJECTIONS}")
        self.back_projections = int(state)


class ResidualGeneratorDown(GeneratorDown):
    """F that adds its result to bicubic reduction; it starts as bicubic. The result is not clamped.

    Args:
        noise_channel: whether F gets a channel of random numbers, to make noise from.
    """

    def __init__(self, n_features: int = 64, n_blocks: int = 2, noise_channel: bool = False):
        super().__init__(n_features, n_blocks, 3 + noise_channel)
        self.tanh = nn.Identity()
        self.noise_channel = noise_channel
        nn.init.zeros_(self.out_conv.weight)
        nn.init.zeros_(self.out_conv.bias)

    def forward(self, hr: torch.Tensor) -> torch.Tensor:
        x = hr
        if self.noise_channel:
            x = torch.cat((x, torch.randn_like(x[:, :1])), 1)  # (N, 4, 4H, 4W)
        return resize(hr, 1 / 4) + _SCALE * self.features(x)


class Discriminator(nn.Module):
    """PatchGAN: (N, 3, H, W) in [0, 1] to one score for each patch of it, (N, 1, h, w).

    Args:
        n_features: channels of the first convolution.
        strides: of the first three convolutions.
        spectral_norm: Miyato et al. 2018, arXiv 1802.05957.
    """

    def __init__(
        self,
        n_features: int = 64,
        strides: tuple[int, int, int] = (2, 2, 2),
        spectral_norm: bool = False,
    ):
        super().__init__()
        widths = (3, n_features, 2 * n_features, 4 * n_features)
        layers: list[nn.Module] = []
        for n_in, n_out, stride in zip(widths, widths[1:], strides, strict=False):
            layers += [nn.Conv2d(n_in, n_out, 4, stride, 1), nn.LeakyReLU(0.2)]
        self.model = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 1))
        if spectral_norm:
            for layer in self.model:
                if isinstance(layer, nn.Conv2d):
                    nn.utils.parametrizations.spectral_norm(layer)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.model(image * 2 - 1)


def start_normal(network: nn.Module, std: float = 0.02) -> nn.Module:
    """Draw all weights of convolutions from N(0, std), biases zero (paper, section 7.1)."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, 0.0, std)
            nn.init.zeros_(layer.bias)
    return network


def start_without_checkerboard(conv: nn.Conv2d, factor: int = 2) -> None:
    """Give the `factor`^2 kernels that PixelShuffle lays side by side the same weights.

    Aitken et al. 2017, "Checkerboard artifact free sub-pixel convolution", arXiv 1707.02937.
    """
    weight = conv.weight.data[:: factor**2]
    conv.weight.data.copy_(weight.repeat_interleave(factor**2, 0))


def from_weights(weights: dict[str, torch.Tensor]) -> GeneratorSR | ResidualGeneratorSR | None:
    """Return the generator G that a state_dict is of, its sizes found from the shapes; None: no G.

    Raises:
        KeyError, RuntimeError, ValueError: names or shapes do not fit.
    """
    if "up1.0.weight" not in weights or "conv_out.weight" not in weights:
        return None
    kind = ResidualGeneratorSR if "_extra_state" in weights else GeneratorSR
    n_blocks = sum(name.endswith("conv2.weight") for name in weights)
    network = kind(len(weights["conv1.0.weight"]), n_blocks)
    network.load_state_dict(weights)
    return network
