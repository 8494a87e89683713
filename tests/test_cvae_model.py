"""The CVAE's networks."""

import copy

import pytest
import torch
from torch import nn

from common.data.photos import read_image, to_tensor
from common.data.resize import resize
from common.measure.metrics import lr_psnr
from CVAE.model import CVAE, Recognition
from CVAE.tiles import cut_tiles

PRINTED = """
(enc_conv1): Sequential
  (0): Conv2d(3, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
  (1): LeakyReLU(negative_slope=0.2)
(enc_conv2): Sequential
  (0): Conv2d(64, 128, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
  (1): BatchNorm2d(128)
  (2): LeakyReLU(negative_slope=0.2)
(enc_conv3): Sequential
  (0): Conv2d(128, 256, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
  (1): BatchNorm2d(256)
  (2): LeakyReLU(negative_slope=0.2)
(enc_conv4): Sequential
  (0): Conv2d(256, 512, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
  (1): BatchNorm2d(512)
  (2): LeakyReLU(negative_slope=0.2)
(flatten): Flatten(start_dim=1, end_dim=-1)
(fc_mu): Linear(in_features=8192, out_features=256, bias=True)
(fc_logvar): Linear(in_features=8192, out_features=256, bias=True)
(decoder_input): Linear(in_features=256, out_features=8192, bias=True)
(dec_conv1): Sequential
  (0): ConvTranspose2d(512, 256, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1))
  (1): BatchNorm2d(256)
  (2): LeakyReLU(negative_slope=0.2)
(dec_conv2): Sequential
  (0): ConvTranspose2d(512, 128, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1))
  (1): BatchNorm2d(128)
  (2): LeakyReLU(negative_slope=0.2)
(dec_conv3): Sequential
  (0): ConvTranspose2d(256, 64, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1))
  (1): BatchNorm2d(64)
  (2): LeakyReLU(negative_slope=0.2)
(upsample1): Sequential
  (0): Conv2d(128, 256, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
  (1): PixelShuffle(upscale_factor=2)
  (2): BatchNorm2d(64)
  (3): LeakyReLU(negative_slope=0.2)
(upsample2): Sequential
  (0): Conv2d(64, 256, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
  (1): PixelShuffle(upscale_factor=2)
  (2): BatchNorm2d(64)
  (3): LeakyReLU(negative_slope=0.2)
(final_conv): Conv2d(64, 3, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
(sigmoid): Sigmoid()
"""


@pytest.fixture
def small(small_cvae) -> CVAE:
    return copy.deepcopy(small_cvae)


def test_network_prints_as_specified_and_nothing_else():
    lines = []
    for name, layer in CVAE().named_modules():
        if name:
            text = str(layer).split("(\n")[0].split(", eps=")[0]
            text += ")" * (text.count("(") - text.count(")"))
            depth, last = name.count("."), name.rpartition(".")[2]
            lines.append(f"{'  ' * depth}({last}): {text}")
    assert lines == PRINTED.strip().splitlines()


def test_network_has_the_specified_size():
    # By hand: convolutions in * out * k^2 + out, batch norms 2 * channels, linear in * out + out.
    encoder = 1792 + 73856 + 256 + 295168 + 512 + 1180160 + 1024
    latent = 2 * (8192 * 256 + 256) + 256 * 8192 + 8192
    decoder = 2097408 + 512 + 1048704 + 256 + 262208 + 128
    tail = 295168 + 128 + 147712 + 128 + 1731
    assert sum(p.numel() for p in CVAE().parameters()) == encoder + latent + decoder + tail


def test_shapes_of_every_part(small):
    lr = torch.rand(2, 3, 32, 32)
    mu, logvar, skips = small.encode(lr)
    assert mu.shape == logvar.shape == (2, 32)
    assert [tuple(x.shape[1:]) for x in skips] == [(8, 32, 32), (16, 16, 16), (32, 8, 8)]
    z = small.reparameterize(mu, logvar)
    image = small.decode(z, skips)
    assert z.shape == (2, 32) and image.shape == (2, 3, 128, 128)
    assert image.min() >= 0 and image.max() <= 1
    sr, forward_mu, forward_logvar = small(lr)
    assert sr.shape == (2, 3, 128, 128)
    assert torch.equal(forward_mu, mu) and torch.equal(forward_logvar, logvar)
    q = Recognition(8, 32)(torch.rand(2, 3, 128, 128), lr)
    assert [x.shape for x in q] == [(2, 32), (2, 32)]


def test_reparameterized_z_has_mean_and_spread_and_gradients(small):
    mu, logvar = torch.full((4000, 1), 2.0), torch.full((4000, 1), -1.0)
    mu.requires_grad_()
    logvar.requires_grad_()
    torch.manual_seed(0)
    z = small.reparameterize(mu, logvar)
    assert z.mean().item() == pytest.approx(2, abs=0.05)
    assert z.var().item() == pytest.approx(torch.tensor(-1.0).exp().item(), rel=0.1)
    z.sum().backward()
    assert (mu.grad == 1).all() and logvar.grad.abs().sum() > 0


def test_log_variances_are_clamped(small):
    nn.init.constant_(small.fc_logvar.bias, 100)
    assert (small.encode(torch.rand(1, 3, 32, 32))[1] == 7).all()


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 1, 32, 32), (3, 32, 32), (1, 3, 32, 31)])
def test_encoder_refuses_what_is_no_patch(small, shape):
    with pytest.raises(ValueError, match=r"expected \(N, 3, 32, 32\)"):
        small.encode(torch.rand(shape))


