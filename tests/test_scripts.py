"""What the README tells people to run."""

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common import checkpoint
from common.data.pairs import list_pairs
from common.data.photos import read_image, write_image
from common.data.resize import imresize
from common.div2k import download_div2k
from common.measure.validation import busiest_crop, grid
from common.run.flags import command_line
from CVAE.train_cvae import train_cvae
from CycleGAN.CycleGAN_w_v1 import CycleGAN as v1
from CycleGAN.CycleGAN_w_v2 import CycleGAN2 as v2
from CycleGAN.CycleGAN_w_v3 import CycleGAN5_2 as v3
from EDSR.train_edsr import train_edsr
from ESRGAN.model import GeneratorRRDB
from ESRGAN.train_esrgan import train_esrgan
from scripts.benchmarks import benchmark
from scripts.benchmarks.gpu import gpu
from scripts.benchmarks.stress import stress
from scripts.compare import compare
from scripts.demo import demo
from scripts.evaluate import evaluate
from scripts.evidence import builtin_photos as builtin
from scripts.evidence.cyclegan import cyclegan_evidence
from scripts.evidence.real import real
from scripts.evidence.vae import vae_evidence
from scripts.export import export
from scripts.prepare_dataset import prepare_dataset
from scripts.quickstart import quickstart, table
from scripts.samples import samples
from scripts.upscale import upscale
from SRVAE.model import SRVAE
from SRVAE.train_srvae import train_srvae
from SwinIR.train_swinir import train_swinir

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
READMES = {
    path: path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *ROOT.glob("[!.]*/README.md"), *ROOT.glob("*/*/README.md"))
}
README_PYTHON = re.findall(r"```python\n(.*?)```", "\n".join(READMES.values()), re.S)
FUNCTIONS = {
    "ESRGAN/train_esrgan.py": train_esrgan,
    "CycleGAN/CycleGAN_w_v1/CycleGAN.py": v1.train_cyclegan_sr,
    "CycleGAN/CycleGAN_w_v2/CycleGAN2.py": v2.train_cyclegan_sr,
    "CycleGAN/CycleGAN_w_v3/CycleGAN5_2.py": v3.train_cyclegan_sr,
    "CVAE/train_cvae.py": train_cvae,
    "SRVAE/train_srvae.py": train_srvae,
    "EDSR/train_edsr.py": train_edsr,
    "SwinIR/train_swinir.py": train_swinir,
    "scripts/prepare_dataset.py": prepare_dataset,
    "scripts/samples.py": samples,
    "scripts/upscale.py": upscale,
    "scripts/evaluate.py": evaluate,
    "scripts/compare.py": compare,
    "scripts/export.py": export,
    "scripts/demo.py": demo,
    "scripts/benchmarks/gpu.py": gpu,
    "scripts/evidence/real.py": real,
    "scripts/evidence/cyclegan.py": cyclegan_evidence,
    "scripts/evidence/vae.py": vae_evidence,
}
CYCLEGANS = [script for script in FUNCTIONS if "CycleGAN/" in script]


def test_quickstart_goes_from_photos_to_a_picture_and_can_be_run_again(tmp_path, capsys):
    data_dir, out_dir = tmp_path / "data", tmp_path / "run"
    settings = {"data_dir": data_dir, "out_dir": out_dir, "device": "cpu"}
    settings |= {"n_epochs": 1, "n_epochs_gan": 1, "steps_per_epoch": 2}
    out_dir.mkdir()  # as a run leaves it that was killed before its first checkpoint
    (out_dir / "config.json").write_text("{}")
    quickstart(**settings)
    out = capsys.readouterr().out
    assert len(list_pairs(
        data_dir / "DIV2K_train_LR_bicubic" / "X4", data_dir / "DIV2K_train_HR"
    )) == 13  # fmt: skip
    # Bicubic on the two held-out photos, by an independent implementation of the protocol.
    assert re.search(r"mean +29\.37 / 0\.784\d", out)
    assert "chelsea" in out and "coffee" in out
    assert str(out_dir / "comparison.png") in out and str(out_dir / "generator.pth") in out
    assert read_image(out_dir / "comparison.png").shape[1] > 1680  # six columns of 280 pixels
    assert "shipped esrgan" in out and "--start-from esrgan-psnr" in out
    assert read_image(out_dir / "coffee_gan.png").shape == (400, 600, 3)
    times = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*.png")}
    weights = (out_dir / "generator.pth").read_bytes()
    quickstart(**settings)
    assert times == {path: path.stat().st_mtime_ns for path in data_dir.rglob("*.png")}
    assert weights == (out_dir / "generator.pth").read_bytes()


