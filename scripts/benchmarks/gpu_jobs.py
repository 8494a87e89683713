"""What scripts/benchmarks/gpu.py measures: a process that does jobs in turn, a line for each row.

A job that fails ends the process, with its traceback on stderr: on CUDA what follows an error
cannot be trusted. gpu.py starts another one, with the jobs that are left.
"""

import gc
import importlib.util
import inspect
import itertools
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

from common import checkpoint
from common.device import choose_device, describe
from common.run import training
from scripts.benchmarks import swinir
from scripts.benchmarks.measuring import ROOT, quiet_folder, train_on_one_batch
from scripts.benchmarks.precision import psnr_and_seconds
from scripts.benchmarks.stress import differences, lay_out
from scripts.benchmarks.train import gan_step, plain_psnr_step, random_vgg
from scripts.benchmarks.upscale import our_upscale, usual_upscale, write_network
from scripts.evidence.builtin_photos import builtin_photos
from scripts.evidence.methods import METHODS
from scripts.evidence.runs import last_row

MARK = "ROW "
LIMIT = 16_000_000  # bytes of a file that is kept
LONG = "test_bfloat16_costs_no_quality"  # of the tests that need a GPU; it goes last
_PLAIN = {"rrdb_conv_last": False}  # as published, and as spandrel's network is
_HR192 = _PLAIN | {"patch_size": 192}
STEPS: dict[str, tuple[str, dict[str, Any]]] = {  # of part `speed`: the method, its settings
    "ESRGAN PSNR": ("esrgan", _PLAIN | {"n_epochs": 1, "n_epochs_gan": 0}),
    "ESRGAN GAN": ("esrgan", _PLAIN | {"n_epochs": 0, "n_epochs_gan": 1}),
    "SwinIR": ("swinir", {}),
    "EDSR": ("edsr", {}),
    "CycleGAN v1": ("cyclegan_v1", {}),
    "CycleGAN v2": ("cyclegan_v2", {}),
    "CycleGAN v3": ("cyclegan_v3", {}),
    "SRVAE": ("srvae", {}),
    "CVAE": ("cvae", {}),
    "ESRGAN PSNR, HR 192": ("esrgan", _HR192 | {"n_epochs": 1, "n_epochs_gan": 0}),
}
PEERS = ("ESRGAN PSNR", "ESRGAN GAN", "SwinIR", "ESRGAN PSNR, HR 192")  # what spandrel has, too
ENLARGING = {"enlarging, ESRGAN": ("half", "tf32", "full"), "enlarging, SwinIR": ("bfloat16",)}
TRAINED = {  # of part `training`
    "esrgan": {"n_epochs_gan": 0, "nearest_start": True, "rrdb_conv_last": False},
    "cyclegan_v1": {},
}
RATED = {  # what part `speed` finds of these
    "ESRGAN PSNR|ours|bfloat16|eager": "esrgan",
    "CycleGAN v1|ours|bfloat16|eager": "cyclegan_v1",
}


def speed_jobs(toy: bool) -> list[str]:
    """Return NAME|WHOSE|PRECISION|eager or compiled, the most important first."""
    names = ("ESRGAN PSNR", "EDSR") if toy else tuple(STEPS)
    jobs = [f"ESRGAN PSNR|{by}|bfloat16|eager" for by in ("ours", "spandrel")]
    jobs += [f"ESRGAN PSNR|{by}|{p}|eager" for p in ("full", "tf32") for by in ("ours", "spandrel")]
    for form, precision in itertools.product(("eager", "compiled"), ("bfloat16", "tf32", "full")):
        whose = {name: ("ours", "spandrel") if name in PEERS else ("ours",) for name in names}
        if form == "compiled":  # (of the peers one)
            whose = {name: by if name == "ESRGAN PSNR" else by[:1] for name, by in whose.items()}
        jobs += [f"{name}|{by}|{precision}|{form}" for name in names for by in whose[name]]
        if form == "eager" and precision == "bfloat16":
            kinds = [(name, p) for name, ps in ENLARGING.items() for p in ps]
            kinds = kinds[1:2] if toy else kinds
            jobs += [f"{name}|{by}|{p}|eager" for name, p in kinds for by in ("ours", "spandrel")]
    return [job for job in dict.fromkeys(jobs) if not (toy and job.endswith("compiled"))]


