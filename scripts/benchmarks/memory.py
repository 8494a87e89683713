"""Memory of each training script: how much with its defaults, and what it costs to get it anew."""

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common.device import keep_freed_memory
from scripts.benchmarks.measuring import quiet_folder, train_on_one_batch
from scripts.evidence.methods import METHODS

_FEW: dict[str, Any] = {"n_valid": 1, "valid_crop": 256, "workers": 0}  # but for the steps
_PSNR: dict[str, Any] = {"n_epochs": 1, "n_epochs_gan": 0}
_GAN: dict[str, Any] = {"n_epochs": 0, "n_epochs_gan": 1}
_LESS: dict[str, Any] = {"gradient_checkpointing": True}
_ESRGAN = {
    "PSNR stage": _PSNR,
    "PSNR stage, checkpointing": _PSNR | _LESS,
    "GAN stage": _GAN,
    "GAN stage, checkpointing": _GAN | _LESS,
    "GAN stage, batch 8": _GAN | {"batch_size": 8},
}
SETTINGS: dict[str, tuple[Callable[..., Path], dict[str, Any]]] = {
    f"ESRGAN, {case}": (METHODS["esrgan"].train, settings) for case, settings in _ESRGAN.items()
}
SETTINGS |= {
    method.title: (method.train, {"n_epochs": 1})
    for name, method in METHODS.items()
    if name != "esrgan"
}


def train_two_steps(
    name: str, folders: dict[str, Path], vgg_weights: Path, device: str, **changes: Any
) -> Callable[[int], None]:
    """Train two steps of `SETTINGS[name]`, changed by `changes`; the result has nothing to do."""
    function, settings = SETTINGS[name]
    settings = settings | _FEW | {"steps_per_epoch": 2, "device": device} | changes
    if settings.get("n_epochs_gan"):
        settings["vgg_weights"] = vgg_weights
    with quiet_folder() as folder:
        function(**folders, **settings, out_dir=folder / "run")
    return lambda k: None


def seconds_by_allocator(
    train: Callable[..., Path], folders: dict[str, Path], rounds: int, **changes: Any
) -> tuple[list[float], list[float]]:
    """Return seconds of steps with freed memory given back, and of steps with it kept, in turn."""
    # glibc gets to the first limit by itself.
    sides: dict[int, list[float]] = {2**25: [], 2**31 - 1: []}

    def steps() -> Iterator[int]:
        numbers = itertools.count()
        for _ in range(rounds + 2):
            for most, seconds in sides.items():
                keep_freed_memory(most)
                for _ in range(2):  # memory is as this side leaves it after its first step
                    began = time.perf_counter()
                    yield next(numbers)
                seconds.append(time.perf_counter() - began)

    train_on_one_batch(train, folders | _FEW | {"device": "cpu"} | changes, steps())
    given_back, kept = (seconds[2:] for seconds in sides.values())
    return given_back, kept
