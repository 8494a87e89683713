"""The SRVAE's networks."""

import pytest
import torch
from torch import nn

from common.data.photos import read_image, to_tensor
from common.data.resize import project, resize
from common.measure.metrics import lr_psnr
from CVAE.model import CVAE
from SRVAE.model import SRVAE, Recognition, from_weights


@pytest.fixture
def small() -> SRVAE:
    """A network whose z does something from the beginning."""
    torch.manual_seed(0)
    network = SRVAE(12, 3, 2, 8)
    with torch.no_grad():
        network.detail_last.weight.mul_(10)
    return network.eval()


def test_network_is_smaller_and_simpler_than_the_cvae():
    kinds = {type(layer) for layer in SRVAE().modules()}
    assert not kinds & {nn.Linear, nn.BatchNorm2d, nn.ConvTranspose2d}
    sizes = [sum(p.numel() for p in network.parameters()) for network in (SRVAE(), CVAE())]
    assert sizes[0] < 0.1 * sizes[1]


def test_z_has_a_place_for_each_lr_pixel_and_for_each_hr_pixel(small):
    lr = torch.rand(2, 3, 24, 36)
    mu, logvar, features = small.encode(lr)
    assert mu.shape == logvar.shape == (2, 3 + 16, 24, 36)
    z = small.reparameterize(mu, logvar)
    before = small.decode(z, features)
    assert before.shape == (2, 3, 96, 144)
    # The pattern at HR's pixel (42, 67) reaches through a 5x5 and three 3x3 convolutions; the kind
    # at LR's (10, 16) through a 5x5 and two 3x3, the enlargement and three 3x3 convolutions.
    for number, centre, reach in ((3 + 2 * 4 + 3, (42, 67), 5), (1, (41.5, 65.5), 4 * 5 + 1.5 + 3)):
        changed = z.clone()
        changed[:, number, 10, 16] += 1
        moved = (small.decode(changed, features) - before).abs().sum((0, 1))
        for places, middle in zip(moved.nonzero().T, centre, strict=True):
            assert middle - reach <= places.min() < middle < places.max() <= middle + reach


def test_detail_is_modulated_by_lr(small):
    lr, other = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    mu, _, (of_lr, likely) = small.encode(lr)
    of_other = small.encode(other)[2][0]
    a, b = (small.decode(mu, (features, likely)) for features in (of_lr, of_other))
    assert (a - b).abs().mean() > 1e-4
    # Where the scale is 0, nothing of the pattern gets through.
    with torch.no_grad():
        small.to_scales.weight.zero_()
        small.to_scales.bias.fill_(-200)  # softplus makes it 0
    pattern = torch.cat((torch.zeros(3), torch.ones(16)))[:, None, None]
    a, b = (small.decode(z, (of_lr, likely)) for z in (mu, mu + pattern))
    assert torch.equal(a, b)


@pytest.mark.parametrize("size", [(16, 16), (21, 38), (3, 5), (1, 1)])
def test_photos_of_any_size(small, size):
    lr = torch.rand(2, 3, *size)
    samples = small.sample(lr, 2, seed=0)
    assert samples.shape == (2, 2, 3, 4 * size[0], 4 * size[1])
    assert samples.isfinite().all() and samples.min() >= 0 and samples.max() <= 1
    sr, mu, logvar = small(lr)
    assert sr.shape == samples.shape[1:] and mu.shape == logvar.shape
    q = Recognition(12, 3)(sr.detach(), lr)
    assert q[0].shape == q[1].shape == mu.shape


def test_network_is_the_same_at_every_place():
    torch.manual_seed(0)
    network, lr = SRVAE(12, 3, 1).eval(), torch.rand(1, 3, 64, 64)
    whole = network.sample(lr, temperature=0)[0]
    part = network.sample(lr[..., 8:, 4:], temperature=0)[0]
    inner = (..., slice(80, 144), slice(80, 144))
    moved = (..., slice(48, 112), slice(64, 128))
    torch.testing.assert_close(whole[inner], part[moved], atol=2e-4, rtol=0)


def test_samples_are_decided_by_their_seed_and_differ(small):
    lr = torch.rand(1, 3, 20, 20)
    a, b, c = (small.sample(lr, 3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert (a - c).abs().mean() > 1e-3 and (a[0] - a[1]).abs().mean() > 1e-3


def test_temperature_zero_gives_the_mean_prediction(small):
    lr = torch.rand(1, 3, 20, 20)
    with torch.inference_mode():  # (with gradients images are resampled in another way)
        mu, _, features = small.encode(lr)
        expected = small.finish(small.decode(mu, features), lr)
    for version in small.sample(lr, 2, temperature=0):
        assert torch.equal(version, expected)


@pytest.mark.parametrize("arguments", [{"n": 0}, {"temperature": -1.0}])
def test_sampling_refuses_what_has_no_meaning(small, arguments):
    with pytest.raises(ValueError, match="expected"):
        small.sample(torch.rand(1, 3, 16, 16), **arguments)


def test_every_sample_gives_lr_again(small, dataset):
    for path in sorted(dataset.lr.iterdir()):
        lr = to_tensor(read_image(path))
        samples = small.sample(lr, 2, seed=0)
        assert min(lr_psnr(sample, lr).item() for sample in samples) > 45


def test_network_starts_near_bicubic():
    torch.manual_seed(0)
    lr = torch.rand(1, 3, 16, 16)
    sr, _, _ = SRVAE()(lr)
    assert (sr - project(resize(lr, 4), lr, 2)).abs().max() < 0.1


def test_network_for_lr_that_is_not_bicubic_is_told_apart_by_its_weights():
    plain, unprojected = (SRVAE(12, 3, 1, projections=n).state_dict() for n in (2, 0))
    assert unprojected.keys() - plain.keys() == {"unprojected"}


def test_file_of_the_network_before_says_so():
    weights = SRVAE(12, 3, 1).state_dict() | {"prior.0.weight": torch.zeros(12, 12, 4, 4)}
    with pytest.raises(RuntimeError, match=r"until 2026-11.*train it anew"):
        from_weights(weights)
