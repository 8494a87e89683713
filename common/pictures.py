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
        rows: pictures (H, W, 3) uint8; captions may have several lines.
    Returns:
        (H, W, 3) uint8.
    """
    font = ImageFont.load_default(size=15)
    heights, width = [], 0
    for row in rows:
        n_lines = max(caption.count("\n") + 1 for caption, _ in row)
        heights.append((n_lines * _LINE, max(picture.shape[0] for _, picture in row)))
        width = max(width, sum(picture.shape[1] + _GAP for _, picture in row) + _GAP)
    height = sum(text + picture + 2 * _GAP for text, picture in heights)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    y = 0
    for row, (text_height, picture_height) in zip(rows, heights, strict=True):
        x = _GAP
        for caption, picture in row:
            draw.multiline_text((x, y + 2), caption, fill="black", font=font, spacing=2)
            sheet.paste(Image.fromarray(picture), (x, y + text_height + _GAP))
            x += picture.shape[1] + _GAP
        y += text_height + picture_height + 2 * _GAP
    return np.asarray(sheet)


def busiest_crop(hr: np.ndarray, size: int) -> tuple[int, int]:
    """Return (top, left) of the `size`-pixel square with the most detail, a multiple of 4.

    Detail is the mean absolute difference of neighbouring pixels, between the borders of the photo.
    """
    gray = hr.astype(np.float32).mean(axis=2)
    detail = np.zeros_like(gray)
    detail[1:] += np.abs(np.diff(gray, axis=0))
    detail[:, 1:] += np.abs(np.diff(gray, axis=1))
    sums = np.pad(detail, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    h, w = (max(1, n - size + 1) for n in gray.shape)
    s = min(size, *gray.shape)
    total = sums[s:, s:] - sums[:-s, s:] - sums[s:, :-s] + sums[:-s, :-s]
    total = total[:h:16, :w:16]
    top, left = np.unravel_index(total.argmax(), total.shape)
    return int(top) * 16, int(left) * 16
