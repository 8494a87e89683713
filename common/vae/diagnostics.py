"""What shows whether the z of a conditional variational autoencoder carries anything."""

import math
from statistics import fmean

import torch
from torch import nn

from common.data.resize import detail, resize
from common.measure.metrics import lr_psnr, psnr_y
from common.vae.gaussian import draw, kl_divergence

PANELS = {  # of the curves, for `common.run.log.plot_curves`
    "held-out patches, PSNR-Y (dB), by z": ("psnr_q", "psnr_other", "psnr_mean", "psnr_sample"),
    "KL(q || p), nats a patch": ("kl",),
    "weight of the KL term": ("kl_weight",),
    "active units": ("active_units",),
    "sigma_p / sigma_q": ("sigma_ratio",),
    "standard deviation of samples (1/255)": ("std_high", "std_low"),
    "LR-PSNR of samples (dB)": ("lr_psnr", "lr_psnr_worst"),
}
SHOWN = ("active_units", "psnr_q", "std_high")  # printed after each epoch


@torch.inference_mode()
def latent_diagnostics(
    model: nn.Module, posterior: nn.Module | None, lr: torch.Tensor, hr: torch.Tensor, n: int = 4
) -> dict[str, float]:
    """Return means over patches; the noise of the `n` samples of each is the same each time.

    kl: KL(q || p) in nats a patch.
    active_units: latent numbers with Var[(mu_q - mu_p) / sigma_p] > 0.01 over the patches (after
        Burda et al. 2016, arXiv 1509.00519, who take Var[mu_q] of a prior N(0, 1)).
    sigma_ratio: sigma_p / sigma_q, geometric mean.
    psnr_q, psnr_other, psnr_mean, psnr_sample: PSNR-Y (dB) with z drawn from q, from q of the patch
        before, with the mean of p, and drawn from p.
    std_high, std_low: `deviations` of the samples of a patch.
    lr_psnr, lr_psnr_worst: LR-PSNR (dB) of the samples in 8 bits, by their mean squared error, and
        the lowest.

    `model` has `encode` (the prior p), `decode` and `finish`; `posterior` is q(z|HR,LR), or None of
    a model trained without: then p(z|LR) takes its place, and N(0, 1) that of p in kl, active_units
    and sigma_ratio. `lr` and `hr` are (N, 3, h, w) and (N, 3, 4h, 4w) in [0, 1].
    """
    mu, logvar, features = model.encode(lr)
    p = q = mu, logvar
    if posterior is None:
        p = torch.zeros_like(mu), torch.zeros_like(logvar)
    else:
        q = posterior(hr, lr)
    noise = torch.randn(n, *mu.shape, generator=torch.Generator().manual_seed(0)).to(lr.device)

    def render(z: torch.Tensor) -> torch.Tensor:
        return model.finish(model.decode(z, features), lr)

    from_q = draw(q, noise[0])
    zs = {"psnr_q": from_q, "psnr_other": from_q.roll(1, 0), "psnr_mean": mu}
    psnrs = {name: psnr_y(render(z), hr).mean().item() for name, z in zs.items()}
    samples = torch.stack([render(draw((mu, logvar), one)) for one in noise])
    std_high, std_low = deviations(samples)
    lr_psnrs = [value for sample in samples for value in lr_psnr(sample, lr).tolist()]
    return {
        "kl": kl_divergence(q, p).sum().item() / len(lr),
        "active_units": (((q[0] - p[0]) / (p[1] / 2).exp()).var(0) > 0.01).sum().item(),
        "sigma_ratio": ((p[1] - q[1]) / 2).mean().exp().item(),
        **psnrs,
        "psnr_sample": fmean(psnr_y(sample, hr).mean().item() for sample in samples),
        "std_high": std_high,
        "std_low": std_low,
        "lr_psnr": -10 * math.log10(fmean(10 ** (-value / 10) for value in lr_psnrs) or 1e-10),
        "lr_psnr_worst": min(lr_psnrs),
    }


def deviations(samples: torch.Tensor) -> tuple[float, float]:
    """Return the standard deviation over samples (n, N, 3, 4H, 4W) in [0, 1], in 1/255.

    Means over all values of what LR lacks, and of the samples scaled down to LR's size.
    """
    low = torch.stack([resize(sample, 1 / 4) for sample in samples])
    high = torch.stack([detail(sample) for sample in samples])
    return 255 * high.std(0).mean().item(), 255 * low.std(0).mean().item()
