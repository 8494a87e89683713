"""Train ESRGAN: a network for PSNR first, then with an adversary for sharp, natural detail.

Wang et al. 2018, "ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks",
arXiv 1809.00219.

The published run, on DIV2K (a GPU and days):
    python ESRGAN/train_esrgan.py
Minutes, on the photos that scripts/quickstart.sh prepares:
    bash scripts/quickstart.sh

Differences from the paper:
- Each RRDB ends in a convolution of its own that starts as the identity
  (--no-rrdb-conv-last gives the published network).
- HR patches are 128 pixels in both stages (the supplement trains the PSNR stage on 192).
- Photos are DIV2K's 800; the paper adds Flickr2K and OutdoorSceneTraining.
- The saved generators are exponential moving averages of the trained ones.
- The PSNR stage hands its best weights, by PSNR-Y on held-out photos, to the GAN stage.
"""

from __future__ import annotations

import contextlib
import copy
import math
import sys
import time
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.nn import functional

from common import checkpoint
from common.data.crops import batches, to_device
from common.device import autocast, choose_bfloat16, choose_device, describe, place
from common.perceptual import VGG19Features
from common.processes import average_gradients, is_first, mean_of_all, on_first
from common.progress import progress_bar
from common.run.ema import update_ema
from common.run.flags import command_line
from common.run.folder import Run
from common.run.log import LossMeter, plot_curves, write_log
from common.run.stop import StopSignal
from ESRGAN.dataset import crops_and_validation
from ESRGAN.model import Discriminator, GeneratorRRDB, interpolate, set_weights

FOLDER = Path(__file__).resolve().parent


def relativistic_loss(winner: torch.Tensor, loser: torch.Tensor) -> torch.Tensor:
    """Return the relativistic average GAN loss (eq. 1 and 2), its two terms averaged.

    -1/2 E[log sigmoid(w - E[l])] - 1/2 E[log(1 - sigmoid(l - E[w]))] for logits w that shall be
    above the logits l: real above fake for the discriminator, fake above real for the generator.

    Args:
        winner, loser: logits (N, 1), of any precision.
    """
    winner, loser = winner.float(), loser.float()  # as their differences are small
    above, below = winner - mean_of_all(loser.mean()), loser - mean_of_all(winner.mean())
    return (functional.softplus(-above).mean() + functional.softplus(below).mean()) / 2


def learning_rate_at(progress: float, start: float, milestones: tuple[float, ...]) -> float:
    """Return `start` halved at each of the milestones passed; progress and milestones in [0, 1]."""
    return start * 0.5 ** sum(progress >= milestone for milestone in milestones)


