"""Nothing of the user's is replaced unless that is asked for; what is wrong is said in a line."""

import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from common import checkpoint
from common.data.pairs import list_pairs
from common.data.photos import read_image, write_image
from common.run.flags import command_line
from scripts.compare import compare
from scripts.evaluate import evaluate
from scripts.evidence.cyclegan import cyclegan_evidence
from scripts.evidence.runs import refuse_other_settings
from scripts.evidence.vae import vae_evidence
from scripts.export import export
from scripts.inference.outputs import refuse_foreign_folder, refuse_to_replace
from scripts.prepare_dataset import prepare_dataset
from scripts.quickstart import quickstart
from scripts.samples import samples
from scripts.upscale import upscale
from SRVAE.model import SRVAE
from tests.conftest import SKIMAGE_DATA

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def photo(tmp_path):
    pixels = read_image(SKIMAGE_DATA / "chelsea.png")[60:124, 100:180]
    write_image(tmp_path / "photos" / "photo.png", pixels)
    return tmp_path / "photos" / "photo.png"


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "srvae.pth", SRVAE(6, 2, 1).state_dict())
    return tmp_path / "srvae.pth"


def writers(photo: Path, model: Path) -> dict:
    """Return functions of the file they write to and `overwrite`."""
    cpu, hr = {"device": "cpu"}, photo.parent
    measure = {"models": ("bicubic", str(model)), "hr": hr, "n_samples": 0, **cpu}
    return {
        "compare": lambda out, **o: compare(photo, models=(str(model),), out=out, **cpu, **o),
        "samples": lambda out, **o: samples((photo,), model=model, out=out, **cpu, **o),
        "export": lambda out, **o: export(model, out.with_suffix(".pth"), **o),
        "evaluate csv": lambda out, **o: evaluate(csv=out, **measure, **o),
        "evaluate json": lambda out, **o: evaluate(json=out, **measure, **o),
        "evaluate markdown": lambda out, **o: evaluate(markdown=out, **measure, **o),
    }


@pytest.mark.parametrize("name", writers(Path(), Path()))
def test_file_that_is_there_is_kept_unless_overwrite_is_set(name, photo, model, tmp_path):
    write = writers(photo, model)[name]
    mine = tmp_path / ("mine.pth" if name == "export" else "mine.png")
    mine.write_text("mine")
    with pytest.raises(FileExistsError, match=r"mine\.\w+ is there already: .* --overwrite"):
        write(mine)
    assert mine.read_text() == "mine"
    write(mine, overwrite=True)
    assert mine.read_bytes() != b"mine"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
@pytest.mark.parametrize("name", writers(Path(), Path()))
def test_input_is_not_replaced_even_with_overwrite(name, photo, model, tmp_path):
    file = model if name == "export" else photo
    before = file.read_bytes()
    (tmp_path / "link").symlink_to(file.parent)
    with pytest.raises(ValueError, match="is to be read and to be written: name another"):
        writers(photo, model)[name](tmp_path / "link" / file.name, overwrite=True)
    assert file.read_bytes() == before


def test_two_results_do_not_share_a_file_and_no_folder_is_replaced(tmp_path):
    with pytest.raises(ValueError, match="one file for two results"):
        refuse_to_replace([tmp_path / "a", None, tmp_path / "a"], [], True)
    with pytest.raises(FileExistsError, match="is there already"):
        refuse_to_replace([tmp_path], [], True)


@pytest.mark.parametrize("name", [*writers(Path(), Path()), "prepare_dataset", "upscale"])
def test_folder_that_cannot_be_written_to_is_refused_first(
    name, photo, model, tmp_path, monkeypatch
):
    """(As root, who may write anywhere, tests run too.)"""
    write = writers(photo, model) | {
        "prepare_dataset": lambda out: prepare_dataset(photo.parent, out.parent, processes=0),
        "upscale": lambda out: upscale((photo,), model=model, out=out.parent, device="cpu"),
    }
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="file is no folder: choose another"):
        write[name](tmp_path / "file" / "out.png")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="cannot be written to: choose another folder"):
        write[name](tmp_path / "results" / "out.png")
    assert not (tmp_path / "results").exists()


def test_picture_of_samples_has_a_format(photo, model, tmp_path):
    with pytest.raises(ValueError, match=r"a\.txt: expected a name that ends in"):
        samples((photo,), model=model, out=tmp_path / "a.txt", device="cpu")


