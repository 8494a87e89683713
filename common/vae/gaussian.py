"""Diagonal Gaussians, given by mean and log variance, for variational autoencoders."""

import torch
from torch.nn import functional

from common.data.resize import resize

_LOGVAR_LIMIT = 7.0  # log variances are clamped to +-7: standard deviations of 0.03 to 33
_DETAIL_SCALE = 4.0  # brings what HR has beyond bicubic to the magnitude of LR

Gaussian = tuple[torch.Tensor, torch.Tensor]  # mean and log variance, of one shape


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
        raise ValueError(
            f"n is {n} and temperature {temperature}: expected 1 or more samples, and a "
            "temperature of 0 (the mean prediction) or more"
        )
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return temperature * torch.randn(n, *shape, generator=generator).to(device)


def warmed_up(progress: float, start: float, end: float) -> float:
    """Return 0 up to `start`, 1 from `end` on, linear between; all are shares of the run."""
    if progress >= end:
        return 1.0
    return max(0.0, (progress - start) / (end - start)) if end > start else 0.0
