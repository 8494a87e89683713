"""CVAE's networks: the conditional prior with its decoder, and the recognition network.

Sohn et al. 2015, "Learning Structured Output Representation using Deep Conditional Generative
Models": prior p(z|LR), decoder p(HR|z,LR), and recognition q(z|HR,LR), used in training only.
"""

import torch
from torch import nn
from torch.nn import functional

from common.data.resize import project, project_and_clamp
from common.vae import Gaussian, draw, gaussian, recognition_input, sampling_noise
from CVAE.tiles import blend_tiles, cut_tiles

PATCH = 32  # LR pixels, each way, of what the network takes at once
OVERLAP = 8  # LR pixels, of tiles
MARGIN = 72  # LR pixels that a part of a photo sees beyond its own when it is enlarged by itself
GRID = PATCH - OVERLAP  # LR pixels: parts begin where patches do
_CELLS = 16  # of the deepest features, 4x4
_AT_ONCE = 32  # tiles
# Scale of the last features at the beginning. Adam moves all weights of the last convolution (576
# an output) by the learning rate at once: with features of scale 1 the first steps throw the image
# far off, the way back is to show no detail, and there the network stays for hundreds of steps.
_FIRST_DETAIL = 0.1
_FIRST_LOGVAR = -3.0  # of q: a z that is mostly noise at first is soon ignored by the decoder

Skips = list[torch.Tensor]


def _down(n_in: int, n_out: int) -> nn.Sequential:
    conv = nn.Conv2d(n_in, n_out, 3, 2, 1)
    return nn.Sequential(conv, nn.BatchNorm2d(n_out), nn.LeakyReLU(0.2))


def _up(n_in: int, n_out: int) -> nn.Sequential:
    conv = nn.ConvTranspose2d(n_in, n_out, 4, 2, 1)
    return nn.Sequential(conv, nn.BatchNorm2d(n_out), nn.LeakyReLU(0.2))


def _shuffle(n_in: int, n_out: int) -> nn.Sequential:
    conv = nn.Conv2d(n_in, 4 * n_out, 3, 1, 1)
    return nn.Sequential(conv, nn.PixelShuffle(2), nn.BatchNorm2d(n_out), nn.LeakyReLU(0.2))


