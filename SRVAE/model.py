"""SRVAE's networks: fully convolutional, with a z that has a place in the photo.

After Sohn et al. 2015, "Learning Structured Output Representation using Deep Conditional Generative
Models": prior p(z|LR), decoder p(HR|z,LR), and recognition q(z|HR,LR), used in training only.
"""

import torch
from torch import nn
from torch.nn import functional

from common.data.resize import project, project_and_clamp, resize
from common.vae import Gaussian, draw, gaussian, recognition_input, sampling_noise

MARGIN = 24  # LR pixels that a part of a photo sees beyond its own when it is enlarged by itself
GRID = 1  # LR pixels: parts begin where places of z do
_PATTERN = 16  # numbers of z for each LR pixel, one for each of its HR pixels
# Of the detail that is added to bicubic. Adam moves all weights of the last convolution (576 an
# output) by the learning rate at once: unscaled, the first steps throw the image far off.
_DETAIL_OUT = 0.1

Features = tuple[torch.Tensor, torch.Tensor]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions whose result is added to the input."""

    def __init__(self, n_features: int):
        super().__init__()
        self.conv1 = nn.Conv2d(n_features, n_features, 3, 1, 1)
        self.lrelu = nn.LeakyReLU(0.2)
        self.conv2 = nn.Conv2d(n_features, n_features, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(self.lrelu(self.conv1(x)))


class SRVAE(nn.Module):
    """LR of any size to HR, as many different ones as one likes.

    z has, for each LR pixel, `n_latent` numbers that choose the kind of detail, and 16 for its
    pattern, one for each HR pixel. What is made of the pattern is scaled at each place by LR's
    features and the kind (a spatial feature transform, Wang et al. 2018, arXiv 1804.02815): where
    LR is flat, z is switched off. `forward` and `sample` project the decoder's image onto LR
    (`common.data.resize.project`), so that every result, scaled down, gives LR again.

    Args:
        n_features: channels at LR's size.
        n_latent: numbers of z for each LR pixel besides the pattern's 16.
        n_blocks: residual blocks.
        n_detail: channels at HR's size.
        projections: how often `forward` projects; 0 for LR that was not made by bicubic: never.
    """

    def __init__(
        self,
        n_features: int = 64,
        n_latent: int = 2,
        n_blocks: int = 8,
        n_detail: int = 32,
        projections: int = 2,
    ):
        super().__init__()
        n, m = n_features, n_detail
        self.n_features, self.n_latent, self.projections = n, n_latent, projections
        self.conv_first = nn.Conv2d(3, n, 3, 1, 1)
        self.encoder = nn.Sequential(*(ResidualBlock(n) for _ in range(n_blocks)))
        self.lrelu = nn.LeakyReLU(0.2)
        self.conv_last = nn.Conv2d(n, 3 * 16, 3, 1, 1)
        self.shuffle = nn.PixelShuffle(4)
        self.to_mu = nn.Conv2d(n, n_latent + _PATTERN, 3, 1, 1)
        self.to_logvar = nn.Conv2d(n, n_latent + _PATTERN, 3, 1, 1)
        # decoder
        self.kind = nn.Sequential(nn.Conv2d(n_latent, n, 5, 1, 2), ResidualBlock(n))
        self.to_scales = nn.Conv2d(n, 3 * m, 1)
        self.to_shift = nn.Conv2d(n, m, 1)
        self.pattern = nn.Conv2d(1, m, 5, 1, 2)
        self.detail1 = nn.Conv2d(m, m, 3, 1, 1)
        self.detail2 = nn.Conv2d(m, m, 3, 1, 1)
        self.detail_last = nn.Conv2d(m, 3, 3, 1, 1)
        for layer in (self.to_mu, self.to_logvar):  # p(z|LR) starts as N(0, 1)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        if not projections:  # to be seen in the state_dict
            self.register_buffer("unprojected", torch.tensor(True))

    def encode(self, lr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Features]:
        """Return mu and logvar of p(z|LR), (N, 18, H, W) each, and what `decode` needs of LR.

        Args:
            lr: (N, 3, H, W) in [0, 1].
        """
        x = self.lrelu(self.encoder(self.conv_first(lr)))  # (N, 64, H, W)
        likely = resize(lr, 4) + _DETAIL_OUT * self.shuffle(self.conv_last(x))  # (N, 3, 4H, 4W)
        return *gaussian(self.to_mu(x), self.to_logvar(x)), (x, likely)

    def reparameterize(self, mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
        """Return z ~ N(mu, sigma^2), with gradients to mu and logvar."""
        return draw((mu, logvar), torch.randn_like(mu))

    def decode(self, z: torch.Tensor, features: Features) -> torch.Tensor:
        """Return an image (N, 3, 4H, 4W), neither projected onto LR nor clamped yet.

        All that depends on z is enlarged smoothly or made at HR's size, so that it has no grid of
        LR's pixels.

        Args:
            z: (N, 18, H, W).
            features: `encode`'s.
        """
        of_lr, likely = features
        x = of_lr + self.kind(z[:, : self.n_latent])  # (N, 64, H, W)
        scales = functional.softplus(self.to_scales(x)).chunk(3, 1)
        scale, scale1, scale2, shift = (  # (N, 32, 4H, 4W) each
            functional.interpolate(part, scale_factor=4, mode="bilinear")
            for part in (*scales, self.to_shift(x))
        )
        pattern = self.shuffle(z[:, self.n_latent :])  # (N, 1, 4H, 4W)
        y = self.lrelu(torch.addcmul(shift, self.pattern(pattern), scale))
        y = torch.addcmul(y, self.lrelu(self.detail1(y)), scale1)
        y = torch.addcmul(y, self.lrelu(self.detail2(y)), scale2)
        return likely + _DETAIL_OUT * self.detail_last(y)

    def forward(self, lr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return SR (N, 3, 4H, 4W), of a z drawn from p(z|LR), and mu and logvar.

        SR is not clamped to [0, 1].
        """
        mu, logvar, features = self.encode(lr)
        sr = self.decode(self.reparameterize(mu, logvar), features)
        return project(sr, lr, self.projections), mu, logvar

    @torch.inference_mode()
    def sample(
        self,
        lr: torch.Tensor,
        n: int = 1,
        temperature: float = 1.0,
        seed: int | None = None,
        noise: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return `n` SR versions of photos of any size: (n, N, 3, 4H, 4W) in [0, 1].

        Args:
            lr: (N, 3, H, W) in [0, 1].
            temperature: of the standard deviation of z; 0 gives the mean prediction, n times.
            seed: the same seed gives the same versions.
            noise: what `self.noise` drew before, instead of n, temperature and seed.
        Raises:
            ValueError: n or temperature is out of range.
        """
        if noise is None:
            noise = self.noise(lr.shape, n, temperature, seed)
        mu, logvar, features = self.encode(lr)
        versions = [self.decode(draw((mu, logvar), one), features) for one in noise]
        return torch.stack([self.finish(sr, lr) for sr in versions])

    def noise(
        self, shape: tuple[int, ...], n: int, temperature: float, seed: int | None
    ) -> torch.Tensor:
        """Return the noise (n, N, 18, H, W) of `n` versions of LR photos of (N, 3, H, W)."""
        shape = shape[0], self.to_mu.out_channels, *shape[2:]
        return sampling_noise(n, shape, temperature, seed, self.to_mu.weight.device)

    def noise_of_part(
        self, noise: torch.Tensor, place: tuple[int, int], size: tuple[int, int]
    ) -> torch.Tensor:
        """Return the noise of a part of a photo that lies at `place` (top, left), in LR pixels."""
        (top, left), (height, width) = place, size
        return noise[..., top : top + height, left : left + width]

    def finish(self, sr: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        """Return decoded images as they are used: projected onto LR and in [0, 1], both exactly."""
        return project_and_clamp(sr, lr) if self.projections else sr.clamp(0, 1)


class Recognition(nn.Module):
    """q(z|HR,LR), of LR and what HR has beyond bicubic.

    Args:
        n_features, n_latent: as the SRVAE's.
        n_blocks: residual blocks.
    """

    def __init__(self, n_features: int = 64, n_latent: int = 2, n_blocks: int = 2):
        super().__init__()
        n = n_features
        self.convs = nn.Sequential(
            nn.Conv2d(51, n, 3, 1, 1),
            *(ResidualBlock(n) for _ in range(n_blocks)),
            nn.LeakyReLU(0.2),
        )
        self.to_mu = nn.Conv2d(n, n_latent + _PATTERN, 3, 1, 1)
        self.to_logvar = nn.Conv2d(n, n_latent + _PATTERN, 3, 1, 1)

    def forward(self, hr: torch.Tensor, lr: torch.Tensor) -> Gaussian:
        """Return mu and logvar, (N, 18, H, W) each.

        Args:
            hr, lr: (N, 3, 4H, 4W) and (N, 3, H, W) in [0, 1].
        """
        x = self.convs(recognition_input(hr, lr))  # (N, 64, H, W)
        return gaussian(self.to_mu(x), self.to_logvar(x))


def from_weights(weights: dict[str, torch.Tensor]) -> SRVAE | None:
    """Return the network that a state_dict is of, its sizes found from the shapes; None: another.

    Raises:
        KeyError, RuntimeError: names or shapes do not fit.
    """
    if "to_mu.weight" not in weights or "conv_first.weight" not in weights:
        return None
    if "prior.0.weight" in weights:
        raise RuntimeError("an SRVAE as it was until 2026-11, another network: train it anew")
    n_latent, n_features = weights["to_mu.weight"].shape[:2]
    n_blocks = sum(name.startswith("encoder.") for name in weights) // 4
    n_detail = len(weights["pattern.weight"])
    projections = 0 if "unprojected" in weights else 2
    network = SRVAE(n_features, n_latent - _PATTERN, n_blocks, n_detail, projections)
    network.load_state_dict(weights)
    return network
