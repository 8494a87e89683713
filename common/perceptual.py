"""VGG19's features (Simonyan and Zisserman 2014), the basis of perceptual losses."""

from pathlib import Path

import torch
from torch import nn

from common import checkpoint
from common.download import NETWORK_ERRORS, download
from common.files import locked, one_line

# VGG19_Weights.IMAGENET1K_V1.url; importing torchvision takes long, so only who uses it waits.
URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
_SHA256 = "dcbb9e9d"  # its first digits, as torch.hub checks them


class VGG19Features(nn.Module):
    """conv5_4 of VGG19 before its ReLU: index 34 of torchvision's `vgg19().features`; frozen.

    Takes RGB (N, 3, H, W) in [0, 1] and gives (N, 512, H / 16, W / 16). `weights` is a file of
    torchvision's VGG19 weights; None: they are downloaded (548 MB) on first use. Raises
    `ConnectionError` when they cannot be, `ValueError` when the file holds something else.
    """

    def __init__(self, weights: str | Path | None = None):
        super().__init__()
        from torchvision.models.vgg import cfgs, make_layers

        self.features = make_layers(cfgs["E"])[:35]
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        tensors = checkpoint.load(_downloaded() if weights is None else weights)
        tensors = {k[9:]: tensors[k] for k in map(str, tensors) if k.startswith("features.")}
        try:
            self.features.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"{weights} does not hold VGG19's weights: {error}") from None
        self.eval().requires_grad_(False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.features((image - self.mean) / self.std)


def weights_path() -> Path:
    """Return where torchvision's VGG19 weights lie or will lie, as with torch.hub."""
    return Path(torch.hub.get_dir()) / "checkpoints" / URL.rpartition("/")[2]


def _downloaded() -> Path:
    path = weights_path()
    if path.exists():
        return path
    try:
        with locked(path, "downloads VGG19's weights"):
            if not path.exists():
                download(URL, path, _SHA256, "sha256")
    except (*NETWORK_ERRORS, OSError) as error:
        raise ConnectionError(
            f"VGG19's weights for the perceptual loss cannot be downloaded ({one_line(error)}). "
            f"Fetch {URL} by hand into {path.parent}, name a local copy (vgg_weights=..., "
            "--vgg-weights ...), or train without the perceptual loss (perceptual_weight=0, "
            "--perceptual-weight 0)"
        ) from error
    return path
