"""Measure all that a GPU must show, in a time that is given, and write each result at once.

    python scripts/benchmarks/gpu.py --minutes 10 --out runs/gpu

card       what it is, and its ceilings: matrix products in bfloat16, TF32 and float32, a copy
tests      those that need a GPU
speed      steps of each train script and enlarging, beside spandrel's networks
resume     runs that were stopped and resumed, bit by bit, with --deterministic
precision  PSNR-Y of the quick start's PSNR stage in bfloat16 and in full precision, from one seed
training   ESRGAN's PSNR stage and CycleGAN v1 at their printed sizes, in the time that is left

The work is done by a process (gpu_jobs.py) that is ended when a job or a part takes too long, and
started again for the next when it fails. Results are in gpu.md and gpu.json of `--out`; a later
call with other `--parts` adds to them. Without a GPU all runs at toy sizes, to show that it runs.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import common  # noqa: F401, it says what is not installed

import torch

from common.files import written_whole
from common.run.flags import command_line
from scripts.benchmarks.gpu_jobs import JOBS, MARK, RATED
from scripts.benchmarks.measuring import ROOT

Part = Literal["card", "tests", "speed", "resume", "precision", "training"]
SHARES = {"card": 6, "tests": 16, "speed": 36, "resume": 12, "precision": 12, "training": 18}
SECONDS = {"eager": 40.0, "compiled": 60.0}  # of a job of part `speed`
LEAST = 15.0  # that a process gets, so that a job which begins late is not lost with its start
START_UP = 90.0  # seconds until a process begins its first job
COLUMNS = {  # of the table of part `speed`
    "steps/s": ("steps_per_second", "{:.4g}"),
    "images/s": ("images_per_second", "{:.4g}"),
    "ours is faster by": ("ours_ratio", "{:.2f}"),
    "TFLOP/s": ("tflops", "{:.1f}"),
    "of the bf16 ceiling": ("of_ceiling", "{:.0%}"),
    "GPU idle": ("idle", "{:.0%}"),
    "peak MB": ("peak_mb", "{:.0f}"),
    "first step, s": ("first_step_s", "{:.1f}"),
}


def gpu(
    *,
    out: Path,  # folder of gpu.md and gpu.json, and of what training keeps
    minutes: float = 10.0,  # for all parts together
    parts: tuple[Part, ...] = tuple(SHARES),  # which, always in this order
    hr_folder: Path | None = None,  # photos for precision and training; None: built-in ones
    lr_folder: Path | None = None,  # paired with HR's by name
    device: str = "cuda",  # without a GPU the CPU is taken, at toy sizes
    toy: bool = False,  # toy sizes on a GPU, too
) -> Path:
    """Measure, and return `out`.

    Raises:
        ValueError: one of the two folders is missing, or `minutes` is not above 0.
    """
    if (hr_folder is None) != (lr_folder is None) or minutes <= 0:
        raise ValueError(
            f"hr_folder {hr_folder}, lr_folder {lr_folder}, minutes {minutes}: expected both "
            "folders or none, and minutes above 0"
        )
    if device != "cpu" and not torch.cuda.is_available():
        print(f'device="{device}", but torch finds no GPU: continuing with the CPU')
        device = "cpu"
    toy = toy or device == "cpu"
    chosen = [part for part in SHARES if part in parts]
    began = time.time()
    report = Report(out)
    report.note(f"# On {time.strftime('%Y-%m-%d %H:%M')}, `{' '.join(sys.argv[1:])}`{' toy' * toy}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        settings = {"device": device, "toy": toy, "work": work, "out": str(out.resolve())}
        settings |= {"until": began + 60 * minutes}
        folders = {"hr_folder": hr_folder, "lr_folder": lr_folder}
        settings |= {name: folder and str(folder.resolve()) for name, folder in folders.items()}
        jobs = [(part, job) for part in chosen for job in JOBS[part](toy)]
        _all_jobs(jobs, settings, report)
    report.note(f"\n{time.time() - began:.0f} s in all.")
    return out


def _all_jobs(jobs: list[tuple[str, str]], settings: dict[str, Any], report: "Report") -> None:
    """Do `jobs`, in as few processes as failures allow."""
    ends: dict[str, float] = {}  # of each part
    n_dead = 0  # processes in a row that did not begin a job
    while jobs and n_dead < 2:
        made = settings | {"jobs": jobs, "rates": report.rates()}
        current, n_dead = None, n_dead + 1
        for row in _rows(made, jobs[0][0], ends):
            if row.pop("begins", False):
                current, n_dead = (row["part"], row["job"]), 0
                if not ends:  # the first start takes long where files are not cached
                    ends |= _part_ends([part for part, _ in jobs], settings["until"])
            elif row.pop("ends", False):
                jobs, current = jobs[jobs.index(current) + 1 :], None
            else:
                part, job = current or (jobs or [("end", "")])[0]
                report.add({"part": part, "job": job} | row)
        if current:  # it failed, or was ended
            jobs = jobs[jobs.index(current) + 1 :]
        late = [job for job in jobs if time.time() >= ends.get(job[0], settings["until"])]
        for part in dict.fromkeys(part for part, _ in late):
            names = [name for found, name in late if found == part]
            report.add({"part": part, "job": "not reached", "names": names})
        jobs = [job for job in jobs if job not in late]


def _part_ends(parts: list[str], until: float) -> dict[str, float]:
    """Return the last moment of each part: what an early one leaves is the next one's."""
    chosen = dict.fromkeys(parts)
    now, total, share, ends = time.time(), sum(SHARES[part] for part in chosen), 0, {}
    for part in chosen:
        share += SHARES[part]
        ends[part] = now + (until - now) * share / total
    return ends


