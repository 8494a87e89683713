"""`scripts/benchmarks/gpu.py` runs to its end without a GPU, and loses only what fails."""

import io
import json
import zipfile

import pytest
import torch

from common import checkpoint
from scripts.benchmarks import gpu, gpu_jobs


def test_every_part_runs_at_toy_sizes(tmp_path):
    gpu.gpu(out=tmp_path, minutes=5, device="cpu")
    rows = json.loads((tmp_path / "gpu.json").read_text())
    assert [row for row in rows if "problem" in row] == []
    assert list(dict.fromkeys(row["part"] for row in rows)) == list(gpu.SHARES)
    found = {part: [row for row in rows if row["part"] == part] for part in gpu.SHARES}
    assert [row["job"] for row in found["speed"]] == gpu_jobs.speed_jobs(toy=True)
    skipped = "skipped: spandrel is not installed"
    assert all(row.get("note") == skipped or row["seconds"] > 0 for row in found["speed"])
    assert found["speed"][0]["tflops"] > 0 and found["speed"][0]["of_ceiling"] > 0
    assert all(row["stopped"] and row["same"] for row in found["resume"])
    assert [row["psnr_y"] != "" for row in found["training"]] == [True, True]
    text = (tmp_path / "gpu.md").read_text()
    assert all(f"## {part}\n" in text for part in gpu.SHARES)
    names = {"gpu.md", "gpu.json", "esrgan_curves.png", "esrgan.zip"}
    names |= {"cyclegan_v1_curves.png", "cyclegan_v1.zip"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_job_that_fails_or_hangs_is_noted_and_the_next_goes_on(tmp_path, monkeypatch):
    """Of three jobs of a part the second ends the process; nothing of the last part is reached."""
    started = []

    def rows(settings, part, ends):
        started.append(settings["jobs"])
        for part, job in settings["jobs"]:
            yield {"begins": True, "part": part, "job": job}
            if job == "b":
                yield {"problem": "exit status 1: CUDA error"}
                return
            if part == "training":
                ends["training"] = 0
                yield {"problem": "took too long"}
                return
            yield {"value": 1}
            yield {"ends": True, "part": part, "job": job}

    monkeypatch.setattr(gpu, "_rows", rows)
    jobs = [("card", "a"), ("card", "b"), ("card", "c"), ("training", "d"), ("training", "e")]
    gpu._all_jobs(jobs, {"until": 1e12}, gpu.Report(tmp_path))
    assert started == [jobs, jobs[2:]]
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["job"] for row in found] == ["a", "b", "c", "d", "not reached"]
    assert found[1]["problem"] == "exit status 1: CUDA error" and found[4]["names"] == ["e"]
    assert "CUDA error" in (tmp_path / "gpu.md").read_text()


def test_process_that_never_begins_is_started_twice_at_most(tmp_path, monkeypatch):
    started = []

    def rows(settings, part, ends):
        started.append(part)
        yield {"problem": "exit status 1: no module named torch"}

    monkeypatch.setattr(gpu, "_rows", rows)
    gpu._all_jobs([("card", "a"), ("tests", "b")], {"until": 1e12}, gpu.Report(tmp_path))
    assert started == ["card", "card"]


def test_idle_share_is_what_overlapping_kernels_leave():
    """Busy from 0 to 5 and from 8 to 10 of 10 microseconds; two steps."""
    kernels = [(0, 4), (1, 2), (3, 2), (8, 2)]
    events = [{"cat": "kernel", "ts": ts, "dur": dur} for ts, dur in kernels]
    events += [{"cat": "cuda_runtime", "ts": 5, "dur": 3}, {"ph": "M"}]
    found = gpu_jobs.busy(events, steps=2)
    assert found == {"idle": pytest.approx(0.3), "busy_ms": pytest.approx(0.0035), "kernels": 2}
    assert gpu_jobs.busy(events[4:], steps=2) == {}


def test_large_network_is_kept_in_float16_and_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_jobs, "LIMIT", 15_000)
    run = tmp_path / "run"
    weights = {"w": torch.randn(10_000), "n": torch.tensor(3)}
    checkpoint.save(run / "g.pth", weights)
    for name in ("curves.png", "log.csv"):
        (run / name).write_bytes(b"1")
    names = gpu_jobs.keep(run, "g.pth", tmp_path, "esrgan")
    assert names == ["esrgan_curves.png", "esrgan.zip.0", "esrgan.zip.1"]
    pieces = [(tmp_path / name).read_bytes() for name in names[1:]]
    assert max(map(len, pieces)) == 15_000
    with zipfile.ZipFile(io.BytesIO(b"".join(pieces))) as file:
        assert set(file.namelist()) == {"log.csv", "half_g.pth"}
        (tmp_path / "g.pth").write_bytes(file.read("half_g.pth"))
    found = checkpoint.load(tmp_path / "g.pth")
    assert torch.equal(found["w"], weights["w"].half()) and found["n"] == 3
