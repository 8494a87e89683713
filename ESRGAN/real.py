"""What Real-ESRGAN adds for real photos: a discriminator of every pixel, and sharpened targets.

Wang et al. 2021, "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic
Data", arXiv 2107.10833; layers and key names as in the authors' code. The degradations are in
common/data/degradations.py.
"""

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm


class UNetDiscriminator(nn.Module):
    """A U-Net with skips that are added, each convolution but the first and last normalised.

    Takes (N, 3, H, W) in [0, 1], H and W multiples of 8, and gives one logit a pixel, (N, 1, H, W).
    Spectral norm (Miyato et al. 2018, arXiv 1802.05957) keeps it from winning at once. With 64
    features it is the published one of 4,376,897 parameters.
    """

    def __init__(self, n_features: int = 64):
        super().__init__()
        n = n_features

        def normed(n_in: int, n_out: int, size: int, stride: int) -> nn.Module:
            return spectral_norm(nn.Conv2d(n_in, n_out, size, stride, 1, bias=False))

        self.conv0 = nn.Conv2d(3, n, 3, 1, 1)
        self.conv1, self.conv2 = normed(n, 2 * n, 4, 2), normed(2 * n, 4 * n, 4, 2)
        self.conv3, self.conv4 = normed(4 * n, 8 * n, 4, 2), normed(8 * n, 4 * n, 3, 1)
        self.conv5, self.conv6 = normed(4 * n, 2 * n, 3, 1), normed(2 * n, n, 3, 1)
        self.conv7, self.conv8 = normed(n, n, 3, 1), normed(n, n, 3, 1)
        self.conv9 = nn.Conv2d(n, 1, 3, 1, 1)
        self.lrelu = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x0 = self.lrelu(self.conv0(image))  # (N, 64, H, W)
        x1 = self.lrelu(self.conv1(x0))  # (N, 128, H / 2, W / 2)
        x2 = self.lrelu(self.conv2(x1))  # (N, 256, H / 4, W / 4)
        x3 = self.lrelu(self.conv3(x2))  # (N, 512, H / 8, W / 8)
        x = self.lrelu(self.conv4(_twice(x3))) + x2
        x = self.lrelu(self.conv5(_twice(x))) + x1
        x = self.lrelu(self.conv6(_twice(x))) + x0
        return self.conv9(self.lrelu(self.conv8(self.lrelu(self.conv7(x)))))  # (N, 1, H, W)


def sharpen(
    images: torch.Tensor, radius: int = 25, weight: float = 0.5, threshold: float = 10 / 255
) -> torch.Tensor:
    """Return images (N, 3, H, W) in [0, 1] with their edges raised, by unsharp masking.

    What a Gaussian blur takes away is added at `weight` where it is above `threshold`, and around
    there by a mask that the same blur softens. `radius` is the Gaussian's reach in pixels; its
    standard deviation is 0.3 (radius - 1) + 0.8.
    """
    x = torch.arange(-radius, radius + 1, device=images.device)
    line = torch.exp(-((x / (0.3 * (radius - 1) + 0.8)) ** 2) / 2)
    line = (line / line.sum()).expand(3, 1, 1, -1)

    def blur(image: torch.Tensor) -> torch.Tensor:
        image = functional.pad(image, (radius,) * 4, mode="reflect")
        image = functional.conv2d(image, line, groups=3)
        return functional.conv2d(image, line.transpose(2, 3), groups=3)

    lost = images - blur(images)
    mask = blur((lost.abs() > threshold).float())
    return mask * (images + weight * lost).clamp(0, 1) + (1 - mask) * images


def _twice(x: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear")
