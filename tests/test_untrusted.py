"""Files of weights that want more than to be loaded, at every door they can come in by."""

import collections
import json
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from common import checkpoint
from common.files import one_line
from CycleGAN.model import ResidualGeneratorSR
from ESRGAN.model import GeneratorRRDB, load_published, set_weights, to_published
from ESRGAN.train_esrgan import train_esrgan
from ESRGAN.vgg import VGG19Features
from scripts.compare import compare
from scripts.evaluate import evaluate
from scripts.export import export
from scripts.inference import models
from scripts.inference.models import load_model
from scripts.inference.untrusted import build_checked, refuse_bombs, refuse_declared_sizes
from scripts.inference.weights import state_dicts
from scripts.samples import samples
from scripts.upscale import upscale
from SRVAE.model import SRVAE
from tests.conftest import Dataset
from tests.test_train_esrgan import SMALL

FEW = {"steps_per_epoch": 1, "n_epochs": 1, "n_epochs_gan": 0}


def doors(file: Path, dataset: Dataset, out: Path) -> dict:
    """Return a call for each way by which a file of weights comes in."""
    photo = next(dataset.valid_lr.iterdir())
    training = {**dataset.folders(), **SMALL, **FEW, "out_dir": out / "run"}
    cpu = {"device": "cpu"}
    return {
        "load_model": lambda: load_model(file, "cpu"),
        "upscale": lambda: upscale((photo,), model=file, out=out / "a.png", **cpu),
        "evaluate": lambda: evaluate(models=(str(file),), hr=dataset.valid_hr, **cpu),
        "compare": lambda: compare(photo, models=(str(file),), out=out / "b.png", **cpu),
        "samples": lambda: samples((photo,), model=file, out=out / "c.png", **cpu),
        "export": lambda: export(file, out / "d.safetensors"),
        "start_from": lambda: train_esrgan(**training, start_from=file),
        "vgg_weights": lambda: VGG19Features(file),
    }


DOORS = list(doors(Path(), Dataset(*[Path(__file__).parent] * 4), Path()))


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def code(path: Path) -> Path:
    """Write a checkpoint that, when it is loaded carelessly, leaves a file beside itself."""
    attack = Calls(exec, f"import pathlib; pathlib.Path({str(path) + '.executed'!r}).touch()")
    torch.save({"conv_first.weight": torch.zeros(3), "more": [{"deeper": attack}]}, path)
    return path


