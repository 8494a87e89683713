r"""Train the SRVAE: many plausible HR photos for one LR photo, of any size.

After Sohn et al. 2015, "Learning Structured Output Representation using Deep Conditional Generative
Models", fully convolutional: prior p(z|LR), decoder p(HR|z,LR), and a recognition network
q(z|HR,LR), used in training only, which sees what HR has beyond bicubic.

The full run, on DIV2K (a GPU):
    python SRVAE/train_srvae.py
Minutes on two cores, on built-in photos:
    python scripts/prepare_dataset.py builtin
    python SRVAE/train_srvae.py --lr-folder div2k/builtin/DIV2K_train_LR_bicubic/X4 \
        --hr-folder div2k/builtin/DIV2K_train_HR --n-features 48 --batch-size 8 \
        --n-epochs 4 --steps-per-epoch 100 --out-dir runs/srvae

Differences from the paper, and from the CVAE here:
- z has a place: for each LR pixel n_latent numbers for the kind of detail, and one for each of its
  16 HR pixels for the pattern. LR's features scale and shift what the decoder makes of them; there
  are no skips of a U-Net, no linear layers and no batch norm.
- The decoder's image is bicubic plus detail, projected onto LR (projections). For LR photos that
  were not made by bicubic, add --projections 0.
- The likelihood is a Laplace distribution whose scale is the batch's mean absolute error, its
  maximum likelihood (Rybkin et al. 2021, "Simple and Effective VAE Training with Calibrated
  Decoders", arXiv 2006.13202, there for Gaussians). So the KL term's weight is 1, and no guess.
- The KL term's two halves are weighed apart (KL balancing): q's by 1, the prior's by prior_weight.
  Free bits (free_nats), for q only.
- What is drawn from the prior is trained as well, since q's z looks otherwise than the prior's: by
  the energy score of two samples, as images and as features of an ImageNet network, and the mean
  prediction by L1.
- The saved networks are exponential moving averages of the trained ones.
"""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import common  # noqa: F401, it says what is not installed

import torch
from torch.nn import functional

from common.data.resize import project
from common.measure.efficientnet import EfficientNetFeatures
from common.processes import batch_mean, on_main
from common.run.flags import command_line
from common.run.recipes import update_ema
from common.run.training import Training
from common.vae import PANELS, SHOWN, kl_terms, latent_diagnostics
from SRVAE.dataset import crops_and_validation
from SRVAE.model import SRVAE, Recognition

FOLDER = Path(__file__).resolve().parent
FIXED = ("n_features", "n_latent", "n_blocks", "n_detail", "projections")
FIXED += ("patch_size", "batch_size", "steps_per_epoch", "seed")


def laplace_nll(mean_error: torch.Tensor) -> torch.Tensor:
    """Return the negative log likelihood of a value under a Laplace distribution, in nats.

    Its scale is the most likely one, b = mean |HR - SR| over the batch, which makes it log(2 b) + 1
    (as Rybkin et al., section 3, for a Gaussian).
    """
    return (2 * mean_error).log() + 1


def energy_score(apart: Callable, first: Any, second: Any, hr: Any) -> torch.Tensor:
    """Return the energy score of two samples, lowest if they are drawn as HR is.

    E|x - y| - E|x - x'| / 2 of samples x, x' and HR y (Gneiting and Raftery 2007, eq. 22), with a
    distance |.| of images or of their features.
    """
    return (apart(first, hr) + apart(second, hr) - apart(first, second)) / 2


