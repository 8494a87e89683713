"""SRVAE's networks: fully convolutional, with a z that has a place in the photo.

After Sohn et al. 2015, "Learning Structured Output Representation using Deep Conditional Generative
Models": prior p(z|LR), decoder p(HR|z,LR), and recognition q(z|HR,LR), used in training only.
"""

import torch
from torch import nn
from torch.nn import functional

from common.data.resize import project, project_and_clamp, resize
from common.vae import Gaussian, draw, gaussian, recognition_input, sampling_noise

STRIDE = 4  # LR pixels, each way, for each place of z
MARGIN = 24  # LR pixels that a part of a photo sees beyond its own when it is enlarged by itself
GRID = STRIDE  # LR pixels: parts begin where places of z do
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


class ModulatedBlock(nn.Module):
    """A residual block whose input is scaled and shifted by LR's features, at each place.

    Spatial feature transform (Wang et al. 2018, arXiv 1804.02815): where LR is flat, it can switch
    off what z says.
    """

    def __init__(self, n_features: int):
        super().__init__()
        self.scale = nn.Conv2d(n_features, n_features, 1)
        self.shift = nn.Conv2d(n_features, n_features, 1)
        self.block = ResidualBlock(n_features)

    def forward(self, x: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        return self.block(x * (1 + self.scale(features)) + self.shift(features))


class SRVAE(nn.Module):
    """LR of any size to HR, as many different ones as one likes.

    z has `n_latent` numbers for each 4x4 LR pixels. `forward` and `sample` project the decoder's
    image onto LR (`common.data.resize.project`), so that every result, scaled down, gives LR again.

    Args:
        n_features: channels.
        n_latent: numbers of z at each of its places. With 8 of them q tells more, and the samples
            are noisier: the numbers are drawn independently, and HR's detail is not.
        n_blocks: residual blocks of the encoder, and modulated ones of the decoder.
        projections: how often `forward` projects; 0 for LR that was not made by bicubic: never.
    """

    def __init__(
        self, n_features: int = 64, n_latent: int = 2, n_blocks: int = 4, projections: int = 2
    ):
        super().__init__()
        n = n_features
        self.n_features, self.n_latent, self.projections = n, n_latent, projections
        self.conv_first = nn.Conv2d(3, n, 3, 1, 1)
        self.encoder = nn.Sequential(*(ResidualBlock(n) for _ in range(n_blocks)))
        self.prior = nn.Sequential(nn.Conv2d(n, n, STRIDE, STRIDE), nn.LeakyReLU(0.2))
        self.to_mu = nn.Conv2d(n, n_latent, 3, 1, 1)
        self.to_logvar = nn.Conv2d(n, n_latent, 3, 1, 1)
        self.decoder_input = nn.Sequential(
            nn.Conv2d(n_latent, n, 3, 1, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(n, n * STRIDE**2, 1),
            nn.PixelShuffle(STRIDE),
        )
        self.decoder = nn.ModuleList(ModulatedBlock(n) for _ in range(n_blocks))
        self.lrelu = nn.LeakyReLU(0.2)
        self.conv_last = nn.Conv2d(n, 3 * 16, 3, 1, 1)
        self.shuffle = nn.PixelShuffle(4)
        if not projections:  # to be seen in the state_dict
            self.register_buffer("unprojected", torch.tensor(True))

    def encode(self, lr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Features]:
        """Return mu and logvar of p(z|LR), (N, 2, H/4, W/4) each, and what `decode` needs of LR.

        Args:
            lr: (N, 3, H, W) in [0, 1]; where 4 does not divide H or W, z's last places are padded.
        """
        features = self.encoder(self.conv_first(pad_to_stride(lr)))  # (N, 64, H, W)
        x = self.prior(features)  # (N, 64, H/4, W/4)
        return *gaussian(self.to_mu(x), self.to_logvar(x)), (features, resize(lr, 4))

    def reparameterize(self, mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
        """Return z ~ N(mu, sigma^2), with gradients to mu and logvar."""
        return draw((mu, logvar), torch.randn_like(mu))

    def decode(self, z: torch.Tensor, features: Features) -> torch.Tensor:
        """Return an image (N, 3, 4H, 4W), neither projected onto LR nor clamped yet.

        Args:
            z: (N, 2, H/4, W/4).
            features: `encode`'s.
        """
        of_lr, bicubic = features
        x = self.decoder_input(z)  # (N, 64, H, W)
        for block in self.decoder:
            x = block(x, of_lr)
        detail = _DETAIL_OUT * self.shuffle(self.conv_last(self.lrelu(x)))  # (N, 3, 4H, 4W)
        return bicubic + detail[..., : bicubic.shape[2], : bicubic.shape[3]]

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
        """Return the noise (n, N, 2, H/4, W/4) of `n` versions of LR photos of (N, 3, H, W)."""
        places = (-(-size // STRIDE) for size in shape[2:])
        shape = shape[0], self.n_latent, *places
        return sampling_noise(n, shape, temperature, seed, self.to_mu.weight.device)

    def noise_of_part(
        self, noise: torch.Tensor, place: tuple[int, int], size: tuple[int, int]
    ) -> torch.Tensor:
        """Return the noise of a part of a photo that lies at `place` (top, left), in LR pixels."""
        rows, columns = (
            slice(start // STRIDE, -(-(start + length) // STRIDE))
            for start, length in zip(place, size, strict=True)
        )
        return noise[..., rows, columns]

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
            nn.Conv2d(n, 2 * n, STRIDE, STRIDE),
            nn.LeakyReLU(0.2),
        )
        self.to_mu = nn.Conv2d(2 * n, n_latent, 3, 1, 1)
        self.to_logvar = nn.Conv2d(2 * n, n_latent, 3, 1, 1)

    def forward(self, hr: torch.Tensor, lr: torch.Tensor) -> Gaussian:
        """Return mu and logvar, (N, 2, H/4, W/4) each.

        Args:
            hr, lr: (N, 3, 4H, 4W) and (N, 3, H, W) in [0, 1].
        """
        x = self.convs(pad_to_stride(recognition_input(hr, lr)))  # (N, 128, H/4, W/4)
        return gaussian(self.to_mu(x), self.to_logvar(x))


def pad_to_stride(x: torch.Tensor) -> torch.Tensor:
    """Repeat the last row and column until 4, the stride of z, divides height and width."""
    h, w = x.shape[2:]
    return functional.pad(x, (0, -w % STRIDE, 0, -h % STRIDE), mode="replicate")


def from_weights(weights: dict[str, torch.Tensor]) -> SRVAE | None:
    """Return the network that a state_dict is of, its sizes found from the shapes; None: another.

    Raises:
        KeyError, RuntimeError: names or shapes do not fit.
    """
    if "decoder.0.scale.weight" not in weights:
        return None
    sizes = len(weights["conv_first.weight"]), len(weights["to_mu.weight"])
    n_blocks = sum(name.endswith(".scale.weight") for name in weights)
    network = SRVAE(*sizes, n_blocks, 0 if "unprojected" in weights else 2)
    network.load_state_dict(weights)
    return network
