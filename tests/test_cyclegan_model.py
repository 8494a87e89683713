"""CycleGAN's networks, unpaired photos and pool."""

import itertools
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from common.data.crops import photo_of_crop, take_crop
from common.data.pairs import list_images
from common.data.photos import read_image, to_tensor, write_image
from common.data.resize import imresize, resize
from CycleGAN.CycleGAN_w_v1 import CycleGAN as v1
from CycleGAN.CycleGAN_w_v2 import CycleGAN2 as v2
from CycleGAN.CycleGAN_w_v3 import CycleGAN5_2 as v3
from CycleGAN.dataset import UnpairedPhotos, unpaired_photos
from CycleGAN.model import (
    Discriminator,
    GeneratorDown,
    GeneratorSR,
    ResidualGeneratorDown,
    ResidualGeneratorSR,
    start_normal,
    start_without_checkerboard,
)
from CycleGAN.pool import ImagePool

VERSIONS = {"v1": v1, "v2": v2, "v3": v3}


def n_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def conv(n_in: int, n_out: int, k: int) -> int:
    return n_out * (n_in * k * k + 1)


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in network.named_parameters() if "weight" in name}


def test_first_versions_networks_are_the_specified_ones():
    """Names, shapes and order, written out from the specification."""
    blocks = [f"res_blocks.{i}.conv{k}.weight" for i in range(6) for k in (1, 2)]
    assert list(shapes(v1.GeneratorSR()).items()) == [
        ("conv1.0.weight", (64, 3, 7, 7)),
        *((name, (64, 64, 3, 3)) for name in blocks),
        ("up1.0.weight", (256, 64, 3, 3)),
        ("up2.0.weight", (256, 64, 3, 3)),
        ("conv_out.weight", (3, 64, 7, 7)),
    ]
    assert list(shapes(v1.GeneratorDown()).items()) == [
        ("down.0.weight", (64, 3, 7, 7)),
        ("down.2.weight", (128, 64, 4, 4)),
        ("down.4.weight", (256, 128, 4, 4)),
        *((name, (256, 256, 3, 3)) for name in blocks[:4]),
        ("out_conv.weight", (3, 256, 7, 7)),
    ]
    assert list(shapes(v1.Discriminator()).items()) == [
        ("model.0.weight", (64, 3, 4, 4)),
        ("model.2.weight", (128, 64, 4, 4)),
        ("model.4.weight", (256, 128, 4, 4)),
        ("model.6.weight", (1, 256, 4, 4)),
    ]
    # Worked out by hand: every convolution has a bias.
    body = conv(3, 64, 7) + 12 * conv(64, 64, 3) + 2 * conv(64, 256, 3) + conv(64, 3, 7)
    assert n_parameters(v1.GeneratorSR()) == body
    assert [type(layer) for layer in v1.GeneratorSR().up1] == [nn.Conv2d, nn.PixelShuffle, nn.ReLU]
    assert all(layer.negative_slope == 0.2 for layer in v1.Discriminator().model[1::2])


@pytest.mark.parametrize("version", VERSIONS)
def test_versions_keep_the_size_of_the_first(version):
    module = VERSIONS[version]
    for name in ("GeneratorSR", "GeneratorDown"):
        size = n_parameters(getattr(v1, name)())
        assert abs(n_parameters(getattr(module, name)()) / size - 1) < 0.05
    assert callable(module.train_cyclegan_sr) and module.UnpairedPhotos is UnpairedPhotos
    assert module.ResidualBlock is v1.ResidualBlock


@pytest.mark.parametrize("version", VERSIONS)
def test_generators_enlarge_and_reduce_four_times(version):
    G, F = VERSIONS[version].GeneratorSR(8), VERSIONS[version].GeneratorDown(8)
    image = torch.rand(2, 3, 24, 36)
    assert G(image).shape == (2, 3, 96, 144)
    assert F(image).shape == (2, 3, 6, 9)
    if version == "v1":  # tanh, brought from [-1, 1] to [0, 1]
        assert G(image).min() >= 0 and G(image).max() <= 1


