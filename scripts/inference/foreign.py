"""Networks of other architectures, as the package spandrel knows them (HAT, DAT, SPAN, ...)."""

import importlib.util
from collections.abc import Iterable

import torch
from torch import nn

IS_INSTALLED = importlib.util.find_spec("spandrel") is not None
HINT = "" if IS_INSTALLED else " (pip install spandrel opens about 40 other kinds of networks)"


class ForeignNetwork(nn.Module):
    """A network that spandrel has recognised: LR (N, 3, H, W) in [0, 1] to SR (N, 3, 4H, 4W).

    How far its view reaches is not known, so tiles see generously beyond their own.
    """

    margin = 120  # LR pixels, a multiple of the tiles' grid

    def __init__(self, descriptor: "spandrel.ImageModelDescriptor"):  # noqa: F821
        super().__init__()
        self.network, self.descriptor = descriptor.model, descriptor

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        return self.descriptor(lr)  # which pads to the sizes that it needs, and clamps


def first_known(dicts: Iterable[dict]) -> tuple[str, ForeignNetwork] | None:
    """Return `from_weights` of the first state_dict that it knows, and raise as it does."""
    return next(filter(None, map(from_weights, dicts)), None)


def from_weights(weights: dict) -> tuple[str, ForeignNetwork] | None:
    """Return name and network of a state_dict, None where spandrel is missing or knows it not.

    Raises:
        ValueError: it is of a network that is not 4x, or not for RGB.
    """
    if not IS_INSTALLED:
        return None
    import spandrel

    try:
        descriptor = spandrel.ModelLoader("cpu").load_from_state_dict(weights)
    except Exception:  # of many kinds: it guesses sizes from whatever it is given
        return None
    name, scale = descriptor.architecture.name, getattr(descriptor, "scale", 1)
    channels = descriptor.input_channels, descriptor.output_channels
    if not isinstance(descriptor, spandrel.ImageModelDescriptor) or (scale, channels) != (
        4,
        (3, 3),
    ):
        raise ValueError(
            f"a network of {name} that enlarges {scale} times, {channels[0]} channels to "
            f"{channels[1]}: expected 4 times, 3 channels"
        )
    return f"{name} (by spandrel)", ForeignNetwork(descriptor)
