"""Images in the forms that users have them in: PIL images, arrays and tensors."""

from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps

from common.data.photos import to_rgb

AnyImage = TypeVar("AnyImage", Image.Image, np.ndarray, torch.Tensor)


def to_batch(image: AnyImage) -> torch.Tensor:
    """Return (N, 3, H, W) float32 in [0, 1].

    Args:
        image: a PIL image of any mode, which is turned upright; an array (H, W, 3), uint8, uint16
            or float in [0, 1]; a tensor (3, H, W) or (N, 3, H, W), float in [0, 1].
    Raises:
        ValueError: it is none of these, or has transparent parts.
    """
    if isinstance(image, str | Path):
        raise ValueError(f'{image} is a path, expected an image: Image.open("{image}"), of PIL')
    if isinstance(image, Image.Image):
        if image.has_transparency_data:
            raise ValueError(
                'this image has transparent parts: image.convert("RGB") leaves them out, and '
                "scripts/upscale.py keeps them"
            )
        image = np.asarray(to_rgb(ImageOps.exif_transpose(image)))
    if isinstance(image, np.ndarray):
        if image.ndim == 3 and image.shape[2] == 3 and image.dtype.kind in "uf":
            top = np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1
            batch = torch.from_numpy(image / np.float32(top)).float().permute(2, 0, 1)[None]
            return _within_range(batch)
    elif isinstance(image, torch.Tensor) and image.is_floating_point():
        batch = image[None] if image.ndim == 3 else image
        if batch.ndim == 4 and batch.shape[1] == 3:
            return _within_range(batch.float())
    found = type(image).__name__
    if isinstance(image, np.ndarray | torch.Tensor):
        found += f" {tuple(image.shape)} {image.dtype}"
    raise ValueError(
        f"found {found}, expected a PIL image, an array (H, W, 3) of "
        "uint8, uint16 or float, or a tensor (3, H, W) or (N, 3, H, W) of float"
    )


def _within_range(batch: torch.Tensor) -> torch.Tensor:
    lowest, highest = batch.min().item(), batch.max().item()
    if not 0 <= lowest <= highest <= 1:
        raise ValueError(f"float values from {lowest:g} to {highest:g}, expected 0 to 1")
    return batch


def in_form_of(image: AnyImage, sr: torch.Tensor) -> AnyImage:
    """Return `sr` (N, 3, H, W) in the form in which `image` was given."""
    if isinstance(image, torch.Tensor):
        sr = sr.to(image.device, image.dtype)
        return sr if image.ndim == 4 else sr[0]
    kind = np.dtype(np.uint8) if isinstance(image, Image.Image) else image.dtype
    pixels = sr[0].permute(1, 2, 0).cpu().float().numpy()
    if kind.kind == "u":
        pixels = (pixels * np.iinfo(kind).max).round()
    pixels = pixels.astype(kind)
    return Image.fromarray(pixels) if isinstance(image, Image.Image) else pixels