def test_first_version_computes_what_its_layers_say():
    """The forward pass written out with torch's functions."""
    G, x = start_normal(GeneratorSR(4)), torch.rand(1, 3, 8, 8)
    w = {name: p for name, p in G.named_parameters()}

    def layer(x, name, pad):
        return functional.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=pad)

    y = layer(x * 2 - 1, "conv1.0", 3).relu()
    for i in range(6):
        y = y + layer(layer(y, f"res_blocks.{i}.conv1", 1).relu(), f"res_blocks.{i}.conv2", 1)
    for name in ("up1.0", "up2.0"):
        y = functional.pixel_shuffle(layer(y, name, 1), 2).relu()
    torch.testing.assert_close(G(x), (layer(y, "conv_out", 3).tanh() + 1) / 2)


def test_weights_start_from_a_narrow_normal():
    network = start_normal(GeneratorDown(32))
    weights = torch.cat([p.detach().flatten() for p in network.parameters() if p.dim() == 4])
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    assert abs(weights.mean().item()) < 1e-3


def test_residual_generators_start_as_bicubic(dataset):
    hr = read_image(list_images(dataset.hr)[0]) // 2 + 64  # (imresize clamps, between its passes)
    lr = imresize(hr, 1 / 4)
    # imresize rounds twice, half a step each time, the first enlarged by the kernel's overshoot.
    up = ResidualGeneratorSR(8)(to_tensor(lr)) * 255
    down = ResidualGeneratorDown(8)(to_tensor(hr)) * 255
    expected_up = torch.tensor(imresize(lr, 4)).permute(2, 0, 1)[None].float()
    expected_down = torch.tensor(lr).permute(2, 0, 1)[None].float()
    assert (up - expected_up).abs().max() < 1.2
    assert (down - expected_down).abs().max() < 1.2


def test_back_projection_brings_the_result_to_lr(dataset):
    lr = to_tensor(read_image(list_images(dataset.lr)[0]))

    def distance(network: nn.Module) -> float:
        return (resize(network(lr), 1 / 4) - lr).square().mean().sqrt().item()

    distances = [distance(ResidualGeneratorSR(8, back_projections=n)) for n in range(4)]
    # Enlarging and reducing keeps at least 0.235 of every frequency: that much is mended each time.
    assert all(b < 0.765 * a for a, b in itertools.pairwise(distances))


def test_checkpoint_remembers_its_back_projections(tmp_path):
    torch.save(ResidualGeneratorSR(8, back_projections=3).state_dict(), tmp_path / "G.pth")
    G = ResidualGeneratorSR(8)
    G.load_state_dict(torch.load(tmp_path / "G.pth", weights_only=True))
    assert G.back_projections == 3
    with pytest.raises(RuntimeError, match="_extra_state"):  # not silently another network
        GeneratorSR(8).load_state_dict(torch.load(tmp_path / "G.pth", weights_only=True))


def test_upsampling_starts_without_checkerboard():
    layer = nn.Conv2d(5, 12, 3, 1, 1)
    nn.init.zeros_(layer.bias)
    start_without_checkerboard(layer)
    y = functional.pixel_shuffle(layer(torch.rand(1, 5, 6, 6)), 2)  # (1, 3, 12, 12)
    nearest = functional.interpolate(y[..., ::2, ::2], scale_factor=2, mode="nearest")
    torch.testing.assert_close(y, nearest)
    assert len(torch.unique(layer.weight[:, 0, 0, 0])) == 3


def test_noise_channel_makes_results_differ():
    torch.manual_seed(0)
    F, hr = ResidualGeneratorDown(8, noise_channel=True), torch.rand(1, 3, 32, 32)
    nn.init.normal_(F.out_conv.weight, 0, 0.1)
    assert not torch.equal(F(hr), F(hr))
    F = ResidualGeneratorDown(8)
    assert torch.equal(F(hr), F(hr))


def test_spectral_norm_bounds_each_layer():
    torch.manual_seed(0)
    D = Discriminator(8, (1, 2, 1), spectral_norm=True)
    for _ in range(100):
        D(torch.rand(1, 3, 32, 32))  # power iterations
    for layer in D.model[::2]:
        norm = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
        assert norm.item() == pytest.approx(1, abs=0.01)
    assert D(torch.rand(1, 3, 32, 32)).shape == (1, 1, 13, 13)  # 32 - 31 - 15 - 14 - 13