def test_table_has_the_means_of_its_columns():
    scores = {
        "a": {"bicubic": (20.0, 0.5), "ours": (22.0, 0.7)},
        "b": {"bicubic": (30.0, 0.7), "ours": (31.0, 0.8)},
    }
    assert re.search(r"mean +25\.00 / 0\.6000 +26\.50 / 0\.7500$", table(scores))


SAYS = {  # what each script's --help says, besides much else
    "ESRGAN/train_esrgan.py": "growth INT channels that each convolution in a dense block adds",
    "common/div2k.py": "track {bicubic,unknown,mild,difficult,wild}",
    "scripts/prepare_dataset.py": "split {train,valid} which of DIV2K's folders",
    "scripts/benchmarks/benchmark.py": "data",
    "scripts/benchmarks/gpu.py": "minutes FLOAT for all parts together",
    "scripts/evidence/cyclegan.py": "jobs INT runs at once",
    "scripts/evidence/vae.py": "n-samples INT of each test photo",
    "scripts/upscale.py": "-m PATH, --model PATH .pth, or a name",
    "scripts/evaluate.py": "batch-pixels INT LR pixels at once",
    "scripts/compare.py": "crop INT HR pixels each way, of small photos less",
    "scripts/export.py": "published, --no-published ESRGAN's public key names",
    "scripts/demo.py": "host STR 0.0.0.0: for others",
    "scripts/evidence/real.py": "crop INT LR pixels each way",
    "scripts/samples.py": "model PATH cvae.pth or srvae.pth",
    "CVAE/train_cvae.py": "free-nats FLOAT KL of each latent number",
    "EDSR/train_edsr.py": "n-blocks INT residual blocks (paper",
    "SwinIR/train_swinir.py": "depths [INT",
    "SRVAE/train_srvae.py": "n-latent INT numbers of z for each LR pixel",
    "CycleGAN/CycleGAN_w_v1/CycleGAN.py": "lambda-cycle FLOAT L1 of both cycles (paper)",
    "CycleGAN/CycleGAN_w_v2/CycleGAN2.py": "ema-decay FLOAT a step, of the averaged G",
    "CycleGAN/CycleGAN_w_v3/CycleGAN5_2.py": "low-factor INT",
    "scripts/quickstart.py": "steps-per-epoch INT",
}


# Each as `python SCRIPT FLAGS` or `python -c CODE` starts it in a folder, in a process forked from
# one that has imported what takes seconds, and nothing of ours.
START_ALL = """
import json, os, runpy, sys, traceback
import matplotlib.figure, skimage, torch, tyro
for number, (folder, *words) in enumerate(json.loads(sys.argv[1])):
    if os.fork():
        print(os.waitstatus_to_exitcode(os.wait()[1]))
    else:
        file = os.open(f"{number}.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 1), os.dup2(file, 2)
        os.chdir(folder)
        code = 1
        try:
            if words[0] == "-c":
                exec(words[1], {"__name__": "__main__"})
            else:
                sys.path[0], sys.argv = os.path.dirname(words[0]), words
                runpy.run_path(words[0], run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)  # (to take torch down takes longer than all this)
"""
Started = tuple[int, str]  # exit code, output


def start_all(commands: list[tuple[Path, ...]], folder: Path) -> list[Started]:
    """Start each command, a folder and Python's arguments, in turn; `folder` gets the outputs."""
    if not hasattr(os, "fork"):
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        python = [sys.executable]
        done = (
            subprocess.run(python + words, cwd=folder, **options) for folder, *words in commands
        )
        return [(process.returncode, process.stdout) for process in done]
    words = json.dumps([[*map(str, command)] for command in commands])
    command = [sys.executable, "-c", START_ALL, words]
    codes = subprocess.check_output(command, cwd=folder, text=True).split()
    return [(int(code), (folder / f"{i}.txt").read_text()) for i, code in enumerate(codes)]


