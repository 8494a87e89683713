"""The history of generated images that discriminators are shown."""

import torch


class ImagePool:
    """Gives a discriminator some earlier fakes in place of new ones (paper, section 4; Shrivastava
    et al. 2017, arXiv 1612.07828).

    Until it is full every image is kept and returned; from then on each is, by the toss of a coin,
    returned as it is or exchanged for a kept one.

    Args:
        size: images kept; 0: all are returned as they are.
    """

    def __init__(self, size: int = 50):
        self.size = size
        self.images: list[torch.Tensor] = []

    def query(self, images: torch.Tensor) -> torch.Tensor:
        """Return as many images as are given: (N, C, H, W), without a graph."""
        returned = []
        for image in images.detach():
            if len(self.images) < self.size:
                self.images.append(image.clone())
            elif self.size and torch.rand(()) < 0.5:
                i = int(torch.randint(self.size, ()))
                self.images[i], image = image.clone(), self.images[i]
            returned.append(image.to(images.device))  # (elsewhere only after resuming)
        return torch.stack(returned)

    def state_dict(self) -> dict[str, list[torch.Tensor]]:
        return {"images": list(self.images)}

    def load_state_dict(self, state: dict[str, list[torch.Tensor]]) -> None:
        self.images = list(state["images"])
