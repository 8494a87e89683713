"""A run's log as a CSV file and as curves."""

import csv
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from torch import nn

from common.data.crops import crops_of_step
from common.files import written_whole
from common.processes import mean_across_processes


def write_log(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Write all rows as CSV. The columns are the keys of all rows; what a row lacks stays empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with written_whole(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


class LossMeter:
    """Means of an epoch's losses, and the guard that finds the first step that is not finite.

    Adding a step waits for no device: its numbers stay there until `means` is asked for. A step has
    `batch_size` crops; `names` tells which photos the crops of these numbers are cut from.
    """

    def __init__(self, batch_size: int, names: Callable[[range], list[str]]):
        self.batch_size, self.names = batch_size, names
        self.restart()

    def restart(self) -> None:
        """Begin an epoch."""
        self.sums: dict[str, float] = {}
        self.n_steps = 0
        self._waiting: list[tuple[int, list[str], torch.Tensor]] = []

    def add(self, losses: dict[str, torch.Tensor], parameters: Iterable[nn.Parameter]) -> None:
        """Note the losses of a step, and the norm of the parameters' gradients."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.stack(torch._foreach_norm(gradients)).norm()
        values = torch.stack([loss.detach().float() for loss in losses.values()] + [norm])
        names = [f"loss_{name}" for name in losses]
        self._waiting.append((self.n_steps, [*names, "norm of the gradients"], values))
        self.n_steps += 1

    def means(self, title: str = "training") -> dict[str, float]:
        """Return the means of the epoch so far, `loss_...`; this waits for the device.

        Raises `FloatingPointError`, which begins with `title`, when one was not finite.
        """
        if self._waiting:
            together = torch.cat([values for _, _, values in self._waiting])
            numbers = iter(mean_across_processes(together).tolist())
            for step, names, _ in self._waiting:
                values = {name: next(numbers) for name in names}
                self._refuse_non_finite(title, step, values)
                for name in names[:-1]:
                    self.sums[name] = self.sums.get(name, 0.0) + values[name]
            self._waiting = []
        return {name: total / self.n_steps for name, total in self.sums.items()}

    def _refuse_non_finite(self, title: str, step: int, values: dict[str, float]) -> None:
        if not all(map(math.isfinite, values.values())):
            figures = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            photos = ", ".join(dict.fromkeys(self.names(crops_of_step(step, self.batch_size))))
            raise FloatingPointError(f"{title}, step {step + 1}: {figures}; photos: {photos}")

    def state_dict(self) -> dict[str, Any]:
        self.means()
        return {"sums": dict(self.sums), "n_steps": self.n_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.restart()
        self.sums, self.n_steps = dict(state["sums"]), state["n_steps"]


def plot_curves(
    path: str | Path,
    rows: list[dict[str, Any]],
    baseline: float,
    panels: dict[str, tuple[str, ...]] | None = None,
) -> None:
    """Draw the losses, the columns `loss_...` of the log's `rows`, and PSNR-Y over the steps.

    `baseline` is bicubic's PSNR-Y; `panels` has titles of further plots and the columns in each.
    """
    panels = panels or {}
    lines = 1 + math.ceil(len(panels) / 2)
    figure = Figure(figsize=(11, 4 * lines))
    # (A layout that matplotlib finds, with the titles' places, takes three times as long.)
    below, above = 0.5 / (4 * lines), 1 - 0.35 / (4 * lines)
    figure.subplots_adjust(0.07, below, 0.98, above, wspace=0.18, hspace=0.28)
    left, right, *others = figure.subplots(lines, 2).flat
    losses = dict.fromkeys(name for row in rows for name in row if name.startswith("loss_"))
    _plot(left, "training losses", rows, {name: name.removeprefix("loss_") for name in losses})
    left.set(yscale="log")
    right.axhline(baseline, color="gray", linestyle="--", label=f"bicubic, {baseline:.2f} dB")
    _plot(right, "validation PSNR-Y (dB)", rows, {"psnr_y": ""})
    for axes, (title, columns) in zip(others, panels.items(), strict=False):
        _plot(axes, title, rows, {name: name for name in columns})
    for axes in others[len(panels) :]:
        axes.axis("off")
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _plot(axes: Any, title: str, rows: list[dict[str, Any]], labels: dict[str, str]) -> None:
    for name, label in labels.items():
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        axes.plot(*zip(*points, strict=True), marker=".", label=label)
    axes.set(xlabel="step")
    axes.set_title(title, y=1)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 100k
    axes.grid(alpha=0.3)
    axes.legend()
