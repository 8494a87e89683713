"""The pixel store, and the crops that come from it."""

import contextlib
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from common.data import pixel_store
from common.data.crops import PairedCrops, batches, take_crop, to_device
from common.data.pairs import list_images, list_pairs
from common.data.photos import read_image, write_image
from common.data.pixel_store import PixelStore
from common.data.workers import in_processes
from common.files import written_whole


@pytest.fixture
def photos(dataset, tmp_path):
    return shutil.copytree(dataset.hr, tmp_path / "hr")


def _beside(folder: Path) -> list[str]:
    """Return what lies where `folder` does, without the lock, which stays and is empty."""
    return [path.name for path in folder.parent.iterdir() if path.suffix != ".lock"]


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_folder_of_links_has_a_store_of_its_own(photos, tmp_path):
    (tmp_path / "links").mkdir()
    for path in list_images(photos)[:2]:
        (tmp_path / "links" / path.name).symlink_to(path)
    paths = list_images(tmp_path / "links")
    store = PixelStore(paths)
    assert store.file == tmp_path.resolve() / "links.pixels"
    np.testing.assert_array_equal(store[1], read_image(paths[1]))


def count_decodes(monkeypatch) -> list:
    decoded = []

    def counting(path):
        decoded.append(path)
        return read_image(path)

    monkeypatch.setattr(pixel_store, "read_image", counting)
    return decoded


@pytest.mark.parametrize("n_processes", [0, 2])
def test_store_holds_the_photos_pixels(photos, n_processes, monkeypatch):
    several = partial(in_processes, n_processes=n_processes)
    monkeypatch.setattr(pixel_store, "in_processes", several)
    paths = list_images(photos)
    store = PixelStore(paths)
    assert store.file.exists() and len(store) == len(paths) == 5
    for i, path in enumerate(paths):
        np.testing.assert_array_equal(store[i], read_image(path))
        assert store.sizes[i] == read_image(path).shape[:2]


def test_photos_are_decoded_once(photos, monkeypatch):
    decoded = count_decodes(monkeypatch)
    paths = list_images(photos)
    for _ in range(3):
        store = PixelStore(paths)
        _ = [store[i] for i in range(len(store))]
    assert len(decoded) == 5


def test_some_photos_of_a_folder_use_the_folders_store(photos, monkeypatch):
    paths = list_images(photos)
    PixelStore(paths)
    decoded = count_decodes(monkeypatch)
    store = PixelStore([paths[3], paths[1]])
    np.testing.assert_array_equal(store[0], read_image(paths[3]))
    np.testing.assert_array_equal(store[1], read_image(paths[1]))
    assert decoded == []


@pytest.mark.parametrize("change", ["edit", "add", "remove", "touch"])
def test_store_is_built_anew_when_the_folder_changed(photos, change):
    paths = list_images(photos)
    PixelStore(paths)
    if change == "edit":
        write_image(paths[2], np.full((96, 96, 3), 7, np.uint8))
    elif change == "add":
        write_image(photos / "new.png", np.full((96, 100, 3), 9, np.uint8))
    elif change == "remove":
        paths[0].unlink()
    else:
        os.utime(paths[1], ns=(1, 1))
    paths = list_images(photos)
    store = PixelStore(paths)
    for i, path in enumerate(paths):
        np.testing.assert_array_equal(store[i], read_image(path))


