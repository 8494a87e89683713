"""Broken and odd files go through all that reads photos: right pixels, or an error that names them.

Nothing crashes or hangs, nothing is silently wrong. `odd_files.py` says what is expected of each.
"""

import contextlib
import io
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from common.data import pixel_store
from common.data.crops import PairedCrops
from common.data.pairs import list_images, list_pairs
from common.data.photos import image_size, read_image, write_image
from common.data.pixel_store import PixelStore
from common.measure.validation import Validation
from CycleGAN.dataset import UnpairedPhotos
from ESRGAN.train_esrgan import train_esrgan
from scripts.prepare_dataset import prepare_dataset
from scripts.upscale import upscale
from tests.file_makers import photo, png
from tests.odd_files import (
    ANYTHING,
    NO_PHOTO,
    READ,
    REFUSE,
    OddFile,
    odd_files,
    put,
    write_odd_files,
)
from tests.test_resize import matlab_imresize
from tests.test_train_esrgan import SMALL
from tests.test_upscale import bicubic, open_pixels

KINDS = Counter(odd.kind for odd in odd_files())
by_kind = pytest.mark.parametrize("kind", KINDS)
Pixels = np.ndarray


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("odd") / "photos"


@pytest.fixture(scope="module")
def files(folder) -> list[OddFile]:
    """All that the system allows, written into one folder."""
    return write_odd_files(folder)


