"""Ways to enlarge a photo with the same weights, for scripts/benchmarks/benchmark.py."""

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from common import checkpoint
from common.device import choose_bfloat16
from CVAE.model import CVAE
from EDSR.model import EDSR
from ESRGAN.model import GeneratorRRDB, to_published
from scripts.benchmarks.measuring import Side
from scripts.inference.models import load_model
from SRVAE.model import SRVAE
from SwinIR.model import SwinIR

Enlarge = Callable[[int], torch.Tensor]
NETWORKS = {"EDSR": EDSR, "SwinIR": SwinIR, "SRVAE": SRVAE, "CVAE": CVAE}  # and ESRGAN
_CONVERTED = "ESRGAN", "EDSR"  # by OpenVINO


def write_network(folder: Path, n_blocks: int, kind: str = "ESRGAN") -> Path:
    """Write an untrained network, which takes as long as a trained one."""
    torch.manual_seed(0)
    path = folder / f"{kind}.pth"
    rrdb = partial(GeneratorRRDB, n_blocks, conv_last=False)
    checkpoint.save(path, NETWORKS.get(kind, rrdb)().state_dict())
    return path


def usual_upscale(path: Path, lr: torch.Tensor, device: str) -> Enlarge:
    """Return spandrel's network on the whole photo: eval, no_grad, as it comes.

    Where spandrel has no such network, it is ours in plain PyTorch.
    """
    from spandrel import ModelLoader

    usual = load_model(path, "cpu", precision="full").network
    if isinstance(usual, GeneratorRRDB):
        usual = ModelLoader().load_from_state_dict(to_published(usual)).model
    elif isinstance(usual, SwinIR):
        usual = ModelLoader().load_from_state_dict(usual.state_dict()).model
    usual = usual.to(device, memory_format=torch.contiguous_format).eval()

    def enlarge(k: int) -> torch.Tensor:
        with torch.no_grad():
            if hasattr(usual, "sample"):
                return usual.sample(lr.to(device), temperature=0)[0].cpu()
            return usual(lr.to(device)).clamp(0, 1).cpu()

    return enlarge


def our_upscale(path: Path, lr: torch.Tensor, device: str, options: dict[str, str]) -> Enlarge:
    """Return `load_model(path, device, **options).upscale`, in full precision unless they say."""
    model = load_model(path, device, **({"precision": "full"} | options))
    return lambda k: model.upscale(lr)


def sides_of(kind: str, path: Path, lr: torch.Tensor, device: torch.device) -> list[Side]:
    """Return all ways to enlarge that there are on `device`; the usual one is the first."""
    forms = {"full precision": {}}
    if choose_bfloat16(device):
        forms["bfloat16"] = {"precision": "bfloat16"}
    if device.type == "cuda":
        forms["half precision"] = {"precision": "half"}
    elif kind in _CONVERTED and importlib.util.find_spec("openvino"):
        forms |= {f"OpenVINO, {name}": {"backend": "openvino"} | o for name, o in forms.items()}
    types = {"bfloat16": torch.bfloat16, "half": torch.float16}
    whose = "spandrel" if kind in ("ESRGAN", "SwinIR") else "plain PyTorch"
    sides = [Side(f"{kind}: {whose}", partial(usual_upscale, path, lr, str(device)), 1)]
    for name, options in forms.items():
        ours = partial(our_upscale, path, lr, str(device), options)
        precision = types.get(options.get("precision"), torch.float32)
        sides.append(Side(f"{kind}: ours, {name}", ours, 1, precision=precision))
    return sides
