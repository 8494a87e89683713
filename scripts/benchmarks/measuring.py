"""Measure ways to do the same work in turn: seconds, arithmetic, memory; as JSON and bars too."""

import concurrent.futures
import contextlib
import datetime
import io
import json
import multiprocessing
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from matplotlib.figure import Figure
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from common.data.crops import to_device
from common.device import describe
from common.files import written_whole
from common.progress import progress_bar
from common.run import training

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "runs" / "benchmark"


class Side(NamedTuple):
    """One way to do the work.

    Attributes:
        build: gets it ready and returns what does it, given a count from 0. It can be pickled: its
            memory is measured in a process of its own.
        images: done by a call.
        calls: in a round.
        precision: of most of the arithmetic; whose ceiling it is compared with.
    """

    name: str
    build: Callable[[], Callable[[int], Any]]
    images: int
    calls: int = 1
    precision: torch.dtype = torch.float32


def measure(
    part: str,
    sides: list[Side],
    *,
    unit: str,
    rounds: int,
    out: Path,
    device: torch.device,
    peaks: bool = True,
) -> dict[str, float]:
    """Measure `sides` in turn, `rounds` times; print, write `out`/`part`.json and .png.

    Returns each side's ratio: the first side's median seconds per image over its own.

    First use is building and the first call. FLOP are those that torch counts in a call; a side
    that torch does not compute is taken to need what the first needs. The ceiling is the fastest of
    a large matrix product and two convolutions, timed in the same rounds. Where calls return
    tensors, they are compared with the first side's.
    """
    calls, rows, answers = [], [], []
    for side in progress_bar(sides, desc="getting ready", unit="side"):
        began = time.perf_counter()
        call = side.build()
        answer = _wait(call(0), device)
        row: dict[str, Any] = {"first_use_s": time.perf_counter() - began}
        with FlopCounterMode(display=False) as counter:
            call(1)
        row["gflop"] = counter.get_total_flops() / 1e9 or (rows[0]["gflop"] if rows else 0)
        if isinstance(answer, torch.Tensor):
            answers.append(answer)
            row["difference"] = (answer - answers[0]).abs().max().item()
        calls.append(call)
        rows.append(row)
    arithmetic = any(row["gflop"] for row in rows)
    precisions = {side.precision for side in sides} if arithmetic else set()
    products = {precision: _ceiling_calls(precision, device) for precision in precisions}
    rates: dict[torch.dtype, list[list[float]]] = {p: [[] for _ in c] for p, c in products.items()}
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in progress_bar(range(rounds), desc="measuring", unit="round"):
        for side, call, times in zip(sides, calls, seconds, strict=True):
            times.append(_time(call, side.calls, device) / side.images)
        for precision, kinds in products.items():
            for (call, gflop), found in zip(kinds, rates[precision], strict=True):
                found.append(gflop / _time(call, 1, device))
    ceilings = {p: max(map(statistics.median, found)) for p, found in rates.items()}
    for side, row, times in zip(sides, rows, seconds, strict=True):
        row |= against(seconds[0], times)
        row["seconds"] *= side.images
        row["all_seconds"] = [value * side.images for value in times]
        if arithmetic:
            row["gflop_per_second"] = row["gflop"] / row["seconds"]
            row["share_of_ceiling"] = row["gflop_per_second"] / ceilings[side.precision]
    del calls
    if peaks:
        for side, row in zip(sides, rows, strict=True):
            row["peak_memory_mb"] = peak_memory(side.build, device)
    named = {side.name: row for side, row in zip(sides, rows, strict=True)}
    notes = {f"ceiling_{str(p)[6:]}_gflop_per_second": value for p, value in ceilings.items()}
    report(part, named, unit=unit, out=out, device=device, notes=notes)
    return {name: row["ratio"] for name, row in named.items()}


