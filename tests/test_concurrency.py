"""Several processes at once, killed ones, and machines that are not as one's own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from common import div2k, files
from common.data.pairs import list_images
from common.data.photos import read_image, write_image
from common.data.pixel_store import PixelStore
from ESRGAN.train_esrgan import train_esrgan
from scripts.upscale import upscale
from tests import test_div2k
from tests.conftest import same_weights
from tests.test_div2k import HR_ZIP, LR_ZIP, assert_complete, gets
from tests.test_train_esrgan import SMALL

ROOT = Path(__file__).resolve().parents[1]
server = test_div2k.server  # the fixture

# Builds a store and notes each photo that it decodes; before the first it waits until as many
# processes as it is told have come as far as this.
BUILD = """
import os, sys, time
from pathlib import Path
from common.data import pixel_store
from common.data.pairs import list_images
from common.data.photos import read_image

folder, log = Path(sys.argv[1]), Path(sys.argv[2])

def noting(path):
    with log.open("a") as file:
        file.write(f"{path.name}\\n")
    while len(list(log.parent.glob("ready.*"))) < int(sys.argv[3]):
        time.sleep(0.01)
    time.sleep(0.1)
    return read_image(path)

pixel_store.read_image = noting
(log.parent / f"ready.{os.getpid()}").touch()
pixel_store.PixelStore(list_images(folder))[0]
"""

DOWNLOAD = """
import json, sys
from common import div2k, download
download.PAUSE = 0.01
div2k.ARCHIVES = json.loads(sys.argv[1])
div2k.download_div2k(sys.argv[2], base_url=sys.argv[3])
"""


def start(code: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, **options)


def ended_well(*processes: subprocess.Popen) -> list[str]:
    """Wait for the processes and return what each printed."""
    outputs = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return [out for out, _ in outputs]


def wait_for(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def photos(dataset, tmp_path):
    return shutil.copytree(dataset.hr, tmp_path / "hr")


def test_two_processes_build_one_store_and_photos_are_decoded_once(photos, tmp_path):
    log = tmp_path / "log"
    first, second = (start(BUILD, photos, log, 2) for _ in range(2))
    out = "".join(ended_well(first, second))
    paths = list_images(photos)
    assert sorted(log.read_text().split()) == [path.name for path in paths]
    assert out.count("waiting for another process that decodes the photos") == 1
    store = PixelStore(paths)
    for i, path in enumerate(paths):
        np.testing.assert_array_equal(store[i], read_image(path))


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_store_whose_builder_was_killed_is_built_by_the_next(photos, tmp_path, capsys):
    builder = start(BUILD, photos, tmp_path / "log", 2)
    wait_for((tmp_path / "log").exists)
    assert list(tmp_path.glob(".hr.*.tmp.pixels"))
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    paths = list_images(photos)
    np.testing.assert_array_equal(PixelStore(paths)[4], read_image(paths[4]))
    assert not list(tmp_path.glob(".hr.*.tmp.pixels"))  # gigabytes, of DIV2K
    assert "waiting" not in capsys.readouterr().out


def test_store_is_built_where_no_lock_can_be_had(photos, monkeypatch):
    def no_locks(*args, **kwargs):
        raise NotImplementedError("this file system has none")

    monkeypatch.setattr(files.FileLock, "acquire", no_locks)
    paths = list_images(photos)
    store = PixelStore(paths)
    assert store.file.exists()
    np.testing.assert_array_equal(store[1], read_image(paths[1]))


def test_store_that_another_process_built_of_other_photos_is_not_read(photos):
    """A loader's worker maps the file when the first crop is asked for, maybe hours later."""
    paths = list_images(photos)
    store = PixelStore(paths)
    write_image(photos / "0000.png", np.zeros((200, 200, 3), np.uint8))
    PixelStore(paths)
    with pytest.raises(OSError, match=r"hr\.pixels was built anew while it was in use"):
        store[1]


def test_two_processes_download_an_archive_once(server, tmp_path):
    server.plan[HR_ZIP] = iter(["slow"])
    table = json.dumps(div2k.ARCHIVES)
    first = start(DOWNLOAD, table, tmp_path, server.url)
    wait_for(lambda: server.requests)
    second = start(DOWNLOAD, table, tmp_path, server.url)
    said = second.stdout.readline()  # as soon as it waits
    assert said.startswith("waiting for another process that downloads DIV2K")
    server.released.set()
    ended_well(first, second)
    assert_complete(tmp_path)
    assert gets(server) == [None] and gets(server, LR_ZIP) == [None]


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_download_whose_process_was_killed_while_another_waits_goes_on(server, tmp_path):
    server.plan[HR_ZIP] = iter(["slow"])
    table = json.dumps(div2k.ARCHIVES)
    first = start(DOWNLOAD, table, tmp_path, server.url)
    wait_for(lambda: gets(server))
    second = start(DOWNLOAD, table, tmp_path, server.url)
    assert "waiting" in second.stdout.readline()
    first.send_signal(signal.SIGKILL)
    first.wait()
    ended_well(second)
    assert_complete(tmp_path)


TRAIN = """
import json, multiprocessing, sys
if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    multiprocessing.set_start_method("spawn")
    from ESRGAN.train_esrgan import train_esrgan
    train_esrgan(**json.loads(sys.argv[2]))
"""


def is_plain(text: str) -> bool:
    """Return whether a text holds no control characters and few lines."""
    return text.replace("\n", "").isprintable() and text.count("\n") < 40


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's folders")
def test_training_needs_no_fork_no_folder_to_write_in_and_no_terminal(dataset, tmp_path):
    settings = {**dataset.folders(), **SMALL, "n_epochs": 1, "n_epochs_gan": 0}
    expected = train_esrgan(**settings, out_dir=tmp_path / "a")
    there = {name: str(value) for name, value in dataset.folders().items()}
    settings |= {**there, "workers": 1, "out_dir": str(tmp_path / "b")}
    (tmp_path / "train.py").write_text(TRAIN)
    arguments = [str(ROOT), json.dumps(settings)]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "train.py"), *arguments],
        cwd="/proc",
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert same_weights(expected / "generator.pth", tmp_path / "b" / "generator.pth")
    assert is_plain(done.stdout) and is_plain(done.stderr)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's folders")
def test_photos_are_enlarged_from_a_folder_that_cannot_be_written(dataset, tmp_path):
    photo = next(dataset.valid_lr.iterdir())
    command = [sys.executable, str(ROOT / "scripts" / "upscale.py"), str(photo), "-m", "bicubic"]
    command += ["-o", str(tmp_path / "out"), "--device", "cpu"]
    done = subprocess.run(command, cwd="/proc", capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert is_plain(done.stdout) and is_plain(done.stderr)
    upscale((photo,), model=Path("bicubic"), out=tmp_path / "again", device="cpu")
    both = [(tmp_path / folder / photo.name).read_bytes() for folder in ("out", "again")]
    assert both[0] == both[1]


@pytest.mark.skipif(os.name != "posix", reason="Windows keeps the current directory of a process")
def test_training_goes_on_when_its_current_directory_is_deleted(dataset, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    settings = {**dataset.folders(), **SMALL, "n_epochs": 1, "n_epochs_gan": 0, "workers": 1}
    run = train_esrgan(**settings, out_dir=tmp_path / "run")
    assert (run / "generator.pth").exists() and (run / "samples").is_dir()
