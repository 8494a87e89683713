"""LPIPS (Zhang et al. 2018, arXiv 1801.03924), where its weights are on this machine."""

from collections.abc import Callable

import torch

from common.download import hub_path

# AlexNet_Weights.IMAGENET1K_V1.url; to import torchvision for it takes longer than all else here.
URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"


def load_lpips(device: torch.device, spatial: bool = False) -> tuple[Callable | None, str]:
    """Return the distance (AlexNet) and "", or None and why it cannot be had.

    The distance takes two images (1, 3, H, W) in [0, 1] and gives a float, 0 for equal ones; with
    `spatial` it takes (N, 3, H, W) and gives each pixel's, (N, 1, H, W). Nothing is downloaded.
    """
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    except ImportError:
        return None, "LPIPS is left out: pip install torchmetrics"
    file = hub_path(URL)
    if not file.exists():
        return None, f"LPIPS is left out: AlexNet's weights are not here, fetch {URL} to {file}"
    metric = LearnedPerceptualImagePatchSimilarity("alex", normalize=True).to(device)

    def distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return metric.net(a.to(device), b.to(device), normalize=True)

    if spatial:
        metric.net.spatial = True
        return distances, ""

    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        return metric(a.to(device), b.to(device)).item()

    return distance, ""
