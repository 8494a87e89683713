"""Measure ours and the usual way in turn, in one run, and print the ratio.

python scripts/benchmark.py data     crops from the pixel store against decoding a PNG for each
python scripts/benchmark.py train    a PSNR-stage step against the same network from spandrel
python scripts/benchmark.py tiles    how far tiled results are from the whole image's, by margin
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import skimage
import torch
from PIL import Image
from torch.nn import functional

from common.crops import PairedCrops
from common.device import choose_device, describe
from common.flags import command_line
from common.images import list_pairs, read_image, to_tensor, write_image
from common.progress import progress_bar
from common.resize import imresize
from ESRGAN.model import GeneratorRRDB
from scripts.builtin_photos import TRAIN
from scripts.models import load_model


def data(*, n_photos: int = 8, patch_size: int = 128, rounds: int = 5, seed: int = 0) -> float:
    """Compare aligned LR/HR crops per second; return the ratio of the medians.

    Args:
        n_photos: photos of 2040x1404, DIV2K's usual size, and their LR.
        patch_size: HR pixels.
        rounds: how often each side is measured.
        seed: of the crops.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        hr_folder, lr_folder = Path(folder) / "HR", Path(folder) / "LR"
        for i in progress_bar(range(n_photos), desc="making photos", unit="photo"):
            hr = _large_photo(TRAIN[i % len(TRAIN)], seed=i)
            write_image(hr_folder / f"{i}.png", hr)
            write_image(lr_folder / f"{i}x4.png", imresize(hr, 1 / 4))
        pairs = list_pairs(lr_folder, hr_folder)
        megabytes = sum(hr.stat().st_size for _, hr in pairs) / n_photos / 1e6
        began = time.perf_counter()
        crops = PairedCrops(pairs, patch_size, seed)
        built = time.perf_counter() - began
        rng = np.random.default_rng(seed)

        def decode_per_crop(k: int) -> None:
            lr_path, hr_path = pairs[k % n_photos]
            lr, hr = (np.asarray(Image.open(path).convert("RGB")) for path in (lr_path, hr_path))
            n = patch_size // 4
            y, x = (int(rng.integers(size - n + 1)) for size in lr.shape[:2])
            lr[y : y + n, x : x + n].copy(), hr[4 * y : 4 * (y + n), 4 * x : 4 * (x + n)].copy()

        def from_store(k: int) -> None:
            lr, hr = crops.crop(0, k)
            lr.copy(), hr.copy()

        usual, ours = _in_turn((decode_per_crop, 2 * n_photos), (from_store, 5000), rounds=rounds)
    print(f"{n_photos} photos of 2040x1404 ({megabytes:.1f} MB a PNG), crops of {patch_size}x")
    print(f"decoding per crop  {1 / usual:10.1f} crops/s")
    print(f"pixel store        {1 / ours:10.1f} crops/s (built in {built:.1f} s, once)")
    print(f"ratio              {usual / ours:10.1f}")
    return usual / ours


def train(
    *,
    n_blocks: int = 23,
    batch_size: int = 4,
    lr_size: int = 32,
    rounds: int = 5,
    device: str = "cpu",
) -> float:
    """Compare seconds of a PSNR-stage step (L1, Adam); return the ratio of the medians.

    Both sides in full precision, with the same optimiser, on the same images.

    Args:
        n_blocks: RRDBs of 64 features and growth 32.
        lr_size: LR pixels each way.
        rounds: how often each side is measured.
    """
    try:
        from spandrel.architectures.ESRGAN import ESRGAN as SpandrelRRDB
    except ImportError:
        sys.exit("the peer's network is missing: pip install spandrel")
    where = choose_device(device)
    lr = torch.rand(batch_size, 3, lr_size, lr_size, device=where)
    hr = torch.rand(batch_size, 3, 4 * lr_size, 4 * lr_size, device=where)

    def stepper(network: torch.nn.Module) -> Callable[[int], None]:
        network = network.to(where)
        optimizer = torch.optim.Adam(network.parameters(), 1e-9)

        def step(k: int) -> None:
            loss = functional.l1_loss(network(lr), hr)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

        return step

    networks = {
        "spandrel": SpandrelRRDB(num_blocks=n_blocks),
        "ours, published network": GeneratorRRDB(n_blocks, conv_last=False),
        "ours, with conv_last": GeneratorRRDB(n_blocks),
    }
    seconds = _in_turn(*((stepper(network), 1) for network in networks.values()), rounds=rounds)
    print(f"a step of batch {batch_size}, LR {lr_size}x{lr_size}, on {describe(where)}")
    for name, median in zip(networks, seconds, strict=True):
        print(f"{name:24} {median:8.3f} s   spandrel / this: {seconds[0] / median:.2f}")
    return seconds[0] / seconds[1]


def tiles(
    *, models: tuple[str, ...] = ("bicubic",), tile: int = 120, device: str = "cuda"
) -> dict[str, list[float]]:
    """Print the largest difference between a tiled and a whole result, in 1/255.

    Of one answer, and of a sample where there are such; the photo is chelsea, 451x300, taken as LR.

    Args:
        models: checkpoints.
        tile: LR pixels each way, a multiple of 24.
    """
    lr = to_tensor(read_image(Path(skimage.__file__).parent / "data" / "chelsea.png"))
    where, margins = choose_device(device), (24, 48, 72)
    print(f"{'margin, LR pixels':42}" + "".join(f"{margin:>9}" for margin in margins))
    results = {}
    for name in models:
        model = load_model(name, where)
        answers: dict[str, Callable[[], torch.Tensor]] = {name: lambda m=model: m.upscale(lr)}
        if model.has_samples:
            answers[f"{name}, a sample"] = lambda m=model: m.sample(lr, 1, seed=0)[0]
        for title, answer in answers.items():
            model.tile = max(lr.shape)
            whole, differences = answer(), []
            model.tile = tile
            for model.margin in margins:
                differences.append(255 * (answer() - whole).abs().max().item())
            print(f"{title[-42:]:42}" + "".join(f"{value:9.4f}" for value in differences))
            results[title] = differences
    return results


def _in_turn(*sides: tuple[Callable[[int], None], int], rounds: int) -> list[float]:
    """Return each side's median seconds a call; a side is (function, calls in a round)."""
    seconds: list[list[float]] = [[] for _ in sides]
    for function, _ in sides:
        function(0)
    for _ in progress_bar(range(rounds), desc="measuring", unit="round"):
        for times, (function, n_calls) in zip(seconds, sides, strict=True):
            began = time.perf_counter()
            for k in range(n_calls):
                function(k)
            times.append((time.perf_counter() - began) / n_calls)
    return [statistics.median(times) for times in seconds]


def _large_photo(name: str, seed: int) -> np.ndarray:
    """Return a built-in photo enlarged to 2040x1404, with noise so that it packs like one."""
    photo = Image.fromarray(read_image(Path(skimage.__file__).parent / "data" / name))
    pixels = np.asarray(photo.resize((2040, 1404), Image.Resampling.LANCZOS), dtype=np.float32)
    noise = np.random.default_rng(seed).normal(0, 2.5, pixels.shape)
    return np.clip(np.round(pixels + noise), 0, 255).astype(np.uint8)


if __name__ == "__main__":
    command_line({"data": data, "train": train, "tiles": tiles})