def folders_of(dataset) -> tuple:
    return tuple(dataset.folders().values())


def scenes(paths) -> set[str]:
    return {path.stem.removesuffix("x4") for path in paths}


def test_no_scene_is_in_both_domains(dataset):
    lr, hr, valid = unpaired_photos(*folders_of(dataset), n_valid=10)
    assert scenes(lr) == {"0000", "0002", "0004"} and scenes(hr) == {"0001", "0003"}
    assert all(path.parent == dataset.lr for path in lr) and len(valid) == 2


def test_held_out_photos_are_in_neither_domain(dataset, tmp_path, capsys):
    lr, hr = (
        shutil.copytree(dataset.lr, tmp_path / "lr"),
        shutil.copytree(dataset.hr, tmp_path / "hr"),
    )
    lr, hr, valid = unpaired_photos(lr, hr, None, None, n_valid=10)
    assert "the last 1 of 5 photos" in capsys.readouterr().out
    assert [path.name for path in valid[0]] == ["0004x4.png", "0004.png"]
    assert (scenes(lr), scenes(hr)) == ({"0000", "0002"}, {"0001", "0003"})


def test_photos_of_different_names_are_all_used(dataset, tmp_path):
    for i, path in enumerate(list_images(dataset.lr)):
        (tmp_path / "lr").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "lr" / f"phone{i}.png")
    lr, hr, _ = unpaired_photos(tmp_path / "lr", *folders_of(dataset)[1:], n_valid=1)
    assert (len(lr), len(hr)) == (5, 5)
    with pytest.raises(ValueError, match=r"share 0 photos by name.*valid_lr_folder"):
        unpaired_photos(
            tmp_path / "lr", shutil.copytree(dataset.hr, tmp_path / "hr"), None, None, 1
        )


def test_several_lr_photos_of_a_scene_are_all_used(dataset, tmp_path):
    (tmp_path / "lr").mkdir()
    for path in list_images(dataset.lr):
        for w in "1234":
            shutil.copy(path, tmp_path / "lr" / f"{path.stem}w{w}.png")
    lr, hr, _ = unpaired_photos(tmp_path / "lr", *folders_of(dataset)[1:], n_valid=1)
    assert Counter(path.stem[:4] for path in lr) == {"0000": 4, "0002": 4, "0004": 4}
    assert scenes(hr) == {"0001", "0003"}


def test_swapped_or_missing_folders_are_named(dataset):
    lr, hr, valid_lr, valid_hr = folders_of(dataset)
    with pytest.raises(ValueError, match=r"expected the HR photo to be the larger.*swapped"):
        unpaired_photos(hr, lr, valid_lr, valid_hr, 10)
    with pytest.raises(ValueError, match="give both"):
        unpaired_photos(lr, None, valid_lr, valid_hr, 10)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        unpaired_photos(lr.parent / "nowhere", hr, valid_lr, valid_hr, 10)


@pytest.fixture
def paths(dataset) -> tuple[list, list]:
    return unpaired_photos(*folders_of(dataset), n_valid=1)[:2]


@pytest.mark.parametrize("crop", [False, True])
def test_images_depend_on_seed_epoch_and_number_alone(paths, crop):
    photos, again, other = (UnpairedPhotos(*paths, 16, 64, seed, crop) for seed in (3, 3, 4))
    assert len(photos) == 5
    take_crop(again, 7, 40, 0)  # what was drawn before does not matter
    for domain, size in ((0, 16), (1, 64)):
        images = [take_crop(photos, 1, k, domain) for k in range(8)]
        assert all(image.shape == (size, size, 3) for image in images)
        for k in (5, 2):
            np.testing.assert_array_equal(images[k], take_crop(again, 1, k, domain))
        assert any((images[k] != take_crop(other, 1, k, domain)).any() for k in range(8))
    lr, hr = photos[1, range(2, 4)]
    assert lr.shape == (2, 3, 16, 16) and hr.shape == (2, 3, 64, 64) and lr.dtype == torch.uint8
    np.testing.assert_array_equal(hr[1].permute(1, 2, 0), take_crop(photos, 1, 3, 1))


