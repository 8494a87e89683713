"""Enlarging in bfloat16, for `load_model(precision="bfloat16")`: on GPUs, and CPUs that have it.

Under plain autocast all that goes from layer to layer is rounded, which costs 0.6 of 255 in the
mean after 23 RRDBs. Here only what large products take and give is rounded: sums over many blocks
are float32, as float32 and bfloat16 add up to float32, and so are the layers that take or give an
image or end a body. What that costs is measured by `scripts/benchmarks/benchmark.py rounding`.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from common.device import choose_bfloat16

Precision = Literal["auto", "full", "bfloat16", "half"]

_PRODUCTS = nn.Conv2d, nn.ConvTranspose2d, nn.Linear
# Small layers around the long residual, with which a SwinIR would lose twice as much, and a deep
# ESRGAN more than 0.01 dB.
_BODY_ENDS = {"trunk_conv", "upconv1", "conv_after_body"}
_COLOURS = 3
_SHUFFLED = 3 * 4**2  # channels of what is shuffled to HR's size


def choose_precision(wanted: Precision, is_ours: bool, device: torch.device) -> Precision:
    """Return `wanted`, or for "auto" bfloat16 where it is fast and costs little, else "full".

    Our kinds of networks lose 0.25 of 255 in the mean at most, and 0.01 dB; of others nothing is
    known.
    """
    if wanted != "auto":
        return wanted
    return "bfloat16" if is_ours and choose_bfloat16(device) else "full"


def use_bfloat16(network: nn.Module) -> nn.Module:
    """Let products in one of our networks be in bfloat16: not the first, the last, a body's end.

    Returns `network`; its weights are rounded, so it is for enlarging only.
    """
    for name, layer in network.named_modules():
        if isinstance(layer, _PRODUCTS):
            if not (_is_outer(layer) or _BODY_ENDS & set(name.split("."))):
                layer.bfloat16()
            layer.register_forward_pre_hook(_as_weights)
        elif hasattr(layer, "grow"):  # what dense blocks join is rounded once, before
            layer.grow = _of_bfloat16(layer.grow)
    return network


def _is_outer(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Linear):
        return False
    return layer.in_channels == _COLOURS or layer.out_channels in (_COLOURS, _SHUFFLED)


def _as_weights(layer: nn.Module, arguments: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return arguments[0].to(layer.weight.dtype)


def _of_bfloat16(method: Callable) -> Callable:
    return lambda x: method(x.bfloat16())
