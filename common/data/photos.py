"""Read any photo as 8-bit RGB, write PNGs, find and pair the photos of two folders."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from common.data.opened import opened, orientation
from common.data.png import require_all_pixels, require_checksums
from common.files import written_whole

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm"}

Pairs = list[tuple[Path, Path]]  # LR and HR


def read_image(path: str | Path) -> np.ndarray:
    """Read a photo as RGB, turned upright by its EXIF orientation.

    Gray, palette, CMYK, 16-bit and float ([0, 1]) images are converted; transparent parts show
    white; of an animation the first frame is taken.

    Returns:
        (H, W, 3) uint8.
    Raises:
        ValueError: the file is missing, no image, truncated, or of a kind that cannot be converted;
            the message names it.
    """
    with opened(path) as image:
        image.load()
        if image.format == "PNG":
            require_checksums(path)
            if not all(row.any() for row in np.asarray(image)[-2:]):  # black, or not there
                require_all_pixels(path)
        turned = ImageOps.exif_transpose(image) if orientation(image) > 1 else image
        return np.asarray(_to_rgb(turned))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a value, whether Pillow calls it I or I;16
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"values from {values.min()} to {values.max()}, expected 16 bits")
        pixels = ((values + 128) // 257).astype(np.uint8)
        pixels[values == image.info.get("transparency", -1)] = 255
        return Image.fromarray(pixels).convert("RGB")
    if image.mode == "F":
        values = np.asarray(image)
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise ValueError(f"float values from {values.min()} to {values.max()}, expected 0 to 1")
        return Image.fromarray(np.round(values * 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def image_size(path: str | Path) -> tuple[int, int]:
    """Return (height, width) as `read_image` would give them, from the file's header alone.

    Raises:
        ValueError: the file is no image, or too large; the message names it.
    """
    with opened(path) as image:
        width, height = image.size
        turned = orientation(image) >= 5
        if image.format == "TIFF":  # newer Pillows give its `size` turned already
            width, height = image.tag_v2[256], image.tag_v2[257]
        return (width, height) if turned else (height, width)


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 to `path`, its suffix naming the format; completely or not at all."""
    with written_whole(path) as temporary:
        Image.fromarray(image).save(temporary)


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """Turn (H, W, 3) uint8 into (1, 3, H, W) float32 in [0, 1]."""
    return torch.tensor(image).permute(2, 0, 1)[None].float() / 255


def to_uint8(image: torch.Tensor) -> np.ndarray:
    """Turn (3, H, W) or (1, 3, H, W) in [0, 1] into (H, W, 3) uint8, rounded and clamped."""
    image = image.detach().float().reshape(3, *image.shape[-2:])
    return (image * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()


def list_images(folder: str | Path) -> list[Path]:
    """Return what is named as an image in `folder` (not below it), in the order of the names.

    All but folders and hidden files: links that lead nowhere are for the reader to name.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no images.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    paths = [Path(entry.path) for entry in os.scandir(folder) if entry.name[0] != "."]
    paths = sorted(p for p in paths if p.suffix.lower() in SUFFIXES and not p.is_dir())
    if not paths:
        raise ValueError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))})")
    return paths


def passed_over(folder: str | Path) -> str:
    """Return a line on a folder's files that are not named as images, "" where there are none."""
    paths = [Path(entry.path) for entry in os.scandir(folder) if entry.name[0] != "."]
    kinds = Counter(p.suffix.lower() or "without a suffix" for p in paths if p.is_file())
    others = [f"{n} {kind}" for kind, n in sorted(kinds.items()) if kind not in SUFFIXES]
    return f"{folder}: not named as images, passed over: {', '.join(others)}" if others else ""


def scene_name(path: Path, scale: int = 4) -> str:
    """Return a photo's name without what marks it as LR or HR: `0001` for `0001x4.png`.

    DIV2K's mild, difficult and wild tracks mark theirs `0001x4m.png`, `0001x4d.png`,
    `0001x4w1.png`, of which there are several of one scene. Benchmark sets also come as
    `img_001_SRF_4_LR.png` and `img_001_SRF_4_HR.png`, or `baby_LRBI_x4.png` and `baby_HR_x4.png`.
    """
    marks = rf"(x{scale}(m|d|w\d)?|_SRF_{scale}_(LR|HR)|_(LRBI|LRBD|LRDN|LR|HR)_x{scale})$"
    return re.sub(marks, "", path.stem)


def pair_by_name(lr_folder: str | Path, hr_folder: str | Path, scale: int = 4) -> Pairs:
    """Return (LR, HR) paths paired by name: `0001x4.png` (or `0001.png`) belongs to `0001.png`.

    Several LR photos of one HR photo (`0001x4w1.png`, ... of DIV2K's wild track) are so many pairs.

    Raises:
        ValueError: a photo has no partner; they are listed.
    """
    hr_list = list_images(hr_folder)
    hr_paths = {scene_name(path, scale): path for path in hr_list}
    hr_paths |= {path.stem: path for path in hr_list}
    pairs, without_hr = [], []
    for lr_path in list_images(lr_folder):
        hr_path = hr_paths.get(scene_name(lr_path, scale), hr_paths.get(lr_path.stem))
        pairs.append((lr_path, hr_path)) if hr_path else without_hr.append(lr_path.name)
    without_lr = sorted({path.name for path in hr_list} - {hr.name for _, hr in pairs})
    if without_hr or without_lr:
        raise ValueError(
            f"LR and HR photos do not pair up: {_first(without_hr)} in {lr_folder} without an HR "
            f"photo, {_first(without_lr)} in {hr_folder} without an LR photo. An HR photo NAME.png "
            f"belongs to NAMEx{scale}.png; scripts/prepare_dataset.py makes such folders"
        )
    return pairs


def list_pairs(lr_folder: str | Path, hr_folder: str | Path, scale: int = 4) -> Pairs:
    """Return what `pair_by_name` does, of photos whose sizes differ by `scale` exactly.

    Raises:
        ValueError: a photo has no partner (they are listed), or a pair's sizes do not fit (the
            first is named).
    """
    pairs = pair_by_name(lr_folder, hr_folder, scale)
    for lr_path, hr_path in pairs:
        (h, w), (hr_h, hr_w) = image_size(lr_path), image_size(hr_path)
        if (hr_h, hr_w) != (h * scale, w * scale):
            swapped = " (are the two folders swapped?)" if (hr_h, hr_w) < (h, w) else ""
            raise ValueError(
                f"{lr_path} is {w}x{h} and {hr_path} is {hr_w}x{hr_h}, expected "
                f"{w * scale}x{h * scale}, {scale} times the size{swapped}: "
                "scripts/prepare_dataset.py makes pairs that fit"
            )
    return pairs


def _first(names: list[str], n: int = 5) -> str:
    more = f" and {len(names) - n} more" if len(names) > n else ""
    return f"{len(names)} ({', '.join(names[:n])}{more})" if names else "none"
