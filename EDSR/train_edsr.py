"""Train EDSR: residual blocks without batch norm, for PSNR alone.

Lim et al. 2017, "Enhanced Deep Residual Networks for Single Image Super-Resolution",
arXiv 1707.02921.

The published baseline, on DIV2K:
    python EDSR/train_edsr.py
The full network, started from a smaller scale's as in the paper:
    python EDSR/train_edsr.py --n-blocks 32 --n-features 256 --start-from edsr_x2.pt
Minutes, on built-in photos (python scripts/prepare_dataset.py builtin):
    python EDSR/train_edsr.py --hr-folder div2k/builtin/DIV2K_train_HR \
        --lr-folder div2k/builtin/DIV2K_train_LR_bicubic/X4 --n-epochs 3 --steps-per-epoch 300 \
        --patch-size 96 --learning-rate 1e-3

Differences from the paper: the network saved is the newest, the paper keeps the best of the
validation (edsr_best.pth here); L1 is of values to 1 instead of 255, which Adam makes equal.
"""

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
from EDSR.dataset import crops_and_validation
from EDSR.model import EDSR

FOLDER = Path(__file__).resolve().parent
FIXED = ("n_blocks", "n_features", "patch_size", "steps_per_epoch", "seed")


def train_edsr(
    *,
    # data
    lr_folder: Path | None = None,  # folder of LR photos; None: DIV2K, downloaded on first use
    hr_folder: Path | None = None,  # folder of HR photos, paired with LR's by name
    valid_lr_folder: Path | None = None,  # held-out photos; None: DIV2K's or own "valid" folders
    valid_hr_folder: Path | None = None,
    degradation: Degradation = "none",  # second_order: LR is made of HR as real photos are worn
    n_valid: int = 10,  # held-out photos used, at most (paper)
    valid_crop: int = 1024,  # HR pixels; of larger held-out photos the centre is used
    patch_size: int = 192,  # HR pixels, a multiple of 4 (paper: LR 48)
    batch_size: int = 16,  # crops a step (paper)
    workers: int = 2,  # processes that cut crops ahead; 0: none
    # model
    n_blocks: int = 16,  # residual blocks (paper: baseline 16, full 32)
    n_features: int = 64,  # channels (paper: baseline 64, full 256, with residuals scaled by 0.1)
    gradient_checkpointing: bool = False,  # what is inside blocks is computed twice, not kept
    start_from: Path | None = None,  # .pth to begin with, ours, published, of any scale; or edsr
    # optimisation
    n_epochs: int = 300,  # (published: 300,000 steps)
    steps_per_epoch: int = 1000,  # an epoch ends in validation and a checkpoint
    learning_rate: float = 1e-4,  # Adam (paper)
    milestones: tuple[float, ...] = (2 / 3,),  # rate halved, of all steps (paper: at 200,000)
    betas: tuple[float, float] = (0.9, 0.999),  # Adam (paper)
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
    """Train EDSR and return the folder of the run.

    Written there: edsr.pth (the newest), edsr_best.pth (the best by PSNR-Y), state.pth (to resume),
    config.json, log.csv, curves.png and samples/.
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
    network = EDSR(n_blocks, n_features)
    network.checkpointing = gradient_checkpointing
    if start_from is not None:
        recipes.start_from(network, recipes.named(start_from, FOLDER), tail=("tail.",))
    network = training.prepare(network)

    # optimiser
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(trained, betas=betas, fused=True)

    training.register(network=network, optimizer=optimizer)
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
                epoch.log({"pixel": loss}, learning_rate=rate)

            epoch.validate(network)
            epoch.save({"edsr": network}, best={"edsr_best": network})
    return training.out_dir


if __name__ == "__main__":
    command_line(train_edsr)
