"""Ways to enlarge a photo with the same weights, for scripts/benchmarks/benchmark.py."""

from collections.abc import Callable
from pathlib import Path

import torch

from common import checkpoint
from ESRGAN.model import GeneratorRRDB, to_published
from scripts.inference.models import load_model

Enlarge = Callable[[int], torch.Tensor]


def write_network(folder: Path, n_blocks: int) -> Path:
    """Write an untrained published network, which takes as long as a trained one."""
    torch.manual_seed(0)
    path = folder / "generator.pth"
    checkpoint.save(path, GeneratorRRDB(n_blocks, conv_last=False).state_dict())
    return path


def usual_upscale(path: Path, lr: torch.Tensor, device: str) -> Enlarge:
    """Return spandrel's network on the whole photo: eval, no_grad, as it comes."""
    from spandrel import ModelLoader

    network = load_model(path, "cpu").network
    usual = ModelLoader().load_from_state_dict(to_published(network)).model.to(device).eval()

    def enlarge(k: int) -> torch.Tensor:
        with torch.no_grad():
            return usual(lr.to(device)).clamp(0, 1).cpu()

    return enlarge


def our_upscale(path: Path, lr: torch.Tensor, device: str, options: dict[str, str]) -> Enlarge:
    """Return `load_model(path, device, **options).upscale`."""
    model = load_model(path, device, **options)
    return lambda k: model.upscale(lr)