@pytest.fixture(scope="module", autouse=True)
def small_files_are_fast() -> Iterator[None]:
    """Do not wait for the disk, nor for threads that share 40x32 pixels."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield
    torch.set_num_threads(n_threads)


@contextlib.contextmanager
def within_two_minutes() -> Iterator[None]:
    """Fail instead of waiting for a pipe for ever."""
    if not hasattr(signal, "alarm"):  # (Windows, which has no such pipes either)
        yield
        return
    before = signal.signal(signal.SIGALRM, lambda number, frame: pytest.fail("it hangs"))
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    with within_two_minutes():
        yield


def attempt(read: Callable[[], Pixels]) -> Pixels | ValueError:
    """Return what was read, or the error that says why not; nothing else may be raised."""
    try:
        return read()
    except ValueError as error:
        return error


def complaint(odd: OddFile, found: Pixels | ValueError, may_refuse: bool = False) -> str:
    """Return how `found` is not what is expected of the file, "" where it is."""
    if isinstance(found, ValueError):
        is_right = odd.name in str(found) and (may_refuse or odd.outcome != READ)
        return "" if is_right else f"{odd.name!r}, {odd.outcome}: {found}"
    if odd.outcome in (REFUSE, ANYTHING):
        return f"{odd.name!r} was not refused" if odd.outcome == REFUSE else ""
    if found.shape != odd.pixels.shape:
        return f"{odd.name!r}: {found.shape}, expected {odd.pixels.shape}"
    worst = np.abs(found.astype(int) - odd.pixels).max()
    return f"{odd.name!r}: {worst}/255 wrong" if worst > odd.tolerance else ""


def report(complaints: list[str]) -> None:
    assert not (found := [line for line in complaints if line]), "\n".join(["", *found])


def is_trainable(odd: OddFile) -> bool:
    """Tell whether a photo is large enough, and made of whole LR pixels."""
    height, width = odd.pixels.shape[:2]
    return min(height, width) >= 20 and height % 4 == width % 4 == 0


def test_there_are_so_many_of_each_kind(files, capsys):
    kinds, outcomes = Counter(odd.kind for odd in files), Counter(odd.outcome for odd in files)
    with capsys.disabled():
        print(f"\n{len(files)} odd files:", ", ".join(f"{n} {kind}" for kind, n in kinds.items()))
        print("expected:", ", ".join(f"{n} {outcome}" for outcome, n in outcomes.items()))
    assert len(files) >= 300 and len(Counter(odd.name for odd in files)) == len(files)


@by_kind
def test_each_is_read_right_or_named(kind, folder, files):
    bad = []
    for odd in (odd for odd in files if odd.kind == kind and odd.outcome != NO_PHOTO):
        path = folder / odd.name
        found, size = (attempt(partial(read, path)) for read in (read_image, image_size))
        bad.append(complaint(odd, found))
        # (The header may be whole where the pixels are not.)
        if isinstance(size, ValueError):
            bad.append(complaint(odd, size))
        elif not isinstance(found, ValueError) and size != found.shape[:2]:
            bad.append(f"{odd.name!r}: its size is said to be {size}, and {found.shape} was read")
    report(bad)


def test_all_but_folders_and_hidden_files_are_listed(folder, files):
    expected = sorted(odd.name for odd in files if odd.outcome != NO_PHOTO)
    assert sorted(path.name for path in list_images(folder)) == expected


def test_photo_that_vanishes_after_it_was_listed_is_named(tmp_path, monkeypatch):
    write_image(tmp_path / "there.png", photo("there"))
    paths = [tmp_path / "gone.png", tmp_path / "there.png"]
    monkeypatch.setattr(pixel_store, "list_images", lambda folder: paths)
    with pytest.raises(ValueError, match=r"gone\.png: cannot be read \(No such file"):
        PixelStore(paths[1:])
    for read in (read_image, image_size):
        with pytest.raises(ValueError, match=r"gone\.png: there is no such file"):
            read(paths[0])


@by_kind
def test_training_sees_the_right_pixels_or_names_the_file(kind, files, tmp_path):
    """What training does before its loop, with good photos together and each other file alone."""
    shown = [odd for odd in files if odd.kind == kind and odd.outcome != NO_PHOTO]
    shown = [odd for odd in shown if len(os.fsencode(odd.name)) <= 250]  # or LR has no name
    is_good = [odd.outcome == READ and is_trainable(odd) for odd in shown]
    good = [odd for odd, yes in zip(shown, is_good, strict=True) if yes]
    # 16 and more would be read by several processes, which take long to start.
    groups = [good[i : i + 15] for i in range(0, len(good), 15)]
    groups += [[odd] for odd, yes in zip(shown, is_good, strict=True) if not yes]
    bad = []
    for i, group in enumerate(groups):
        hr, lr = tmp_path / str(i) / "hr", tmp_path / str(i) / "lr"
        for part in (hr, lr):
            part.mkdir(parents=True)
        for odd in group:
            put(odd, hr)
            is_known = odd.pixels is not None and is_trainable(odd)
            pixels = odd.pixels if is_known else photo("lr")
            (lr / f"{Path(odd.name).stem}x4.png").write_bytes(png(pixels[::4, ::4]))
        bad += [complaint(odd, *rest) for odd, *rest in what_training_reads(group, lr, hr)]
    report(bad)


def what_training_reads(
    group: list[OddFile], lr: Path, hr: Path
) -> Iterator[tuple[OddFile, Pixels | ValueError, bool]]:
    """Yield each file with its pixels (or the error), and whether small photos may be refused."""
    paths = [hr / odd.name for odd in group]
    lr_paths = [lr / f"{path.stem}x4.png" for path in paths]

    def paired() -> dict[str, Pixels]:
        return of_store(PairedCrops(list_pairs(lr, hr), 16, 0).photos[1])

    def unpaired() -> dict[str, Pixels]:
        return of_store(UnpairedPhotos(lr_paths, paths, 4, 16, crop=True).photos[1])

    def held_out() -> dict[str, Pixels]:
        pairs = list_pairs(lr, hr)
        photos = Validation(pairs, 10**6).photos
        return {path.name: photo.hr for (_, path), photo in zip(pairs, photos, strict=True)}

    for read in (lambda: of_store(PixelStore(paths)), paired, unpaired, held_out):
        found = attempt(read)
        for odd in group:
            pixels = found if isinstance(found, ValueError) else found[odd.name]
            yield odd, pixels, len(group) == 1 and (odd.pixels is None or not is_trainable(odd))
    found = attempt(lambda: UnpairedPhotos(lr_paths, paths, 8, 32).photos[1])
    for i, odd in enumerate(group):
        whole = odd.pixels if odd.pixels is None else resized(odd.pixels)
        pixels = found if isinstance(found, ValueError) else found[i]
        yield odd._replace(pixels=whole, tolerance=odd.tolerance + 1), pixels, False


def of_store(store: PixelStore) -> dict[str, Pixels]:
    return {path.name: store[i] for i, path in enumerate(store.paths)}


def resized(pixels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def prepared(folder, files, tmp_path_factory) -> tuple[Path, str]:
    """Where the whole folder's pairs are, and what was said."""
    out = tmp_path_factory.mktemp("prepared")
    with contextlib.redirect_stderr(io.StringIO()) as said, within_two_minutes():
        prepare_dataset(folder, out, processes=0)
    return out, said.getvalue()


