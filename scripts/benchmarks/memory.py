"""What each training script needs of memory with its defaults (of the benchmark)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from CVAE.train_cvae import train_cvae
from CycleGAN.CycleGAN_w_v1 import CycleGAN as v1
from CycleGAN.CycleGAN_w_v2 import CycleGAN2 as v2
from CycleGAN.CycleGAN_w_v3 import CycleGAN5_2 as v3
from ESRGAN.train_esrgan import train_esrgan
from scripts.benchmarks.measuring import quiet_folder
from SRVAE.train_srvae import train_srvae

_PSNR: dict[str, Any] = {"n_epochs": 1, "n_epochs_gan": 0}
_GAN: dict[str, Any] = {"n_epochs": 0, "n_epochs_gan": 1}
_LESS: dict[str, Any] = {"gradient_checkpointing": True}
SETTINGS: dict[str, tuple[Callable[..., Path], dict[str, Any]]] = {
    "ESRGAN, PSNR stage": (train_esrgan, _PSNR),
    "ESRGAN, PSNR stage, checkpointing": (train_esrgan, _PSNR | _LESS),
    "ESRGAN, GAN stage": (train_esrgan, _GAN),
    "ESRGAN, GAN stage, checkpointing": (train_esrgan, _GAN | _LESS),
    "ESRGAN, GAN stage, batch 8": (train_esrgan, _GAN | {"batch_size": 8}),
    "CycleGAN, version 1": (v1.train_cyclegan_sr, {"n_epochs": 1}),
    "CycleGAN, version 2": (v2.train_cyclegan_sr, {"n_epochs": 1}),
    "CycleGAN, version 3": (v3.train_cyclegan_sr, {"n_epochs": 1}),
    "SRVAE": (train_srvae, {"n_epochs": 1}),
    "CVAE": (train_cvae, {"n_epochs": 1}),
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
