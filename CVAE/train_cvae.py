r"""Train the CVAE: many plausible HR photos for one LR photo.

Sohn et al. 2015, "Learning Structured Output Representation using Deep Conditional Generative
Models" (the conditional VAE). The network's encoder sees LR and is the prior p(z|LR); a recognition
network q(z|HR,LR), used in training only, tells the decoder through z what LR does not.

The full run, on DIV2K (a GPU):
    python CVAE/train_cvae.py
Minutes on two cores, on built-in photos:
    python scripts/prepare_dataset.py builtin
    python CVAE/train_cvae.py --lr-folder div2k/builtin/DIV2K_train_LR_bicubic/X4 \
        --hr-folder div2k/builtin/DIV2K_train_HR --n-features 32 --learning-rate 1e-3 \
        --batch-size 8 --n-epochs 4 --steps-per-epoch 100 --out-dir runs/cvae
The network without recognition, whose z dies: add --no-recognition.

Differences from the paper:
- The network is a U-Net; its decoder sees LR's features besides z.
- The image is projected onto LR (projections), so z has nothing to say of low frequencies. For LR
  photos that were not made by bicubic, add --projections 0.
- L1 instead of a log likelihood. kl_weight is what the mean absolute error of a trained network
  makes of one: a Laplace distribution of scale b has NLL |x - x'| / b a value, so the mean over
  3 128^2 values weighs as much as b / (3 128^2) KL, 7e-7 for b = 0.034. The usual weights of
  1e-4 to 1e-2 are a hundred times too strong and more, and z dies.
- The KL term's two halves are weighed apart (KL balancing): q's by kl_weight, which grows from 0
  (warm_up), the prior's by prior_weight times as much from the beginning. It costs q nothing, and a
  prior that lags behind draws stripes on flat walls.
- Free bits (free_nats), for q only.
- The linear layers around z start as convolutions (CVAE/model.py); with usual weights the decoder
  has learned to do without z before it learns to read it.
- The saved networks are exponential moving averages of the trained ones.
"""

import copy
import sys
from pathlib import Path
from typing import Literal

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import common  # noqa: F401, it says what is not installed

import torch
from torch.nn import functional

from common.data.resize import project
from common.processes import on_main
from common.run.flags import command_line
from common.run.recipes import update_ema
from common.run.training import Training
from common.vae import PANELS, SHOWN, kl_divergence, kl_terms, latent_diagnostics
from CVAE.dataset import crops_and_validation
from CVAE.model import CVAE, Recognition

FOLDER = Path(__file__).resolve().parent
FIXED = ("n_features", "n_latent", "projections", "recognition")
FIXED += ("batch_size", "steps_per_epoch", "seed")


def warmed_up(progress: float, start: float, end: float) -> float:
    """Return 0 up to `start`, 1 from `end` on, linear between; all are shares of the run."""
    if progress >= end:
        return 1.0
    return max(0.0, (progress - start) / (end - start)) if end > start else 0.0