def test_interrupted_build_leaves_no_store(photos, monkeypatch):
    paths = list_images(photos)

    def interrupted(path):
        if path == paths[3].resolve():
            raise KeyboardInterrupt
        return read_image(path)

    monkeypatch.setattr(pixel_store, "read_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        PixelStore(paths)
    assert _beside(photos) == ["hr"]


@pytest.mark.parametrize("damage", [b"", b"PIXELS02" + b"\xff" * 40, None])
def test_damaged_store_is_built_anew(photos, damage):
    paths = list_images(photos)
    file = PixelStore(paths).file
    file.write_bytes(file.read_bytes()[:-1] if damage is None else damage)
    np.testing.assert_array_equal(PixelStore(paths)[4], read_image(paths[4]))


def test_broken_photo_is_named_and_leaves_no_store(photos):
    (photos / "0002.png").write_bytes(b"no photo")
    with pytest.raises(ValueError, match=r"0002\.png: cannot be read"):
        PixelStore(list_images(photos))
    assert _beside(photos) == ["hr"]


def test_store_is_left_out_with_a_note_when_the_disk_is_too_small(photos, monkeypatch, capsys):
    usage = type(shutil.disk_usage(photos))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**6, 10**6, 1000))
    paths = list_images(photos)
    store = PixelStore(paths)
    assert "No pixel store" in (out := capsys.readouterr().out) and "0.0 GB free" in out
    assert not store.file.exists()
    np.testing.assert_array_equal(store[1], read_image(paths[1]))
    assert store.sizes[1] == read_image(paths[1]).shape[:2]


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_workers_end_with_a_killed_parent(tmp_path):
    code = (
        "import os, sys, time; from common.data.workers import in_processes\n"
        "def job(i): open(f'{sys.argv[1]}/{os.getpid()}', 'w').close(); time.sleep(100)\n"
        "if __name__ == '__main__': list(in_processes(job, [1, 2], 2))\n"
    )
    root = Path(__file__).resolve().parents[1]
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=root)
    deadline = time.time() + 60
    while len(pids := [int(path.name) for path in tmp_path.iterdir()]) < 2:
        assert time.time() < deadline
        time.sleep(0.1)
    parent.kill()
    parent.wait()

    def runs(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        status = Path(f"/proc/{pid}/stat")  # (a zombie has ended, its new parent has not looked)
        return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")

    while any(map(runs, pids)):
        assert time.time() < deadline
        time.sleep(0.1)


def test_store_can_be_sent_to_another_process(photos):
    store = PixelStore(list_images(photos))
    before = store[2].copy()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store))[2], before)


