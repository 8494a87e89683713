"""Any folder of photos becomes DIV2K's layout."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.pairs import list_pairs
from common.data.photos import read_image, write_image
from scripts.prepare_dataset import prepare_dataset
from tests.conftest import SKIMAGE_DATA
from tests.test_resize import matlab_imresize

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "my photos"
    photo = read_image(SKIMAGE_DATA / "chelsea.png")
    write_image(folder / "cat 1.png", photo[:50, :71])
    Image.fromarray(photo[:32, :36]).save(folder / "größe.jpg", quality=95)
    Image.fromarray(photo[:24, :40]).convert("CMYK").save(folder / "print.tif")
    (folder / "broken.png").write_bytes(b"no photo")
    (folder / "notes.txt").write_text("not an image")
    write_image(folder / "tiny.png", photo[:3, :9])
    return folder


@pytest.mark.parametrize("processes", [0, 2])
def test_layout_names_and_values_are_div2ks(photos, tmp_path, processes, capsys):
    hr_folder, lr_folder = prepare_dataset(photos, tmp_path / "out", processes=processes)
    assert hr_folder == tmp_path / "out" / "DIV2K_train_HR"
    assert lr_folder == tmp_path / "out" / "DIV2K_train_LR_bicubic" / "X4"
    pairs = list_pairs(lr_folder, hr_folder)
    assert [(lr.name, hr.name) for lr, hr in pairs] == [
        ("cat 1x4.png", "cat 1.png"),
        ("größex4.png", "größe.png"),
        ("printx4.png", "print.png"),
    ]
    hr = read_image(pairs[0][1])
    np.testing.assert_array_equal(hr, read_image(photos / "cat 1.png")[:48, :68])
    np.testing.assert_array_equal(read_image(pairs[0][0]), matlab_imresize(hr, 1 / 4))
    said = capsys.readouterr().err
    assert "2 skipped" in said and "broken.png: cannot be read" in said
    assert "tiny.png: 9x3 is smaller than 4x4" in said


def test_second_call_prepares_nothing_twice(photos, tmp_path, capsys):
    hr_folder, _ = prepare_dataset(photos, tmp_path / "out", processes=0)
    times = {path: path.stat().st_mtime_ns for path in hr_folder.iterdir()}
    prepare_dataset(photos, tmp_path / "out", processes=0)
    assert times == {path: path.stat().st_mtime_ns for path in hr_folder.iterdir()}
    assert "3 of them were there already" in capsys.readouterr().out


def test_photos_are_there_in_smaller_sizes_as_well(photos, tmp_path, capsys):
    photo = read_image(photos / "cat 1.png")[:48, :64]
    write_image(photos / "cat 1.png", photo)
    options = {"sizes": (1, 0.5), "processes": 0}
    hr_folder, lr_folder = prepare_dataset(photos, tmp_path / "out", **options)
    names = {hr.name for _, hr in list_pairs(lr_folder, hr_folder)}
    assert names == {f"{name}.png" for n in ("cat 1", "größe", "print") for name in (n, f"{n}_50")}
    half = read_image(hr_folder / "cat 1_50.png")
    np.testing.assert_allclose(half, matlab_imresize(photo, 1 / 2).astype(int), atol=1)
    assert capsys.readouterr().err.count("broken.png:") == 1
    prepare_dataset(photos, tmp_path / "out", **options)
    said = capsys.readouterr()
    assert "6 of them were there already" in said.out and "another photo" not in said.err


@pytest.mark.parametrize("sizes", [(), (0.0,), (1.5,), (1.0, 1.0)])
def test_size_that_is_no_part_is_an_error(photos, tmp_path, sizes):
    with pytest.raises(ValueError, match="the sizes are"):
        prepare_dataset(photos, tmp_path / "out", sizes=sizes)
    with pytest.raises(ValueError, match="builtin has no --sizes"):
        prepare_dataset(Path("builtin"), tmp_path / "out", sizes=sizes)
    assert not (tmp_path / "out").exists()


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_realistic_photos_are_the_same_with_any_number_of_processes(photos, tmp_path):
    _, lr_folder = prepare_dataset(photos, tmp_path / "a", degradation="realistic", processes=0)
    assert lr_folder == tmp_path / "a" / "DIV2K_train_LR_realistic" / "X4"
    hr_folder, other = prepare_dataset(photos, tmp_path / "b", degradation="realistic", processes=2)
    assert len(list_pairs(other, hr_folder)) == 3
    assert _contents(lr_folder) == _contents(other)


def test_second_order_photos_depend_on_the_seed_and_their_names(photos, tmp_path):
    folders = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        options = {"degradation": "second_order", "processes": 0, "seed": seed}
        hr_folder, folders[name] = prepare_dataset(photos, tmp_path / name, **options)
    for lr_path, hr_path in list_pairs(folders["a"], hr_folder):
        lr, again, other = (read_image(folder / lr_path.name) for folder in folders.values())
        assert 4 * lr.shape[0] == read_image(hr_path).shape[0]
        np.testing.assert_array_equal(lr, again)
        assert (lr != other).any()


def test_realistic_photo_depends_on_the_seed_and_its_name_alone(photos, tmp_path):
    def make(name: str, seed: int = 0) -> dict[str, bytes]:
        out = tmp_path / name
        options = {"degradation": "realistic", "seed": seed, "processes": 0}
        return _contents(prepare_dataset(photos, out, **options)[1])

    first = make("first")
    assert first.items().isdisjoint(make("other seed", seed=1).items())
    shutil.copy(photos / "cat 1.png", photos / "a cat.png")  # sorted before the others
    more = make("more photos")
    assert first.items() < more.items()
    assert more["a catx4.png"] != more["cat 1x4.png"]


def test_realistic_after_bicubic_shares_its_hr_photos_and_leaves_them_alone(
    photos, tmp_path, capsys
):
    hr_folder, bicubic = prepare_dataset(photos, tmp_path / "out", processes=0)
    files = [*hr_folder.iterdir(), *bicubic.iterdir()]
    times = {path: path.stat().st_mtime_ns for path in files}
    # The kept HR photo is the one degraded, whatever became of the original since.
    write_image(photos / "cat 1.png", np.zeros((8, 8, 3), np.uint8))
    same, realistic = prepare_dataset(
        photos, tmp_path / "out", degradation="realistic", processes=0
    )
    assert "cat 1.png is there already, of another photo" in capsys.readouterr().err
    assert same == hr_folder and len(list_pairs(realistic, hr_folder)) == 3
    assert times == {path: path.stat().st_mtime_ns for path in files}
    names = [path.name for path in sorted(bicubic.iterdir())]
    assert names == [path.name for path in sorted(realistic.iterdir())]
    assert _contents(bicubic).items().isdisjoint(_contents(realistic).items())


def test_overwriting_makes_realistic_photos_anew_with_another_seed(photos, tmp_path):
    options = {"degradation": "realistic", "processes": 0}
    _, lr_folder = prepare_dataset(photos, tmp_path / "out", **options)
    first = _contents(lr_folder)
    prepare_dataset(photos, tmp_path / "out", seed=1, **options)
    assert _contents(lr_folder) == first
    prepare_dataset(photos, tmp_path / "out", seed=1, overwrite=True, **options)
    assert _contents(lr_folder).items().isdisjoint(first.items())


def test_seed_below_zero_is_an_error(photos, tmp_path):
    with pytest.raises(ValueError, match="seed is -1, expected 0 or more"):
        prepare_dataset(photos, tmp_path / "out", degradation="realistic", seed=-1)


@pytest.mark.skipif(sys.platform != "linux", reason="others have no such names")
@pytest.mark.parametrize("degradation", ["bicubic", "realistic"])
def test_names_that_are_no_text_are_taken(tmp_path, degradation):
    photo = read_image(SKIMAGE_DATA / "chelsea.png")[:8, :8]
    write_image(tmp_path / "photos" / "\udcff.png", photo)
    options = {"degradation": degradation, "processes": 0}
    _, lr_folder = prepare_dataset(tmp_path / "photos", tmp_path / "out", **options)
    assert [path.name for path in lr_folder.iterdir()] == ["\udcffx4.png"]


def test_photos_are_not_overwritten_by_results(photos, tmp_path):
    (photos / "broken.png").unlink()
    folder = photos.rename(tmp_path / "DIV2K_train_HR")
    before = _contents(folder)
    with pytest.raises(ValueError, match="DIV2K_train_HR is where results are written"):
        prepare_dataset(folder, tmp_path, overwrite=True)
    prepare_dataset(folder, tmp_path, processes=0)
    assert before.items() <= _contents(folder).items()


def test_folder_of_photos_is_not_filled_with_results_and_a_file_is_named_as_such(photos):
    before = _contents(photos)
    with pytest.raises(ValueError, match="is the folder of photos: name another"):
        prepare_dataset(photos, photos / ".", processes=0)
    with pytest.raises(NotADirectoryError, match=r"notes\.txt is a file, expected a folder"):
        prepare_dataset(photos / "notes.txt", photos / "out")
    assert _contents(photos) == before


def test_photo_whose_name_an_earlier_folder_has_taken_is_named_and_the_first_one_kept(
    tmp_path, capsys
):
    photo = read_image(SKIMAGE_DATA / "chelsea.png")
    for folder, left in (("a", 0), ("b", 100)):
        (tmp_path / folder).mkdir()
        Image.fromarray(photo[:40, left : left + 40]).save(tmp_path / folder / "001.jpg")
    write_image(tmp_path / "b" / "002.png", photo[:40, 200:240])
    prepare_dataset(tmp_path / "a", tmp_path / "out", processes=0)
    hr_folder, lr_folder = prepare_dataset(tmp_path / "b", tmp_path / "out", processes=0)
    said = capsys.readouterr().err
    assert (
        f"{tmp_path / 'b' / '001.jpg'}: {hr_folder / '001.png'} is there already, of anoth" in said
    )
    assert "1 skipped" in said and "002" not in said
    first = read_image(tmp_path / "a" / "001.jpg")
    np.testing.assert_array_equal(read_image(hr_folder / "001.png"), first)
    assert len(list_pairs(lr_folder, hr_folder)) == 2
    prepare_dataset(tmp_path / "a", tmp_path / "out", processes=0)  # its own photos again
    assert "skipped" not in capsys.readouterr().err


def test_photos_of_the_same_name_are_an_error(photos, tmp_path):
    write_image(photos / "cat 1.webp", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"same name, rename them: cat 1\.png, cat 1\.webp"):
        prepare_dataset(photos, tmp_path / "out")
    (photos / "cat 1.webp").rename(photos / "cat 1_90.webp")
    with pytest.raises(ValueError, match=r"same name, rename them: cat 1\.png, cat 1_90\.webp"):
        prepare_dataset(photos, tmp_path / "out", sizes=(1, 0.9))
    assert not (tmp_path / "out").exists()


def test_folder_without_a_readable_photo_is_an_error(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 1 photos"):
        prepare_dataset(tmp_path / "photos", tmp_path / "out", processes=0)


def test_script_runs_from_any_directory(photos, tmp_path):
    script = ROOT / "scripts" / "prepare_dataset.py"
    command = [sys.executable, str(script), photos.name, "out", "--split", "valid"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    names = {path.name for path in (tmp_path / "out" / "DIV2K_valid_HR").iterdir()}
    assert names == {"cat 1.png", "größe.png", "print.png"}
