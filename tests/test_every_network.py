"""What every network must do: a new one needs one row, or more where it has variants."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from common import checkpoint
from CVAE.model import CVAE
from CycleGAN.model import GeneratorSR, ResidualGeneratorSR
from EDSR.model import EDSR
from ESRGAN.model import GeneratorRRDB
from scripts.inference.models import FAMILIES, GRID, TILE, Bicubic, Model, load_model
from SRVAE.model import SRVAE
from SwinIR.model import SwinIR

# Family and variant, and how a small one is made.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ESRGAN": lambda: GeneratorRRDB(2, 8, 4),
    "ESRGAN, published": lambda: GeneratorRRDB(1, 8, 4, conv_last=False),
    "EDSR": lambda: EDSR(2, 8),
    "SwinIR": lambda: SwinIR((2, 2), 12, 2),
    "SwinIR, classical": lambda: SwinIR((2,), 12, 3, "pixelshuffle"),
    "SwinIR, real": lambda: SwinIR((2,), 12, 2, "nearest+conv", True),
    "CycleGAN": lambda: GeneratorSR(4, 3),
    "CycleGAN, residual": lambda: ResidualGeneratorSR(4, 2, back_projections=2),
    "CVAE": lambda: CVAE(4, 32),
    "CVAE, LR not bicubic": lambda: CVAE(4, 32, projections=0),
    "SRVAE": lambda: SRVAE(6, 3, 2),
    "SRVAE, LR not bicubic": lambda: SRVAE(6, 3, 2, projections=0),
    "bicubic": Bicubic,
}
TRAINED = [name for name in NETWORKS if name != "bicubic"]
CPU = torch.device("cpu")


def family_of(name: str) -> str:
    return name.split(",")[0]


def make(name: str) -> nn.Module:
    """Return a network that adds something to bicubic everywhere, as a trained one does."""
    torch.manual_seed(1)
    network = NETWORKS[name]()
    with torch.no_grad():
        for key, weight in network.named_parameters():
            if key in ("conv_out.weight", "upsample2.2.weight"):  # which start at 0 and near it
                nn.init.normal_(weight, 0, 0.05)
    return network.eval()


def photo(*size: int) -> torch.Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(0))


def test_every_family_is_tried():
    assert {family_of(name) for name in TRAINED} == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_margins_and_tiles_lie_on_the_grid(family):
    module = FAMILIES[family]
    assert module.MARGIN > 0 and module.MARGIN % module.GRID == 0
    assert GRID == 24 and TILE == 264  # what --tile's help says


@pytest.mark.parametrize("n_blocks, margin", [(1, 48), (4, 48), (6, 72), (23, 96)])
def test_deep_esrgan_sees_farther(n_blocks, margin, tmp_path):
    checkpoint.save(tmp_path / "a.pth", GeneratorRRDB(n_blocks, 4, 2).state_dict())
    assert load_model(tmp_path / "a.pth", "cpu").margin == margin


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", TRAINED)
def test_what_is_saved_is_loaded_with_its_sizes(name, suffix, tmp_path):
    network, path = make(name), tmp_path / f"weights{suffix}"
    save = save_file if suffix == ".safetensors" else lambda w, file: checkpoint.save(file, w)
    save(network.state_dict(), path)
    model = load_model(path, "cpu", precision="full")
    assert model.name == family_of(name) and model.margin <= FAMILIES[model.name].MARGIN
    assert type(model.network) is type(network) and not model.network.training
    expected, found = network.state_dict(), model.network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    layout = {"memory_format": torch.channels_last}
    network, lr = network.to(**layout), photo(1, 3, 7, 9).to(**layout)
    with torch.inference_mode():
        has_samples = hasattr(network, "sample")
        sr = network.sample(lr, temperature=0)[0] if has_samples else network(lr).clamp(0, 1)
    assert model.has_samples == has_samples and torch.equal(model.upscale(lr), sr)


@pytest.mark.parametrize("wrong", ["a tensor less", "a tensor more", "another shape"])
@pytest.mark.parametrize("name", TRAINED)
def test_weights_that_do_not_fit_are_refused(name, wrong, tmp_path):
    weights = dict(make(name).state_dict())
    key = [key for key in weights if key.endswith("bias")][-1]
    if wrong == "a tensor less":
        del weights[key]
    elif wrong == "a tensor more":
        weights["more.weight"] = torch.zeros(1)
    else:
        weights[key] = torch.zeros(len(weights[key]) + 1)
    checkpoint.save(tmp_path / "a.pth", weights)
    with pytest.raises(
        ValueError, match=r"a\.pth holds no network that enlarges images: .*(bias|more)"
    ):
        load_model(tmp_path / "a.pth", "cpu")


@pytest.mark.parametrize("wrap", ["params_ema", "state_dict", "module."])
@pytest.mark.parametrize("name", TRAINED)
def test_wrapped_weights_are_found(name, wrap, tmp_path):
    network = make(name)
    weights = network.state_dict()
    if wrap == "module.":
        content = {wrap + key: weight for key, weight in weights.items()}
    else:
        content = {wrap: weights, "epoch": 3}
    checkpoint.save(tmp_path / "a.pth", content)
    assert type(load_model(tmp_path / "a.pth", "cpu").network) is type(network)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(1, 1), (1, 30), (13, 2), (33, 35)])
def test_images_of_any_size_are_enlarged_four_times(name, size):
    model = Model(family_of(name), make(name), CPU)
    lr = photo(3, *size)
    answers = [model.upscale(lr), *(model.sample(lr, 2, seed=0) if model.has_samples else [])]
    for sr in answers:
        assert sr.shape == (3, 4 * size[0], 4 * size[1])
        assert sr.isfinite().all() and sr.min() >= 0 and sr.max() <= 1


@pytest.mark.parametrize("name", NETWORKS)
def test_values_stay_between_black_and_white(name):
    """Whatever the weights: beyond 0 and 1 values would wrap around in 8 bits."""
    network = make(name)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(1.5)
    model = Model(family_of(name), network, CPU)
    lr = (photo(3, 33, 40) > 0.5).float()  # the hardest edges there are: bicubic overshoots
    sr = model.upscale(lr)
    assert sr.min() >= 0 and sr.max() <= 1
    pixels = model.upscale((lr * 255).byte().permute(1, 2, 0).numpy())
    assert pixels.dtype == np.uint8
    expected = (sr * 255).round().byte().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_tiles_give_what_the_whole_image_does(name, small_cvae):
    network = copy.deepcopy(small_cvae) if name == "CVAE" else make(name)
    model = Model(family_of(name), network, CPU)
    lr = photo(1, 3, 26, 150)
    model.tile = 264
    whole = model.upscale(lr)
    drawn = torch.stack(model.sample(lr, 2, seed=1)) if model.has_samples else None
    model.tile = 48
    assert (model.upscale(lr) - whole).abs().max() < 0.1 / 255
    if drawn is not None:
        assert drawn.std(0).max() > 0
        tiled = torch.stack(model.sample(lr, 2, seed=1))
        assert (tiled - drawn).abs().max() < 0.5 / 255


@pytest.mark.parametrize("name", [name for name in TRAINED if "VAE" in name])
def test_tiles_that_are_made_smaller_for_memory_stay_on_the_grid(name):
    model, places = Model(family_of(name), make(name), CPU), []
    largest, original = 120 + 2 * model.margin, model.network.noise_of_part

    def noise_of_part(noise, place, size):
        if max(size) > largest:
            raise MemoryError
        places.append(place)
        return original(noise, place, size)

    model.network.noise_of_part = noise_of_part
    model.upscale(photo(3, 20, 400))
    assert len(places) > 2
    assert all(n % FAMILIES[model.name].GRID == 0 for place in places for n in place)


@pytest.mark.parametrize("name", TRAINED)
def test_bfloat16_is_within_a_quarter_of_a_255th_in_the_mean(name, tmp_path):
    checkpoint.save(tmp_path / "a.pth", make(name).state_dict())
    lr = photo(3, 40, 30)
    full, low = (
        load_model(tmp_path / "a.pth", "cpu", precision=precision).upscale(lr)
        for precision in ("full", "bfloat16")
    )
    assert low.dtype == torch.float32 and 0 < (low - full).abs().mean() <= 0.25 / 255


@pytest.mark.parametrize("has_it, used", [(True, "bfloat16"), (False, "full")])
@pytest.mark.parametrize("name", NETWORKS)
def test_auto_is_bfloat16_only_where_the_device_has_it(name, has_it, used, tmp_path, monkeypatch):
    found = {"avx512_bf16": has_it, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    path = "bicubic"
    if name != "bicubic":
        path = tmp_path / "a.pth"
        checkpoint.save(path, make(name).state_dict())
    model = load_model(path, "cpu")
    assert model.precision == ("full" if name == "bicubic" else used)
    types = {weight.dtype for weight in model.network.parameters()}
    assert (torch.bfloat16 in types) == (model.precision == "bfloat16")


@pytest.mark.parametrize("name", NETWORKS)
def test_half_precision_is_within_a_255th(name):
    lr = photo(3, 40, 30)
    full, half = (
        Model(family_of(name), make(name), CPU, precision).upscale(lr)
        for precision in ("full", "half")
    )
    assert half.dtype == torch.float32 and half.isfinite().all()
    assert ((half - full).abs() <= 1 / 255).float().mean() >= 0.999
    assert name == "bicubic" or not torch.equal(half, full)
