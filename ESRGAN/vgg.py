"""VGG19's features, of which perceptual losses are made."""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from common import checkpoint
from common.download import fetch

# VGG19_Weights.IMAGENET1K_V1.url; importing torchvision takes long, so only who uses it waits.
URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
_SHA256 = "dcbb9e9d"  # its first digits, as torch.hub checks them
_WITHOUT = "name a local copy (vgg_weights=..., --vgg-weights ...), or train without the loss "
_WITHOUT += "(perceptual_weight=0), or with --perceptual-network efficientnet_lite0"
# Index in torchvision's `vgg19().features`, weight: conv5_4 alone (ESRGAN), or conv1_2, 2_2, 3_4,
# 4_4 and 5_4 (Real-ESRGAN).
LAST = {34: 1.0}
FIVE = {2: 0.1, 7: 0.1, 16: 1.0, 25: 1.0, 34: 1.0}


class VGG19Features(nn.Module):
    """VGG19's features (Simonyan and Zisserman 2014) before their ReLU, frozen.

    Takes RGB (N, 3, H, W) in [0, 1] and gives conv5_4's, (N, 512, H / 16, W / 16). `weights` is a
    file of torchvision's VGG19 weights; None: they are downloaded (548 MB) on first use. `depths`
    are the layers whose difference `distance` takes, and their weights. Raises `ConnectionError`
    when they cannot be downloaded, `ValueError` when the file holds something else.
    """

    def __init__(self, weights: str | Path | None = None, depths: dict[int, float] = LAST):
        super().__init__()
        from torchvision.models.vgg import cfgs, make_layers

        self.features, self.depths = make_layers(cfgs["E"])[:35], depths
        for i in depths.keys() - {34}:
            self.features[i + 1].inplace = False  # the ReLU that follows leaves them as they are
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        path = weights or fetch(URL, _SHA256, "VGG19's weights, 548 MB", _WITHOUT)
        tensors = checkpoint.load(path)
        tensors = {k[9:]: tensors[k] for k in map(str, tensors) if k.startswith("features.")}
        try:
            self.features.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"{path} does not hold VGG19's weights: {error}") from None
        self.eval().requires_grad_(False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self._at_depths(image)[-1]

    def distance(self, sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        """Return the mean absolute difference of the features, summed over the depths."""
        triples = zip(self.depths.values(), self._at_depths(sr), self._at_depths(hr), strict=True)
        return sum(weight * functional.l1_loss(a, b) for weight, a, b in triples)

    def _at_depths(self, image: torch.Tensor) -> list[torch.Tensor]:
        x, found = (image - self.mean) / self.std, []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.depths:
                found.append(x)
        return found