@pytest.mark.parametrize("script", [cyclegan_evidence, vae_evidence, quickstart])
def test_folder_of_something_else_is_left_alone(script, photo, tmp_path):
    mine = tmp_path / "pictures"
    mine.mkdir()
    (mine / "photos.png").write_text("mine")  # not called as a result is
    options = {"photos": photo.parent, "test": (photo.parent,), "out": mine}
    options = {"out_dir": mine, "data_dir": tmp_path / "data"} if script is quickstart else options
    with pytest.raises(FileExistsError, match=r"pictures holds files of something else"):
        script(**options, device="cpu")
    assert [path.name for path in mine.iterdir()] == ["photos.png"]


def test_folder_of_another_script_is_refused_and_a_killed_ones_is_not(tmp_path):
    refuse_foreign_folder(tmp_path / "none", "settings.json")
    (tmp_path / ".settings.1.tmp.json").write_text("half")
    refuse_other_settings(tmp_path, {"seed": 0})
    refuse_other_settings(tmp_path, {"seed": 0})
    with pytest.raises(ValueError, match=r"other settings \(share None -> 1"):
        refuse_other_settings(tmp_path, {"share": 1})


@pytest.mark.parametrize(
    "script, arguments, message",
    [
        ("prepare_dataset", ["none", "out"], "none: there is no such folder"),
        ("samples", ["a.png", "--model", "none.pth"], "none.pth: there is no such file"),
        ("quickstart", ["--device", "moon"], 'device is "moon"'),
        ("evidence/cyclegan", ["--device", "moon"], 'device is "moon"'),
        ("evidence/vae", ["--n-samples", "1"], "n_samples 1"),
        (
            "benchmarks/benchmark",
            ["tiles", "--models", "none.pth"],
            "none.pth: there is no such file",
        ),
        ("export", ["none.pth", "a.pth"], "none.pth: there is no such file"),
    ],
)
def test_wrong_arguments_are_answered_in_a_line(script, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")
    said = str(stopped.value.code)
    assert said.startswith("error: ") and message in said and "Traceback" not in said


def test_flags_are_found_in_a_docstring_that_has_them(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["a", "two", "--n", "3"])

    def one() -> int:
        return 1

    def two(*, n: int) -> int:
        return n

    assert command_line({"one": one, "two": two}) == 3


# prepare_dataset, killed


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def photos(tmp_path):
    cat = read_image(SKIMAGE_DATA / "chelsea.png")
    for i in range(6):
        write_image(tmp_path / "photos" / f"{i}.jpg", cat[: 101 + i, 3 * i : 150])
    return tmp_path / "photos"


KILLED = """
import os, sys, time
from pathlib import Path
from common.data import photos as images
from scripts import prepare_dataset as script

def write_image(path, image):
    if path.name == sys.argv[3]:
        if sys.argv[4] == "half":
            path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}").write_bytes(b"half")
        Path(sys.argv[2], "..", "reached").touch()
        time.sleep(100)
    images.write_image(path, image)

script.write_image = write_image
options = {"degradation": "realistic", "processes": 0, "overwrite": sys.argv[5] == "overwrite"}
script.prepare_dataset(Path(sys.argv[1]), Path(sys.argv[2]), **options)
"""


def killed_at(photos: Path, out: Path, name: str, how: str, overwrite: str = "") -> None:
    command = [sys.executable, "-c", KILLED, str(photos), str(out), name, how, overwrite]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (out.parent / "reached").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (out.parent / "reached").unlink()


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_dataset_of_a_killed_process_becomes_that_of_one_never_killed(photos, tmp_path):
    options = {"degradation": "realistic", "processes": 0}
    prepare_dataset(photos, tmp_path / "whole", **options)
    killed_at(photos, tmp_path / "out", "3x4.png", "half")  # in the middle of an LR photo
    assert any(".tmp" in name for name in _contents(tmp_path / "out"))
    prepare_dataset(photos, tmp_path / "out", **options)
    assert _contents(tmp_path / "out") == _contents(tmp_path / "whole")


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_process_killed_while_it_overwrites_leaves_no_pair_that_does_not_fit(photos, tmp_path):
    options = {"degradation": "realistic", "processes": 0}
    prepare_dataset(photos, tmp_path / "out", **options)
    for path in photos.iterdir():  # other photos of the same names
        write_image(path, read_image(path)[::-1, :-8])
    killed_at(photos, tmp_path / "out", "2x4.png", "", "overwrite")
    hr_folder, lr_folder = prepare_dataset(photos, tmp_path / "out", **options)
    assert len(list_pairs(lr_folder, hr_folder)) == 6
    new, _ = prepare_dataset(photos, tmp_path / "new", **options)
    assert (lr_folder / "2x4.png").read_bytes() == _contents(new.parent)[
        "DIV2K_train_LR_realistic/X4/2x4.png"
    ]