def train_esrgan(
    *,
    # data
    lr_folder: Path | None = None,  # folder of LR photos; None: DIV2K, downloaded on first use
    hr_folder: Path | None = None,  # folder of HR photos, paired with LR's by name
    valid_lr_folder: Path | None = None,  # held-out photos; None: DIV2K's or own "valid" folders
    valid_hr_folder: Path | None = None,
    n_valid: int = 10,  # held-out photos used, at most
    valid_crop: int = 1024,  # HR pixels; of larger held-out photos the centre is used
    patch_size: int = 128,  # HR pixels, a multiple of 32 (paper: 128, and 192 in the PSNR stage)
    batch_size: int = 16,  # crops a step (paper)
    workers: int = 2,  # processes that cut crops ahead; 0: none
    photos_on_gpu: bool | None = None,  # keep all in its memory, no workers; None: if they fit
    # model
    n_blocks: int = 23,  # RRDBs (paper)
    n_features: int = 64,  # channels (paper)
    growth: int = 32,  # channels that each convolution in a dense block adds (paper)
    rrdb_conv_last: bool = True,  # a convolution at the end of each RRDB (not in the paper)
    gradient_checkpointing: bool = False,  # what is inside RRDBs is computed twice, not kept
    discriminator_features: int = 64,  # channels of its first layers (authors' code)
    start_from: Path | None = None,  # generator .pth to begin with, ours or a published one
    # loss of the GAN stage; the PSNR stage has L1 alone
    perceptual_weight: float = 1.0,  # VGG19 features (paper); 0: no VGG19 needed
    gan_weight: float = 5e-3,  # relativistic average GAN (paper)
    pixel_weight: float = 1e-2,  # L1 (paper)
    vgg_weights: Path | None = None,  # file of torchvision's VGG19 weights; None: downloaded
    # optimisation
    n_epochs: int = 1000,  # of the PSNR stage (published: 1,000,000 steps)
    n_epochs_gan: int | None = None,  # of the GAN stage; None: 0.4 n_epochs (published: 400,000)
    steps_per_epoch: int = 1000,  # an epoch ends in validation and a checkpoint
    learning_rate: float = 2e-4,  # PSNR stage, Adam (paper)
    learning_rate_gan: float = 1e-4,  # GAN stage, both networks (paper)
    milestones: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8),  # of the PSNR stage: rate halved (paper)
    milestones_gan: tuple[float, ...] = (0.125, 0.25, 0.5, 0.75),  # of the GAN stage (paper)
    betas: tuple[float, float] = (0.9, 0.99),  # Adam (authors' code)
    ema_decay: float = 0.999,  # a step, of the averaged generator (authors' code)
    patience: int = 200,  # epochs without a better PSNR-Y that end the PSNR stage; 0: never
    alpha: float = 1.0,  # network interpolation in generator.pth, 0 (PSNR) to 1 (GAN) (paper)
    # run
    show_every: int = 20,  # steps between losses on the progress bar (each waits for the GPU)
    out_dir: Path = FOLDER / "runs" / "default",  # where everything is written
    seed: int = 0,  # of weights and crops, 0 or more
    device: str = "cuda",  # without a GPU the CPU is taken
    bfloat16: bool | None = None,  # autocast; None: if the device has instructions for it
    compile: bool = False,  # torch.compile: minutes at the beginning, faster steps on a GPU
    deterministic: bool = False,  # the same bits from each run on a GPU, too, at some speed
    resume: bool = False,  # go on with the run in out_dir
    overwrite: bool = False,  # delete the run in out_dir and start anew
) -> Path:
    """Train ESRGAN's two stages and return the folder of the run.

    Written there: generator_psnr.pth (the PSNR stage's best), generator.pth (the newest, at the
    end the GAN stage's last), generator_best.pth (the GAN stage's best by PSNR-Y, which that stage
    lowers by design), discriminator.pth, state.pth (to resume), config.json, log.csv, curves.png
    and samples/.
    """
    # setup
    config = {k: v if isinstance(v, int | float | None) else str(v) for k, v in locals().items()}
    out_dir = Path(out_dir)
    if n_epochs_gan is None:
        n_epochs_gan = math.ceil(0.4 * n_epochs)
    gan_weights = {"perceptual": perceptual_weight, "gan": gan_weight, "pixel": pixel_weight}
    stages = {  # epochs, learning rate, its milestones, weights of the losses
        "psnr": (n_epochs, learning_rate, milestones, {"pixel": 1.0}),
        "gan": (n_epochs_gan, learning_rate_gan, milestones_gan, gan_weights),
    }
    if patch_size % 32 or seed < 0 or min(batch_size, steps_per_epoch, n_valid) < 1:
        raise ValueError(
            f"patch_size {patch_size}, seed {seed}, batch_size {batch_size}, steps_per_epoch "
            f"{steps_per_epoch}, n_valid {n_valid}: expected patch_size a multiple of 32, seed 0 "
            "or more, the others 1 or more"
        )
    if n_epochs_gan and batch_size == 1 and patch_size == 32:
        raise ValueError(
            "batch_size 1 with patch_size 32 leaves the discriminator's batch norm one value a "
            "channel: take batch_size 2 or patch_size 64"
        )
    fixed = ("n_blocks", "n_features", "growth", "rrdb_conv_last", "discriminator_features")
    fixed += ("patch_size", "steps_per_epoch", "seed")
    device = choose_device(device, deterministic)
    config["bfloat16"] = bfloat16 = choose_bfloat16(device, bfloat16)
    run = Run(out_dir, config, fixed, resume, overwrite)
    # First of all, as its weights may be missing and DIV2K takes long.
    use_vgg = perceptual_weight > 0 and n_epochs_gan > 0
    vgg = place(VGG19Features(vgg_weights), device, compile) if use_vgg else None

    # data
    crops, validation = crops_and_validation(
        *(lr_folder, hr_folder, valid_lr_folder, valid_hr_folder),
        n_valid=n_valid,
        valid_crop=valid_crop,
        patch_size=patch_size,
        seed=seed,
    )

    # models
    torch.manual_seed(seed)
    generator = GeneratorRRDB(n_blocks, n_features, growth, rrdb_conv_last)
    generator.checkpointing = gradient_checkpointing
    if start_from is not None:
        set_weights(generator, checkpoint.load(start_from))
    generator = place(generator, device, compile)
    average = copy.deepcopy(generator).requires_grad_(False)
    kept = copy.deepcopy(average)  # what is validated and saved
    discriminator = Discriminator(patch_size, discriminator_features)
    # (On CPUs batch norm of large images is slow in channels_last.)
    discriminator = place(discriminator, device, compile, cpu_layout=torch.contiguous_format)

    # optimisers
    def adam(network: torch.nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(network.parameters(), betas=betas, fused=True)

    optimizer_g, optimizer_d = adam(generator), adam(discriminator)

    # resume
    at = {"stage": "psnr", "epoch": 0, "step": 0, "all_epochs": 0, "best": -math.inf, "stale": 0}
    rows = run.rows  # of the log
    meter = LossMeter(batch_size, lambda ks: crops.names(at["all_epochs"], ks))
    stateful = {
        "generator": generator,
        "average": average,
        "discriminator": discriminator,
        "optimizer_g": optimizer_g,
        "optimizer_d": optimizer_d,
        "meter": meter,
    }
    run.restore(at, stateful, device)
    psnr_weights = {}  # what the GAN stage started from
    if at["stage"] == "gan" and alpha < 1:
        loaded = on_first(checkpoint.load, out_dir / "generator_psnr.pth")
        psnr_weights = {name: weight.to(device) for name, weight in loaded.items()}

    n_parameters = sum(p.numel() for p in generator.parameters())
    print(
        f"{len(crops)} photos to train on, {len(validation.photos)} held out (bicubic: PSNR-Y "
        f"{validation.bicubic_psnr_y:.2f} dB, SSIM-Y {validation.bicubic_ssim_y:.4f})\n"
        f"generator of {n_parameters:,} parameters on {describe(device, bfloat16)}, "
        f"writing to {out_dir}"
    )

    # loop
    began = time.perf_counter() - (rows[-1]["seconds"] if rows else 0)
    first_step = at["all_epochs"] * steps_per_epoch + at["step"]
    with (
        run,
        progress_bar(
            total=(n_epochs + n_epochs_gan) * steps_per_epoch, initial=first_step, unit="step"
        ) as bar,
        contextlib.closing(
            batches(crops, first_step, steps_per_epoch, batch_size, workers, device, photos_on_gpu)
        ) as stream,
        StopSignal() as stop,
    ):
        while True:
            enough = 0 < patience <= at["stale"]
            if at["stage"] == "psnr" and (at["epoch"] >= n_epochs or enough):
                if at["epoch"] > 0:
                    best = on_first(checkpoint.load, out_dir / "generator_psnr.pth")
                    generator.load_state_dict(best)
                psnr_weights = copy.deepcopy(generator.state_dict())
                if is_first():
                    checkpoint.save(out_dir / "generator_psnr.pth", psnr_weights)
                average.load_state_dict(psnr_weights)
                optimizer_g.load_state_dict(adam(generator).state_dict())
                at |= {"stage": "gan", "epoch": 0, "best": -math.inf, "stale": 0}
            gan = at["stage"] == "gan"
            if gan and at["epoch"] >= n_epochs_gan:
                break
            n_stage_epochs, initial_rate, stage_milestones, weights = stages[at["stage"]]
            title = f"{at['stage'].upper()} stage, epoch {at['epoch'] + 1}/{n_stage_epochs}"
            bar.set_description(title, refresh=False)

            while not stop.asked(at["step"], show_every) and at["step"] < steps_per_epoch:
                step = at["epoch"] * steps_per_epoch + at["step"]
                progress = step / (steps_per_epoch * n_stage_epochs)
                rate = learning_rate_at(progress, initial_rate, stage_milestones)
                optimizer_g.param_groups[0]["lr"] = optimizer_d.param_groups[0]["lr"] = rate
                lr, hr = to_device(next(stream), device)

                # generator
                with autocast(device, bfloat16):
                    sr = generator(lr)
                    image = sr.detach().requires_grad_()  # where the losses' gradients meet
                    losses = {"pixel": functional.l1_loss(image, hr)}
                    if gan:  # the discriminator is the same in both turns, and so are its logits
                        real, fake = discriminator(hr), discriminator(image)
                        losses["gan"] = relativistic_loss(fake, real.detach())
                        losses["discriminator"] = relativistic_loss(real, fake)
                    if gan and vgg:
                        with torch.no_grad():
                            real_features = vgg(hr)
                        losses["perceptual"] = functional.l1_loss(vgg(image), real_features)
                    loss = sum(weights[name] * losses[name] for name in weights if name in losses)
                loss.backward(inputs=[image], retain_graph=gan)
                optimizer_g.zero_grad()
                sr.backward(image.grad)
                average_gradients(generator)
                optimizer_g.step()
                update_ema(average, generator, ema_decay, step)

                # discriminator
                if gan:
                    optimizer_d.zero_grad()
                    losses["discriminator"].backward(inputs=list(discriminator.parameters()))
                    average_gradients(discriminator)
                    optimizer_d.step()

                # log
                meter.add(losses, generator, discriminator)
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
            kept.load_state_dict(
                interpolate(psnr_weights, average.state_dict(), alpha)
                if gan and alpha < 1
                else average.state_dict()
            )
            at |= {"epoch": at["epoch"] + 1, "step": 0, "all_epochs": at["all_epochs"] + 1}
            picture = out_dir / "samples" / f"{at['stage']}_{at['epoch']:04d}.png"
            psnr_y, ssim_y = on_first(validation.measure, kept, device, picture)
            row = {
                "stage": at["stage"],
                "epoch": at["epoch"],
                "step": at["all_epochs"] * steps_per_epoch,
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
                checkpoint.save(out_dir / "generator.pth", kept.state_dict())
                if better:
                    best = "generator_best.pth" if gan else "generator_psnr.pth"
                    checkpoint.save(out_dir / best, kept.state_dict())
                if gan:
                    checkpoint.save(out_dir / "discriminator.pth", discriminator.state_dict())
            meter.restart()
            run.save()
    print(f"complete: {out_dir / 'generator.pth'}")
    return out_dir


if __name__ == "__main__":
    command_line(train_esrgan)