def train_cvae(
    *,
    # data
    lr_folder: Path | None = None,  # folder of LR photos; None: DIV2K, downloaded on first use
    hr_folder: Path | None = None,  # folder of HR photos, paired with LR's by name
    valid_lr_folder: Path | None = None,  # held-out photos; None: DIV2K's or own "valid" folders
    valid_hr_folder: Path | None = None,
    n_valid: int = 10,  # held-out photos used, at most
    valid_crop: int = 1024,  # HR pixels; of larger held-out photos the centre is used
    valid_patches: int = 32,  # patches of the held-out photos, on which z is judged
    patch_size: int = 128,  # HR pixels; the network takes no other
    batch_size: int = 16,  # crops a step
    workers: int = 2,  # processes that cut crops ahead; 0: none
    # model
    n_features: int = 64,  # channels of the first convolution
    n_latent: int = 256,  # numbers in z, a multiple of 16
    projections: int = 2,  # of the image onto LR while training; 0 where that is no bicubic one
    recognition: bool = True,  # False: the encoder alone, with KL(p(z|LR) || N(0, 1))
    # loss
    reconstruction: Literal["l1", "mse"] = "l1",  # mean over all values of an image
    kl_weight: float = 7e-7,  # of q's KL in nats an image (for mse at 26 dB: 1e-7)
    prior_weight: float = 4.0,  # of the prior's half of the KL term, against q's (0.8 to 0.2)
    free_nats: float = 0.1,  # KL of each latent number that q is not charged for, 0.1 to 0.25
    warm_up: tuple[float, float] = (0.3, 0.6),  # shares of the run: kl_weight from 0 to its value
    # optimisation
    n_epochs: int = 200,
    steps_per_epoch: int = 500,  # an epoch ends in validation and a checkpoint
    learning_rate: float = 4e-4,  # Adam; 1e-3 with 32 features (with 64 it makes z die)
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
    """Train the CVAE and return the folder of the run.

    Written there: cvae.pth and recognition.pth (the newest), cvae_best.pth (the best mean
    prediction by PSNR-Y), state.pth (to resume), config.json, log.csv, curves.png and samples/.
    """
    training = Training(locals(), fixed=FIXED)
    if patch_size != 128 or n_latent < 16 or n_latent % 16 or valid_patches < 2:
        raise ValueError(
            f"patch_size {patch_size}, n_latent {n_latent}, valid_patches {valid_patches}: "
            "expected patch_size 128, as the network takes LR patches of 32x32 (its `sample` takes "
            "photos of any size, and the SRVAE is trained on any), n_latent a multiple of 16, and "
            "valid_patches 2 or more"
        )
    errors = {"l1": functional.l1_loss, "mse": functional.mse_loss}
    if reconstruction not in errors:
        raise ValueError(f'reconstruction is "{reconstruction}", expected "l1" or "mse"')

    # data
    crops, validation, patches = crops_and_validation(
        *(lr_folder, hr_folder, valid_lr_folder, valid_hr_folder),
        n_valid=n_valid,
        valid_crop=valid_crop,
        valid_patches=valid_patches,
        seed=seed,
    )
    patches = [images.to(training.device) for images in patches]

    # networks
    torch.manual_seed(seed)
    trained = torch.nn.ModuleList([training.prepare(CVAE(n_features, n_latent, projections))])
    if recognition:
        trained.append(training.prepare(Recognition(n_features, n_latent)))
    average = copy.deepcopy(trained).requires_grad_(False).eval()
    model, posterior = trained if recognition else (trained[0], None)
    average_model, average_posterior = average if recognition else (average[0], None)
    both = (model.encode, model.decode)
    encode, decode = (torch.compile(part) if compile else part for part in both)

    # optimiser
    optimizer = torch.optim.Adam(trained.parameters(), learning_rate, betas, fused=True)

    training.register(model=model, average=average, optimizer=optimizer)
    if posterior:
        training.register(posterior=posterior)
    panels = PANELS | {"weight of the KL term": ("kl_weight",)}
    with training.begin(crops, validation, steps_per_epoch, n_epochs, panels):
        for epoch in training.epochs(patience=patience):
            for step, (lr, hr) in epoch:
                progress = step / (n_epochs * steps_per_epoch)
                rate = learning_rate * min(1, (1 - progress) / max(1 - decay_from, 1e-9))
                optimizer.param_groups[0]["lr"] = rate
                kl_weight_now = kl_weight * warmed_up(progress, *warm_up)

                with training.autocast():
                    mu, logvar, skips = encode(lr)
                    p = mu, logvar
                    q = posterior(hr, lr) if posterior else p
                    sr = decode(model.reparameterize(*q), skips)
                sr = project(sr.float(), lr, projections)

                losses = {"reconstruction": errors[reconstruction](sr, hr)}
                if posterior:
                    losses["kl_q"], losses["kl"] = kl_terms(q, p, free_nats)
                    kl = kl_weight_now * losses["kl_q"] + prior_weight * kl_weight * losses["kl"]
                else:
                    normal = torch.zeros_like(mu), torch.zeros_like(mu)
                    losses["kl"] = kl_divergence(p, normal).sum() / batch_size
                    kl = kl_weight_now * losses["kl"]
                loss = losses["reconstruction"] + kl
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                update_ema(average, trained, ema_decay, step)
                epoch.log(losses, learning_rate=rate, kl_weight=kl_weight_now)

            epoch.validate(
                lambda lr: average_model.sample(lr, temperature=0)[0],
                lambda lr: average_model.sample(lr, 2, seed=seed),
                on_main(latent_diagnostics, average_model, average_posterior, *patches),
                SHOWN,
            )
            networks = {"cvae": average_model}
            networks |= {"recognition": average_posterior} if recognition else {}
            epoch.save(networks, best={"cvae_best": average_model})
    return training.out_dir


if __name__ == "__main__":
    command_line(train_cvae)
