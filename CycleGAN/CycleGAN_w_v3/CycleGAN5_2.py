r"""Train CycleGAN, version 3: F learns how LR photos come about, and makes pairs for G.

Zhu et al. 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks",
arXiv 1703.10593, and Maeda 2020, "Unpaired Image Super-Resolution using Pseudo-Supervision",
arXiv 2002.11397. G enlarges LR photos four times, F reduces HR photos as much; no LR photo is of
the same scene as an HR photo.

The full run, on DIV2K (2,000 steps; a GPU):
    python CycleGAN/CycleGAN_w_v3/CycleGAN5_2.py
Minutes on two cores, on built-in photos:
    python scripts/prepare_dataset.py builtin
    python CycleGAN/CycleGAN_w_v3/CycleGAN5_2.py \
        --lr-folder div2k/builtin/DIV2K_train_LR_bicubic/X4 \
        --hr-folder div2k/builtin/DIV2K_train_HR --n-features 16 --lr-size 32 --hr-size 128 \
        --learning-rate 1e-3 --n-epochs 2 --steps-per-epoch 100 --out-dir runs/cyclegan_v3
For LR photos that were not made by bicubic (noise, blur, JPEG), add --back-projections 0.

Differences from version 2:
- Pseudo-supervision (lambda_cycle): in the cycle from HR, F is held fixed. G learns from the pairs
  (F(hr), hr) as if they were real ones, and F has no reason left to hide anything for G in F(hr),
  which therefore needs no noise. Where LR is made by bicubic, F stays bicubic, and this comes close
  to supervised training; where it is not, F has to find out how LR looks, and does.
- The cycle from LR is left out: F's errors in it, early on, taught G to do nothing, and it is the
  most expensive part of a step. G is held to its LR photo in the low frequencies instead, where
  blur and noise change little (lambda_consistency, low_factor).
- Both discriminators see only the high frequencies, so that G and F cannot please them by colours
  or shifts; an L1 loss holds F to bicubic in the low ones (high_frequencies_only, lambda_low).
- F gets a channel of random numbers to make noise from (noise_channel).
- G's result is projected back onto its LR photo, where that was made by bicubic (back_projections).
- Each generator has its own adversarial weight (lambda_gan_hr, lambda_gan_lr): F has no other
  teacher, G has a better one.
Tried and off: a relativistic loss (relativistic) and R1 (r1_weight). A warm-up of F before G's
first pair left G with nothing but noise to follow, so there is none.

Differences from the papers that remain: as in version 1, generators that change the size, no
instance norm, a small batch, the identity loss by way of bicubic resizing and off.
"""

import copy
import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import common  # noqa: F401, it says what is not installed

import torch
from torch.nn import functional

from common.data.resize import detail, resize
from common.measure.validation import Validation
from common.processes import batch_mean, count
from common.run.flags import command_line
from common.run.recipes import update_ema
from common.run.training import Training
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
FIXED = ("n_features", "back_projections", "noise_channel", "d_lr_strides", "pool_size")
FIXED += ("lr_size", "hr_size", "batch_size", "steps_per_epoch", "seed")


def as_stored(image: torch.Tensor) -> torch.Tensor:
    """Return what a file of 8 bits would keep of `image` in [0, 1], by and large."""
    return (image * 255).round().clamp(0, 255) / 255


def high_frequencies(image: torch.Tensor, factor: int) -> torch.Tensor:
    """Return what `image` (N, C, H, W) loses when it is scaled down by `factor`, around 0.5."""
    return detail(image, factor) + 0.5


def discriminator_loss(
    real: torch.Tensor, fake: torch.Tensor, relativistic: bool = False
) -> torch.Tensor:
    """Return the least squares loss of scores on real images, to be 1, and on fake ones, to be 0.

    Relativistic (Jolicoeur-Martineau 2018, arXiv 1807.00734): real 1 above the fakes' mean and fake
    1 below the reals'. The two terms are averaged.
    """
    real, fake = real.float(), fake.float()
    if relativistic:
        real, fake = real - batch_mean(fake), fake - batch_mean(real) + 1
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def generator_loss(
    D: torch.nn.Module, fake: torch.Tensor, real: torch.Tensor, relativistic: bool = False
) -> torch.Tensor:
    """Return the loss of a generator whose `fake` images D should take for real ones."""
    if not relativistic:
        return (D(fake).float() - 1).square().mean()
    with torch.no_grad():
        on_real = D(real)
    return discriminator_loss(D(fake), on_real, relativistic)


