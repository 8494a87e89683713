"""The adversarial losses, what keeps colours, and the networks of the perceptual loss."""

from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from common.measure.efficientnet import EfficientNetFeatures
from common.processes import batch_mean
from ESRGAN.vgg import FIVE, LAST, VGG19Features

PerceptualNetwork = Literal["vgg19", "vgg19_five", "efficientnet_lite0"]


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


def perceptual_features(network: PerceptualNetwork, vgg_weights: Path | None) -> nn.Module:
    """Return the network of that name, whose `distance` of SR and HR is a perceptual loss."""
    if network == "efficientnet_lite0":
        return EfficientNetFeatures()
    return VGG19Features(vgg_weights, FIVE if network == "vgg19_five" else LAST)
