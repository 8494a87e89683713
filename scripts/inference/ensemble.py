"""Self-ensemble: a network's mean answer to an image flipped and turned in all ways."""

import torch
from torch import nn


class SelfEnsemble(nn.Module):
    """The mean over flips and quarter turns: EDSR+ of Lim et al. 2017, section 3.4.

    LR (N, 3, H, W) to SR (N, 3, 4H, 4W), in eight times the time of the network itself.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        if hasattr(network, "margin"):
            self.margin = network.margin

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        total = 0
        for turns in range(4):
            turned = lr.rot90(turns, (2, 3))
            sr = self.network(turned) + self.network(turned.flip(3)).flip(3)
            total = total + sr.rot90(-turns, (2, 3))
        return total / 8
