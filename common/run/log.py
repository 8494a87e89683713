"""How far a run is, and its log as a CSV file and as curves."""

import csv
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from torch import nn

from common.data.crops import crops_of_step
from common.files import written_whole
from common.processes import mean_across_processes

Rows = list[dict[str, Any]]
Panels = dict[str, tuple[str, ...]]  # titles, and the columns of the log in each


@dataclass
class Progress:
    """The place in a run, plain values; a part of its state."""

    stage: str = ""
    epoch: int = 0  # complete ones of this stage
    step: int = 0  # complete ones of this epoch
    epochs_done: int = 0  # of all stages
    best: float = -math.inf  # PSNR-Y of this stage
    epochs_since_best: int = 0
    figures: dict[str, float] = field(default_factory=dict)  # the last step's, for the log
    finished: dict[str, int] = field(default_factory=dict)  # stages, and the epochs they were given
    networks: list[str] = field(default_factory=list)  # names of those that were written


def write_log(path: str | Path, rows: Rows) -> None:
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
                if not all(map(math.isfinite, values.values())):
                    figures = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
                    photos = dict.fromkeys(self.names(crops_of_step(step, self.batch_size)))
                    figures += f"; photos: {', '.join(photos)}"
                    raise FloatingPointError(f"{title}, step {step + 1}: {figures}")
                for name in names[:-1]:
                    self.sums[name] = self.sums.get(name, 0.0) + values[name]
            self._waiting = []
        return {name: total / self.n_steps for name, total in self.sums.items()}

    def state_dict(self) -> dict[str, Any]:
        self.means()
        return {"sums": dict(self.sums), "n_steps": self.n_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.restart()
        self.sums, self.n_steps = dict(state["sums"]), state["n_steps"]


def plot_curves(path: Path, rows: Rows, baseline: float, panels: Panels | None = None) -> None:
    """Draw the losses, the columns `loss_...` of the log's `rows`, and PSNR-Y over the steps.

    `baseline` is bicubic's PSNR-Y; `panels` are further plots.
    """
    losses = tuple(dict.fromkeys(name for row in rows for name in row if name.startswith("loss_")))
    panels = {"training losses": losses, "validation PSNR-Y (dB)": ("psnr_y",)} | (panels or {})
    n_rows = math.ceil(len(panels) / 2)
    figure = Figure(figsize=(11, 4 * n_rows))
    # (A layout that matplotlib finds, with the titles' places, takes three times as long.)
    below, above = 0.125 / n_rows, 1 - 0.0875 / n_rows
    figure.subplots_adjust(0.07, below, 0.98, above, wspace=0.18, hspace=0.28)
    for i, (title, columns) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(n_rows, 2, i)
        if "psnr_y" in columns:
            label = f"bicubic, {baseline:.2f} dB"
            axes.axhline(baseline, color="gray", linestyle="--", label=label)
        for name in columns:
            points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
            axes.plot(*zip(*points, strict=True), marker=".", label=name.removeprefix("loss_"))
        axes.set(xlabel="step", yscale="log" if columns is losses else "linear")
        axes.set_title(title, y=1)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 100k
        axes.grid(alpha=0.3)
        axes.legend()
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=120)
