"""Exponential moving average of a network's weights."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move `average` towards `network`: average <- d * average + (1 - d) * network.

    d = min(decay, (1 + step) / (10 + step)) grows with `step` (from 0), so that a short run is not
    held back by its random beginning. Buffers (batch norm statistics) are copied.
    """
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    for mean, value in zip(average.buffers(), network.buffers(), strict=True):
        mean.copy_(value)