JOBS: dict[str, Callable[[bool], list[str]]] = {
    "card": lambda toy: ["machine", "bfloat16", "tf32", "full", "copy"],
    "tests": lambda toy: ["short"] if toy else ["short", "long"],
    "speed": speed_jobs,
    "resume": lambda toy: ["edsr"] if toy else list(METHODS),
    "precision": lambda toy: [f"seed {seed}" for seed in range(1 if toy else 5)],
    "training": lambda toy: list(TRAINED),
}


class Worker:
    """Does jobs on a device; `emit` hands over a row of results."""

    def __init__(self, settings: dict[str, Any]):
        self.settings, self.toy = settings, settings["toy"]
        self.work, self.out = Path(settings["work"]), Path(settings["out"])
        self.until = settings["until"]

    def emit(self, **row: Any) -> None:
        print(MARK + json.dumps(row), file=sys.__stdout__, flush=True)

    def do(self, part: str, job: str) -> None:
        """Do one job on a device that is as at the beginning."""
        self.emit(begins=True, part=part, job=job)
        gc.collect()
        self.device = choose_device(self.settings["device"])
        set_tf32(convolutions=True, products=False)  # as torch has it
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        getattr(self, part)(job)
        self.emit(ends=True, part=part, job=job)

    def folders(self, own: bool = False) -> dict[str, Path]:
        """Return photos as train functions take them; `own`: the user's, if there are any."""
        if own and self.settings["hr_folder"]:
            return {name: Path(self.settings[name]) for name in ("hr_folder", "lr_folder")}
        if self.toy:
            return lay_out(self.work / "toy")
        names = ("lr_folder", "hr_folder", "valid_lr_folder", "valid_hr_folder")
        return dict(zip(names, builtin_photos(out=self.work / "builtin"), strict=True))

    def card(self, job: str) -> None:
        if job == "machine":
            query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm"]
            smi = None
            if shutil.which(query[0]):
                smi = subprocess.run([*query, "--format=csv,noheader"], capture_output=True)
                smi = smi.stdout.decode().strip()
            found = {name: bool(importlib.util.find_spec(name)) for name in ("spandrel", "triton")}
            versions = {"torch": torch.__version__, "cuda": torch.version.cuda}
            versions |= {"cudnn": torch.backends.cudnn.version()}
            versions |= {"python": platform.python_version(), "cores": os.cpu_count()}
            self.emit(device=describe(self.device), nvidia_smi=smi, **versions, **found)
            return
        row: dict[str, Any] = {}
        if job == "copy":
            a = torch.rand(2**16 if self.toy else 2**30, device=self.device)
            b = torch.empty_like(a)
            for _ in measured(row, self.device, toy=self.toy):
                b.copy_(a)
            self.emit(tb_per_second=2e-12 * a.nbytes / row["seconds"])
            return
        n = 256 if self.toy else 8192
        set_tf32(products=job == "tf32", convolutions=job == "tf32")
        dtype = torch.bfloat16 if job == "bfloat16" else torch.float32
        a, b = (torch.randn(n, n, device=self.device, dtype=dtype) for _ in range(2))
        for _ in measured(row, self.device, toy=self.toy):
            a @ b
        self.emit(tflops=2e-12 * n**3 / row["seconds"])

    def tests(self, job: str) -> None:
        files = sorted(
            p for p in (ROOT / "tests").glob("test_*.py") if "mark.cuda" in p.read_text()
        )
        command = [sys.executable, "-m", "pytest", "-m", "cuda", "-vv", "--tb=short", "-p"]
        command += ["no:cacheprovider", *map(str, files[: 1 if self.toy else None])]
        command += ["-k", LONG if job == "long" else f"not {LONG}"]
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        lines = []
        with subprocess.Popen(command, cwd=ROOT, env=environment, **options) as process:
            for line in process.stdout:
                lines.append(line)
                words = line.split()
                if len(words) > 1 and words[1] in ("PASSED", "FAILED", "SKIPPED", "ERROR"):
                    self.emit(test=words[0], result=words[1])
        if process.returncode:
            self.emit(test="pytest", result=f"ended with {process.returncode}")
            print("".join(lines)[-6000:], file=sys.stderr)
            raise RuntimeError(f"pytest ended with {process.returncode}")
        self.emit(test="pytest", result=lines[-1].strip("= \n"))

    def speed(self, job: str) -> None:
        name, by, precision, form = job.split("|")
        if by == "spandrel" and not importlib.util.find_spec("spandrel"):
            self.emit(note="skipped: spandrel is not installed")
            return
        set_tf32(products=precision == "tf32", convolutions=precision in ("tf32", "bfloat16"))
        if form == "compiled":
            torch.compiler.reset()
        row: dict[str, Any] = {}
        is_low = precision not in ("tf32", "full")
        kinds = {"count": is_low and form == "eager", "profile": is_low, "toy": self.toy}
        steps = measured(row, self.device, **kinds)
        try:
            if name in STEPS and by == "ours":
                self._our_step(name, precision == "bfloat16", form == "compiled", row, steps)
            else:
                with quiet_folder() as folder:
                    make = self._other_step if name in STEPS else self._enlarging
                    step, row["images"] = make(name, by, precision, form == "compiled", folder)
                    dtype = torch.float16 if precision == "half" else torch.bfloat16
                    low = by == "spandrel" and precision in ("half", "bfloat16")
                    for k in steps:
                        with torch.autocast(self.device.type, dtype, enabled=low):
                            step(k)
        finally:
            if "seconds" in row:
                row |= {"images_per_second": row["images"] / row["seconds"]}
                if job in RATED:
                    self.settings["rates"][RATED[job]] = row["steps_per_second"]
                self.emit(**row)

    def _our_step(
        self, name: str, bfloat16: bool, compile: bool, row: dict, steps: Iterator[int]
    ) -> None:
        """Let the train script take its own steps, on one batch that stays on the device."""
        method, changes = STEPS[name]
        train = METHODS[method].train
        defaults = {k: p.default for k, p in inspect.signature(train).parameters.items()}
        arguments = (METHODS[method].seconds if self.toy else {}) | changes
        arguments |= {"n_valid": 1, "valid_crop": 256, "workers": 0, "device": str(self.device)}
        arguments |= {"bfloat16": bfloat16, "compile": compile}
        row["images"] = (defaults | arguments)["batch_size"]

        if arguments.get("n_epochs_gan") and not self.toy:
            arguments["vgg_weights"] = self._vgg()
        train_on_one_batch(train, self.folders() | arguments, steps)

    def _vgg(self) -> Path:
        path = self.work / "vgg19.pth"
        return path if path.exists() else random_vgg(self.work)

    def _other_step(
        self, name: str, by: str, precision: str, compile: bool, folder: Path
    ) -> tuple[Callable[[int], Any], int]:
        """Return spandrel's step and its images."""
        toy = self.toy
        if name == "SwinIR":
            n, size = (1, 32) if toy else (32, 192)
            made = "lightweight", False, precision == "bfloat16", n, size, str(self.device)
            return swinir.psnr_step(*made), n
        n, size, n_blocks = (1, 32, 1) if toy else (16, STEPS[name][1].get("patch_size", 128), 23)
        if name == "ESRGAN GAN":
            sizes = size, n, n_blocks, self._vgg(), str(self.device)
            return gan_step("usual", "spandrel", False, False, *sizes), n
        batch = [torch.rand(n, 3, s, s, device=self.device) for s in (size // 4, size)]
        return plain_psnr_step(itertools.repeat(batch), n_blocks, str(self.device), compile), n

    def _enlarging(
        self, name: str, by: str, precision: str, compile: bool, folder: Path
    ) -> tuple[Callable[[int], Any], int]:
        side = 16 if self.toy else 256
        lr, device = torch.rand(1, 3, side, side), str(self.device)
        if name == "enlarging, SwinIR":
            made = "lightweight", by == "ours", precision == "bfloat16", lr, device
            return swinir.enlarge(*made), 1
        path = write_network(folder, 1 if self.toy else 23)
        if by == "spandrel":
            return usual_upscale(path, lr, device), 1
        options = {"precision": "half"} if precision == "half" else {}
        return our_upscale(path, lr, device, options), 1

    def resume(self, job: str) -> None:
        """Compare a run that was stopped and resumed with one that was not, bit by bit."""
        method = METHODS[job]
        settings = method.seconds | {"device": str(self.device), "deterministic": True}
        epochs = {"n_epochs": 2, "n_epochs_gan": 1} if job == "esrgan" else {"n_epochs": 3}
        settings |= {"workers": 0} | epochs | lay_out(self.work / "toy")
        runs = [self.work / f"resume_{job}_{name}" for name in "ab"]
        for run in runs:
            shutil.rmtree(run, ignore_errors=True)
        count, original = itertools.count(1), training.to_device

        def stopping(*arguments: Any) -> list[torch.Tensor]:
            if next(count) == 7:
                signal.raise_signal(signal.SIGTERM)
            return original(*arguments)

        with quiet_folder():
            method.train(**settings, out_dir=runs[0])
            try:
                with mock.patch.object(training, "to_device", stopping):
                    method.train(**settings, out_dir=runs[1])
            except SystemExit:
                method.train(**settings, out_dir=runs[1], resume=True)
        found = differences(*runs)
        self.emit(stopped=next(count) > 7, same=not found, different=found)

    def precision(self, job: str) -> None:
        sizes = {"n_epochs": 1, "steps_per_epoch": 2} if self.toy else {}
        sizes = sizes or {"n_epochs": 12, "steps_per_epoch": 100}
        folders, seed = self.folders(own=True), int(job.split()[-1])
        results = {}
        for name in ("bfloat16", "full"):
            set_tf32(products=False, convolutions=name == "bfloat16")
            made = folders, seed, name == "bfloat16", sizes, str(self.device)
            results[name], seconds = psnr_and_seconds(*made)
            self.emit(precision=name, psnr_y=results[name], run_seconds=seconds)
        self.emit(gain_db=results["bfloat16"] - results["full"])

    def training(self, job: str) -> None:
        """Train for half of the time that is left, the last one for all of it."""
        folders = self.folders(own=True)
        left = list(TRAINED)[list(TRAINED).index(job) :]
        seconds = 0.5 if self.toy else max(5, (self.until - time.time()) / len(left) - 6)
        rate = self.settings["rates"].get(job)  # steps/s, where they were measured before
        settings = {"n_epochs": 10**5, "steps_per_epoch": 2 if self.toy else 50}
        if rate and not self.toy:  # some of the time goes to validation
            n_epochs = min(20, max(3, int(seconds / 8)))
            steps = max(1, int(0.7 * seconds * rate / n_epochs))
            settings = {"n_epochs": n_epochs, "steps_per_epoch": steps}
        settings = (METHODS[job].seconds if self.toy else {}) | TRAINED[job] | settings
        settings |= {"device": str(self.device), "overwrite": True}
        run = self.work / f"training_{job}"
        done = threading.Event()

        def stop() -> None:
            done.wait(seconds)
            while not (done.is_set() or (run / "log.csv").exists()):  # an epoch at least
                done.wait(0.1)
            if not done.is_set():
                os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=stop, daemon=True).start()
        try:
            METHODS[job].train(**folders, **settings, out_dir=run)
        except SystemExit as error:
            if error.code != 128 + signal.SIGTERM:
                raise
        finally:
            done.set()
        row = last_row(run)
        files = keep(run, METHODS[job].network, self.out, job)
        self.emit(**row, kept=files)


def measured(
    row: dict[str, Any],
    device: torch.device,
    count: bool = False,
    profile: bool = False,
    toy: bool = False,
) -> Iterator[int]:
    """Yield numbers of steps, and note in `row` what they need: seconds, memory, FLOP, idle time.

    Seconds are the median of 3 rounds of 10 steps, fewer if they take 2 seconds. Memory is what is
    allocated at most once kernels have been chosen; idle is the share of the time, between the
    first kernel and the last, in which a GPU runs none.
    """
    numbers = itertools.count()
    gpu = device.type == "cuda"
    wait = torch.cuda.synchronize if gpu else lambda: None
    began = time.perf_counter()
    yield next(numbers)
    wait()
    row["first_step_s"] = time.perf_counter() - began
    for k in range(4):
        if k == 2:
            wait()
            began = time.perf_counter()
        yield next(numbers)
    wait()
    one = (time.perf_counter() - began) / 2
    n = 1 if toy else max(min(10, int(2 / one)), min(64, int(1 / one)), 1)
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    rounds = []
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(n):
            yield next(numbers)
        wait()
        rounds.append((time.perf_counter() - began) / n)
    row["seconds"], row["all_seconds"] = statistics.median(rounds), rounds
    row["steps_per_second"] = 1 / row["seconds"]
    if gpu:
        row["peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
    if count:
        with FlopCounterMode(display=False) as counter:
            yield next(numbers)
        row["gflop"] = counter.get_total_flops() / 1e9
    if gpu and profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            for _ in range(min(n, 10)):
                yield next(numbers)
            wait()
        with quiet_folder() as folder:
            profiler.export_chrome_trace(str(folder / "trace.json"))
            events = json.loads((folder / "trace.json").read_text())["traceEvents"]
        row |= busy(events, min(n, 10))


def busy(events: list[dict[str, Any]], steps: int) -> dict[str, float]:
    """Return the share of the time in which a GPU runs nothing, and the milliseconds it is busy.

    `events` are those of a Chrome trace, microseconds, of `steps` steps; kernels may overlap.
    """
    kinds = ("kernel", "gpu_memcpy", "gpu_memset")
    spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("cat") in kinds)
    if not spans:
        return {}
    total, end = 0.0, spans[0][0]
    for start, stop in spans:
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    idle = 1 - total / (end - spans[0][0])
    return {"idle": idle, "busy_ms": total / 1e3 / steps, "kernels": len(spans) / steps}


def set_tf32(products: bool, convolutions: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = products
    torch.backends.cudnn.allow_tf32 = convolutions


def keep(run: Path, name: str, out: Path, title: str) -> list[str]:
    """Put curves.png in `out`, and log.csv and a network in a zip file, in pieces if it is large.

    A network of more than `LIMIT` bytes is kept in float16. `cat TITLE.zip.*` joins pieces.
    """
    kept = [f"{title}_curves.png", f"{title}.zip"]
    shutil.copyfile(run / "curves.png", out / kept[0])
    path = run / name
    if path.stat().st_size > LIMIT:
        path = run / f"half_{name}"
        weights = checkpoint.load(run / name)
        checkpoint.save(
            path, {k: w.half() if w.is_floating_point() else w for k, w in weights.items()}
        )
    packed = run / kept[1]
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for found in (run / "log.csv", path):
            file.write(found, found.name)
    content = packed.read_bytes()
    pieces = [content[i : i + LIMIT] for i in range(0, len(content), LIMIT)]
    if len(pieces) > 1:
        kept[1:] = [f"{title}.zip.{i}" for i in range(len(pieces))]
    for kept_name, piece in zip(kept[1:], pieces, strict=True):
        (out / kept_name).write_bytes(piece)
    return kept


def main() -> None:
    """Do the jobs that the last argument, JSON, names."""
    settings = json.loads(sys.argv[-1])
    worker = Worker(settings)
    for part, job in settings["jobs"]:
        worker.do(part, job)


if __name__ == "__main__":
    main()