@pytest.fixture(scope="module")
def started(tmp_path_factory) -> dict[str, Started]:
    """What came of each start, in one empty folder but for the imports from within a folder."""
    empty, other = (tmp_path_factory.mktemp(name) for name in ("empty", "other"))
    commands = {script: (empty, ROOT / script, "--help") for script in SAYS}
    (other / "broken.py").write_text("import common")  # without its folder on sys.path
    commands["broken"] = empty, other / "broken.py"
    modules = [path.removesuffix(".py").replace("/", ".") for path in (*SAYS, *FUNCTIONS)]
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {', '.join(modules)}"
    commands["import"] = empty, "-c", code
    for script in CYCLEGANS:
        names = "GeneratorSR, GeneratorDown, Discriminator, ResidualBlock, train_cyclegan_sr"
        code = f"from {Path(script).stem} import {names}; print(GeneratorSR(4).conv1)"
        commands[f"import {script}"] = (ROOT / script).parent, "-c", code
    outcomes = start_all([*commands.values()], other)
    assert list(empty.iterdir()) == []
    return dict(zip(commands, outcomes, strict=True))


@pytest.mark.parametrize("script", SAYS)
def test_scripts_start_from_any_directory_and_explain_their_flags(started, script):
    code, output = started[script]
    assert code == 0, output
    assert SAYS[script] in re.sub(r"[\s│]+", " ", output)


def test_start_of_a_script_that_fails_is_seen(started):
    code, output = started["broken"]
    assert code == 1 and "No module named 'common'" in output


def test_importing_a_script_does_nothing_else(started):
    assert started["import"] == (0, "")


@pytest.mark.parametrize("script", CYCLEGANS)
def test_cyclegan_can_be_imported_from_within_its_folder(started, script):
    code, output = started[f"import {script}"]
    assert code == 0 and "Conv2d(3, 4" in output, output


def test_grid_places_pictures_below_their_captions():
    red = np.full((10, 20, 3), (255, 0, 0), np.uint8)
    sheet = grid([[("one", red), ("two", red)], [("", red)]])
    is_red = (sheet == (255, 0, 0)).all(axis=2)
    assert is_red.sum() == 3 * 200
    rows, columns = is_red.any(axis=1).nonzero()[0], is_red.any(axis=0).nonzero()[0]
    assert len(rows) == 20 and len(columns) == 40


def test_busiest_crop_is_where_the_edges_are():
    image = np.full((40, 60, 3), 100, np.uint8)
    image[20:28:2, 30:38] = 255
    top, left = busiest_crop(image, 10)
    assert top <= 20 and top + 10 >= 28 and left <= 30 and left + 10 >= 38
    assert busiest_crop(image[:5, :5], 10) == (0, 0)


def test_readme_names_files_and_flags_that_exist():
    text = "\n".join(READMES.values())
    for path in re.findall(r"(?:python|bash) ([\w./]+\.(?:py|sh))", text):
        assert (ROOT / path).exists(), path
    for readme, content in READMES.items():
        for path in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", content):
            assert (readme.parent / path).exists(), (readme, path)
    commands = re.findall(r"python ([\w./]+\.py)((?: |\\\n)[^`]*?)(?=\n\w|\n```|`)", text)
    seen = set()
    for path, arguments in commands:
        if path in FUNCTIONS:
            flags = re.findall(r"--([\w-]+)", arguments)
            names = {flag.removeprefix("no-").replace("-", "_") for flag in flags}
            assert names <= inspect.signature(FUNCTIONS[path]).parameters.keys() | {"help"}, path
            seen |= names
    assert {"n_blocks", "n_features", "jobs"} <= seen
    everywhere = {flag.replace("-", "_") for flag in re.findall(r"--(?:no-)?([a-z][\w-]+)", text)}
    parts = benchmark.train, benchmark.swinir, benchmark.upscale, benchmark.scaling
    functions = [*FUNCTIONS.values(), *parts, stress, download_div2k]
    known = set().union(*(inspect.signature(function).parameters for function in functions))
    known |= {"help", "nproc_per_node", "nnodes", "rdzv_backend", "rdzv_endpoint"}  # torchrun's
    assert {"degradation", "ablation", "resume"} <= everywhere <= known


