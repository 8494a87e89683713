"""What several recipes have in common: halved rates, averaged weights, others' weights to start."""

from pathlib import Path

import torch
from torch import nn

from common import checkpoint


def learning_rate_at(progress: float, start: float, milestones: tuple[float, ...]) -> float:
    """Return `start` halved at each of the milestones passed; progress and milestones in [0, 1]."""
    return start * 0.5 ** sum(progress >= milestone for milestone in milestones)


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


def named(start_from: Path, folder: Path) -> Path:
    """Return the checkpoint of that name that comes along in a model's folder, or the path."""
    shipped = folder / "pretrained" / f"{start_from}.pth"
    return shipped if shipped.exists() else start_from


def start_from(network: nn.Module, path: Path, tail: tuple[str, ...]) -> None:
    """Load the weights in a file into `network`; what does not fit in its tail is left and named.

    Papers begin 4x networks with the weights of 2x ones, whose tail is another. `path` is of a
    state_dict, or of one inside `params_ema`, `params` or `state_dict`; the names of the tail's
    weights begin with one of `tail`. Raises `ValueError` when others do not fit, or are not finite.
    """
    found = checkpoint.load(path)
    for key in ("params_ema", "params", "state_dict"):
        found = found.get(key, found)
    own, trained = network.state_dict(), dict(network.named_parameters())
    weights = {k: found[k] for k in own if k in found and found[k].shape == own[k].shape}
    left = [k for k in trained if k not in weights]
    if others := [k for k in left if not k.startswith(tail)]:
        misfit = f"{others[0]}, {len(others)} in all; found {', '.join(list(found)[:2])}, ..."
        raise ValueError(f"{path} does not fit this network: {misfit}")
    if not all(weight.isfinite().all() for weight in weights.values()):
        raise ValueError(f"{path} holds weights that are not finite: its training has failed")
    network.load_state_dict(own | weights)
    if left:
        print(f"started from {path}, except {', '.join(left)}")