def images_apart(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the root mean square difference of images (N, 3, H, W), the mean over windows.

    Of 4 and of 16 pixels each way; the mean of both sizes.
    """
    square = (a - b).square().mean(1, keepdim=True)
    means = [functional.avg_pool2d(square, size) for size in (4, 16)]
    return sum((mean + 1e-6).sqrt().mean() for mean in means) / len(means)


def features_apart(a: list[torch.Tensor], b: list[torch.Tensor]) -> torch.Tensor:
    """Return the distance of `EfficientNetFeatures`, the mean over places and depths."""
    squares = [(x - y).square().sum(1) for x, y in zip(a, b, strict=True)]
    return sum((square + 1e-4).sqrt().mean() for square in squares) / len(squares)


def train_srvae(
    *,
    # data
    lr_folder: Path | None = None,  # folder of LR photos; None: DIV2K, downloaded on first use
    hr_folder: Path | None = None,  # folder of HR photos, paired with LR's by name
    valid_lr_folder: Path | None = None,  # held-out photos; None: DIV2K's or own "valid" folders
    valid_hr_folder: Path | None = None,
    n_valid: int = 10,  # held-out photos used, at most
    valid_crop: int = 1024,  # HR pixels; of larger held-out photos the centre is used
    valid_patches: int = 32,  # patches of the held-out photos, on which z is judged
    patch_size: int = 128,  # HR pixels, a multiple of 4
    batch_size: int = 16,  # crops a step
    workers: int = 2,  # processes that cut crops ahead; 0: none
    # model
    n_features: int = 64,  # channels
    n_latent: int = 2,  # numbers of z for each LR pixel, besides one for each of its HR pixels
    n_blocks: int = 8,  # residual blocks
    n_detail: int = 32,  # channels at HR's size
    projections: int = 2,  # of the image onto LR while training; 0 where that is no bicubic one
    # loss
    prior_weight: float = 4.0,  # of the prior's half of the KL term; q's has 1
    free_nats: float = 0.005,  # KL of each latent number that q is not charged for
    sample_weight: float = 1.0,  # energy score of two samples
    feature_weight: float = 0.15,  # energy score of their features; 0: none
    mean_weight: float = 0.5,  # L1 of the mean prediction
    # optimisation
    n_epochs: int = 200,
    steps_per_epoch: int = 500,  # an epoch ends in validation and a checkpoint
    learning_rate: float = 1e-3,  # Adam
    betas: tuple[float, float] = (0.9, 0.99),  # Adam
    decay_from: float = 0.5,  # share of the run after which the rate falls to 0; 1: never
    ema_decay: float = 0.999,  # a step, of the averaged networks
    patience: int = 0,  # epochs without a better PSNR-Y that end the run; 0: never
    # run
    show_every: int = 20,  # steps between losses on the progress bar (each waits for the GPU)
    out_dir: Path = FOLDER / "runs" / "default",  # where everything is written
    seed: int = 0,  # of weights, crops and z, 0 or more
    device: str = "cuda",  # without a GPU the CPU is taken
    bfloat16: bool | None = None,  # autocast; None: if the device has instructions for it
    compile: bool = False,  # torch.compile: minutes at the beginning, faster steps on a GPU
    deterministic: bool = False,  # the same bits from each run on a GPU, too, at some speed
    resume: bool = False,  # continue the run in out_dir
    overwrite: bool = False,  # delete the run in out_dir and start anew
) -> Path:
    """Train the SRVAE and return the folder of the run.

    Written there: srvae.pth and recognition.pth (the newest), srvae_best.pth (the best mean
    prediction by PSNR-Y), state.pth (to resume), config.json, log.csv, curves.png and samples/.
    """
    training = Training(locals(), fixed=FIXED)
    is_odd = patch_size % 4 or patch_size < 16
    if is_odd or min(n_latent, n_blocks, n_detail) < 1 or valid_patches < 2:
        raise ValueError(
            f"patch_size {patch_size}, n_latent {n_latent}, n_blocks {n_blocks}, n_detail "
            f"{n_detail}, valid_patches {valid_patches}: expected patch_size a multiple of 4, "
            "16 or more, valid_patches 2 or more, the others 1 or more"
        )
    features_of = training.prepare(EfficientNetFeatures()) if feature_weight else None

    # data
    crops, validation, patches = crops_and_validation(
        *(lr_folder, hr_folder, valid_lr_folder, valid_hr_folder),
        n_valid=n_valid,
        valid_crop=valid_crop,
        valid_patches=valid_patches,
        patch_size=patch_size,
        seed=seed,
    )
    patches = [images.to(training.device) for images in patches]

    # networks
    torch.manual_seed(seed)
    model = training.prepare(SRVAE(n_features, n_latent, n_blocks, n_detail, projections))
    posterior = training.prepare(Recognition(n_features, n_latent))
    trained = torch.nn.ModuleList((model, posterior))
    average = copy.deepcopy(trained).requires_grad_(False).eval()
    average_model, average_posterior = average
    both = (model.encode, model.decode)
    encode, decode = (torch.compile(part) if compile else part for part in both)

    # optimiser
    optimizer = torch.optim.Adam(trained.parameters(), learning_rate, betas, fused=True)

    training.register(model=model, posterior=posterior, average=average, optimizer=optimizer)
    with training.begin(crops, validation, steps_per_epoch, n_epochs, PANELS):
        for epoch in training.epochs(patience=patience):
            for step, (lr, hr) in epoch:
                progress = step / (n_epochs * steps_per_epoch)
                rate = learning_rate * min(1, (1 - progress) / max(1 - decay_from, 1e-9))
                optimizer.param_groups[0]["lr"] = rate

                with training.autocast():
                    mu, logvar, features = encode(lr)
                    q = posterior(hr, lr)
                    zs = [model.reparameterize(*q), mu.detach()]
                    zs += [model.reparameterize(mu, logvar) for _ in range(2)]
                    images = [decode(z, features) for z in zs]
                sr, mean, *samples = (project(x.float(), lr, projections) for x in images)

                losses = {"reconstruction": functional.l1_loss(sr, hr)}
                losses["kl_q"], losses["kl"] = kl_terms(q, (mu, logvar), free_nats)
                losses["mean"] = functional.l1_loss(mean, hr)
                losses["samples"] = energy_score(images_apart, *samples, hr)
                scale = batch_mean(losses["reconstruction"])
                kl = losses["kl_q"] + prior_weight * losses["kl"]
                more = mean_weight * losses["mean"] + sample_weight * losses["samples"]
                if features_of:
                    with training.autocast():
                        three = [features_of(image) for image in (*samples, hr)]
                    losses["features"] = energy_score(features_apart, *three)
                    more = more + feature_weight * losses["features"]
                loss = laplace_nll(scale) + kl / hr[0].numel() + more / scale.detach()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                update_ema(average, trained, ema_decay, step)
                epoch.log(losses, learning_rate=rate)

            epoch.validate(
                lambda lr: average_model.sample(lr, temperature=0)[0],
                lambda lr: average_model.sample(lr, 2, seed=seed),
                on_main(latent_diagnostics, average_model, average_posterior, *patches),
                SHOWN,
            )
            networks = {"srvae": average_model, "recognition": average_posterior}
            epoch.save(networks, best={"srvae_best": average_model})
    return training.out_dir


if __name__ == "__main__":
    command_line(train_srvae)
