"""What the variational autoencoders share: diagonal Gaussians, and what shows what z carries."""

import math
from statistics import fmean

import torch
from torch import nn
from torch.nn import functional

from common.data.resize import detail, resize
from common.measure.metrics import lr_psnr, psnr_y

_LOGVAR_LIMIT = 7.0  # log variances are clamped to +-7: standard deviations of 0.03 to 33
_DETAIL_SCALE = 4.0  # brings what HR has beyond bicubic to the magnitude of LR

Gaussian = tuple[torch.Tensor, torch.Tensor]  # mean and log variance, of one shape
PANELS = {  # of the curves, for `common.run.log.plot_curves`
    "held-out patches, PSNR-Y (dB), by z": ("psnr_q", "psnr_other", "psnr_mean", "psnr_sample"),
    "KL(q || p), nats a patch": ("kl",),
    "active units": ("active_units",),
    "sigma_p / sigma_q": ("sigma_ratio",),
    "standard deviation of samples (1/255)": ("std_high", "std_low"),
    "LR-PSNR of samples (dB)": ("lr_psnr", "lr_psnr_worst"),
}
SHOWN = ("active_units", "psnr_q", "std_high")  # printed after each epoch


def gaussian(mean: torch.Tensor, logvar: torch.Tensor) -> Gaussian:
    """Return what two layers gave as a Gaussian: float32, under autocast too, logvar clamped."""
    return mean.float(), logvar.float().clamp(-_LOGVAR_LIMIT, _LOGVAR_LIMIT)


def recognition_input(hr: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
    """Return the posterior's input: HR's detail beyond bicubic, and LR, both at LR's size.

    (N, 3, 4H, 4W) and (N, 3, H, W) in [0, 1] -> (N, 51, H, W).
    """
    beyond = functional.pixel_unshuffle(hr - resize(lr, 4), 4)  # (N, 48, H, W)
    return torch.cat([_DETAIL_SCALE * beyond, lr], 1)


def kl_divergence(q: Gaussian, p: Gaussian) -> torch.Tensor:
    """Return KL(q || p) in nats, of each latent number, in the shape of the means.

    log(s_p / s_q) + (s_q^2 + (m_q - m_p)^2) / (2 s_p^2) - 1/2 (Kingma and Welling 2014, appendix B,
    for two Gaussians instead of one and N(0, 1)).
    """
    (mean_q, logvar_q), (mean_p, logvar_p) = q, p
    distance = (mean_q - mean_p).square() * (-logvar_p).exp()
    return (logvar_p - logvar_q + (logvar_q - logvar_p).exp() + distance - 1) / 2


def kl_terms(q: Gaussian, p: Gaussian, free_nats: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return max(free_nats, KL(q || sg p)), which trains q, and KL(sg q || p), which trains p.

    In nats an image, summed over the latent numbers; sg stops the gradient (KL balancing, Hafner et
    al. 2021, arXiv 2010.02193). Free bits (Kingma et al. 2016, arXiv 1606.04934, eq. 15), of each
    number's mean over the batch, keep the posterior q from giving up numbers early. The term of the
    prior p has none, or p would not be fitted below them.
    """
    fixed_q, fixed_p = (tuple(x.detach() for x in gaussian) for gaussian in (q, p))
    posterior_term = kl_divergence(q, fixed_p).mean(0).clamp(min=free_nats).sum()
    prior_term = kl_divergence(fixed_q, p).mean(0).sum()
    return posterior_term, prior_term


def draw(gaussian: Gaussian, noise: torch.Tensor) -> torch.Tensor:
    """Return mean + standard deviation * noise, with gradients to both."""
    mean, logvar = gaussian
    return mean + (logvar / 2).exp() * noise


def sampling_noise(
    n: int, shape: tuple[int, ...], temperature: float, seed: int | None, device: torch.device
) -> torch.Tensor:
    """Return temperature * N(0, 1) of (n, *shape) for `draw`; the same for the same `seed`.

    Drawn on the CPU, so that a seed means the same on every device; without a seed torch's own
    random numbers are taken. Raises `ValueError` for n below 1 or temperature below 0.
    """
    if n < 1 or temperature < 0:
        expected = "1 or more samples, and a temperature of 0 (the mean prediction) or more"
        raise ValueError(f"n is {n} and temperature {temperature}: expected {expected}")
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return temperature * torch.randn(n, *shape, generator=generator).to(device)


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
