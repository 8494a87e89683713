"""The loop around a training step: epochs that can be resumed, their figures and their files.

A train script iterates `epochs`, and in each of them its steps; `begin` takes the folder for it.
A run that is stopped or killed and then resumed takes the same steps, to the bit.
"""

import contextlib
import inspect
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import checkpoint, processes
from common.data.crops import batches, to_device
from common.device import choose_bfloat16, choose_device, describe, prepare_network, record_passes
from common.measure.validation import Validation
from common.progress import progress_bar
from common.run.folder import RunFolder
from common.run.log import LossMeter, Panels, plot_curves, write_log
from common.run.stop import StopSignal

_LEAST = dict.fromkeys(("seed", "workers", "n_epochs_gan", "patience"), 0)
_LEAST |= dict.fromkeys(("n_valid", "valid_crop", "patch_size", "batch_size", "show_every"), 1)
_LEAST |= dict.fromkeys(("n_blocks", "n_features", "growth", "steps_per_epoch"), 1)


class Training:
    """A run: its folder, its device, and what is trained.

    `settings` are all arguments of the train function, `locals()` in its first line; read here are
    device, deterministic, bfloat16, compile, batch_size, workers, show_every and what `RunFolder`
    reads. Those named in `fixed` cannot change when a run is resumed. Raises `ValueError` when one
    is out of range, and what `RunFolder` raises.
    """

    def __init__(self, settings: dict[str, Any], fixed: tuple[str, ...]):
        self.settings = settings
        least = _LEAST | {"n_epochs": 0 if settings.get("n_epochs_gan") else 1}
        for name, value in settings.items():
            if name.startswith("learning_rate") and not 0 < value < math.inf:
                raise ValueError(f"{name} {value}: expected a number above 0")
            if name in least and value is not None and value < least[name]:
                raise ValueError(f"{name} {value}: expected {least[name]} or more")
        self.out_dir = Path(settings["out_dir"])
        self.device = choose_device(settings["device"], settings["deterministic"])
        self.bfloat16 = choose_bfloat16(self.device, settings["bfloat16"])
        script = Path(inspect.currentframe().f_back.f_code.co_filename).name  # the caller's
        config = {"script": script} | settings | {"bfloat16": self.bfloat16}
        self.folder = RunFolder(config, fixed)
        self.progress, self.rows = self.folder.progress, self.folder.rows
        self.write = self.folder.write_networks  # NAME.pth of each
        self.parts: dict[str, Any] = {}

    def prepare(self, network: nn.Module, **layout: Any) -> nn.Module:
        """Return the network on the run's device; see `prepare_network`."""
        return prepare_network(network, self.device, self.settings["compile"], **layout)

    def record(self, network: nn.Module, size: int) -> None:
        """On a GPU, let `record_passes` record those on LR crops of this size, if they allow it."""
        if self.settings["compile"] or getattr(network, "checkpointing", False):
            return
        if self.device.type == "cuda":
            example = torch.zeros(self.settings["batch_size"], 3, size, size, device=self.device)
            record_passes(network, example, self.bfloat16)

    def autocast(self) -> torch.autocast:
        """Return bfloat16 autocast, which needs no loss scaling, or what leaves precision alone."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def register(self, **parts: Any) -> None:
        """Name what is saved with every epoch, and restored on resume: what has a `state_dict`.

        An optimiser's step first averages the gradients over all processes.
        """
        self.parts |= parts
        for part in parts.values():
            if isinstance(part, torch.optim.Optimizer):
                part.register_step_pre_hook(processes.average_gradients)

    @contextlib.contextmanager
    def begin(
        self,
        crops: Any,
        validation: Validation,
        steps_per_epoch: int,
        n_epochs: int | dict[str, int],
        panels: Panels | None = None,
    ) -> Iterator[None]:
        """Take the folder, continue where the run stopped, and leave it in order after any error.

        `n_epochs` is of each stage by name, in their order, or of the only one; `panels` are
        further plots for `plot_curves`.
        """
        self.validation, self.steps_per_epoch, self.panels = validation, steps_per_epoch, panels
        self.n_epochs = n_epochs if isinstance(n_epochs, dict) else {"": n_epochs}
        for stage, n in self.progress.finished.items():
            if self.n_epochs[stage] > n:
                ended = f"the {stage.upper()} stage ended after the {n} epochs that it was given"
                way_on = f"resume with {n}, or begin with its weights elsewhere (--start-from ...)"
                raise ValueError(f"{ended}, and cannot have {self.n_epochs[stage]}: {way_on}")
        batch_size, workers = self.settings["batch_size"], self.settings["workers"]
        self.meter = LossMeter(batch_size, lambda ks: crops.names(self.progress.epochs_done, ks))
        self.folder.restore(self.parts | {"meter": self.meter}, self.device)
        networks = {name: part for name, part in self.parts.items() if isinstance(part, nn.Module)}
        trained = {k: [p for p in n.parameters() if p.requires_grad] for k, n in networks.items()}
        sizes = [f"{name} of {sum(p.numel() for p in ps):,}" for name, ps in trained.items() if ps]
        self.to_device = getattr(crops, "to_device", to_device)
        self.parameters = [p for parameters in trained.values() for p in parameters]
        print(
            f"{crops} to train on, {len(validation.photos)} held out (bicubic: PSNR-Y "
            f"{validation.bicubic_psnr_y:.2f} dB, SSIM-Y {validation.bicubic_ssim_y:.4f})\n"
            f"{', '.join(sizes)} parameters on {describe(self.device, self.bfloat16)}, writing to "
            f"{self.out_dir}"
        )
        total = sum(self.n_epochs.values()) * steps_per_epoch
        first = self.progress.epochs_done * steps_per_epoch + self.progress.step
        self.began = time.perf_counter() - (self.rows[-1]["seconds"] if self.rows else 0)
        self.batches = batches(crops, first, steps_per_epoch, batch_size, workers)
        with (
            self.folder.held(),
            progress_bar(total=total, initial=first, unit="step") as self.bar,
            contextlib.closing(self.batches),
            StopSignal() as self.stop,
        ):
            yield
        print(f"complete: {self.out_dir}")

    def epochs(self, stage: str = "", patience: int = 0) -> Iterator["Epoch"]:
        """Yield the epochs that are left of a stage: none where a later one was resumed.

        `patience` epochs without a better PSNR-Y end it; 0: none do.
        """
        progress, n = self.progress, self.n_epochs[stage]
        if stage in progress.finished:
            return
        if self.enters(stage):
            progress.stage, progress.epoch, progress.step = stage, 0, 0
            progress.best, progress.epochs_since_best = -math.inf, 0
        while progress.epoch < n and not 0 < patience <= progress.epochs_since_best:
            title = f"epoch {progress.epoch + 1}/{n}"
            yield Epoch(self, f"{stage.upper()} stage, {title}" if stage else title)
        self.bar.total -= max(0, n - progress.epoch) * self.steps_per_epoch  # where patience ended
        if stage:
            progress.finished[stage] = n

    def enters(self, stage: str) -> bool:
        """Return whether a stage is still to begin: it was not resumed after its beginning."""
        return self.progress.stage != stage

    def load(self, name: str) -> dict[str, torch.Tensor] | None:
        """Return the weights in this run's NAME.pth, on its device; None: it has written none."""
        path = self.out_dir / f"{name}.pth"
        written = name in self.progress.networks
        weights = processes.on_main(lambda: checkpoint.load(path) if written else None)
        return weights and {key: value.to(self.device) for key, value in weights.items()}