def test_preparing_makes_a_pair_of_each_or_names_it(files, folder, prepared):
    out, said = prepared
    lr_names = {path.name for path in (out / "DIV2K_train_LR_bicubic" / "X4").iterdir()}
    hr_names = {path.name for path in (out / "DIV2K_train_HR").iterdir()}
    bad, n_named = [], 0
    for i, odd in enumerate(odd for odd in files if odd.outcome != NO_PHOTO):
        stem = Path(odd.name).stem
        hr_name, lr_name = f"{stem}.png", f"{stem}x4.png"
        is_made, is_named = hr_name in hr_names, str(folder / odd.name) in said
        n_named += is_named
        if is_made == is_named or is_made != (lr_name in lr_names):
            bad.append(f"{odd.name!r}: made {is_made}, named {is_named}")
        elif is_made:
            hr = np.asarray(Image.open(out / "DIV2K_train_HR" / hr_name))
            lr = np.asarray(Image.open(out / "DIV2K_train_LR_bicubic" / "X4" / lr_name))
            bad.append(complaint(cropped(odd), hr))
            is_checked = i % 5 == 0  # (slow)
            if hr.shape[:2] != (4 * lr.shape[0], 4 * lr.shape[1]) or (
                is_checked and not np.array_equal(lr, matlab_imresize(hr, 1 / 4))
            ):
                bad.append(f"{odd.name!r}: LR is not HR's")
        elif odd.outcome == READ and min(odd.pixels.shape[:2]) >= 4 and len(odd.name) < 250:
            bad.append(f"{odd.name!r} was not prepared")
    report(bad)
    assert len(hr_names) == len(lr_names) == len(list_images(folder)) - n_named
    assert f"{n_named} skipped:" in said
    assert "passed over: 1 .bak, 1 .txt, 1 without a suffix" in said
    if (folder / "folder.png").exists():
        assert "folders in it are not looked into: folder.jpg, folder.png, link to a folder" in said


