"""Kill training runs at random moments; show that they end as a run does that was never killed.

    python scripts/benchmarks/stress.py
    python scripts/benchmarks/stress.py --scripts esrgan cyclegan_v2 --kills 50 --seed 1

Every script is trained twice, in small: without a break, and by processes that are killed (SIGKILL)
at random moments, half of them while they write a file, each with another number of loader workers
than the one before. In the end weights, optimisers, random numbers, log, curves and pictures have
to be the same, bit for bit; only the log's seconds are left out.
"""

import contextlib
import csv
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import common  # noqa: F401, it says what is not installed

import skimage
import torch

from common import checkpoint
from common.data.photos import read_image, write_image
from common.progress import progress_bar
from common.run.flags import command_line
from scripts.evidence.builtin_photos import TRAIN
from scripts.evidence.methods import METHODS
from scripts.prepare_dataset import prepare_dataset


def stress(
    *,
    scripts: tuple[str, ...] = tuple(METHODS),  # which
    kills: int = 20,  # of each, at least
    seed: int = 0,  # of the moments
    folder: Path | None = None,  # keeps the runs; None: a temporary one
) -> int:
    """Compare killed runs with unbroken ones; return how many differ.

    Raises:
        ValueError: there is no such script.
    """
    if unknown := set(scripts) - set(METHODS):
        raise ValueError(f"{', '.join(unknown)}: expected some of {', '.join(METHODS)}")
    # What killed processes leave is their system's to clean up, and no news here.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
    with contextlib.ExitStack() as stack:
        if folder is None:
            temporary = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(temporary))
        photos = lay_out(folder / "photos")
        n_different = 0
        for name in scripts:
            problems, moments = stress_script(name, photos, folder / name, kills, seed)
            n_different += bool(problems)
            print(f"{name}: {sum(moments.values())} kills: ", end="")
            print(", ".join(f"{n} {moment}" for moment, n in moments.most_common()))
            print(*(problems or ["the same as never killed"]), sep="\n", flush=True)
    return n_different


def lay_out(folder: Path) -> dict[str, Path]:
    """Make small training and validation photos; return the train functions' arguments for them."""
    folders = {}
    for split, prefix, names in (("train", "", TRAIN[:6]), ("valid", "valid_", TRAIN[6:8])):
        for name in names:
            photo = read_image(Path(skimage.__file__).parent / "data" / name)
            write_image(folder / split / f"{Path(name).stem}.png", photo[60:200, 60:200])
        hr, lr = prepare_dataset(folder / split, folder, split=split, processes=0)
        folders |= {f"{prefix}hr_folder": hr, f"{prefix}lr_folder": lr}
    return folders


def stress_script(
    name: str, arguments: dict[str, Any], folder: Path, kills: int, seed: int
) -> tuple[list[str], Counter[str]]:
    """Return what differs between killed and unbroken runs of a script, and when it was killed.

    Args:
        arguments: of the train function, besides those in `METHODS` or in their place.
    """
    rng = random.Random(f"{name} {seed}")
    began = time.perf_counter()
    process = _start(name, arguments, folder / "unbroken", workers=0)
    while not (folder / "unbroken" / "state.pth").exists() and process.is_alive():
        time.sleep(0.01)
    start_up = time.perf_counter() - began
    process.join()
    epoch = (time.perf_counter() - began - start_up) / 6
    moments: Counter[str] = Counter()
    problems: list[str] = []
    killed = folder / "killed"
    with progress_bar(total=kills, desc=name, unit="kill") as bar:
        while moments.total() < kills and not problems:
            process = _start(name, arguments, killed, workers=rng.randrange(3))
            writing, delay = rng.random() < 0.5, rng.uniform(0, start_up + 2.5 * epoch)
            _wait(process, killed if writing else None, rng.randrange(12), delay)
            if process.is_alive():
                process.kill()
                process.join()
                moments[_moment(killed)] += 1
                bar.update()
            elif process.exitcode or moments.total() < kills:  # ended of itself
                problems += _compare(folder / "unbroken", killed, process.exitcode)
                shutil.rmtree(killed)
        if not problems:
            process = _start(name, arguments, killed, workers=1)
            process.join()
            problems = _compare(folder / "unbroken", killed, process.exitcode)
    return problems, moments


