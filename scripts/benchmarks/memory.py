"""What each training script needs of memory with its defaults (of the benchmark)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.benchmarks.measuring import quiet_folder
from scripts.evidence.methods import METHODS

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
    settings = settings | {"steps_per_epoch": 2, "n_valid": 1, "valid_crop": 256, "workers": 0}
    settings |= {"device": device} | changes
    if settings.get("n_epochs_gan"):
        settings["vgg_weights"] = vgg_weights
    with quiet_folder() as folder:
        function(**folders, **settings, out_dir=folder / "run")
    return lambda k: None