def cropped(odd: OddFile) -> OddFile:
    if odd.pixels is None:
        return odd
    height, width = (n // 4 * 4 for n in odd.pixels.shape[:2])
    return odd._replace(pixels=odd.pixels[:height, :width])


def test_a_network_is_trained_on_what_was_prepared(prepared, tmp_path):
    out, _ = prepared
    hr, lr = out / "DIV2K_train_HR", out / "DIV2K_train_LR_bicubic" / "X4"
    small = SMALL | {"n_epochs": 1, "n_epochs_gan": 1, "n_valid": 1000}
    run = train_esrgan(hr_folder=hr, lr_folder=lr, **small, out_dir=tmp_path / "run")
    assert (run / "generator.pth").exists() and len(list((run / "samples").iterdir())) == 2


@pytest.fixture(scope="module")
def enlarged(folder, files, tmp_path_factory) -> tuple[Path, str, int]:
    """Where the whole folder's photos are, what was said, and how many failed."""
    out = tmp_path_factory.mktemp("enlarged")
    with contextlib.redirect_stderr(io.StringIO()) as said, within_two_minutes():
        failed = upscale((folder,), model="bicubic", out=out, quality=100, device="cpu")
    return out, said.getvalue(), failed


def test_each_is_enlarged_right_or_named(files, folder, enlarged):
    out, said, failed = enlarged
    made = {path.name for path in out.rglob("*") if path.is_file()}
    n_named, bad = 0, []
    for odd in (odd for odd in files if odd.outcome != NO_PHOTO):
        name = odd.name
        if Path(name).suffix in (".bmp", ".gif", ".ppm", ".pgm"):
            name = f"{Path(name).stem}.png"
        outcome = odd.by_upscale or odd.outcome
        is_named, is_made = f"not enlarged: {folder / odd.name}: " in said, name in made
        n_named += is_named
        if is_named == is_made:
            bad.append(f"{odd.name!r}: made {is_made}, named {is_named}")
        elif is_made and outcome not in (REFUSE, ANYTHING):
            bad.append(wrong_result(odd, out / name))
        elif outcome == (REFUSE if is_made else READ):
            bad.append(f"{odd.name!r}, {outcome}: made {is_made}")
    report(bad)
    assert failed == n_named and len(made) == len(list_images(folder)) - n_named


def wrong_result(odd: OddFile, path: Path) -> str:
    """Compare a result with Pillow's bicubic interpolation, in float; return what is wrong."""
    before = odd.pixels if odd.kept is None else odd.kept
    found = np.atleast_3d(open_pixels(path))
    top = {"uint8": 255, "uint16": 65535, "float32": 1}[str(found.dtype)]
    if odd.kept is not None and top != np.iinfo(before.dtype).max:
        return f"{odd.name!r}: {found.dtype}, expected {before.dtype}"
    height, width = 4 * before.shape[0], 4 * before.shape[1]
    if found.shape[:2] != (height, width):
        return f"{odd.name!r}: {found.shape}, expected {(height, width)}"
    if odd.kind == "turned":
        with Image.open(path) as image:
            if ImageOps.exif_transpose(image).size != (width, height):
                return f"{odd.name!r}: the result is still to be turned"
    if min(height, width) <= 24:
        return ""  # all border, which Pillow treats in another way
    expected = bicubic(before / np.iinfo(before.dtype).max).clip(0, 1)
    if odd.kept is not None and found.shape != expected.shape:
        return f"{odd.name!r}: {found.shape}, expected {expected.shape}"
    difference = np.abs(found[:, :, : expected.shape[2]] / top - expected)
    if odd.kept is not None and before.shape[2:] in ((2,), (4,)):
        # What is invisible takes its neighbours' colour: where that is seen, other tests look.
        near = np.pad(before[..., -1] == 0, 2)
        near = np.lib.stride_tricks.sliding_window_view(near, (5, 5)).any((2, 3))
        difference[..., :-1] *= ~np.kron(near, np.ones((4, 4), bool))[..., None]
    difference = difference[12:-12, 12:-12]
    # Bicubic interpolation makes an error 1.6 times as large at most; a JPEG adds its own.
    lossy = 8 if path.suffix.lower() in (".jpg", ".jpeg") else 0
    allowed = 1 + 1.6 * odd.tolerance + lossy
    worst = 255 * difference.max()
    return f"{odd.name!r}, enlarged: {worst:.1f}/255 wrong" if worst > allowed else ""


def test_files_named_one_by_one_are_enlarged_whatever_their_names(files, folder, tmp_path, capfd):
    """Also those that are no photos by their names; what is none is named."""
    for odd in (odd for odd in files if odd.kind in ("names", "links and folders")):
        out = tmp_path / "out"
        path = folder / odd.name
        if path.is_dir() or not path.exists():
            with pytest.raises(ValueError, match=r"no such file|holds no photos"):
                upscale((path,), model="bicubic", out=out, device="cpu")
            continue
        failed = upscale((path,), model="bicubic", out=out, device="cpu", overwrite=True)
        assert failed == (odd.outcome == REFUSE), odd.name
    capfd.readouterr()


def test_results_never_take_the_place_of_another_photo(tmp_path):
    """NAME.jpg would become NAME_1.png, and there is such a photo."""
    write_image(tmp_path / "NAME.jpg", photo("a"))
    write_image(tmp_path / "NAME_1.png", photo("b"))
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"NAME_1\.png is another of the photos"):
            inputs = tmp_path / "NAME.jpg", tmp_path / "NAME_1.png"
            options = {"samples": 1, "format": "png", "overwrite": overwrite}
            upscale(inputs, model="bicubic", out=tmp_path, **options)
    np.testing.assert_array_equal(read_image(tmp_path / "NAME_1.png"), photo("b"))
