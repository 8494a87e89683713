r"""Train CycleGAN, version 1: the plain one, two generators and two discriminators.

Zhu et al. 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks",
arXiv 1703.10593. G enlarges LR photos four times, F reduces HR photos as much; no LR photo is of
the same scene as an HR photo.

The full run, on DIV2K (2,000 steps; a GPU):
    python CycleGAN/CycleGAN_w_v1/CycleGAN.py
Minutes on two cores, on built-in photos:
    python scripts/prepare_dataset.py builtin
    python CycleGAN/CycleGAN_w_v1/CycleGAN.py \
        --lr-folder div2k/builtin/DIV2K_train_LR_bicubic/X4 \
        --hr-folder div2k/builtin/DIV2K_train_HR --n-features 16 --lr-size 32 --hr-size 128 \
        --learning-rate 1e-3 --n-epochs 2 --steps-per-epoch 100 --out-dir runs/cyclegan_v1

Differences from the paper:
- G and F change the size; instead of the paper's one generator there are two, without instance
  norm.
- The identity loss compares by way of bicubic resizing and is off: L1(G(hr), hr) has no meaning
  for a G that enlarges.
- 10 epochs at a constant learning rate; no pool of earlier fakes; batch 4.
- The discriminators lack the paper's fourth convolution (C512) and instance norm.
It is what versions 2 and 3 are measured against: photos are resized as a whole to 64 and 256
pixels, and nothing but F holds G to its LR photo.
"""

import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import common  # noqa: F401, it says what is not installed

    if __name__ == "CycleGAN":  # imported from within this folder, in place of the package above it
        __path__ = [str(Path(__file__).resolve().parents[1])]

import torch
from torch.nn import functional

from common.data.resize import resize
from common.measure.validation import Validation
from common.processes import count
from common.run.flags import command_line
from common.run.training import Training
from CycleGAN.dataset import UnpairedPhotos, unpaired_photos
from CycleGAN.model import (
    Discriminator,
    GeneratorDown,
    GeneratorSR,
    ResidualBlock,
    start_normal,
)

__all__ = [
    "Discriminator",
    "GeneratorDown",
    "GeneratorSR",
    "ResidualBlock",
    "UnpairedPhotos",
    "train_cyclegan_sr",
]

FOLDER = Path(__file__).resolve().parent
FIXED = ("n_features", "lr_size", "hr_size", "batch_size", "steps_per_epoch", "seed")


def least_squares(scores: torch.Tensor, target: float) -> torch.Tensor:
    """Return the mean squared distance of a discriminator's scores from `target` (LSGAN)."""
    return (scores.float() - target).square().mean()


def train_cyclegan_sr(
    *,
    # data
    lr_folder: Path | None = None,  # folder of LR photos; None: DIV2K, downloaded on first use
    hr_folder: Path | None = None,  # folder of HR photos; of photos in both, each is used once
    valid_lr_folder: Path | None = None,  # held-out pairs; None: DIV2K's or own "valid" folders
    valid_hr_folder: Path | None = None,
    n_valid: int = 10,  # held-out photos used, at most
    valid_crop: int = 1024,  # HR pixels; of larger held-out photos the centre is used
    lr_size: int = 64,  # pixels that LR photos are resized to
    hr_size: int = 256,  # pixels that HR photos are resized to, 4 lr_size
    batch_size: int = 4,  # LR and HR images a step, each
    workers: int = 2,  # processes that load ahead; 0: none
    # model
    n_features: int = 64,  # channels of the first layers of all four networks
    # loss
    lambda_cycle: float = 10.0,  # L1 of both cycles (paper)
    lambda_identity: float = 0.0,  # L1(F(up(lr)), lr) + L1(down(G(lr)), lr); 0: off
    # optimisation
    n_epochs: int = 10,
    steps_per_epoch: int | None = None,  # None: photos / batch_size (DIV2K: 200)
    learning_rate: float = 2e-4,  # Adam, all networks (paper)
    betas: tuple[float, float] = (0.5, 0.999),  # Adam (paper)
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
    """Train CycleGAN, version 1, and return the folder of the run.

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
    photos = UnpairedPhotos(lr_photos, hr_photos, lr_size, hr_size, seed)
    validation = Validation(valid_pairs, valid_crop)
    steps_per_epoch = steps_per_epoch or max(1, len(photos) // (batch_size * count()))

    # networks
    torch.manual_seed(seed)
    G = training.prepare(start_normal(GeneratorSR(n_features)))
    F = training.prepare(start_normal(GeneratorDown(n_features)))
    D_HR = training.prepare(start_normal(Discriminator(n_features)))
    D_LR = training.prepare(start_normal(Discriminator(n_features)))

    # optimisers
    def adam(*networks: torch.nn.Module) -> torch.optim.Adam:
        parameters = [p for network in networks for p in network.parameters()]
        return torch.optim.Adam(parameters, learning_rate, betas, fused=True)

    optimizer_g, optimizer_d = adam(G, F), adam(D_HR, D_LR)

    networks = {"G_LR2HR": G, "F_HR2LR": F, "D_HR": D_HR, "D_LR": D_LR}
    training.register(**networks, optimizer_g=optimizer_g, optimizer_d=optimizer_d)
    with training.begin(photos, validation, steps_per_epoch, n_epochs):
        optimizer_g.param_groups[0]["lr"] = optimizer_d.param_groups[0]["lr"] = learning_rate
        for epoch in training.epochs(patience=patience):
            for _, (lr, hr) in epoch:
                # generators
                D_HR.requires_grad_(False)
                D_LR.requires_grad_(False)
                with training.autocast():
                    fake_hr = G(lr)
                    recovered_lr = F(fake_hr)
                    fake_lr = F(hr)
                    recovered_hr = G(fake_lr)
                    losses = {
                        "gan_hr": least_squares(D_HR(fake_hr), 1),
                        "gan_lr": least_squares(D_LR(fake_lr), 1),
                        "cycle_lr": functional.l1_loss(recovered_lr, lr),
                        "cycle_hr": functional.l1_loss(recovered_hr, hr),
                    }
                    loss = losses["gan_hr"] + losses["gan_lr"]
                    loss = loss + lambda_cycle * (losses["cycle_lr"] + losses["cycle_hr"])
                    if lambda_identity:
                        of_f = functional.l1_loss(F(resize(lr, 4)), lr)
                        losses["identity"] = of_f + functional.l1_loss(resize(fake_hr, 1 / 4), lr)
                        loss = loss + lambda_identity * losses["identity"]
                optimizer_g.zero_grad()
                loss.backward()
                optimizer_g.step()

                # discriminators
                optimizer_d.zero_grad()
                for name, D, real, fake in (("hr", D_HR, hr, fake_hr), ("lr", D_LR, lr, fake_lr)):
                    D.requires_grad_(True)
                    with training.autocast():
                        on_real = least_squares(D(real), 1)
                        on_fake = least_squares(D(fake.detach()), 0)
                    losses[f"discriminator_{name}"] = (on_real + on_fake) / 2
                    losses[f"discriminator_{name}"].backward()
                optimizer_d.step()
                epoch.log(losses, learning_rate=learning_rate)

            epoch.validate(G.forward)
            epoch.save(networks, best={"G_LR2HR_best": G})
    return training.out_dir


if __name__ == "__main__":
    command_line(train_cyclegan_sr)