def _start(name: str, arguments: dict[str, Any], out_dir: Path, workers: int) -> Any:
    """Start a run in a process of its own, forked from one that has imported everything."""
    way = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(way)
    if way == "forkserver":
        # (Adam imports torch._dynamo)
        context.set_forkserver_preload(["scripts.benchmarks.stress", "torch._dynamo"])
    process = context.Process(target=_run, args=(name, arguments, out_dir, workers))
    process.start()
    return process


def _run(name: str, arguments: dict[str, Any], out_dir: Path, workers: int) -> None:
    torch.set_num_threads(1)
    method = METHODS[name]
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    output = out_dir.with_suffix(".txt").open("a", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):  # of the process itself: workers inherit it
        os.dup2(output.fileno(), stream.fileno())
    method.train(**method.seconds | arguments, out_dir=out_dir, workers=workers, resume=True)


def _wait(process: Any, out_dir: Path | None, number: int, delay: float) -> None:
    """Wait for `delay` seconds, or, with `out_dir`, until file `number` is being written there."""
    seen: set[str] = set()
    until = time.perf_counter() + (delay if out_dir is None else 60)
    while process.is_alive() and time.perf_counter() < until:
        if out_dir is None:
            process.join(until - time.perf_counter())
            continue
        for folder in (out_dir, out_dir / "samples"):
            if folder.is_dir():
                seen |= {entry.name for entry in os.scandir(folder) if ".tmp" in entry.name}
        if len(seen) > number:
            return


def _moment(out_dir: Path) -> str:
    """Return what the process was doing when it was killed, as its files tell."""
    for folder in (out_dir, out_dir / "samples"):
        for path in sorted(folder.glob(".*.tmp*")):
            name = (
                "a picture" if folder.name == "samples" else path.name.split(".")[1] + path.suffix
            )
            return f"while writing {name}"
    state = out_dir / "state.pth"
    if not state.exists():
        return "between two states" if (out_dir / "state_previous.pth").exists() else "at the start"
    in_first = checkpoint.load(state)["progress"]["epochs_done"] == 0
    return "in the first epoch" if in_first else "elsewhere"


def _compare(unbroken: Path, killed: Path, exitcode: int | None) -> list[str]:
    if exitcode:
        output = killed.with_suffix(".txt").read_text(encoding="utf-8")
        return [f"{killed.parent.name} ended with {exitcode}:\n{output[-3000:]}"]
    return differences(unbroken, killed)


def differences(a: Path, b: Path) -> list[str]:
    """Return the files of two runs that differ, but for what depends on the clock or on paths."""
    names = [sorted(p.relative_to(run) for p in run.rglob("*") if p.is_file()) for run in (a, b)]
    if names[0] != names[1]:
        return [f"{a} and {b} hold other files: {set(names[0]) ^ set(names[1])}"]
    return [f"{b / name} differs" for name in names[0] if _content(a / name) != _content(b / name)]


def _content(path: Path) -> Any:
    if path.name == "config.json":
        return None
    if path.name == "log.csv":
        with path.open(newline="") as file:
            return [row | {"seconds": ""} for row in csv.DictReader(file)]
    if path.suffix == ".pth":
        state = checkpoint.load(path)
        for row in state.get("rows", []):
            row["seconds"] = ""
        return _plain({k: v for k, v in state.items() if k not in ("config", "changes")})
    return path.read_bytes()


def _plain(value: Any) -> Any:
    """Return `value` with bytes in place of tensors, which can be compared."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.dtype, value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(part) for part in value]
    return value


if __name__ == "__main__":
    sys.exit(min(1, command_line(stress)))
