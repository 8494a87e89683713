"""Train SwinIR: attention within shifted windows, for PSNR alone.

Liang et al. 2021, "SwinIR: Image Restoration Using Swin Transformer", arXiv 2108.10257.

The published lightweight network, on DIV2K:
    python SwinIR/train_swinir.py
The classical one, started from another scale's as in the paper:
    python SwinIR/train_swinir.py --depths 6 6 6 6 6 6 --dim 180 --upsampler pixelshuffle \
        --start-from swinir_x2.pth
Minutes, on built-in photos (python scripts/prepare_dataset.py builtin):
    python SwinIR/train_swinir.py --hr-folder div2k/builtin/DIV2K_train_HR \
        --lr-folder div2k/builtin/DIV2K_train_LR_bicubic/X4 --n-epochs 3 --steps-per-epoch 100 \
        --patch-size 96 --batch-size 8 --learning-rate 1e-3

Difference from the paper: no stochastic depth (0.1 in the published code while it trains).
"""

import copy
import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import common  # noqa: F401, it says what is not installed

import torch
from torch.nn import functional

from common.measure.validation import Degradation
from common.run import recipes
from common.run.flags import command_line
from common.run.training import Training
from SwinIR.dataset import crops_and_validation
from SwinIR.model import SwinIR, Upsampler

FOLDER = Path(__file__).resolve().parent
TAIL = ("upsample.", "conv_before_upsample.", "conv_up", "conv_hr.", "conv_last.")
FIXED = ("depths", "dim", "n_heads", "upsampler", "three_convolutions")
FIXED += ("patch_size", "steps_per_epoch", "seed")


def train_swinir(
    *,
    # data
    lr_folder: Path | None = None,  # folder of LR photos; None: DIV2K, downloaded on first use
    hr_folder: Path | None = None,  # folder of HR photos, paired with LR's by name
    valid_lr_folder: Path | None = None,  # held-out photos; None: DIV2K's or own "valid" folders
    valid_hr_folder: Path | None = None,
    degradation: Degradation = "none",  # second_order: LR is made of HR as real photos are worn
    n_valid: int = 10,  # held-out photos used, at most
    valid_crop: int = 1024,  # HR pixels; of larger held-out photos the centre is used
    patch_size: int = 192,  # HR pixels, a multiple of 4 (paper: LR 48)
    batch_size: int = 32,  # crops a step (paper)
    workers: int = 2,  # processes that cut crops ahead; 0: none
    # model
    depths: tuple[int, ...] = (6, 6, 6, 6),  # blocks of each group (paper: lightweight)
    dim: int = 60,  # channels (paper: lightweight 60, classical 180)
    n_heads: int = 6,  # parts that attention splits them in (paper)
    upsampler: Upsampler = "pixelshuffledirect",  # classical: pixelshuffle (paper)
    three_convolutions: bool = False,  # after each group instead of one (paper: real-world, large)
    gradient_checkpointing: bool = False,  # what is inside blocks is computed twice, not kept
    start_from: Path | None = None,  # .pth to begin with, ours, published, of any scale; or swinir
    # optimisation
    n_epochs: int = 500,  # (published: 500,000 steps)
    steps_per_epoch: int = 1000,  # an epoch ends in validation and a checkpoint
    learning_rate: float = 2e-4,  # Adam (paper)
    milestones: tuple[float, ...] = (0.5, 0.8, 0.9, 0.95),  # of all steps: rate halved (paper)
    betas: tuple[float, float] = (0.9, 0.99),  # Adam (authors' code)
    ema_decay: float = 0.999,  # a step, of the averaged network (authors' code)
    patience: int = 0,  # epochs without a better PSNR-Y that end the run; 0: never
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
    """Train SwinIR and return the folder of the run.

    Written there: swinir.pth (the newest, averaged), swinir_best.pth (the best by PSNR-Y),
    state.pth (to resume), config.json, log.csv, curves.png and samples/.
    """
    training = Training(locals(), fixed=FIXED)

    # data
    crops, validation = crops_and_validation(
        *(lr_folder, hr_folder, valid_lr_folder, valid_hr_folder),
        n_valid=n_valid,
        valid_crop=valid_crop,
        patch_size=patch_size,
        seed=seed,
        degradation=degradation,
    )

    # network
    torch.manual_seed(seed)
    network = SwinIR(depths, dim, n_heads, upsampler, three_convolutions)
    network.checkpointing = gradient_checkpointing
    if start_from is not None:
        recipes.start_from(network, recipes.named(start_from, FOLDER), tail=TAIL)
    network = training.prepare(network)
    average = copy.deepcopy(network).requires_grad_(False)

    # optimiser
    optimizer = torch.optim.Adam(network.parameters(), betas=betas, fused=True)

    training.register(network=network, average=average, optimizer=optimizer)
    n_steps = n_epochs * steps_per_epoch
    training.record(network, patch_size // 4)
    with training.begin(crops, validation, steps_per_epoch, n_epochs):
        for epoch in training.epochs(patience=patience):
            for step, (lr, hr) in epoch:
                rate = recipes.learning_rate_at(step / n_steps, learning_rate, milestones)
                optimizer.param_groups[0]["lr"] = rate
                with training.autocast():
                    loss = functional.l1_loss(network(lr), hr)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                recipes.update_ema(average, network, ema_decay, step)
                epoch.log({"pixel": loss}, learning_rate=rate)

            epoch.validate(average)
            epoch.save({"swinir": average}, best={"swinir_best": average})
    return training.out_dir


if __name__ == "__main__":
    command_line(train_swinir)