class CVAE(nn.Module):
    """LR patches of 32x32 to HR of 128x128, as many different ones as one likes.

    The encoder sees LR alone and is the prior p(z|LR). `forward` and `sample` project the decoder's
    image onto LR (`common.data.resize.project`), so that every result, scaled down, gives LR
    again: the low frequencies are bicubic's, and what the decoder makes of z is the high ones.

    Args:
        n_features: channels of the first convolution.
        n_latent: numbers in z, a multiple of 16.
        projections: how often `forward` projects; 0 for LR that was not made by bicubic: never.
    """

    def __init__(self, n_features: int = 64, n_latent: int = 256, projections: int = 2):
        super().__init__()
        n = n_features
        self.n_features, self.n_latent, self.projections = n, n_latent, projections
        self.enc_conv1 = nn.Sequential(nn.Conv2d(3, n, 3, 1, 1), nn.LeakyReLU(0.2))
        self.enc_conv2 = _down(n, 2 * n)
        self.enc_conv3 = _down(2 * n, 4 * n)
        self.enc_conv4 = _down(4 * n, 8 * n)
        self.flatten = nn.Flatten()
        self.fc_mu = nn.Linear(8 * n * _CELLS, n_latent)
        self.fc_logvar = nn.Linear(8 * n * _CELLS, n_latent)
        self.decoder_input = nn.Linear(n_latent, 8 * n * _CELLS)
        self.dec_conv1 = _up(8 * n, 4 * n)
        self.dec_conv2 = _up(8 * n, 2 * n)
        self.dec_conv3 = _up(4 * n, n)
        self.upsample1 = _shuffle(2 * n, n)
        self.upsample2 = _shuffle(n, n)
        self.final_conv = nn.Conv2d(n, 3, 3, 1, 1)
        self.sigmoid = nn.Sigmoid()
        if not projections:  # to be seen in the state_dict
            self.register_buffer("unprojected", torch.tensor(True))
        for layer in (self.fc_mu, self.fc_logvar, self.decoder_input):
            _start_as_convolution(layer)
        nn.init.constant_(self.upsample2[2].weight, _FIRST_DETAIL)

    def encode(self, lr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Skips]:
        """Return mu and logvar of p(z|LR), (N, 256) each, and the features for `decode`.

        Args:
            lr: (N, 3, 32, 32) in [0, 1].
        """
        if lr.ndim != 4 or lr.shape[1:] != (3, PATCH, PATCH):
            raise ValueError(
                f"LR is {tuple(lr.shape)}, expected (N, 3, {PATCH}, {PATCH}): "
                "`sample` takes photos of any size"
            )
        e1 = self.enc_conv1(lr)  # (N, 64, 32, 32)
        e2 = self.enc_conv2(e1)  # (N, 128, 16, 16)
        e3 = self.enc_conv3(e2)  # (N, 256, 8, 8)
        x = self.flatten(self.enc_conv4(e3))  # (N, 512 * 4 * 4)
        return *gaussian(self.fc_mu(x), self.fc_logvar(x)), [e1, e2, e3]

    def reparameterize(self, mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
        """Return z ~ N(mu, sigma^2), with gradients to mu and logvar."""
        return draw((mu, logvar), torch.randn_like(mu))

    def decode(self, z: torch.Tensor, skips: Skips) -> torch.Tensor:
        """Return an image (N, 3, 128, 128) in [0, 1], not projected onto LR yet.

        Args:
            z: (N, 256).
            skips: `encode`'s features.
        """
        e1, e2, e3 = skips
        x = self.decoder_input(z).view(-1, 8 * self.n_features, 4, 4)  # (N, 512, 4, 4)
        x = torch.cat([self.dec_conv1(x), e3], 1)  # (N, 256 + 256, 8, 8)
        x = torch.cat([self.dec_conv2(x), e2], 1)  # (N, 128 + 128, 16, 16)
        x = torch.cat([self.dec_conv3(x), e1], 1)  # (N, 64 + 64, 32, 32)
        x = self.upsample2(self.upsample1(x))  # (N, 64, 128, 128)
        return self.sigmoid(self.final_conv(x))

    def forward(self, lr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return SR (N, 3, 128, 128), of a z drawn from p(z|LR), and mu and logvar.

        SR is not clamped to [0, 1]: projecting moves it a little beyond.
        """
        mu, logvar, skips = self.encode(lr)
        sr = self.decode(self.reparameterize(mu, logvar), skips)
        return project(sr, lr, self.projections), mu, logvar

    @torch.inference_mode()
    def sample(
        self,
        lr: torch.Tensor,
        n: int = 1,
        temperature: float = 1.0,
        seed: int | None = None,
        overlap: int = OVERLAP,
        noise: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return `n` SR versions of photos of any size: (n, N, 3, 4H, 4W) in [0, 1].

        Tiles of 32x32 are enlarged by themselves and blended. The noise is drawn once for a whole
        photo: neighbouring tiles differ in mean and spread of z, not in what is drawn.

        Args:
            lr: (N, 3, H, W) in [0, 1].
            temperature: of the standard deviation of z; 0 gives the mean prediction, n times.
            seed: the same seed gives the same versions.
            overlap: LR pixels, 0 to 16, by which tiles overlap at least.
            noise: what `self.noise` drew before, instead of n, temperature and seed.
        Raises:
            ValueError: n, temperature or overlap is out of range.
        """
        if not 0 <= overlap <= PATCH // 2:
            raise ValueError(f"overlap is {overlap}, expected 0 to {PATCH // 2}")
        if noise is None:
            noise = self.noise(lr.shape, n, temperature, seed)
        was_training = self.training
        self.eval()
        try:
            photos = [self._sample(photo[None], noise[:, i], overlap) for i, photo in enumerate(lr)]
        finally:
            self.train(was_training)
        return torch.stack(photos, 1)

    def noise(
        self, shape: tuple[int, ...], n: int, temperature: float, seed: int | None
    ) -> torch.Tensor:
        """Return the noise (n, N, 1, 256) of `n` versions of LR photos of `shape` (N, 3, H, W)."""
        where = self.fc_mu.weight.device
        return sampling_noise(n, (shape[0], 1, self.n_latent), temperature, seed, where)

    def noise_of_part(
        self, noise: torch.Tensor, place: tuple[int, int], size: tuple[int, int]
    ) -> torch.Tensor:
        """Return the noise of a part of a photo: it is the photo's."""
        return noise

    def _sample(self, lr: torch.Tensor, noises: torch.Tensor, overlap: int) -> torch.Tensor:
        """Return a photo's versions (n, 3, 4H, 4W), of LR (1, 3, H, W) and noises (n, 1, 256)."""
        below, right = (max(0, PATCH - size) for size in lr.shape[2:])
        padded = functional.pad(lr, (0, right, 0, below), mode="replicate")
        tiles, places = cut_tiles(padded, PATCH, overlap)  # (K, 3, 32, 32)
        enlarged: list[list[torch.Tensor]] = [[] for _ in noises]
        for some in tiles.split(_AT_ONCE):
            mu, logvar, skips = self.encode(some)
            for version, noise in zip(enlarged, noises, strict=True):
                version.append(self.decode(draw((mu, logvar), noise), skips))
        size = tuple(4 * n for n in padded.shape[2:])
        places = [(4 * top, 4 * left) for top, left in places]
        blended = [blend_tiles(torch.cat(v), places, size, 4 * overlap) for v in enlarged]
        height, width = (4 * n for n in lr.shape[2:])
        return self.finish(torch.cat(blended)[..., :height, :width], lr)

    def finish(self, sr: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        """Return decoded images as they are used: projected onto LR and in [0, 1], both exactly."""
        return project_and_clamp(sr, lr) if self.projections else sr.clamp(0, 1)


def _start_as_convolution(layer: nn.Linear) -> None:
    """Start as the same 1x1 convolution at each of the 4x4 places, without ties between them.

    A random matrix mixes all places, and the decoder learns to do without z long before it learns
    to sort them out. 16 numbers of z for each place is what a convolution can use at once.
    """
    n_out, n_in = layer.out_features // _CELLS, layer.in_features // _CELLS
    conv = nn.Conv2d(n_in, n_out, 1)
    same_place = torch.eye(_CELLS)[None, :, None]  # (1, 16, 1, 16)
    weight = same_place * conv.weight.view(n_out, 1, n_in, 1)  # (n_out, 16, n_in, 16)
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        layer.bias.copy_(conv.bias.repeat_interleave(_CELLS))


class Recognition(nn.Module):
    """q(z|HR,LR), of LR and what HR has beyond bicubic.

    Args:
        n_features, n_latent: as the CVAE's.
    """

    def __init__(self, n_features: int = 64, n_latent: int = 256):
        super().__init__()
        n = n_features
        self.convs = nn.Sequential(
            nn.Conv2d(51, 2 * n, 3, 1, 1),
            nn.LeakyReLU(0.2),
            _down(2 * n, 4 * n),
            _down(4 * n, 4 * n),
            _down(4 * n, 8 * n),
        )
        self.to_mu = nn.Conv2d(8 * n, n_latent // _CELLS, 3, 1, 1)
        self.to_logvar = nn.Conv2d(8 * n, n_latent // _CELLS, 3, 1, 1)
        nn.init.constant_(self.to_logvar.bias, _FIRST_LOGVAR)

    def forward(self, hr: torch.Tensor, lr: torch.Tensor) -> Gaussian:
        """Return mu and logvar, (N, 256) each.

        Args:
            hr, lr: (N, 3, 128, 128) and (N, 3, 32, 32) in [0, 1].
        """
        x = self.convs(recognition_input(hr, lr))  # (N, 512, 4, 4)
        return gaussian(self.to_mu(x).flatten(1), self.to_logvar(x).flatten(1))


def from_weights(weights: dict[str, torch.Tensor]) -> CVAE | None:
    """Return the network that a state_dict is of, its sizes found from the shapes; None: another.

    Raises:
        KeyError, RuntimeError: names or shapes do not fit.
    """
    if "fc_mu.weight" not in weights:
        return None
    projections = 0 if "unprojected" in weights else 2
    network = CVAE(len(weights["enc_conv1.0.weight"]), len(weights["fc_mu.weight"]), projections)
    network.load_state_dict(weights)
    return network