def test_readme_python_runs(dataset, monkeypatch):
    """The notebook's lines as they stand, from the repository's folder."""
    (whole,) = [b for b in README_PYTHON if "GeneratorRRDB" in b]
    (short,) = [b for b in README_PYTHON if "load_model" in b]
    photo = next(dataset.valid_lr.iterdir())
    monkeypatch.chdir(ROOT)
    names: dict = {}
    exec(whole.replace("photo.jpg", photo.as_posix()), names)
    assert isinstance(names["sr"], torch.Tensor) and names["sr"].shape[1] == 3
    exec(short.replace("photo.jpg", photo.as_posix()), names)
    assert names["sr"].size == tuple(4 * n for n in Image.open(photo).size)


def test_readme_commands_on_checkpoints_run(tmp_path, dataset, monkeypatch, capsys):
    """Each of them as it stands, in a folder that holds what it names."""
    torch.manual_seed(0)
    network = GeneratorRRDB(1, 16, 8)
    for run in ("default", "quickstart"):
        checkpoint.save(tmp_path / f"ESRGAN/runs/{run}/generator.pth", network.state_dict())
    checkpoint.save(tmp_path / "SRVAE/runs/default/srvae.pth", SRVAE(6, 2, 1).state_dict())
    hr = read_image(next(dataset.valid_hr.iterdir()))[:32, :48]
    for name in ("photo.jpg", "photo.png", "holiday/a.png", "Set5/HR/a.png"):
        write_image(tmp_path / name, hr)
    write_image(tmp_path / "Set5/LR/ax4.png", imresize(hr, 1 / 4))
    functions = {"upscale": upscale, "evaluate": evaluate, "compare": compare, "export": export}
    lines = re.findall(r"^python scripts/(\w+)\.py (.*)$", README, re.MULTILINE)
    lines = [line for line in lines if line[0] in functions]
    assert len(lines) == 6 and {name for name, _ in lines} == functions.keys()
    monkeypatch.chdir(tmp_path)
    for name, arguments in lines:
        monkeypatch.setattr(sys, "argv", [name, *shlex.split(arguments)])
        command_line(functions[name])
    made = {"enlarged/photo.jpg", "enlarged/a.png", "samples/photo_4.jpg"}
    made |= {"compare.pdf", "esrgan.onnx", "photo_4x.jpg"}
    assert all((tmp_path / name).is_file() for name in made)
    assert read_image(tmp_path / "enlarged/photo.jpg").shape == (128, 192, 3)
    assert "PSNR-Y" in capsys.readouterr().out


def test_readme_loads_a_cyclegan(tmp_path, dataset):
    (block,) = [b for b in README_PYTHON if "CycleGAN" in b]
    settings = {"lr_size": 24, "hr_size": 96, "n_epochs": 1, "steps_per_epoch": 1, "device": "cpu"}
    run = v3.train_cyclegan_sr(**dataset.folders(), **settings, workers=0, out_dir=tmp_path / "run")
    names: dict = {}
    exec(block.replace("CycleGAN/CycleGAN_w_v3/runs/default", run.as_posix()), names)
    assert names["G"].back_projections == 2


def test_readme_samples_from_a_cvae(tmp_path, large_dataset):
    (block,) = [b for b in README_PYTHON if "CVAE" in b]
    settings = {"n_epochs": 1, "steps_per_epoch": 1, "batch_size": 2, "valid_patches": 2}
    settings |= {"workers": 0, "device": "cpu"}
    run = train_cvae(**large_dataset.folders(), **settings, out_dir=tmp_path / "run")
    names: dict = {}
    photo = next(large_dataset.valid_lr.iterdir()).as_posix()
    exec(block.replace("CVAE/runs/default", run.as_posix()).replace("photo.jpg", photo), names)
    assert names["versions"].shape[0] == 4 and names["mean"].shape == names["versions"].shape[1:]


def test_builtin_photos_come_in_both_degradations(tmp_path, monkeypatch):
    monkeypatch.setattr(builtin, "TRAIN", builtin.TRAIN[:3])
    folders = builtin.builtin_photos(out=tmp_path, degradation="realistic")
    assert [len(list(folder.iterdir())) for folder in folders] == [3, 3, 2, 2]
    assert folders[0] == tmp_path / "DIV2K_train_LR_realistic" / "X4"
    assert len(list_pairs(*folders[2:])) == 2


@pytest.mark.parametrize("script", FUNCTIONS)
def test_script_without_its_packages_says_how_to_install_them(script):
    command = [sys.executable, "-S", str(ROOT / script)]  # -S: without installed packages
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "torch, torchvision" in result.stderr and "quickstart.sh" in result.stderr
    assert "pip install -r requirements.txt" in result.stderr
