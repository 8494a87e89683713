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
    seconds: dict[str, Any]  # settings of a run of seconds
    network: str  # the file of a run that it is in


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
        seconds=_TINY_CYCLEGAN,
        network="G_LR2HR.pth",
    ),
    "cyclegan_v2": Method(
        "CycleGAN, version 2",
        v2.train_cyclegan_sr,
        seconds=_TINY_CYCLEGAN | {"pool_size": 3},
        network="G_LR2HR.pth",
    ),
    "cyclegan_v3": Method(
        "CycleGAN, version 3",
        v3.train_cyclegan_sr,
        seconds=_TINY_CYCLEGAN | {"pool_size": 3, "r1_weight": 1.0, "r1_every": 3},
        network="G_LR2HR.pth",
    ),
    "esrgan": Method(
        "ESRGAN",
        train_esrgan,
        seconds=_TINY_ESRGAN,
        network="generator_psnr.pth",
    ),
    "edsr": Method(
        "EDSR",
        train_edsr,
        seconds=_TINY_PSNR | {"n_blocks": 2, "n_features": 8},
        network="edsr.pth",
    ),
    "swinir": Method(
        "SwinIR",
        train_swinir,
        seconds=_TINY_PSNR | {"depths": (2, 2), "dim": 12, "n_heads": 2},
        network="swinir.pth",
    ),
    "cvae": Method(
        "CVAE",
        train_cvae,
        seconds=_TINY_VAE | {"n_features": 4, "n_latent": 16},
        network="cvae.pth",
    ),
    "srvae": Method(
        "SRVAE",
        train_srvae,
        seconds=_TINY_VAE
        | {"n_features": 6, "n_latent": 2, "n_blocks": 2, "n_detail": 8, "feature_weight": 0.0},
        network="srvae.pth",
    ),
}