def test_whole_photos_are_resized_once_and_flipped_both_ways(tmp_path):
    y, x = np.mgrid[:96, :120]
    write_image(tmp_path / "a.png", np.stack([2 * y, 2 * x, 0 * x], 2).astype(np.uint8))
    photos = UnpairedPhotos([tmp_path / "a.png"], [tmp_path / "a.png"], 12, 48, seed=0)
    kinds = Counter()
    for k in range(200):
        image = take_crop(photos, 0, k, 1).astype(int)
        rows, columns = image[-1, :, 0] - image[0, :, 0], image[:, -1, 1] - image[:, 0, 1]
        # 48 rows of 2 photo rows each: from the first's middle to the last's, 47 * 2 * 2.
        assert set(abs(rows)) <= {187, 188, 189} and (abs(columns) > 225).all()
        kinds[rows[0] > 0, columns[0] > 0] += 1
    assert len(kinds) == 4 and min(kinds.values()) > 30


def test_lr_and_hr_are_drawn_independently(paths):
    photos = UnpairedPhotos(*paths, 16, 64, seed=0, crop=True)
    n = [len(p) for p in photos.photos]
    means = [[photos.photos[d][i].mean() for i in range(n[d])] for d in (0, 1)]
    assert n == [3, 2] and len(set(means[0] + means[1])) == 5
    pairs = {tuple(photo_of_crop((0, 0, d), k, n[d]) for d in (0, 1)) for k in range(60)}
    assert len(pairs) == 6  # every LR photo meets every HR photo


def test_photo_smaller_than_a_crop_is_named(paths):
    named = r"0000x4\.png \(\d+x24\).*: smaller than a crop of 32x32: lower .*lr_size"
    with pytest.raises(ValueError, match=named):
        UnpairedPhotos(*paths, 32, 128, seed=0, crop=True)
    assert len(UnpairedPhotos(*paths, 32, 128, seed=0)) == 5


def test_pool_returns_new_images_until_it_is_full_then_old_ones_half_the_time():
    torch.manual_seed(0)
    pool = ImagePool(50)
    numbers = torch.arange(2000.0).view(500, 4, 1, 1, 1)
    returned = torch.stack([pool.query(batch) for batch in numbers]).flatten()
    assert torch.equal(returned[:50], torch.arange(50.0))
    fresh = (returned[50:] == torch.arange(50.0, 2000)).float().mean().item()
    assert fresh == pytest.approx(0.5, abs=0.04)
    assert len(pool.images) == 50 and max(Counter(returned.tolist()).values()) == 2
    assert pool.query(torch.zeros(1, 1, 1, 1, requires_grad=True)).requires_grad is False


def test_pool_of_no_size_is_none():
    images = torch.rand(4, 3, 2, 2)
    assert torch.equal(ImagePool(0).query(images), images)


def test_restored_pool_goes_on_alike():
    pool, again = ImagePool(4), ImagePool(4)
    for i in range(3):
        pool.query(torch.full((2, 1, 1, 1), float(i)))
    again.load_state_dict(pool.state_dict())
    new = torch.rand(6, 1, 1, 1)
    results = []
    for p in (pool, again):
        torch.manual_seed(1)
        results.append(p.query(new))
    assert torch.equal(*results)


def test_residual_generators_add_a_tenth_of_their_features():
    torch.manual_seed(0)
    up, down = ResidualGeneratorSR(4, 2), ResidualGeneratorDown(4)
    for network, size, factor in ((up, 6, 4), (down, 24, 1 / 4)):
        for weight in network.parameters():
            nn.init.normal_(weight, 0, 0.1)
        image = torch.rand(2, 3, size, size)
        with torch.inference_mode():
            added = network(image) - resize(image, factor)
            features = network.features(image)
        assert features.std() > 0.01
        torch.testing.assert_close(added, features / 10)


@pytest.mark.parametrize("crop", [False, True])
def test_as_many_photos_of_each_kind_meet_in_all_ways(paths, crop):
    photos = UnpairedPhotos(paths[0][:2], paths[1][:2], 16, 64, seed=0, crop=crop)
    met = {tuple(photos.choose_crop(0, k, d).photo for d in (0, 1)) for k in range(40)}
    assert met == {(0, 0), (0, 1), (1, 0), (1, 1)}