def crop_pair(crops: PairedCrops, epoch: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    return take_crop(crops, epoch, k, 0), take_crop(crops, epoch, k, 1)


@pytest.fixture
def crops(dataset):
    return PairedCrops(list_pairs(dataset.lr, dataset.hr), patch_size=32, seed=3)


@pytest.fixture
def coordinates(tmp_path):
    """Photos whose pixels say where they are: (row, column, photo), LR those of its HR pixel."""
    for n in range(3):
        h, w = 40 + 8 * n, 64 - 4 * n
        y, x = np.mgrid[:h, :w]
        hr = np.stack([y, x, np.full_like(y, n)], axis=2).astype(np.uint8)
        write_image(tmp_path / "hr" / f"{n}.png", hr)
        write_image(tmp_path / "lr" / f"{n}x4.png", np.ascontiguousarray(hr[::4, ::4]))
    return PairedCrops(list_pairs(tmp_path / "lr", tmp_path / "hr"), patch_size=16, seed=3)


def test_lr_and_hr_crops_are_of_the_same_place_turned_alike(coordinates):
    for k in range(300):
        lr, hr = (crop.astype(int) for crop in crop_pair(coordinates, 0, k))
        assert lr.shape == (4, 4, 3) and hr.shape == (16, 16, 3)
        assert len(np.unique(hr[..., 2])) == 1
        # Each LR pixel is the top left one of its 4x4 HR pixels, before they were turned.
        blocks = hr.reshape(4, 4, 4, 4, 3).swapaxes(1, 2).reshape(4, 4, 16, 3)
        np.testing.assert_array_equal(lr, blocks.min(axis=2))


def test_all_flips_turns_and_places_occur(coordinates):
    crops = [crop_pair(coordinates, 1, k)[1].astype(int) for k in range(600)]
    steps = Counter((tuple(c[1, 0] - c[0, 0]), tuple(c[0, 1] - c[0, 0])) for c in crops)
    assert len(steps) == 8 and min(steps.values()) > 40
    tops = {n: {c[..., 0].min() for c in crops if c[0, 0, 2] == n} for n in range(3)}
    assert tops == {n: set(range(0, 40 + 8 * n - 16 + 1, 4)) for n in range(3)}


def test_crop_depends_on_seed_epoch_and_number_alone(crops, dataset):
    again = PairedCrops(list_pairs(dataset.lr, dataset.hr), patch_size=32, seed=3)
    _ = [crop_pair(again, 5, k) for k in (9, 2, 77)]  # what was drawn before does not matter
    for epoch, k in [(0, 0), (0, 1), (4, 123)]:
        for a, b in zip(crop_pair(crops, epoch, k), crop_pair(again, epoch, k), strict=True):
            np.testing.assert_array_equal(a, b)
    other = PairedCrops(list_pairs(dataset.lr, dataset.hr), patch_size=32, seed=4)
    same = [np.array_equal(crop_pair(crops, 0, k)[1], crop_pair(other, 0, k)[1]) for k in range(10)]
    assert not any(same)
    same = [np.array_equal(crop_pair(crops, 0, k)[1], crop_pair(crops, 1, k)[1]) for k in range(10)]
    assert not any(same)


def test_every_photo_is_used_once_before_any_is_used_again(coordinates):
    order = [int(crop_pair(coordinates, 2, k)[1][0, 0, 2]) for k in range(15)]
    for i in range(0, 15, 3):
        assert sorted(order[i : i + 3]) == [0, 1, 2]
    assert len({tuple(order[i : i + 3]) for i in range(0, 15, 3)}) > 1


def first_batches(crops, workers: int, first_step: int = 0, n: int = 5) -> list[torch.Tensor]:
    with contextlib.closing(batches(crops, first_step, 3, 4, workers)) as stream:
        return [next(stream)[1].clone() for _ in range(n)]


def test_batches_do_not_depend_on_the_number_of_workers(crops):
    expected = first_batches(crops, 0)
    for workers in (1, 2):
        for a, b in zip(expected, first_batches(crops, workers), strict=True):
            assert torch.equal(a, b)


def test_closed_batches_leave_no_worker(crops):
    first_batches(crops, 2)
    assert multiprocessing.active_children() == []


def test_program_that_leaves_its_batches_open_ends_all_the_same(dataset):
    code = (
        "import sys; from common.data.pairs import list_pairs\n"
        "from common.data.crops import PairedCrops, batches\n"
        "if __name__ == '__main__':\n"
        "    stream = batches(PairedCrops(list_pairs(*sys.argv[1:]), 32, 0), 0, 5, 2, 2)\n"
        "    next(stream)\n"
    )
    command = [sys.executable, "-c", code, str(dataset.lr), str(dataset.hr)]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, timeout=600, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_leave_torchs_random_numbers_alone(crops, workers):
    before = torch.get_rng_state()
    first_batches(crops, workers)
    assert torch.equal(before, torch.get_rng_state())


def test_batches_can_be_entered_at_any_step(crops):
    expected = first_batches(crops, 0, n=8)
    for a, b in zip(expected[5:], first_batches(crops, 0, first_step=5, n=3), strict=True):
        assert torch.equal(a, b)
    hr = torch.from_numpy(crop_pair(crops, 1, 2 * 4 + 1)[1].copy()).permute(2, 0, 1)
    assert torch.equal(expected[5][1], hr)  # step 5 is step 2 of epoch 1


def test_crops_become_floats_on_the_device(crops):
    lr, hr = to_device(crops[0, range(2)], torch.device("cpu"))
    assert lr.shape == (2, 3, 8, 8) and hr.shape == (2, 3, 32, 32)
    assert hr.dtype == torch.float32 and hr.min() >= 0 and hr.max() <= 1
    assert torch.equal((hr * 255).round().byte(), crops[0, range(2)][1])


def test_several_lr_photos_may_share_an_hr_photo(dataset, tmp_path):
    lr, hr = tmp_path / "lr", shutil.copytree(dataset.hr, tmp_path / "hr")
    for path in list_images(dataset.lr):
        for w in "1234":
            lr.mkdir(exist_ok=True)
            shutil.copy(path, lr / f"{path.stem}w{w}.png")
    crops = PairedCrops(list_pairs(lr, hr), patch_size=32, seed=0)
    assert len(crops) == 20 and crop_pair(crops, 0, 7)[1].shape == (32, 32, 3)
    sizes = dict(zip(crops.photos[1].paths, crops.photos[1].sizes, strict=True))
    n_bytes = sum(h * w * 3 for h, w in sizes.values())
    assert len(sizes) == 5 and crops.photos[1].file.stat().st_size < n_bytes + 10_000


def test_photos_smaller_than_a_crop_are_named_all_at_once(dataset):
    names = r", ".join(rf"000{i}\.png \(\d+x96\)" for i in range(5))
    with pytest.raises(ValueError, match=rf"HR: {names}: smaller than a crop of 128x128"):
        PairedCrops(list_pairs(dataset.lr, dataset.hr), patch_size=128, seed=0)
    with pytest.raises(ValueError, match="patch_size is 30, expected a multiple of 4"):
        PairedCrops(list_pairs(dataset.lr, dataset.hr), patch_size=30, seed=0)


def test_file_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new folder" / "a.txt"
    with written_whole(target) as temporary:
        temporary.write_text("first")
        assert not target.exists()
    with pytest.raises(RuntimeError), written_whole(target) as temporary:
        temporary.write_text("half of the sec")
        raise RuntimeError
    assert target.read_text() == "first"
    assert [path.name for path in target.parent.iterdir()] == ["a.txt"]