def against(usual: list[float], times: list[float]) -> dict[str, Any]:
    """Return the median of `times` in seconds, and how much shorter it is than that of `usual`."""
    median = statistics.median(times)
    by_round = sorted(a / b for a, b in zip(usual, times, strict=True))
    return {
        "seconds": median,
        "per_second": 1 / median,
        "ratio": statistics.median(usual) / median,
        "ratio_quartiles": [by_round[len(by_round) // 4], by_round[-1 - len(by_round) // 4]],
    }


def report(
    part: str,
    rows: dict[str, dict[str, Any]],
    *,
    unit: str,
    out: Path,
    device: torch.device,
    notes: dict[str, Any],
) -> None:
    """Print `rows`, and write them with what they were measured on and by which command."""
    about = {
        "part": part,
        "command": shlex.join(
            ["python", f"scripts/benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]
        ),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": _machine(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
    print(f"{part} on {about['machine']}, torch {torch.__version__}, load {about['load_average']}")
    columns = {
        "seconds": ("seconds", "{:.4g}"),
        "per_second": (f"{unit}/s", "{:.4g}"),
        "ratio": ("ratio", "{:.2f}"),
        "ratio_quartiles": ("(quartiles)", "{0[0]:.2f}-{0[1]:.2f}"),
        "efficiency": ("efficiency", "{:.0%}"),
        "exchange_s": ("exchange s", "{:.2g}"),
        "gflop_per_second": ("GFLOP/s", "{:.1f}"),
        "share_of_ceiling": ("of ceiling", "{:.0%}"),
        "peak_memory_mb": ("peak MB", "{:.0f}"),
        "first_use_s": ("first use s", "{:.2f}"),
        "difference": ("difference", "{:.1e}"),
        "psnr_y": ("PSNR-Y", "{:.3f}"),
    }
    columns = {key: c for key, c in columns.items() if any(row.get(key) for row in rows.values())}
    print(f"{'':42}" + "".join(f"{title:>15}" for title, _ in columns.values()))
    for name, row in rows.items():
        found = [(row.get(key), shape) for key, (_, shape) in columns.items()]
        cells = ("-" if value is None else shape.format(value) for value, shape in found)
        print(f"{name[:42]:42}" + "".join(f"{cell:>15}" for cell in cells))
    for name, value in notes.items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    with written_whole(out / f"{part}.json") as temporary:
        temporary.write_text(json.dumps(about | notes | {"sides": rows}, indent=1) + "\n")
    figure = Figure(figsize=(9, 1.2 + 0.6 * len(rows)), layout="constrained")
    axes = figure.subplots()
    key, xlabel = (
        ("per_second", f"{unit}/s")
        if "ratio" in next(iter(rows.values()))
        else ("peak_memory_mb", "peak MB")
    )
    values = [row[key] or 0 for row in rows.values()]
    bars = axes.barh(list(rows), values, color=["#9aa5b1"] + ["#2f6f9f"] * (len(rows) - 1))
    ratios = [f" ({row['ratio']:.2f}x)" if "ratio" in row else "" for row in rows.values()]
    labels = [f" {value:.3g}{ratio}" for value, ratio in zip(values, ratios, strict=True)]
    axes.bar_label(bars, labels)
    axes.invert_yaxis()
    axes.set(title=f"{part}, {about['machine']}", xlabel=xlabel, xlim=(0, 1.25 * max(values)))
    with written_whole(out / f"{part}.png") as temporary:
        figure.savefig(temporary, dpi=120)
    print(f"{out / part}.json, .png")


@contextlib.contextmanager
def quiet_folder() -> Iterator[Path]:
    """Give a folder that is deleted afterwards; until then nothing is printed."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        yield Path(folder)


class _Enough(BaseException):
    """All steps that are measured were taken."""


def train_on_one_batch(
    train: Callable[..., Path], arguments: dict[str, Any], steps: Iterator[int]
) -> None:
    """Let a train function take its own steps, on one batch that stays on the device."""

    def on_one_batch(epoch: training.Epoch) -> Iterator[tuple[int, list[torch.Tensor]]]:
        batch = to_device(next(epoch.training.batches), epoch.training.device)
        for k in steps:
            yield k, batch
        raise _Enough

    with quiet_folder() as folder, mock.patch.object(training.Epoch, "__iter__", on_one_batch):
        try:
            train(**arguments, out_dir=folder / "run")
        except _Enough:
            return


def peak_memory(build: Callable[[], Callable[[int], Any]], device: torch.device) -> float | None:
    """Return the peak MB of a process that does nothing but this side's work, twice.

    On CUDA what torch allocated there; elsewhere the whole process, Python and torch included, its
    loaders' workers not. None: this system does not tell.
    """
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as one:
        return one.submit(_peak_of_this_process, build, device).result()


def _peak_of_this_process(build: Callable, device: torch.device) -> float | None:
    call = build()
    for k in range(2):
        _wait(call(k), device)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    if status.exists():  # (Linux's getrusage knows the parent's peak too)
        (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS: bytes


def _ceiling_calls(
    precision: torch.dtype, device: torch.device
) -> list[tuple[Callable[[int], Any], float]]:
    """Return a matrix product and two 3x3 convolutions, each with its GFLOP."""
    gpu = device.type == "cuda"
    n, side = (8192, 256) if gpu else (1536, 96)
    place = {"dtype": precision, "device": device}
    matrix = torch.rand(n, n, **place)
    kinds: list[tuple[Callable[[int], Any], float]] = [(lambda k: matrix @ matrix, 2e-9 * n**3)]
    for n_in, n_out in ((64, 64), (256, 256) if gpu else (64, 32)):
        image = torch.rand(8, n_in, side, side, **place).to(memory_format=torch.channels_last)
        kernel = torch.rand(n_out, n_in, 3, 3, **place).to(memory_format=torch.channels_last)
        gflop = 2e-9 * 9 * n_in * n_out * 8 * side**2

        def convolve(k: int, image: torch.Tensor = image, kernel: torch.Tensor = kernel) -> Any:
            with torch.no_grad():
                return functional.conv2d(image, kernel, padding=1)

        kinds.append((convolve, gflop))
    for call, _ in kinds:
        _wait(call(0), device)
    return kinds


def _time(call: Callable[[int], Any], n_calls: int, device: torch.device) -> float:
    """Return the mean seconds of a call."""
    _wait(None, device)
    began = time.perf_counter()
    for k in range(n_calls):
        call(k)
    _wait(None, device)
    return (time.perf_counter() - began) / n_calls


def _wait(value: Any, device: torch.device) -> Any:
    """Return `value` once the device has done all that it was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return value


def _machine(device: torch.device) -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if device.type == "cpu" and cpuinfo.exists():
        names = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        if names:
            return f"{names[0].partition(': ')[2]}, {torch.get_num_threads()} threads"
    return describe(device)