def gradient_penalty(D: torch.nn.Module, real: torch.Tensor) -> torch.Tensor:
    """Return R1 (Mescheder et al. 2018, arXiv 1801.04406): E[|grad D(real)|^2] / 2."""
    real = real.detach().requires_grad_()
    scores = D(real).float().mean((1, 2, 3)).sum()
    (gradient,) = torch.autograd.grad(scores, real, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean() / 2


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
    batch_size: int = 4,  # LR and HR images a step, each
    workers: int = 2,  # processes that load ahead; 0: none
    # model
    n_features: int = 64,  # channels of the first layers of all four networks
    back_projections: int = 2,  # of G's result onto its LR photo; 0 where that is no bicubic one
    noise_channel: bool = True,  # F gets a channel of random numbers, to make noise from
    d_lr_strides: tuple[int, int, int] = (1, 2, 1),  # of D_LR's first three convolutions
    # loss
    lambda_cycle: float = 10.0,  # L1(G(F(hr)), hr), F held fixed in it
    lambda_identity: float = 0.0,  # L1(F(up(lr)), lr) + L1(down(G(lr)), lr); 0: off
    lambda_consistency: float = 10.0,  # L1(low(down(G(lr))), low(lr))
    lambda_low: float = 2.5,  # L1(low(F(hr)), low(down(hr)))
    low_factor: int = 2,  # `low` scales LR images down by this much: 2 or 4
    lambda_gan_hr: float = 0.003,  # adversarial term of G
    lambda_gan_lr: float = 1.0,  # adversarial term of F
    high_frequencies_only: bool = True,  # what the discriminators see
    relativistic: bool = False,  # adversarial loss; False: least squares as in version 1
    r1_weight: float = 0.0,  # gradient penalty of the discriminators; 0: off
    r1_every: int = 16,  # steps between penalties, each that much stronger
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
    """Train CycleGAN, version 3, and return the folder of the run.

    Written there: G_LR2HR.pth, F_HR2LR.pth, D_HR.pth, D_LR.pth (the newest), G_LR2HR_best.pth (the
    best by PSNR-Y), state.pth (to resume), config.json, log.csv, curves.png and samples/.
    """
    training = Training(locals(), fixed=FIXED)
    if hr_size != 4 * lr_size or lr_size < 24 or low_factor not in (2, 4) or lr_size % low_factor:
        raise ValueError(
            f"lr_size {lr_size}, hr_size {hr_size}, low_factor {low_factor}: expected lr_size 24 "
            "or more (the LR discriminator's strides need it), hr_size 4 times as much, and "
            "low_factor 2 or 4, a divisor of lr_size"
        )

    # data
    lr_photos, hr_photos, valid_pairs = unpaired_photos(
        lr_folder, hr_folder, valid_lr_folder, valid_hr_folder, n_valid
    )
    photos = UnpairedPhotos(lr_photos, hr_photos, lr_size, hr_size, seed, crop=True)
    validation = Validation(valid_pairs, valid_crop)
    steps_per_epoch = steps_per_epoch or max(1, len(photos) // (batch_size * count()))

    # networks
    torch.manual_seed(seed)
    G = GeneratorSR(n_features, back_projections=back_projections)
    F = GeneratorDown(n_features, noise_channel=noise_channel)
    D_HR = start_normal(Discriminator(n_features))
    D_LR = Discriminator(n_features, d_lr_strides, spectral_norm=True)
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

    def low(image: torch.Tensor) -> torch.Tensor:
        return resize(image, 1 / low_factor)

    def see(image: torch.Tensor, factor: int) -> torch.Tensor:
        return high_frequencies(image, factor) if high_frequencies_only else image

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
                    fake_lr = F(hr)
                    recovered_hr = G(as_stored(fake_lr.detach()))
                    reduced_sr, reduced_hr = resize(fake_hr, 1 / 4), resize(hr, 1 / 4)
                    seen_hr, seen_fake_hr = see(hr, 4), see(fake_hr, 4)
                    seen_lr, seen_fake_lr = see(lr, low_factor), see(fake_lr, low_factor)
                    losses = {
                        "gan_hr": generator_loss(D_HR, seen_fake_hr, seen_hr, relativistic),
                        "gan_lr": generator_loss(D_LR, seen_fake_lr, seen_lr, relativistic),
                        "cycle_hr": functional.l1_loss(recovered_hr, hr),
                        "consistency": functional.l1_loss(low(reduced_sr), low(lr)),
                        "low": functional.l1_loss(low(fake_lr), low(reduced_hr)),
                    }
                    loss = lambda_gan_hr * losses["gan_hr"] + lambda_gan_lr * losses["gan_lr"]
                    loss = loss + lambda_cycle * losses["cycle_hr"] + lambda_low * losses["low"]
                    loss = loss + lambda_consistency * losses["consistency"]
                    if lambda_identity:
                        of_f = functional.l1_loss(F(resize(lr, 4)), lr)
                        losses["identity"] = of_f + functional.l1_loss(reduced_sr, lr)
                        loss = loss + lambda_identity * losses["identity"]
                optimizer_g.zero_grad()
                loss.backward()
                optimizer_g.step()
                update_ema(average, G, ema_decay, step)

                # discriminators
                optimizer_d.zero_grad()
                for name, D, real, fake in (
                    ("hr", D_HR, seen_hr, pool_hr.query(seen_fake_hr)),
                    ("lr", D_LR, seen_lr, pool_lr.query(seen_fake_lr)),
                ):
                    D.requires_grad_(True)
                    with training.autocast():
                        loss = discriminator_loss(D(real), D(fake), relativistic)
                    losses[f"discriminator_{name}"] = loss
                    if r1_weight and step % r1_every == 0:
                        loss = loss + r1_weight * r1_every * gradient_penalty(D.forward, real)
                    loss.backward()
                optimizer_d.step()
                epoch.log(losses, learning_rate=rate)

            epoch.validate(average)
            epoch.save(networks, best={"G_LR2HR_best": average})
    return training.out_dir


if __name__ == "__main__":
    command_line(train_cyclegan_sr)