@pytest.mark.parametrize("door", DOORS)
def test_code_is_executed_at_no_door(door, dataset, tmp_path):
    path = code(tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth"):
        doors(path, dataset, tmp_path / "out")[door]()
    executed = Path(f"{path}.executed")
    assert not executed.exists()
    torch.load(path, weights_only=False)  # the attack is a real one
    assert executed.exists()


def _with_shape(shape: tuple[int, ...], stride: tuple[int, ...]) -> Calls:
    """A tensor of one value that says it has more."""
    storage = torch.zeros(1).__reduce_ex__(2)[1][0]
    hooks = collections.OrderedDict()
    rebuild = torch._utils._rebuild_tensor_v2
    return Calls(rebuild, storage, 0, shape, stride, False, hooks)


BOMBS = {
    "one value for all": torch.zeros(1).expand(10**6, 10**6),
    "shape beyond the values": _with_shape((40000, 10**5), (10**5, 1)),
    "many names for one": [torch.zeros(10**4)] * 100,
    "bytearray": Calls(bytearray, 3 * 10**9),
    "torch.Tensor": Calls(torch.Tensor, 30000, 10**5),
    "sparse": torch.zeros(2, 2).to_sparse(),
    "meta": torch.empty(10**6, 10**6, device="meta"),
}


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("name", BOMBS)
def test_small_files_cannot_ask_for_much_memory(name, is_zip, tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"w": BOMBS[name]}, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises((ValueError, RuntimeError)):
        refuse_bombs(path)
        refuse_declared_sizes(torch.load(path, weights_only=True), path.stat().st_size)


def test_compressed_and_overlapping_records_are_refused(tmp_path):
    torch.save({"w": torch.zeros(10**6)}, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as plain_file,
        zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for member in plain_file.infolist():
            packed.writestr(member.filename, plain_file.read(member))
    with zipfile.ZipFile(tmp_path / "a.pth", "a") as many:
        record = next(m for m in many.infolist() if m.filename.endswith("data/0"))
        many.filelist += [record] * 50  # fifty more of them, all where the first one lies
        many._didModify = True
    for name in ("small.pth", "a.pth"):
        with pytest.raises(ValueError, match="unpack to more than it holds"):
            refuse_bombs(tmp_path / name)


def test_formats_that_run_code_in_some_releases_of_torch_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "script.pth", "w") as zipped:
        zipped.writestr("script/constants.pkl", b"")
    with pytest.raises(ValueError, match="a TorchScript program"):
        refuse_bombs(tmp_path / "script.pth")
    with tarfile.open(tmp_path / "old.pth", "w") as tar:
        tar.add(code(tmp_path / "evil.pth"), "pickle")
    with pytest.raises(ValueError, match="in which code can hide"):
        refuse_bombs(tmp_path / "old.pth")


@pytest.mark.parametrize("is_zip", [True, False])
def test_what_training_saves_is_let_through(is_zip, tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(torch.bfloat16)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.rand(1, 3, 9, 9, dtype=torch.bfloat16)).sum().backward()
    optimizer.step()
    content = {
        "network": network.state_dict(),
        "parameter": network[0].weight,
        "optimizer": optimizer.state_dict(),
        "random": {"cpu": torch.get_rng_state()},
        "rows": [{"a": 1.5, "b": None, "c": (1, True)}],
        "size": network[0].weight.shape,
        "bytes": b"\xff",
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "best": network.state_dict(),  # the same tensors under another name
    }
    path = tmp_path / "a.pth"
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    refuse_bombs(path)
    refuse_declared_sizes(torch.load(path, weights_only=True), path.stat().st_size)


@pytest.mark.parametrize("n", [20000, 10**9])
@pytest.mark.parametrize("name", ["ESRGAN", "published", "CVAE", "SRVAE", "CycleGAN"])
def test_network_that_a_small_file_describes_is_not_built(name, n, tmp_path, monkeypatch):
    """Of 20,000 features a convolution alone would take 14 GB."""
    first = torch.zeros(n, 3, 3, 3) if n < 10**6 else torch.zeros(n, 3, 0, 3)
    made = {
        "ESRGAN": {"conv_first.weight": first, "body.0.dense_blocks.0.conv1.weight": first},
        "published": {"conv_first.weight": first, "RRDB_trunk.0.RDB1.conv1.weight": first},
        "CVAE": {"enc_conv1.0.weight": first, "fc_mu.weight": torch.zeros(n, 0)},
        "SRVAE": {"conv_first.weight": first, "to_mu.weight": first},
        "CycleGAN": {"conv1.0.weight": first, "up1.0.weight": first, "conv_out.weight": first},
    }[name]
    made |= {"SRVAE": {"decoder.0.scale.weight": first}}.get(name, {})
    made |= {"CycleGAN": {"res_blocks.0.conv2.weight": first}}.get(name, {})
    monkeypatch.setattr(models, "load_weights", lambda path: made)
    with pytest.raises(ValueError, match="no network that enlarges"):
        load_model(tmp_path / "a.pth", "cpu")


def test_number_of_blocks_is_not_taken_from_a_name():
    weights = to_published(GeneratorRRDB(1, 8, 4, conv_last=False))
    weights["RRDB_trunk.999999999.RDB1.conv1.weight"] = torch.zeros(4, 8, 3, 3)
    with pytest.raises(ValueError, match="2 blocks and one numbered 999999999"):
        load_published(weights)
    with pytest.raises(ValueError, match="numbered 999999999"):
        set_weights(GeneratorRRDB(1, 8, 4), weights)


def test_generator_to_start_from_is_not_built_a_second_time():
    """Of 20,000 features a convolution alone would take 14 GB."""
    weights = to_published(GeneratorRRDB(1, 8, 4, conv_last=False))
    weights["conv_first.weight"] = torch.zeros(20_000, 3, 3, 3)
    with pytest.raises(ValueError, match="of a network of another size"):
        set_weights(GeneratorRRDB(1, 8, 4), weights)


@pytest.mark.parametrize("content", [{1: torch.zeros(1)}, {"conv_first.weight": 3}, {"a": {}}])
def test_generator_to_start_from_has_tensors_with_names(content):
    with pytest.raises(ValueError, match="not the weights"):
        set_weights(GeneratorRRDB(1, 8, 4), content)


@pytest.mark.parametrize("n", [-1, 10**12])
def test_endless_back_projection_is_refused(n, tmp_path):
    weights = ResidualGeneratorSR(4, 1).state_dict() | {"_extra_state": torch.tensor(n)}
    checkpoint.save(tmp_path / "a.pth", weights)
    with pytest.raises(ValueError, match=rf"a\.pth .*{n} back-projections"):
        load_model(tmp_path / "a.pth", "cpu")


def test_weights_that_are_not_finite_are_refused(tmp_path):
    weights = SRVAE(6, 3, 2).state_dict()
    weights["conv_last.bias"][0] = float("nan")
    checkpoint.save(tmp_path / "a.pth", weights)
    with pytest.raises(ValueError, match=r"a\.pth holds weights that are not finite"):
        load_model(tmp_path / "a.pth", "cpu")


def _safetensors(header: object, n_bytes: int = 4, declared: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", declared or len(text)) + text + bytes(n_bytes)


def _entry(shape: list[int], end: int, kind: str = "F32") -> dict:
    return {"w": {"dtype": kind, "shape": shape, "data_offsets": [0, end]}}


@pytest.mark.parametrize(
    "content",
    [
        _safetensors(_entry([1], 4), declared=2**63),
        _safetensors(_entry([1], 4), declared=99_000_000),
        _safetensors(_entry([10**6, 10**6], 4)),
        _safetensors(_entry([2**33, 2**31], 4)),
        _safetensors(_entry([10**12], 4 * 10**12)),
        _safetensors(_entry([-1], 4)),
        _safetensors(_entry([1], 4, "CODE")),
        _safetensors({"a": _entry([1], 4)["w"], "b": _entry([1], 4)["w"]}),  # both in one place
        b"\x08\x00\x00\x00\x00\x00\x00\x00" + b"[" * 8,
    ],
    ids=["2**63", "100 MB", "shape", "overflow", "beyond", "negative", "type", "overlap", "deep"],
)
def test_safetensors_that_declare_what_they_do_not_hold_are_refused(content, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.safetensors is damaged or no"):
        load_model(tmp_path / "a.safetensors", "cpu")


def test_shapes_are_compared_before_memory_is_taken():
    places = []

    def from_weights(weights: dict) -> nn.Module:
        network = nn.Linear(2, 2)
        places.append(network.weight.device.type)
        network.load_state_dict(weights)
        return network

    weights = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
    network = build_checked(from_weights, weights)
    assert torch.equal(network.weight, weights["weight"]) and places == ["meta", "cpu"]


@pytest.mark.parametrize("values", [{}, {"weight": torch.zeros(4, 4), "bias": torch.zeros(4)}])
def test_building_stops_when_a_network_is_larger_than_its_file(values):
    layers = []

    def from_weights(weights: dict) -> nn.Module:
        for _ in range(10**9):  # as of a number in a key
            layers.append(nn.Linear(4, 4))
        return nn.Sequential(*layers)

    with pytest.raises(ValueError, match="a larger network than its"):
        build_checked(from_weights, values)
    assert len(layers) < 100 and all(layer.weight.is_meta for layer in layers)


def test_networks_without_values_or_of_too_many_tensors_are_refused():
    with pytest.raises(ValueError, match="layers without values"):
        build_checked(lambda weights: nn.Linear(0, 4), {"weight": torch.zeros(4, 0)})
    many = dict.fromkeys(map(str, range(10_001)), torch.zeros(1))
    with pytest.raises(ValueError, match="10001 tensors, expected 10000 at most"):
        build_checked(lambda weights: None, many)


def test_a_state_dict_under_many_keys_is_built_once(tmp_path):
    weights = SRVAE(6, 3, 2).state_dict()
    assert len(state_dicts(dict.fromkeys(range(1000), weights))) == 1


def test_names_from_a_file_cannot_steer_the_terminal(tmp_path):
    checkpoint.save(tmp_path / "a.pth", {"\x1b[2J\x07a": torch.zeros(1)})
    with pytest.raises(ValueError) as refused:
        load_model(tmp_path / "a.pth", "cpu")
    assert str(refused.value).isprintable()
    assert one_line("a\x1b[2J\n  b" + "c" * 1000) == "a?[2J b" + "c" * 293


@pytest.mark.parametrize("door", [d for d in DOORS if d not in ("start_from", "vgg_weights")])
@pytest.mark.parametrize("name", ["bytearray", "one value for all"])
def test_bombs_are_refused_where_foreign_files_come_in(name, door, dataset, tmp_path):
    torch.save({"w": BOMBS[name]}, tmp_path / "bomb.pth")
    with pytest.raises(ValueError, match=r"bomb\.pth is damaged or no checkpoint"):
        doors(tmp_path / "bomb.pth", dataset, tmp_path / "out")[door]()
