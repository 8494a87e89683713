"""Every training script in one table: adding a model adds a row."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from CVAE.train_cvae import train_cvae
from CycleGAN.CycleGAN_w_v1 import CycleGAN as v1
from CycleGAN.CycleGAN_w_v2 import CycleGAN2 as v2
from CycleGAN.CycleGAN_w_v3 import CycleGAN5_2 as v3
from EDSR.train_edsr import train_edsr
from ESRGAN.train_esrgan import train_esrgan
from SRVAE.train_srvae import train_srvae
from SwinIR.train_swinir import train_swinir


class Method(NamedTuple):
    """How a model is trained."""

    title: str
    train: Callable[..., Path]
    minutes: dict[str, Any]  # settings of a run of minutes: the gallery's
    seconds: dict[str, Any]  # settings of a run of seconds: the stress test's
    checkpoints: dict[str, str]  # captions, and the files of a run that they name


_CYCLEGAN = {"n_features": 16, "lr_size": 32, "hr_size": 128, "batch_size": 4, "n_epochs": 3}
_CYCLEGAN |= {"steps_per_epoch": 200, "learning_rate": 1e-3}
_ESRGAN = {"n_blocks": 4, "n_features": 32, "growth": 16, "discriminator_features": 32}
_ESRGAN |= {"patch_size": 64, "batch_size": 8, "n_epochs": 6, "n_epochs_gan": 1}
_ESRGAN |= {"steps_per_epoch": 500, "learning_rate": 1e-3, "milestones": (0.5, 0.75, 0.9)}
# Without the perceptual loss, which needs a download and holds the picture together, L1 does it.
_ESRGAN |= {"perceptual_weight": 0.0, "pixel_weight": 1.0, "gan_weight": 1e-3}
_PSNR = {"patch_size": 64, "batch_size": 8, "n_epochs": 3, "steps_per_epoch": 500}
_PSNR |= {"milestones": (0.5, 0.75, 0.9)}
_VAE = {"batch_size": 8, "n_epochs": 3, "steps_per_epoch": 400}

_TINY = {"batch_size": 2, "n_epochs": 6, "steps_per_epoch": 4, "n_valid": 2, "device": "cpu"}
_TINY |= {"patience": 5}
_TINY_CYCLEGAN = _TINY | {"n_features": 4, "lr_size": 24, "hr_size": 96}
_TINY_ESRGAN = _TINY | {"n_blocks": 1, "n_features": 8, "growth": 4, "discriminator_features": 4}
_TINY_ESRGAN |= {"patch_size": 32, "n_epochs": 3, "n_epochs_gan": 3, "alpha": 0.5}
_TINY_ESRGAN |= {"perceptual_weight": 0.0}
_TINY_PSNR = _TINY | {"patch_size": 32}
_TINY_VAE = _TINY | {"valid_patches": 4}

METHODS = {
    "cyclegan_v1": Method(
        "CycleGAN, version 1",
        v1.train_cyclegan_sr,
        minutes=_CYCLEGAN,
        seconds=_TINY_CYCLEGAN,
        checkpoints={"CycleGAN v1": "G_LR2HR.pth"},
    ),
    "cyclegan_v2": Method(
        "CycleGAN, version 2",
        v2.train_cyclegan_sr,
        minutes=_CYCLEGAN,
        seconds=_TINY_CYCLEGAN | {"pool_size": 3},
        checkpoints={"CycleGAN v2": "G_LR2HR.pth"},
    ),
    "cyclegan_v3": Method(
        "CycleGAN, version 3",
        v3.train_cyclegan_sr,
        minutes=_CYCLEGAN,
        seconds=_TINY_CYCLEGAN | {"pool_size": 3, "r1_weight": 1.0, "r1_every": 3},
        checkpoints={"CycleGAN v3": "G_LR2HR.pth"},
    ),
    "esrgan": Method(
        "ESRGAN",
        train_esrgan,
        minutes=_ESRGAN,
        seconds=_TINY_ESRGAN,
        checkpoints={"ESRGAN, PSNR": "generator_psnr.pth", "ESRGAN, GAN": "generator.pth"},
    ),
    "edsr": Method(
        "EDSR",
        train_edsr,
        minutes=_PSNR | {"n_blocks": 16, "n_features": 48, "learning_rate": 1e-3},
        seconds=_TINY_PSNR | {"n_blocks": 2, "n_features": 8},
        checkpoints={"EDSR": "edsr.pth"},
    ),
    "swinir": Method(
        "SwinIR",
        train_swinir,
        minutes=_PSNR | {"depths": (4, 4), "dim": 48, "learning_rate": 5e-4},
        seconds=_TINY_PSNR | {"depths": (2, 2), "dim": 12, "n_heads": 2},
        checkpoints={"SwinIR": "swinir.pth"},
    ),
    "cvae": Method(
        "CVAE",
        train_cvae,
        minutes=_VAE,
        seconds=_TINY_VAE | {"n_features": 4, "n_latent": 16},
        checkpoints={"CVAE": "cvae.pth"},
    ),
    "srvae": Method(
        "SRVAE",
        train_srvae,
        minutes=_VAE,
        seconds=_TINY_VAE | {"n_features": 6, "n_latent": 2},
        checkpoints={"SRVAE": "srvae.pth"},
    ),
}
