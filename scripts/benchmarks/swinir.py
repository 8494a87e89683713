"""SwinIR and EDSR, steps and enlarging, for scripts/benchmarks/benchmark.py.

The peer is spandrel's SwinIR, with the same weights, in full precision as it comes.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from common.data.crops import to_device
from common.device import prepare_network
from EDSR.model import EDSR
from scripts.inference.bfloat16 import use_bfloat16
from SwinIR.model import SwinIR, from_weights

KINDS = {  # of SwinIR: depths, channels, the end
    "lightweight": ((6,) * 4, 60, "pixelshuffledirect"),
    "classical": ((6,) * 6, 180, "pixelshuffle"),
}


def usual_network(kind: str) -> nn.Module:
    """Return spandrel's SwinIR with weights of seed 0."""
    from spandrel.architectures.SwinIR import SwinIR as SpandrelSwinIR

    depths, dim, upsampler = KINDS[kind]
    torch.manual_seed(0)
    return SpandrelSwinIR(
        img_size=48,
        patch_size=1,
        embed_dim=dim,
        depths=list(depths),
        num_heads=[6] * len(depths),
        window_size=8,
        mlp_ratio=2.0,
        upscale=4,
        upsampler=upsampler,
    )


def our_network(kind: str, device: torch.device) -> nn.Module:
    """Return our SwinIR with the same weights, or "EDSR", the baseline."""
    if kind == "EDSR":
        return prepare_network(EDSR(), device, compile=False)
    network: SwinIR = from_weights(usual_network(kind).state_dict())
    return prepare_network(network, device, compile=False)


def psnr_step(
    kind: str, ours: bool, bfloat16: bool, batch_size: int, patch_size: int, device: str
) -> Callable[[int], None]:
    """Return a training step on crops in memory: L1, backward, Adam."""
    where = torch.device(device)
    network = our_network(kind, where) if ours else usual_network(kind).to(where)
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(trained, 2e-4, fused=ours)
    sizes = (patch_size // 4, patch_size)
    crops = [torch.randint(256, (batch_size, 3, n, n), dtype=torch.uint8) for n in sizes]

    def step(k: int) -> None:
        lr, hr = to_device(crops, where)
        with torch.autocast(where.type, torch.bfloat16, enabled=bfloat16):
            loss = functional.l1_loss(network(lr), hr)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not ours:
            loss.item()

    return step


def enlarge(
    kind: str, ours: bool, bfloat16: bool, lr: torch.Tensor, device: str
) -> Callable[[int], torch.Tensor]:
    """Return the network on a whole image (1, 3, H, W)."""
    where = torch.device(device)
    network = (our_network(kind, where) if ours else usual_network(kind).to(where)).eval()
    if ours and bfloat16:
        use_bfloat16(network)

    def run(k: int) -> torch.Tensor:
        with torch.inference_mode():
            return network(lr.to(where)).float().clamp(0, 1).cpu()

    return run
