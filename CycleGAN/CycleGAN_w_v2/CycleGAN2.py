r"""Train CycleGAN, version 2: the same two generators, held to their LR photo.

Zhu et al. 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks",
arXiv 1703.10593. G enlarges LR photos four times, F reduces HR photos as much; no LR photo is of
the same scene as an HR photo.

The full run, on DIV2K (2,000 steps; a GPU):
    python CycleGAN/CycleGAN_w_v2/CycleGAN2.py
Minutes on two cores, on built-in photos:
    python scripts/prepare_dataset.py builtin
    python CycleGAN/CycleGAN_w_v2/CycleGAN2.py \
        --lr-folder div2k/builtin/DIV2K_train_LR_bicubic/X4 \
        --hr-folder div2k/builtin/DIV2K_train_HR --n-features 16 --lr-size 32 --hr-size 128 \
        --learning-rate 1e-3 --n-epochs 2 --steps-per-epoch 100 --out-dir runs/cyclegan_v2

Differences from version 1 (each has its hyperparameter, and all switched off give version 1 again):
- Crops at the photos' own scale (native_scale), in place of photos resized as a whole.
- G and F add to bicubic resizing and start as that; G's upsampling starts without checkerboards
  (residual).
- LR consistency: what G makes, scaled down by bicubic, is to be the LR photo (lambda_consistency).
  For LR photos that were not made by bicubic, 0: the cycle holds them then.
- A smaller adversarial weight (lambda_gan).
- What F makes is rounded to 8 bits, with noise, before G sees it (store_fake_lr, fake_lr_noise):
  else F hides in it what G is to invent, at a few 1/256 (Chu et al. 2017, arXiv 1712.02950).
- D_LR has fewer strides and spectral norm (d_lr_strides, spectral_norm; Miyato et al. 2018).
- As in the paper: pools of 50 earlier fakes (pool_size) and a learning rate that falls linearly to
  0 in the second half (decay_from). The saved G is an exponential moving average (ema_decay).

Version 1's other differences from the paper remain: generators that change the size, no instance
norm, a small batch, the identity loss.
"""

import copy
import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import common  # noqa: F401, it says what is not installed

import torch
from torch.nn import functional

from common.data.resize import resize
from common.measure.validation import Validation
from common.processes import count
from common.run.flags import command_line
from common.run.recipes import update_ema
from common.run.training import Training
from CycleGAN import model
from CycleGAN.dataset import UnpairedPhotos, unpaired_photos
from CycleGAN.model import Discriminator, ResidualBlock, start_normal
from CycleGAN.model import ResidualGeneratorDown as GeneratorDown
from CycleGAN.model import ResidualGeneratorSR as GeneratorSR
from CycleGAN.pool import ImagePool

__all__ = [
    "Discriminator",
    "GeneratorDown",
    "GeneratorSR",
    "ResidualBlock",
    "UnpairedPhotos",
    "train_cyclegan_sr",
]

FOLDER = Path(__file__).resolve().parent
FIXED = ("n_features", "residual", "d_lr_strides", "spectral_norm", "pool_size")
FIXED += ("lr_size", "hr_size", "native_scale", "batch_size", "steps_per_epoch", "seed")


def least_squares(scores: torch.Tensor, target: float) -> torch.Tensor:
    """Return the mean squared distance of a discriminator's scores from `target` (LSGAN)."""
    return (scores.float() - target).square().mean()


def as_stored(image: torch.Tensor, noise: float) -> torch.Tensor:
    """Return what a file of 8 bits would keep of `image` and noise of this standard deviation.

    In [0, 1], by and large. Gradients pass as if nothing had been rounded (straight through).
    """
    noisy = image + noise * torch.randn_like(image) if noise else image
    stored = (noisy.detach() * 255).round().clamp(0, 255) / 255
    return image + (stored - image).detach()


