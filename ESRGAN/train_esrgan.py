"""Train ESRGAN: a network for PSNR first, then with an adversary for sharp, natural detail.

Wang et al. 2018, "ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks",
arXiv 1809.00219.

The published run, on DIV2K (a GPU and days):
    python ESRGAN/train_esrgan.py
Minutes, on photos that it prepares: bash scripts/quickstart.sh
Real photos, small networks and what is trained in hours: ESRGAN/README.md.

Differences from the paper:
- Each RRDB ends in a convolution of its own that starts as the identity
  (--no-rrdb-conv-last gives the published network).
- HR patches are 128 pixels in both stages (the supplement: 192 in the PSNR stage), of DIV2K's 800
  photos (the paper adds Flickr2K and OutdoorSceneTraining).
- The saved generators are exponential moving averages of the trained ones.
- The PSNR stage hands its best weights, by PSNR-Y on held-out photos, to the GAN stage.
"""

import copy
import functools
import math
import sys
from pathlib import Path
from typing import Literal

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import common  # noqa: F401, it says what is not installed

import torch
from torch.nn import functional

from common import checkpoint
from common.measure.validation import Degradation
from common.run.flags import command_line
from common.run.recipes import learning_rate_at, named, update_ema
from common.run.training import Training
from ESRGAN.dataset import crops_and_validation
from ESRGAN.losses import GAN_LOSSES, PerceptualNetwork, color_loss, perceptual_features
from ESRGAN.model import Discriminator, GeneratorRRDB, interpolate, set_weights
from ESRGAN.real import UNetDiscriminator, sharpen

FOLDER = Path(__file__).resolve().parent
FIXED = ("n_blocks", "n_features", "growth", "rrdb_conv_last", "discriminator")
FIXED += ("discriminator_features", "degradation", "patch_size", "steps_per_epoch", "seed")