class Epoch:
    """The steps that are left of an epoch, and what comes after them."""

    def __init__(self, training: Training, title: str):
        self.training, self.progress, self.title = training, training.progress, title

    def __iter__(self) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """Yield the step's number in the stage, from 0, and (LR, HR) in [0, 1] on the device."""
        training, progress = self.training, self.progress
        n, every = training.steps_per_epoch, training.settings["show_every"]
        training.bar.set_description(self.title, refresh=False)
        while not training.stop.requested(progress.step, every) and progress.step < n:
            batch = training.to_device(next(training.batches), training.device)
            yield progress.epoch * n + progress.step, batch
            progress.step += 1
            training.bar.update()
            if progress.step % every == 0:
                means = training.meter.means(self.title)
                shown = {name.removeprefix("loss_"): f"{means[name]:.4f}" for name in means}
                training.bar.set_postfix(shown, refresh=False)
        if training.stop.signal:
            training.folder.save()
            training.bar.close()
            print(f"saved: {training.folder.again}, out_dir {training.out_dir}")
            sys.exit(128 + training.stop.signal)

    def log(self, losses: dict[str, torch.Tensor], **figures: float) -> None:
        """Note a step's losses, whose means the log has; a value that is not finite ends the run.

        `figures` are further columns of the log, which has the epoch's last ones.
        """
        self.training.meter.add(losses, self.training.parameters)
        self.progress.figures = figures

    def validate(
        self,
        upscale: Callable,
        samples: Callable | None = None,
        figures: dict[str, float] | None = None,
        shown: tuple[str, ...] = (),
    ) -> None:
        """Measure on the held-out photos, and add a row to the log.

        `upscale` and `samples` are what `Validation.measure` takes, `figures` further columns of
        the log, of which those named in `shown` are printed.
        """
        training, progress, figures = self.training, self.progress, figures or {}
        losses = training.meter.means(self.title)
        progress.epoch, progress.step = progress.epoch + 1, 0
        progress.epochs_done += 1
        stage = {"stage": progress.stage} if progress.stage else {}
        name = "_".join([*stage.values(), f"{progress.epoch:04d}.png"])
        measuring = upscale, training.device, training.out_dir / "samples" / name, samples
        psnr_y, ssim_y = processes.on_main(training.validation.measure, *measuring)
        self.is_best = psnr_y > progress.best
        progress.best = max(psnr_y, progress.best)
        progress.epochs_since_best = 0 if self.is_best else progress.epochs_since_best + 1
        step = progress.epochs_done * training.steps_per_epoch
        seconds = round(time.perf_counter() - training.began, 1)
        row = stage | {"epoch": progress.epoch, "step": step, "seconds": seconds}
        row |= progress.figures | {"psnr_y": psnr_y, "ssim_y": ssim_y} | losses | figures
        training.rows.append(row)
        texts = [f"PSNR-Y {psnr_y:.2f} dB", f"SSIM-Y {ssim_y:.4f}"]
        texts += [f"{loss} {mean:.4f}" for loss, mean in losses.items()]
        texts += [f"{name} {figures[name]:.4g}" for name in shown]
        training.bar.write(f"{self.title}: {', '.join(texts)}{' (best)' if self.is_best else ''}")

    def save(self, networks: dict[str, nn.Module], best: dict[str, nn.Module]) -> None:
        """Write log, curves, NAME.pth of each network, and last the state to resume from.

        Those of `best` are written only after the epoch with the stage's best PSNR-Y.
        """
        training = self.training
        if processes.is_main():
            write_log(training.out_dir / "log.csv", training.rows)
            baseline = training.validation.bicubic_psnr_y
            plot_curves(training.out_dir / "curves.png", training.rows, baseline, training.panels)
        training.write(networks | best if self.is_best else networks)
        training.meter.restart()
        training.folder.save()
