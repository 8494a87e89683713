"""Which photos a run reads: which folders, what is in them, and which LR and HR belong together."""

import os
import re
from pathlib import Path

from common.data.photos import image_size
from common.div2k import download_div2k

SUFFIXES = {".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".webp", ".tif", ".tiff", ".bmp", ".gif"}
SUFFIXES |= {".ppm", ".pgm", ".avif", ".heic", ".heif"}  # where Pillow can read the last three

Pairs = list[tuple[Path, Path]]  # LR and HR
Folder = Path | None


def training_and_validation_pairs(
    lr: Folder, hr: Folder, valid_lr: Folder, valid_hr: Folder, n_valid: int
) -> tuple[Pairs, Pairs]:
    """Return (LR path, HR path) pairs to train on, and at most `n_valid` that are held out.

    Folders that are None are found by `choose_folders`; where it finds none for validation, the
    last tenth of the photos is held out. Raises `ValueError` as it and `list_pairs` do.
    """
    lr, hr, valid_lr, valid_hr = choose_folders(lr, hr, valid_lr, valid_hr)
    train = list_pairs(lr, hr)
    if valid_lr is not None:
        return train, list_pairs(valid_lr, valid_hr)[:n_valid]
    return _hold_out(train, n_valid)


def training_and_validation_photos(
    hr: Folder, valid_hr: Folder, n_valid: int
) -> tuple[list[Path], list[Path]]:
    """Return HR photos to train on, and at most `n_valid` held-out ones, chosen as pairs are."""
    hr = hr or download_div2k("div2k")[0]
    valid_hr = valid_hr or _valid_beside(hr)
    train = list_images(hr)
    if valid_hr:
        return train, list_images(valid_hr)[:n_valid]
    return tuple([hr for _, hr in ps] for ps in _hold_out([(p, p) for p in train], n_valid))


def _hold_out(train: Pairs, n_valid: int) -> tuple[Pairs, Pairs]:
    """Return the pairs without those of the last photos, at most a tenth, and those."""
    photos = sorted({hr for _, hr in train})
    if len(photos) == 1:
        print(f"{photos[0]} is the only photo: validation figures are of the training photo")
        return train, train
    n_valid = min(n_valid, max(1, len(photos) // 10))
    print(f"no validation folders: the last {n_valid} of {len(photos)} photos are held out")
    held_out = set(photos[-n_valid:])
    valid = [pair for pair in train if pair[1] in held_out]
    return [pair for pair in train if pair[1] not in held_out], valid


def choose_folders(
    lr: Folder, hr: Folder, valid_lr: Folder, valid_hr: Folder
) -> tuple[Path, Path, Folder, Folder]:
    """Return the folders to read: LR, HR, and those for validation, None where there are none.

    Without any: DIV2K's, downloaded on first use. With training folders alone: the validation
    folders are those beside them that have `valid` in place of `train` in their names (DIV2K's
    layout), where there are such. Raises `ValueError` when one folder of a pair is missing.
    """
    for a, b in ((lr, hr), (valid_lr, valid_hr)):
        if (a is None) != (b is None):
            alone = "HR alone is enough where LR is made in training, --degradation second_order"
            way_on = f"give both, or neither to use DIV2K ({alone})"
            raise ValueError(f"LR folder {a}, HR folder {b}: {way_on}")
    if lr is None:
        hr, lr = download_div2k("div2k")
        if valid_lr is None:
            valid_hr, valid_lr = download_div2k("div2k", split="valid")
    elif valid_lr is None and None not in (beside := (_valid_beside(lr), _valid_beside(hr))):
        valid_lr, valid_hr = beside
    return lr, hr, valid_lr, valid_hr


def _valid_beside(folder: Path) -> Path | None:
    """Return the folder with `valid` in its path for the last `train`, None where none exists."""
    before, train, after = str(Path(folder).absolute()).rpartition("train")
    beside = Path(f"{before}valid{after}")
    return beside if train and beside.is_dir() else None


def list_images(folder: str | Path) -> list[Path]:
    """Return what is named as an image in `folder` (not below it), in the order of the names.

    All but folders and hidden files; broken links, too, which reading then names. Raises
    `FileNotFoundError` when there is no such folder, `NotADirectoryError` when it is a file,
    `ValueError` when it holds no images.
    """
    folder = Path(folder)
    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file, expected a folder of photos")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    paths = [Path(entry.path) for entry in os.scandir(folder) if entry.name[0] != "."]
    paths = sorted(p for p in paths if p.suffix.lower() in SUFFIXES and not p.is_dir())
    if not paths:
        raise ValueError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))})")
    return paths


def list_pairs(lr_folder: str | Path, hr_folder: str | Path) -> Pairs:
    """Return what `pair_by_name` does, if each HR photo is 4 times the size of its LR photo.

    Raises `ValueError`, which names the first pair whose sizes do not fit.
    """
    pairs = pair_by_name(lr_folder, hr_folder)
    for lr_path, hr_path in pairs:
        (h, w), (hr_h, hr_w) = image_size(lr_path), image_size(hr_path)
        if (hr_h, hr_w) != (4 * h, 4 * w):
            swapped = " (are the two folders swapped?)" if (hr_h, hr_w) < (h, w) else ""
            expected = f"expected {4 * w}x{4 * h}, 4 times the size{swapped}"
            found = f"{lr_path} is {w}x{h} and {hr_path} is {hr_w}x{hr_h}"
            raise ValueError(f"{found}, {expected}: scripts/prepare_dataset.py makes such pairs")
    return pairs


def pair_by_name(lr_folder: str | Path, hr_folder: str | Path) -> Pairs:
    """Return (LR, HR) paths paired by name: `0001x4.png` (or `0001.png`) belongs to `0001.png`.

    Several LR photos of one HR photo (`0001x4w1.png`, ... of DIV2K's wild track) are so many pairs.
    Raises `ValueError`, which lists them, when photos have no partner.
    """
    hr_list = list_images(hr_folder)
    hr_paths = {scene_name(path): path for path in hr_list}
    hr_paths |= {path.stem: path for path in hr_list}
    pairs, without_hr = [], []
    for lr_path in list_images(lr_folder):
        hr_path = hr_paths.get(scene_name(lr_path), hr_paths.get(lr_path.stem))
        pairs.append((lr_path, hr_path)) if hr_path else without_hr.append(lr_path.name)
    without_lr = sorted({path.name for path in hr_list} - {hr.name for _, hr in pairs})
    if without_hr or without_lr:
        raise ValueError(
            f"LR and HR photos do not pair up: {_first(without_hr)} in {lr_folder} without an HR "
            f"photo, {_first(without_lr)} in {hr_folder} without an LR photo. An HR photo NAME.png "
            f"belongs to NAMEx4.png; scripts/prepare_dataset.py makes such folders"
        )
    return pairs


def scene_name(path: Path) -> str:
    """Return a photo's name without what marks it as LR or HR: `0001` for `0001x4.png`.

    In DIV2K's other tracks also `0001x4m.png`, `0001x4d.png`, `0001x4w1.png`; in benchmark sets
    `img_001_SRF_4_LR.png` and `img_001_SRF_4_HR.png`, or `baby_LRBI_x4.png` and `baby_HR_x4.png`.
    """
    marks = r"(x4(m|d|w\d)?|_SRF_4_(LR|HR)|_(LRBI|LRBD|LRDN|LR|HR)_x4)$"
    return re.sub(marks, "", path.stem)


def _first(names: list[str], n: int = 5) -> str:
    more = f" and {len(names) - n} more" if len(names) > n else ""
    return f"{len(names)} ({', '.join(names[:n])}{more})" if names else "none"