def train_esrgan(
    *,
    # data
    lr_folder: Path | None = None,  # folder of LR photos; None: DIV2K, downloaded on first use
    hr_folder: Path | None = None,  # folder of HR photos, paired with LR's by name
    valid_lr_folder: Path | None = None,  # held-out photos; None: DIV2K's or own "valid" folders
    valid_hr_folder: Path | None = None,
    degradation: Degradation = "none",  # second_order: LR is made of HR as real photos are worn
    n_valid: int = 10,  # held-out photos used, at most
    valid_crop: int = 1024,  # HR pixels; of larger held-out photos the centre is used
    patch_size: int = 128,  # HR pixels, a multiple of 32 (paper: 128, and 192 in the PSNR stage)
    batch_size: int = 16,  # crops a step (paper)
    workers: int = 2,  # processes that cut crops ahead; 0: none
    # model
    n_blocks: int = 23,  # RRDBs (paper)
    n_features: int = 64,  # channels (paper)
    growth: int = 32,  # channels that each convolution in a dense block adds (paper)
    rrdb_conv_last: bool = True,  # a convolution at the end of each RRDB (not in the paper)
    gradient_checkpointing: bool = False,  # what is inside RRDBs is computed twice, not kept
    discriminator: Literal["vgg", "unet"] = "vgg",  # one logit a crop, or a pixel (Real-ESRGAN)
    discriminator_features: int = 64,  # channels of its first layers (authors' code)
    nearest_start: bool = False,  # starts as nearest-neighbour enlargement: for short trainings
    start_from: Path | None = None,  # generator .pth to begin with, a published one, or esrgan-psnr
    # loss of the GAN stage; the PSNR stage has L1 alone, and color_weight
    perceptual_weight: float = 1.0,  # VGG19 features (paper); 0: no VGG19 needed
    gan_weight: float = 5e-3,  # (paper)
    gan_loss: Literal["relativistic", "vanilla"] = "relativistic",  # relativistic average (paper)
    pixel_weight: float = 1e-2,  # L1 (paper)
    color_weight: float = 0.0,  # L1 of SR's and LR's mean colours (not in papers)
    sharpen_targets: bool = False,  # of the perceptual and the pixel loss (Real-ESRGAN)
    perceptual_network: PerceptualNetwork = "vgg19",  # efficientnet_lite0: a package of 18 MB
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
    resume: bool = False,  # continue the run in out_dir
    overwrite: bool = False,  # delete the run in out_dir and start anew
) -> Path:
    """Train ESRGAN's two stages and return the folder of the run.

    Written there: generator_psnr.pth (the PSNR stage's best), generator.pth (the newest, at the
    end the GAN stage's last), generator_best.pth (the GAN stage's best by PSNR-Y, which that stage
    lowers by design), discriminator.pth, state.pth (to resume), config.json, log.csv, curves.png
    and samples/.
    """
    training = Training(locals(), fixed=FIXED)
    if n_epochs_gan is None:
        n_epochs_gan = math.ceil(0.4 * n_epochs)
    if patch_size % 32 or (n_epochs_gan and batch_size == 1 and patch_size == 32):
        raise ValueError(
            f"patch_size {patch_size}, batch_size {batch_size}: expected patch_size a multiple of "
            "32, and for the discriminator's batch norm patch_size 64 or batch_size 2 at least"
        )

    # data
    features = None  # (first of all, as weights may be missing and DIV2K takes long)
    if perceptual_weight > 0 and n_epochs_gan > 0:
        features = training.prepare(perceptual_features(perceptual_network, vgg_weights))
    crops, validation = crops_and_validation(
        *(lr_folder, hr_folder, valid_lr_folder, valid_hr_folder),
        n_valid=n_valid,
        valid_crop=valid_crop,
        patch_size=patch_size,
        seed=seed,
        degradation=degradation,
    )

    # networks
    torch.manual_seed(seed)
    generator = GeneratorRRDB(n_blocks, n_features, growth, rrdb_conv_last)
    generator.checkpointing = gradient_checkpointing
    if nearest_start:
        generator.start_as_nearest()
    if start_from is not None:
        set_weights(generator, checkpoint.load(named(start_from, FOLDER)))
    generator = training.prepare(generator)
    average = copy.deepcopy(generator).requires_grad_(False)
    if discriminator == "unet":
        judge = training.prepare(UNetDiscriminator(discriminator_features))
    else:  # (On CPUs batch norm of large images is slow in channels_last.)
        judge = Discriminator(patch_size, discriminator_features)
        judge = training.prepare(judge, cpu_layout=torch.contiguous_format)

    # optimisers
    adam = functools.partial(torch.optim.Adam, betas=betas, fused=True)
    optimizer_g, optimizer_d = adam(generator.parameters()), adam(judge.parameters())

    training.register(generator=generator, average=average, discriminator=judge)
    training.register(optimizer_g=optimizer_g, optimizer_d=optimizer_d)
    n_steps, n_steps_gan = n_epochs * steps_per_epoch, n_epochs_gan * steps_per_epoch
    stages = {"psnr": n_epochs, "gan": n_epochs_gan}
    training.record(generator, patch_size // 4)
    with training.begin(crops, validation, steps_per_epoch, stages):
        # PSNR stage
        for epoch in training.epochs("psnr", patience):
            for step, (lr, hr) in epoch:
                rate = learning_rate_at(step / n_steps, learning_rate, milestones)
                optimizer_g.param_groups[0]["lr"] = rate
                with training.autocast():
                    sr = generator(lr)
                    losses = {"pixel": functional.l1_loss(sr, hr)}
                    loss = losses["pixel"]
                    if color_weight:
                        losses["color"] = color_loss(sr, lr)
                        loss = loss + color_weight * losses["color"]
                optimizer_g.zero_grad()
                loss.backward()
                optimizer_g.step()
                update_ema(average, generator, ema_decay, step)
                epoch.log(losses, learning_rate=rate)

            epoch.validate(average)
            epoch.save({"generator": average}, best={"generator_psnr": average})

        # GAN stage, from the PSNR stage's best network
        if training.enters("gan"):
            generator.load_state_dict(training.load("generator_psnr") or generator.state_dict())
            training.write({"generator_psnr": generator})
            average.load_state_dict(generator.state_dict())
            optimizer_g.load_state_dict(adam(generator.parameters()).state_dict())
        psnr_weights = training.load("generator_psnr")
        mixed = copy.deepcopy(average)  # of both stages, by alpha

        for epoch in training.epochs("gan"):
            for step, (lr, hr) in epoch:
                rate = learning_rate_at(step / n_steps_gan, learning_rate_gan, milestones_gan)
                optimizer_g.param_groups[0]["lr"] = optimizer_d.param_groups[0]["lr"] = rate
                with training.autocast():
                    sr = generator(lr)
                    image = sr.detach().requires_grad_()  # where the losses' gradients meet
                    # The discriminator is the same in both turns, and so are its logits.
                    for_generator, for_judge = GAN_LOSSES[gan_loss](judge(hr), judge(image))
                    target = sharpen(hr) if sharpen_targets else hr
                    losses = {"pixel": functional.l1_loss(image, target)}
                    losses |= {"gan": for_generator, "discriminator": for_judge}
                    loss = gan_weight * losses["gan"] + pixel_weight * losses["pixel"]
                    if color_weight:
                        losses["color"] = color_loss(image, lr)
                        loss = loss + color_weight * losses["color"]
                    if features:
                        losses["perceptual"] = features.distance(image, target)
                        loss = perceptual_weight * losses["perceptual"] + loss

                # generator
                loss.backward(inputs=[image], retain_graph=True)
                optimizer_g.zero_grad()
                sr.backward(image.grad)
                optimizer_g.step()
                update_ema(average, generator, ema_decay, step)

                # discriminator
                optimizer_d.zero_grad()
                for_judge.backward(inputs=list(judge.parameters()))
                optimizer_d.step()
                epoch.log(losses, learning_rate=rate)

            mixed.load_state_dict(interpolate(psnr_weights, average.state_dict(), alpha))
            epoch.validate(mixed)
            epoch.save({"generator": mixed, "discriminator": judge}, best={"generator_best": mixed})
    return training.out_dir


if __name__ == "__main__":
    command_line(train_esrgan)