def train_cyclegan_sr(
    *,
    # data
    lr_folder: Path | None = None,  # folder of LR photos; None: DIV2K, downloaded on first use
    hr_folder: Path | None = None,  # folder of HR photos; of photos in both, each is used once
    valid_lr_folder: Path | None = None,  # held-out pairs; None: DIV2K's or own "valid" folders
    valid_hr_folder: Path | None = None,
    n_valid: int = 10,  # held-out photos used, at most
    valid_crop: int = 1024,  # HR pixels; of larger held-out photos the centre is used
    lr_size: int = 64,  # pixels of the LR crops
    hr_size: int = 256,  # pixels of the HR crops, 4 lr_size
    native_scale: bool = True,  # crops; False: photos resized as a whole to these sizes
    batch_size: int = 4,  # LR and HR images a step, each
    workers: int = 2,  # processes that load ahead; 0: none
    # model
    n_features: int = 64,  # channels of the first layers of all four networks
    residual: bool = True,  # G and F add to bicubic resizing and start as that
    d_lr_strides: tuple[int, int, int] = (1, 2, 1),  # of D_LR's first three convolutions
    spectral_norm: bool = True,  # of D_LR
    # loss
    lambda_cycle: float = 10.0,  # L1 of both cycles (paper)
    lambda_identity: float = 0.0,  # L1(F(up(lr)), lr) + L1(down(G(lr)), lr); 0: off
    lambda_consistency: float = 10.0,  # L1(down(G(lr)), lr)
    lambda_gan: float = 0.03,  # of both adversarial terms
    store_fake_lr: bool = True,  # F(hr) is rounded to 8 bits before G sees it
    fake_lr_noise: float = 1 / 255,  # standard deviation of noise added before that
    pool_size: int = 50,  # earlier fakes of each kind shown to the discriminators (paper); 0: none
    # optimisation
    n_epochs: int = 10,
    steps_per_epoch: int | None = None,  # None: photos / batch_size (DIV2K: 200)
    learning_rate: float = 2e-4,  # Adam, all networks (paper)
    betas: tuple[float, float] = (0.5, 0.999),  # Adam (paper)
    decay_from: float = 0.5,  # share of the run after which the rate falls to 0 (paper); 1: never
    ema_decay: float = 0.999,  # a step, of the averaged G; 0: G as it is
    patience: int = 0,  # epochs without a better PSNR-Y that end the run; 0: never
    # run
    show_every: int = 20,  # steps between losses on the progress bar (each waits for the GPU)
    out_dir: Path = FOLDER / "runs" / "default",  # where everything is written
    seed: int = 0,  # of weights and images, 0 or more
    device: str = "cuda",  # without a GPU the CPU is taken
    bfloat16: bool | None = None,  # autocast; None: if the device has instructions for it
    compile: bool = False,  # torch.compile: minutes at the beginning, faster steps on a GPU
    deterministic: bool = False,  # the same bits from each run on a GPU, too, at some speed
    resume: bool = False,  # continue the run in out_dir
    overwrite: bool = False,  # delete the run in out_dir and start anew
) -> Path:
    """Train CycleGAN, version 2, and return the folder of the run.

    Written there: G_LR2HR.pth, F_HR2LR.pth, D_HR.pth, D_LR.pth (the newest), G_LR2HR_best.pth (the
    best by PSNR-Y), state.pth (to resume), config.json, log.csv, curves.png and samples/.
    """
    training = Training(locals(), fixed=FIXED)
    if hr_size != 4 * lr_size or lr_size < 24:
        raise ValueError(
            f"lr_size {lr_size}, hr_size {hr_size}: expected lr_size 24 or more (the LR "
            "discriminator's strides need it) and hr_size 4 times as much"
        )

    # data
    lr_photos, hr_photos, valid_pairs = unpaired_photos(
        lr_folder, hr_folder, valid_lr_folder, valid_hr_folder, n_valid
    )
    photos = UnpairedPhotos(lr_photos, hr_photos, lr_size, hr_size, seed, native_scale)
    validation = Validation(valid_pairs, valid_crop)
    steps_per_epoch = steps_per_epoch or max(1, len(photos) // (batch_size * count()))

    # networks
    torch.manual_seed(seed)
    G = GeneratorSR(n_features) if residual else start_normal(model.GeneratorSR(n_features))
    F = GeneratorDown(n_features) if residual else start_normal(model.GeneratorDown(n_features))
    D_HR = start_normal(Discriminator(n_features))
    D_LR = Discriminator(n_features, d_lr_strides, spectral_norm)
    if not spectral_norm:
        start_normal(D_LR)
    G, F, D_HR, D_LR = (training.prepare(network) for network in (G, F, D_HR, D_LR))
    average = copy.deepcopy(G).requires_grad_(False)
    pool_hr, pool_lr = ImagePool(pool_size), ImagePool(pool_size)

    # optimisers
    def adam(*networks: torch.nn.Module) -> torch.optim.Adam:
        parameters = [p for network in networks for p in network.parameters()]
        return torch.optim.Adam(parameters, learning_rate, betas, fused=True)

    optimizer_g, optimizer_d = adam(G, F), adam(D_HR, D_LR)

    networks = {"G_LR2HR": average, "F_HR2LR": F, "D_HR": D_HR, "D_LR": D_LR}
    training.register(**networks, G=G, optimizer_g=optimizer_g, optimizer_d=optimizer_d)
    training.register(pool_hr=pool_hr, pool_lr=pool_lr)
    with training.begin(photos, validation, steps_per_epoch, n_epochs):
        for epoch in training.epochs(patience=patience):
            for step, (lr, hr) in epoch:
                left = 1 - step / (n_epochs * steps_per_epoch)
                rate = learning_rate * min(1, left / max(1 - decay_from, 1e-9))
                optimizer_g.param_groups[0]["lr"] = optimizer_d.param_groups[0]["lr"] = rate

                # generators
                D_HR.requires_grad_(False)
                D_LR.requires_grad_(False)
                with training.autocast():
                    fake_hr = G(lr)
                    recovered_lr = F(fake_hr)
                    fake_lr = F(hr)
                    stored_lr = as_stored(fake_lr, fake_lr_noise) if store_fake_lr else fake_lr
                    recovered_hr = G(stored_lr)
                    losses = {
                        "gan_hr": least_squares(D_HR(fake_hr), 1),
                        "gan_lr": least_squares(D_LR(fake_lr), 1),
                        "cycle_lr": functional.l1_loss(recovered_lr, lr),
                        "cycle_hr": functional.l1_loss(recovered_hr, hr),
                    }
                    loss = lambda_gan * (losses["gan_hr"] + losses["gan_lr"])
                    loss = loss + lambda_cycle * (losses["cycle_lr"] + losses["cycle_hr"])
                    if lambda_consistency:
                        losses["consistency"] = functional.l1_loss(resize(fake_hr, 1 / 4), lr)
                        loss = loss + lambda_consistency * losses["consistency"]
                    if lambda_identity:
                        of_f = functional.l1_loss(F(resize(lr, 4)), lr)
                        losses["identity"] = of_f + functional.l1_loss(resize(fake_hr, 1 / 4), lr)
                        loss = loss + lambda_identity * losses["identity"]
                optimizer_g.zero_grad()
                loss.backward()
                optimizer_g.step()
                update_ema(average, G, ema_decay, step)

                # discriminators
                optimizer_d.zero_grad()
                fake_hr, fake_lr = pool_hr.query(fake_hr), pool_lr.query(fake_lr)
                for name, D, real, fake in (("hr", D_HR, hr, fake_hr), ("lr", D_LR, lr, fake_lr)):
                    D.requires_grad_(True)
                    with training.autocast():
                        on_real = least_squares(D(real), 1)
                        on_fake = least_squares(D(fake), 0)
                    losses[f"discriminator_{name}"] = (on_real + on_fake) / 2
                    losses[f"discriminator_{name}"].backward()
                optimizer_d.step()
                epoch.log(losses, learning_rate=rate)

            epoch.validate(average)
            epoch.save(networks, best={"G_LR2HR_best": average})
    return training.out_dir


if __name__ == "__main__":
    command_line(train_cyclegan_sr)
