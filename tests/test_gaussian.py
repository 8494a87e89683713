"""Gaussians of the variational autoencoders, against torch.distributions and by hand."""

import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl

from common.vae import draw, kl_divergence, kl_terms, sampling_noise
from CVAE.train_cvae import warmed_up

CPU = torch.device("cpu")


def gaussian(seed, shape=(6, 5)):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def test_kl_divergence_is_that_of_torch():
    q, p = gaussian(0), gaussian(1)
    normals = [Normal(mean, (logvar / 2).exp()) for mean, logvar in (q, p)]
    torch.testing.assert_close(kl_divergence(q, p), torch_kl(*normals))
    assert kl_divergence(q, q).abs().max() < 1e-6


def test_kl_terms_train_one_of_both_each():
    q, p = gaussian(0), gaussian(1)
    for x in (*q, *p):
        x.requires_grad_()
    of_q, of_p = kl_terms(q, p, free_nats=0.0)
    assert of_q.item() == pytest.approx(of_p.item())
    assert of_p.item() == pytest.approx(kl_divergence(q, p).sum().item() / 6)
    of_q.backward()
    assert q[0].grad is not None and q[1].grad is not None and p[0].grad is None
    q[0].grad = q[1].grad = None
    of_p.backward()
    assert p[0].grad is not None and p[1].grad is not None and q[0].grad is None


def test_free_bits_are_free_for_q_alone():
    zeros, p = torch.zeros(4, 3), (torch.zeros(4, 3), torch.zeros(4, 3))
    # KL of each number: 0, 0.125 and 2 nats.
    means = torch.tensor([0.0, 0.5, 2.0]).expand(4, 3).clone().requires_grad_()
    of_q, of_p = kl_terms((means, zeros), p, free_nats=0.25)
    assert of_q.item() == pytest.approx(0.25 + 0.25 + 2)
    assert of_p.item() == pytest.approx(0 + 0.125 + 2)
    of_q.backward()
    assert (means.grad[:, :2] == 0).all() and (means.grad[:, 2] == 2 / 4).all()


def test_draw_has_mean_and_standard_deviation():
    mean, logvar = torch.full((1, 1), 3.0), torch.full((1, 1), 2 * torch.log(torch.tensor(0.5)))
    noise = torch.tensor([[-1.0], [0.0], [2.0]])
    torch.testing.assert_close(draw((mean, logvar), noise), torch.tensor([[2.5], [3.0], [4.0]]))


def test_noise_is_decided_by_its_seed():
    a, b, c = (sampling_noise(2, (3, 4), 1.0, seed, CPU) for seed in (5, 5, 6))
    assert a.shape == (2, 3, 4) and torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(sampling_noise(2, (3, 4), 0.5, 5, CPU), a / 2)
    assert sampling_noise(1, (3,), 0.0, None, CPU).abs().sum() == 0
    torch.manual_seed(7)
    assert not torch.equal(*(sampling_noise(1, (3,), 1.0, None, CPU) for _ in range(2)))


@pytest.mark.parametrize("n, temperature", [(0, 1.0), (-1, 1.0), (2, -0.1)])
def test_noise_refuses_what_has_no_meaning(n, temperature):
    with pytest.raises(ValueError, match=r"n is .* expected 1 or more samples"):
        sampling_noise(n, (3,), temperature, 0, CPU)


def test_warm_up_is_linear_between_its_ends():
    values = [warmed_up(progress, 0.3, 0.6) for progress in (0, 0.3, 0.45, 0.6, 1)]
    assert values == pytest.approx([0, 0, 0.5, 1, 1])
    assert [warmed_up(progress, 0.5, 0.5) for progress in (0.4, 0.5)] == [0, 1]
    assert warmed_up(0, 0, 0) == 1