def test_samples_are_decided_by_their_seed_and_differ(small):
    lr = torch.rand(2, 3, 32, 32)
    a, b, c = (small.sample(lr, 3, seed=seed) for seed in (1, 1, 2))
    assert a.shape == (3, 2, 3, 128, 128) and torch.equal(a, b)
    assert (a - c).abs().mean() > 1e-3 and (a[0] - a[1]).abs().mean() > 1e-3
    assert a.min() >= 0 and a.max() <= 1


def test_temperature_zero_gives_the_mean_prediction(small):
    lr = torch.rand(1, 3, 32, 32)
    versions = small.sample(lr, 2, temperature=0)
    mu, _, skips = small.encode(lr)
    expected = small.finish(small.decode(mu, skips), lr)
    for version in versions:
        torch.testing.assert_close(version, expected)
    spreads = [small.sample(lr, 4, temperature=t, seed=0).std(0).mean() for t in (0.5, 1.0)]
    assert 0 < spreads[0] < 0.7 * spreads[1]


@pytest.mark.parametrize("arguments", [{"n": 0}, {"temperature": -1.0}, {"overlap": 17}])
def test_sampling_refuses_what_has_no_meaning(small, arguments):
    with pytest.raises(ValueError, match="expected"):
        small.sample(torch.rand(1, 3, 32, 32), **arguments)


def test_sampling_leaves_the_network_in_its_mode(small):
    small.train()
    before = small.upsample1[2].running_mean.clone()
    lr = torch.rand(1, 3, 32, 32)
    sample = small.sample(lr, 1, seed=0)
    assert small.training and torch.equal(before, small.upsample1[2].running_mean)
    assert torch.equal(sample, small.eval().sample(lr, 1, seed=0))


def test_every_sample_gives_lr_again(small, dataset):
    for path in sorted(dataset.lr.iterdir()):
        lr = to_tensor(read_image(path))
        samples = small.sample(lr, 2, seed=0)
        assert min(lr_psnr(sample, lr).item() for sample in samples) > 45


def test_noise_is_drawn_once_for_the_whole_photo(small):
    """All tiles of a photo of one colour are alike, so its middle repeats with the tiles."""
    lr = torch.full((1, 3, 80, 80), 0.4)
    sample = small.sample(lr, 1, seed=0)[0]
    detail = sample - resize(lr, 4)
    assert detail.abs().max() > 1e-3
    a, b = detail[..., 40:88, 40:88], detail[..., 136:184, 136:184]  # 24 LR pixels apart
    assert (a - b).abs().max() < 0.05 * a.abs().max()


def test_tiles_are_enlarged_by_themselves_and_projected_as_a_whole(small):
    lr = torch.rand(1, 3, 32, 56)
    sample = small.sample(lr, 1, temperature=0)[0]
    tiles, places = cut_tiles(lr, 32, 8)
    mu, _, skips = small.encode(tiles)
    images = small.decode(mu, skips)
    blended = torch.zeros(1, 3, 128, 224)
    blended[..., :112], blended[..., 112:] = images[:1, ..., :112], images[1:, ..., 16:]
    assert places == [(0, 0), (0, 24)]
    # Far from the overlap (columns 96 to 128) the blended image is that of one tile.
    expected = small.finish(blended, lr)
    far = [*range(60), *range(164, 224)]
    torch.testing.assert_close(sample[..., far], expected[..., far], atol=2e-3, rtol=0)


def test_linear_layers_start_as_convolutions():
    network = CVAE(8, 32)
    x = torch.rand(1, 64, 4, 4)
    kernel = network.fc_mu.weight.view(2, 16, 64, 16)[:, 3, :, 3]  # at place 3, as at every other
    bias = network.fc_mu.bias.view(2, 16)[:, 0]
    expected = nn.functional.conv2d(x, kernel[..., None, None], bias)
    torch.testing.assert_close(network.fc_mu(x.flatten(1)).view(1, 2, 4, 4), expected)
    # What the first of two numbers at place 5 of 16 reaches in the 64 features.
    reached = network.decoder_input.weight[:, 5].view(64, 16)
    assert (reached != 0).any(0).nonzero().flatten().tolist() == [5]


def test_recognition_sees_hr():
    torch.manual_seed(0)
    q, lr = Recognition(8, 32).eval(), torch.rand(1, 3, 32, 32)
    hr = resize(lr, 4)
    other = hr + 0.1 * torch.randn(hr.shape)
    assert (q(hr, lr)[0] - q(other, lr)[0]).abs().max() > 1e-3
    assert q(hr, lr)[1].mean().item() == pytest.approx(-3, abs=1)


def test_network_for_lr_that_is_not_bicubic_is_told_apart_by_its_weights():
    plain, unprojected = CVAE(8, 32).state_dict(), CVAE(8, 32, projections=0).state_dict()
    assert unprojected.keys() - plain.keys() == {"unprojected"}
    network = CVAE(8, 32, projections=0).eval()
    lr = torch.rand(1, 3, 32, 32)
    mu, _, skips = network.encode(lr)
    torch.testing.assert_close(network.sample(lr, temperature=0)[0], network.decode(mu, skips))
