"""Small real photos in DIV2K's layout, and what tests of several training scripts share."""

import csv
import functools
import os
import runpy
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import skimage
import torch

from common import checkpoint
from common.data.photos import read_image, write_image
from common.run import training
from CVAE.model import CVAE
from scripts.benchmarks.train import random_vgg
from scripts.prepare_dataset import prepare_dataset

# What a process imports from which others are forked, of tests that start several.
PRELOADED = ["scripts.benchmarks.stress", "torch._dynamo", "tests.test_processes"]
SKIMAGE_DATA = Path(skimage.__file__).parent / "data"
Weights = dict[str, torch.Tensor]
# The same sums on every machine, and none that wait for another's: tests run side by side.
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that they start
torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")


@pytest.fixture(scope="session", autouse=True)
def curves_as_text() -> Iterator[None]:
    """What curves show, in place of curves, whose drawing takes most of a small run's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "plot_curves", _write_curves)
        yield


def _write_curves(path: Path, rows: list[dict], *others: object) -> None:
    path.write_text(repr(([row | {"seconds": 0} for row in rows], *others)))


class Dataset(NamedTuple):
    lr: Path
    hr: Path
    valid_lr: Path
    valid_hr: Path

    def folders(self) -> dict[str, Path]:
        """Return the train functions' arguments."""
        return {
            "lr_folder": self.lr,
            "hr_folder": self.hr,
            "valid_lr_folder": self.valid_lr,
            "valid_hr_folder": self.valid_hr,
        }


@pytest.fixture(scope="session")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of torchvision's VGG19 with random weights, features only."""
    torch.manual_seed(0)
    return random_vgg(tmp_path_factory.mktemp("vgg"))


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Photos of 24 LR pixels and more."""
    return lay_out(tmp_path_factory.mktemp("dataset"), height=97)


@pytest.fixture(scope="session")
def large_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Photos of 32 LR pixels and more."""
    return lay_out(tmp_path_factory.mktemp("large_dataset"), height=131)


@pytest.fixture(scope="session")
def small_cvae() -> CVAE:
    """A CVAE of 8 features whose batch norm has seen some images, and whose z does something."""
    torch.manual_seed(0)
    network = CVAE(8, 32)
    with torch.no_grad():
        network.upsample2[2].weight.fill_(1)
        network.decoder_input.weight.mul_(10)
        for _ in range(10):
            network(torch.rand(4, 3, 32, 32))
    return network.eval()


def lay_out(root: Path, height: int) -> Dataset:
    cuts = {
        "train": ("astronaut.png", "rocket.jpg", "motorcycle_left.png", "ihc.png", "coffee.png"),
        "valid": ("chelsea.png", "astronaut.png"),
    }
    folders = {}
    for split, names in cuts.items():
        for i, name in enumerate(names):
            top = 200 if split == "train" else 20
            photo = read_image(SKIMAGE_DATA / name)[top : top + height, 100 : 230 + 4 * i]
            write_image(root / split / f"{i:04d}.png", photo)
        folders[split] = prepare_dataset(root / split, root, split=split, processes=0)
    (hr, lr), (valid_hr, valid_lr) = folders["train"], folders["valid"]
    return Dataset(lr, hr, valid_lr, valid_hr)


def rows_of(run: Path) -> list[dict[str, str]]:
    """Return a run's log, without the seconds."""
    with (run / "log.csv").open(newline="") as file:
        return [row | {"seconds": ""} for row in csv.DictReader(file)]


def run_script(path: str, settings: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do in this process what `python PATH --FLAGS` does."""
    flags = [word for k, v in settings.items() for word in (f"--{k.replace('_', '-')}", str(v))]
    monkeypatch.setattr(sys, "argv", [path, *flags])
    monkeypatch.setattr(sys, "path", [*sys.path])  # (the script adds to it)
    runpy.run_path(path, run_name="__main__")


def same_weights(a: Path, b: Path) -> bool:
    a, b = checkpoint.load(a), checkpoint.load(b)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def stop_in_step(
    number: int, monkeypatch: pytest.MonkeyPatch, mover: object = training
) -> list[int]:
    """Send SIGTERM in a training's step `number`; the list grows with each step.

    `mover` has the `to_device` that each step calls.
    """
    steps: list[int] = []

    def to_device(*args):
        steps.append(1)
        if len(steps) == number:
            signal.raise_signal(signal.SIGTERM)
        return original(*args)

    original = mover.to_device
    monkeypatch.setattr(mover, "to_device", to_device)
    return steps


def smooth_adam(patch: pytest.MonkeyPatch, eps: float) -> None:
    """Let `torch.optim.Adam` have another eps than 1e-8.

    A step of Adam is the gradient divided by its own size: with 1e-8 rounding decides which way a
    weight goes whose gradient is nearly 0, and half of a loss trains as the whole of it does. With
    an eps of the gradients' size two writings of one training give the same weights, and a loss of
    another size gives others.
    """
    patch.setattr(torch.optim, "Adam", functools.partial(torch.optim.Adam, eps=eps))


def assert_moved_alike(ours: Weights, expected: Weights, before: Weights, share: float) -> None:
    """Each tensor is where it is expected, up to a share of how far it came from `before`.

    A bias without a gradient (what follows takes its mean away) moves by rounding alone, 1e-7.
    """
    assert ours.keys() == expected.keys()
    for name, there in expected.items():
        there = there.double()
        wrong = (ours[name].double() - there).norm()
        moved = (there - before[name].double()).norm()
        assert wrong <= share * moved + 2e-6 * there.norm() + 1e-6, f"{name}: {wrong} of {moved}"
