r"""Train CycleGAN, version 1: the plain one, two generators and two discriminators.

Zhu et al. 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks",
arXiv 1703.10593. G enlarges LR photos four times, F reduces HR photos as much; no LR photo is of
the same scene as an HR photo.

The full run, on DIV2K (2,000 steps; a GPU):
    python CycleGAN/CycleGAN_w_v1/CycleGAN.py
Minutes on two cores, on built-in photos:
    python scripts/builtin_photos.py
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

from __future__ import annotations

import contextlib
import math
import sys
import time
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    if __name__ == "CycleGAN":  # imported from within this folder, in place of the package above it
        __path__ = [str(Path(__file__).resolve().parents[1])]

import torch
from torch.nn import functional

from common import checkpoint
from common.data.crops import batches, to_device
from common.data.resize import resize
from common.device import autocast, choose_bfloat16, choose_device, describe, place
from common.measure.validation import Validation
from common.processes import average_gradients, count, is_first, on_first
from common.progress import progress_bar
from common.run.flags import command_line
from common.run.folder import Run
from common.run.log import LossMeter, plot_curves, write_log
from common.run.stop import StopSignal
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
    photos_on_gpu: bool | None = None,  # keep all in its memory, no workers; None: if they fit
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
    resume: bool = False,  # go on with the run in out_dir
    overwrite: bool = False,  # delete the run in out_dir and start anew
) -> Path:
    """Train CycleGAN, version 1, and return the folder of the run.

    Written there: G_LR2HR.pth, F_HR2LR.pth, D_HR.pth, D_LR.pth (the newest), G_LR2HR_best.pth (the
    best by PSNR-Y), state.pth (to resume), config.json, log.csv, curves.png and samples/.
    """
    # setup
    config = {k: v if isinstance(v, int | float | None) else str(v) for k, v in locals().items()}
    out_dir = Path(out_dir)
    if hr_size != 4 * lr_size or lr_size < 24:
        raise ValueError(
            f"lr_size {lr_size}, hr_size {hr_size}: expected lr_size 24 or more (the LR "
            "discriminator's strides need it) and hr_size 4 times as much"
        )
    counts = (batch_size, n_valid, 1 if steps_per_epoch is None else steps_per_epoch)
    if seed < 0 or min(counts) < 1:
        raise ValueError(
            f"seed {seed}, batch_size {batch_size}, n_valid {n_valid}, steps_per_epoch "
            f"{steps_per_epoch}: expected seed 0 or more, the others 1 or more"
        )
    fixed = ("n_features", "lr_size", "hr_size", "batch_size", "steps_per_epoch", "seed")
    device = choose_device(device, deterministic)
    config["bfloat16"] = bfloat16 = choose_bfloat16(device, bfloat16)
    run = Run(out_dir, config, fixed, resume, overwrite)

    # data
    lr_photos, hr_photos, valid_pairs = unpaired_photos(
        lr_folder, hr_folder, valid_lr_folder, valid_hr_folder, n_valid
    )
    photos = UnpairedPhotos(lr_photos, hr_photos, lr_size, hr_size, seed)
    validation = Validation(valid_pairs, valid_crop)
    steps_per_epoch = steps_per_epoch or max(1, len(photos) // (batch_size * count()))

    # models
    torch.manual_seed(seed)
    G = place(start_normal(GeneratorSR(n_features)), device, compile)
    F = place(start_normal(GeneratorDown(n_features)), device, compile)
    D_HR = place(start_normal(Discriminator(n_features)), device, compile)
    D_LR = place(start_normal(Discriminator(n_features)), device, compile)

    # optimisers
    def adam(*networks: torch.nn.Module) -> torch.optim.Adam:
        parameters = [p for network in networks for p in network.parameters()]
        return torch.optim.Adam(parameters, learning_rate, betas, fused=True)

    optimizer_g, optimizer_d = adam(G, F), adam(D_HR, D_LR)

    # resume
    at = {"epoch": 0, "step": 0, "best": -math.inf, "stale": 0}
    rows = run.rows  # of the log
    meter = LossMeter(batch_size, lambda ks: photos.names(at["epoch"], ks))
    networks = {"G_LR2HR": G, "F_HR2LR": F, "D_HR": D_HR, "D_LR": D_LR}
    stateful = networks | {"optimizer_g": optimizer_g, "optimizer_d": optimizer_d, "meter": meter}
    run.restore(at, stateful, device)
    optimizer_g.param_groups[0]["lr"] = optimizer_d.param_groups[0]["lr"] = learning_rate

    print(
        f"{len(lr_photos)} LR and {len(hr_photos)} HR photos of other scenes to train on, "
        f"{len(validation.photos)} held out (bicubic: PSNR-Y {validation.bicubic_psnr_y:.2f} dB, "
        f"SSIM-Y {validation.bicubic_ssim_y:.4f})\n"
        f"G of {sum(p.numel() for p in G.parameters()):,} parameters, F of "
        f"{sum(p.numel() for p in F.parameters()):,} on {describe(device, bfloat16)}, "
        f"writing to {out_dir}"
    )

    # loop
    began = time.perf_counter() - (rows[-1]["seconds"] if rows else 0)
    first_step = at["epoch"] * steps_per_epoch + at["step"]
    with (
        run,
        progress_bar(total=n_epochs * steps_per_epoch, initial=first_step, unit="step") as bar,
        contextlib.closing(
            batches(photos, first_step, steps_per_epoch, batch_size, workers, device, photos_on_gpu)
        ) as stream,
        StopSignal() as stop,
    ):
        while at["epoch"] < n_epochs and not 0 < patience <= at["stale"]:
            title = f"epoch {at['epoch'] + 1}/{n_epochs}"
            bar.set_description(title, refresh=False)

            while not stop.asked(at["step"], show_every) and at["step"] < steps_per_epoch:
                lr, hr = to_device(next(stream), device)

                # generator
                D_HR.requires_grad_(False)
                D_LR.requires_grad_(False)
                with autocast(device, bfloat16):
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
                average_gradients(G, F)
                optimizer_g.step()

                # discriminator
                optimizer_d.zero_grad()
                for name, D, real, fake in (("hr", D_HR, hr, fake_hr), ("lr", D_LR, lr, fake_lr)):
                    D.requires_grad_(True)
                    with autocast(device, bfloat16):
                        on_real = least_squares(D(real), 1)
                        on_fake = least_squares(D(fake.detach()), 0)
                    losses[f"discriminator_{name}"] = (on_real + on_fake) / 2
                    losses[f"discriminator_{name}"].backward()
                average_gradients(D_HR, D_LR)
                optimizer_d.step()

                # log
                meter.add(losses, G, F, D_HR, D_LR)
                at["step"] += 1
                bar.update()
                if at["step"] % show_every == 0:
                    bar.set_postfix(meter.shown(title), refresh=False)

            if stop.agreed:
                run.save()
                bar.close()
                print(f"saved: go on with resume=True (--resume), out_dir {out_dir}")
                sys.exit(128 + stop.agreed)
            means = meter.means(title)

            # validate
            at |= {"epoch": at["epoch"] + 1, "step": 0}
            picture = out_dir / "samples" / f"{at['epoch']:04d}.png"
            psnr_y, ssim_y = on_first(validation.measure, G.forward, device, picture)
            row = {
                "epoch": at["epoch"],
                "step": at["epoch"] * steps_per_epoch,
                "seconds": round(time.perf_counter() - began, 1),
                "learning_rate": optimizer_g.param_groups[0]["lr"],
                "psnr_y": psnr_y,
                "ssim_y": ssim_y,
            }
            rows.append(row | means)
            better = psnr_y > at["best"]
            at |= {"best": psnr_y, "stale": 0} if better else {"stale": at["stale"] + 1}
            figures = [f"PSNR-Y {psnr_y:.2f} dB", f"SSIM-Y {ssim_y:.4f}"]
            figures += [f"{loss} {mean:.4f}" for loss, mean in means.items()]
            bar.write(f"{title}: {', '.join(figures)}{' (best)' if better else ''}")

            # save
            if is_first():
                write_log(out_dir / "log.csv", rows)
                plot_curves(out_dir / "curves.png", rows, validation.bicubic_psnr_y)
                for name, network in networks.items():
                    checkpoint.save(out_dir / f"{name}.pth", network.state_dict())
                if better:
                    checkpoint.save(out_dir / "G_LR2HR_best.pth", G.state_dict())
            meter.restart()
            run.save()
    print(f"complete: {out_dir / 'G_LR2HR.pth'}")
    return out_dir


if __name__ == "__main__":
    command_line(train_cyclegan_sr)
