"""A run's log as a CSV file and as curves."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from common.files import written_whole


def write_log(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Write all rows as CSV. The columns are the keys of all rows; what a row lacks stays empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with written_whole(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def mean_losses(
    sums: dict[str, torch.Tensor], n_steps: int, title: str, out_dir: Path
) -> dict[str, float]:
    """Return the log's `loss_...` values of an epoch from the sums of each loss over its steps.

    Raises:
        FloatingPointError: one is not finite; the message begins with `title`, the epoch.
    """
    means = {f"loss_{name}": value.item() / n_steps for name, value in sums.items()}
    if not all(map(math.isfinite, means.values())):
        raise FloatingPointError(
            f"{title}: {means}. {out_dir} holds the epoch before: resume with a lower learning rate"
        )
    return means


def plot_curves(
    path: str | Path,
    rows: list[dict[str, Any]],
    baseline: float,
    panels: dict[str, tuple[str, ...]] | None = None,
) -> None:
    """Draw the losses and PSNR-Y over the steps.

    Args:
        rows: of the log, with `step`, `psnr_y`, and losses whose names begin with `loss_`.
        baseline: PSNR-Y of bicubic on the validation photos, drawn as a line.
        panels: titles of further plots, and the columns of `rows` in each.
    """
    panels = panels or {}
    lines = 1 + math.ceil(len(panels) / 2)
    figure = Figure(figsize=(11, 4 * lines), layout="constrained")
    left, right, *others = figure.subplots(lines, 2).flat
    losses = dict.fromkeys(name for row in rows for name in row if name.startswith("loss_"))
    _plot(left, rows, {name: name.removeprefix("loss_") for name in losses})
    left.set(title="training losses", xlabel="step", yscale="log")
    right.axhline(baseline, color="gray", linestyle="--", label=f"bicubic, {baseline:.2f} dB")
    _plot(right, rows, {"psnr_y": ""})
    right.set(title="validation PSNR-Y (dB)", xlabel="step")
    for axes, (title, columns) in zip(others, panels.items(), strict=False):
        _plot(axes, rows, {name: name for name in columns})
        axes.set(title=title, xlabel="step")
    for axes in others[len(panels) :]:
        axes.axis("off")
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _plot(axes: Any, rows: list[dict[str, Any]], labels: dict[str, str]) -> None:
    for name, label in labels.items():
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        axes.plot(*zip(*points, strict=True), marker=".", label=label)
    axes.grid(alpha=0.3)
    axes.legend()
