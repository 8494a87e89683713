"""Pictures that compare images side by side."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP, _LINE = 6, 20  # pixels between the pictures, and of a line of text


def enlarge(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarge (h, w, 3) uint8 to `size` = (H, W) with visible pixels (nearest neighbour)."""
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.NEAREST))


def grid(rows: list[list[tuple[str, np.ndarray]]]) -> np.ndarray:
    """Lay out rows of (caption, picture) on white, each caption above its picture.

    Args:
        rows: captions of one line, "" for none; pictures (H, W, 3) uint8.
    Returns:
        (H, W, 3) uint8.
    """
    font = ImageFont.load_default(size=15)
    heights, width = [], 0
    for row in rows:
        has_text = any(caption for caption, _ in row)
        heights.append((has_text * _LINE, max(picture.shape[0] for _, picture in row)))
        width = max(width, sum(picture.shape[1] + _GAP for _, picture in row) + _GAP)
    height = sum(text + picture + 2 * _GAP for text, picture in heights)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    y = 0
    for row, (text_height, picture_height) in zip(rows, heights, strict=True):
        x = _GAP
        for caption, picture in row:
            draw.text((x, y + 2), caption, fill="black", font=font)
            sheet.paste(Image.fromarray(picture), (x, y + text_height + _GAP))
            x += picture.shape[1] + _GAP
        y += text_height + picture_height + 2 * _GAP
    return np.asarray(sheet)


def busiest_crop(lr: np.ndarray, size: int) -> tuple[int, int]:
    """Return (top, left) of the square of `size` pixels with the strongest edges.

    Chosen by the sum of absolute differences of neighbouring pixels; in LR rather than HR, where
    fine noise would win over structure. Smaller images are taken from their corner (0, 0).
    """
    gray = lr.astype(np.float64).mean(axis=2)
    edges = np.zeros_like(gray)
    edges[1:] += np.abs(np.diff(gray, axis=0))
    edges[:, 1:] += np.abs(np.diff(gray, axis=1))
    sums = np.pad(edges, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    s = min(size, *gray.shape)
    total = sums[s:, s:] - sums[:-s, s:] - sums[s:, :-s] + sums[:-s, :-s]
    top, left = np.unravel_index(total.argmax(), total.shape)
    return int(top), int(left)
