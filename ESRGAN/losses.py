"""The adversarial losses, what keeps colours, and the networks of the perceptual loss."""

from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from common.perceptual import VGG19Features
from common.processes import batch_mean
from ESRGAN.efficientnet import EfficientNetFeatures

PerceptualNetwork = Literal["vgg19", "vgg19_five", "efficientnet_lite0"]
# Index in torchvision's `vgg19().features`, weight: conv5_4 alone (ESRGAN), or conv1_2, 2_2, 3_4,
# 4_4 and 5_4 (Real-ESRGAN).
DEPTHS = {"vgg19": {34: 1.0}, "vgg19_five": {2: 0.1, 7: 0.1, 16: 1.0, 25: 1.0, 34: 1.0}}


def relativistic_loss(winner: torch.Tensor, loser: torch.Tensor) -> torch.Tensor:
    """Return the relativistic average GAN loss (ESRGAN, eq. 1 and 2), its two terms averaged.

    -1/2 E[log sigmoid(w - E[l])] - 1/2 E[log(1 - sigmoid(l - E[w]))] for logits w that should be
    above the logits l: real above fake for the discriminator, fake above real for the generator.

    Args:
        winner, loser: logits (N, 1) or (N, 1, H, W), of any precision.
    """
    winner, loser = winner.float(), loser.float()  # as their differences are small
    above, below = winner - batch_mean(loser), loser - batch_mean(winner)
    return (functional.softplus(-above).mean() + functional.softplus(below).mean()) / 2


def relativistic_losses(real: torch.Tensor, fake: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the generator's and the discriminator's `relativistic_loss`."""
    return relativistic_loss(fake, real.detach()), relativistic_loss(real, fake)


def vanilla_losses(real: torch.Tensor, fake: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the generator's and the discriminator's loss of the plain GAN (Real-ESRGAN).

    -E[log sigmoid(f)], and -E[log sigmoid(r)] - E[log(1 - sigmoid(f))], of logits r and f.
    """
    real, fake = real.float(), fake.float()
    for_generator, of_fake = functional.softplus(-fake).mean(), functional.softplus(fake).mean()
    return for_generator, functional.softplus(-real).mean() + of_fake


GAN_LOSSES = {"relativistic": relativistic_losses, "vanilla": vanilla_losses}


def color_loss(sr: torch.Tensor, lr: torch.Tensor, size: int = 8) -> torch.Tensor:
    """Return the L1 distance between the mean colours of squares of `size` LR pixels.

    It is not in the papers. Noise that is clamped takes light from white and adds it to black; a
    network that learns to undo this stretches the contrast of clean photos, too. SR (N, 3, 4H, 4W)
    and LR (N, 3, H, W) in [0, 1].
    """
    return functional.l1_loss(
        functional.avg_pool2d(sr.float(), 4 * size), functional.avg_pool2d(lr.float(), size)
    )


class VGG19Distance(VGG19Features):
    """The mean absolute difference of features at `depths`, weighted and summed (see `DEPTHS`)."""

    def __init__(self, weights: Path | None, depths: dict[int, float]):
        super().__init__(weights)
        self.depths = depths
        for i in depths.keys() - {34}:
            self.features[i + 1].inplace = False  # the ReLU that follows leaves them as they are

    def distance(self, sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        triples = zip(self.depths.values(), self._at_depths(sr), self._at_depths(hr), strict=True)
        return sum(weight * functional.l1_loss(a, b) for weight, a, b in triples)

    def _at_depths(self, image: torch.Tensor) -> list[torch.Tensor]:
        x, found = (image - self.mean) / self.std, []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.depths:
                found.append(x)
        return found


def perceptual_features(network: PerceptualNetwork, vgg_weights: Path | None) -> nn.Module:
    """Return the network of that name, whose `distance` of SR and HR is a perceptual loss."""
    if network == "efficientnet_lite0":
        return EfficientNetFeatures()
    return VGG19Distance(vgg_weights, DEPTHS[network])
