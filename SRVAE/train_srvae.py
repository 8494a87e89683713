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
- z has a place: n_latent numbers for each 4x4 LR pixels. LR reaches the decoder only by scaling and
  shifting z's features; there are no skips of a U-Net, no linear layers and no batch norm.
- The decoder's image is bicubic plus detail, projected onto LR (projections). For LR photos that
  were not made by bicubic, add --projections 0.
- The likelihood is a Laplace distribution whose scale is the batch's mean absolute error, its
  maximum likelihood (Rybkin et al. 2021, "Simple and Effective VAE Training with Calibrated
  Decoders", arXiv 2006.13202, there for Gaussians). So the KL term's weight is 1, once warm_up is
  over, and no guess.
- The KL term's two halves are weighed apart (KL balancing): q's by 1, the prior's by prior_weight
  from the beginning. Free bits (free_nats), for q only.
- The saved networks are exponential moving averages of the trained ones.
"""

import copy
import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import common  # noqa: F401, it says what is not installed

import torch
from torch.nn import functional

from common.data.resize import project
from common.processes import batch_mean, on_main
from common.run.flags import command_line
from common.run.recipes import update_ema
from common.run.training import Training
from common.vae import PANELS, SHOWN, kl_terms, latent_diagnostics, warmed_up
from SRVAE.dataset import crops_and_validation
from SRVAE.model import SRVAE, Recognition

FOLDER = Path(__file__).resolve().parent
FIXED = ("n_features", "n_latent", "n_blocks", "projections")
FIXED += ("patch_size", "batch_size", "steps_per_epoch", "seed")


def laplace_nll(mean_error: torch.Tensor) -> torch.Tensor:
    """Return the negative log likelihood of a value under a Laplace distribution, in nats.

    Its scale is the most likely one, b = mean |HR - SR| over the batch, which makes it log(2 b) + 1
    (as Rybkin et al., section 3, for a Gaussian).
    """
    return (2 * mean_error).log() + 1


def energy_score(first: torch.Tensor, second: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    """Return the energy score of two samples (N, 3, H, W), lowest if they are drawn as HR is.

    E|x - y| - E|x - x'| / 2 of samples x, x' and HR y (Gneiting and Raftery 2007, eq. 22), |.| the
    root mean square over windows of 4 and of 16 pixels; the mean of both sizes.
    """

    def apart(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        square = (a - b).square().mean(1, keepdim=True)
        means = [functional.avg_pool2d(square, size) for size in (4, 16)]
        return sum((mean + 1e-6).sqrt().mean() for mean in means) / len(means)

    return (apart(first, hr) + apart(second, hr) - apart(first, second)) / 2


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
    patch_size: int = 128,  # HR pixels, a multiple of 16
    batch_size: int = 16,  # crops a step
    workers: int = 2,  # processes that cut crops ahead; 0: none
    # model
    n_features: int = 64,  # channels
    n_latent: int = 2,  # numbers of z for each 4x4 LR pixels
    n_blocks: int = 4,  # residual blocks of the encoder, and modulated ones of the decoder
    projections: int = 2,  # of the image onto LR while training; 0 where that is no bicubic one
    # loss
    prior_weight: float = 4.0,  # of the prior's half of the KL term; q's has 1
    free_nats: float = 0.02,  # KL of each latent number that q is not charged for, 0.02 to 0.05
    warm_up: tuple[float, float] = (0.3, 0.6),  # shares of the run: q's weight from 0 to 1
    sample_weight: float = 0.0,  # energy score of two samples; 1: much more varied, and grainy
    mean_weight: float = 0.3,  # L1 of the mean prediction, where sample_weight is above 0
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
    if patch_size % 16 or min(patch_size, n_latent, n_blocks) < 1 or valid_patches < 2:
        raise ValueError(
            f"patch_size {patch_size}, n_latent {n_latent}, n_blocks {n_blocks}, valid_patches "
            f"{valid_patches}: expected patch_size a multiple of 16, as z has a place for each 4x4 "
            "LR pixels, valid_patches 2 or more, the others 1 or more"
        )

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
    model = training.prepare(SRVAE(n_features, n_latent, n_blocks, projections))
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
                kl_weight = warmed_up(progress, *warm_up)

                with training.autocast():
                    mu, logvar, features = encode(lr)
                    q = posterior(hr, lr)
                    zs = [model.reparameterize(*q)]
                    if sample_weight:
                        zs += [model.reparameterize(mu, logvar) for _ in range(2)] + [mu.detach()]
                    images = [decode(z, features) for z in zs]
                sr, *others = (project(x.float(), lr, projections) for x in images)

                losses = {"reconstruction": functional.l1_loss(sr, hr)}
                losses["kl_q"], losses["kl"] = kl_terms(q, (mu, logvar), free_nats)
                kl = kl_weight * losses["kl_q"] + prior_weight * losses["kl"]
                scale = batch_mean(losses["reconstruction"])
                loss = laplace_nll(scale) + kl / hr[0].numel()
                if sample_weight:
                    losses["samples"] = energy_score(*others[:2], hr)
                    losses["mean"] = functional.l1_loss(others[2], hr)
                    more = sample_weight * losses["samples"] + mean_weight * losses["mean"]
                    loss = loss + more / scale.detach()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                update_ema(average, trained, ema_decay, step)
                epoch.log(losses, learning_rate=rate, kl_weight=kl_weight)

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
