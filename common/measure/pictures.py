"""Pictures that compare images side by side."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP, _LINE = 6, 20  # pixels between the pictures, and of a line of text


def enlarge(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarge (h, w, 3) uint8 to `size` = (H, W) with visible pixels (nearest neighbour)."""
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.NEAREST))


def grid(rows: list[list[tuple[str, np.ndarray]]]) -> np.ndarray:
    """Lay out rows of (caption, picture) on white, each caption above its picture.

    Captions are one line, "" for none; pictures and the result (H, W, 3) uint8.
    """
    font = ImageFont.load_default(size=15)
    lines = [_LINE if any(caption for caption, _ in row) else 0 for row in rows]
    heights = [max(len(picture) for _, picture in row) for row in rows]
    width = max(sum(picture.shape[1] + _GAP for _, picture in row) + _GAP for row in rows)
    height = sum(lines) + sum(heights) + 2 * _GAP * len(rows)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    y = 0
    for row, line, height in zip(rows, lines, heights, strict=True):
        x = _GAP
        for caption, picture in row:
            draw.text((x, y + 2), caption, fill="black", font=font)
            sheet.paste(Image.fromarray(picture), (x, y + line + _GAP))
            x += picture.shape[1] + _GAP
        y += line + height + 2 * _GAP
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