def _rows(settings: dict[str, Any], part: str, ends: dict[str, float]) -> Iterator[dict[str, Any]]:
    """Yield the rows of one process, and last, where it fails, `problem`."""
    command = [sys.executable, "-m", "scripts.benchmarks.gpu_jobs", json.dumps(settings)]
    stdout, stderr = (Path(settings["work"]) / name for name in ("stdout", "stderr"))
    with stdout.open("w") as out, stderr.open("w") as err:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=out, stderr=err, start_new_session=os.name == "posix"
        )
    limit, least, problem = time.time() + START_UP, 0.0, ""
    try:
        with stdout.open() as lines:
            text, ended = "", False
            while not ended:
                ended = process.poll() is not None  # (before the last lines are read)
                text += lines.read()
                *whole, text = text.split("\n")
                for row in (json.loads(x[len(MARK) :]) for x in whole if x.startswith(MARK)):
                    if row.get("begins"):
                        part = row["part"]
                        form = row["job"].rpartition("|")[2] if part == "speed" else ""
                        limit = time.time() + SECONDS.get(form, 1e6)
                        least = least or time.time() + LEAST
                    yield row
                stop = max(least, ends.get(part, limit)) + 8 * (part == "training")
                if not ended and time.time() > (min(limit, stop) if least else limit):
                    problem = "took too long, and was ended\n"
                    break
                time.sleep(0.05)
    finally:
        _end(process)
    if problem or process.returncode:
        problem += f"exit status {process.returncode}: {stderr.read_text()[-1500:]}"
        yield {"problem": problem}


def _end(process: subprocess.Popen) -> None:
    """End a process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
    process.wait()


class Report:
    """Rows of results, in gpu.json, gpu.md and on the screen as soon as they are there."""

    def __init__(self, out: Path):
        self.out = out
        out.mkdir(parents=True, exist_ok=True)
        self.json, self.markdown = out / "gpu.json", out / "gpu.md"
        self.rows = json.loads(self.json.read_text()) if self.json.exists() else []
        self.part, self.began = "", time.time()

    def note(self, text: str) -> None:
        print(text, flush=True)
        with self.markdown.open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    def add(self, row: dict[str, Any]) -> None:
        if "seconds" in row and row["part"] == "speed":
            self._compare(row)
        row["at"] = round(time.time() - self.began, 1)
        self.rows.append(row)
        with written_whole(self.json) as temporary:
            temporary.write_text(json.dumps(self.rows, indent=1) + "\n")
        if row["part"] != self.part:
            self.part = row["part"]
            self.note(f"\n## {self.part}\n")
            if self.part == "speed":
                self.note("| | " + " | ".join(COLUMNS) + " |\n|---" + "|---" * len(COLUMNS) + "|")
        if "steps_per_second" in row:
            found = ((row.get(key), shape) for key, shape in COLUMNS.values())
            cells = ["-" if value is None else shape.format(value) for value, shape in found]
            self.note(f"| {', '.join(row['job'].split('|'))} | " + " | ".join(cells) + " |")
            return
        told = {k: v for k, v in row.items() if k not in ("part", "job", "problem", "at")}
        text = f"{row['job']}: {', '.join(f'{k} {_short(v)}' for k, v in told.items()) or 'failed'}"
        self.note(f"| {text.replace('|', ', ')} |" if self.part == "speed" else f"- {text}")
        if "problem" in row:
            self.note(f"\n```\n{row['problem'].strip()}\n```\n")

    def _compare(self, row: dict[str, Any]) -> None:
        """Add TFLOP/s, the share of the card's ceiling, and the ratio to spandrel's."""
        name, by, precision, form = row["job"].split("|")
        speed = {r["job"]: r for r in self.rows if r["part"] == "speed" and "seconds" in r}
        counted = [
            r["gflop"] for job, r in speed.items() if f"{name}|{by}|" in job and "gflop" in r
        ]
        gflop = row.get("gflop") or (counted[-1] if counted else None)
        if gflop:
            row["tflops"] = gflop / 1e3 / row["seconds"]
            for found in self.rows:
                if (found["part"], found["job"]) == ("card", "bfloat16") and "tflops" in found:
                    row["of_ceiling"] = row["tflops"] / found["tflops"]
        ours = speed.get(f"{name}|ours|{precision}|{form}")
        if by == "spandrel" and ours:
            row["ours_ratio"] = row["seconds"] / ours["seconds"]

    def rates(self) -> dict[str, float]:
        """Return the steps/s of what part `training` trains, as far as they are measured."""
        speed = {r["job"]: r["steps_per_second"] for r in self.rows if "steps_per_second" in r}
        return {method: speed[job] for job, method in RATED.items() if job in speed}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    command_line(gpu)
