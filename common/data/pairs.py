"""Which folders a run reads: those that were named, those beside them, or DIV2K's."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from common.data.photos import Pairs, list_pairs
from common.div2k import download_div2k


class Folders(NamedTuple):
    lr: Path
    hr: Path
    valid_lr: Path | None  # None: there are no validation folders
    valid_hr: Path | None


def choose_folders(
    lr_folder: Path | None,
    hr_folder: Path | None,
    valid_lr_folder: Path | None,
    valid_hr_folder: Path | None,
) -> Folders:
    """Return the folders to read.

    Without any: DIV2K's, downloaded on first use. With training folders alone: the validation
    folders are those beside them that have `valid` in place of `train` in their names (DIV2K's
    layout), where there are such.

    Raises:
        ValueError: one folder of a pair is missing.
    """
    for lr, hr in ((lr_folder, hr_folder), (valid_lr_folder, valid_hr_folder)):
        if (lr is None) != (hr is None):
            raise ValueError(
                f"LR folder {lr} and HR folder {hr}: give both, or neither to train on DIV2K"
            )
    if lr_folder is None:
        hr_folder, lr_folder = download_div2k("div2k")
        if valid_lr_folder is None:
            valid_hr_folder, valid_lr_folder = download_div2k("div2k", split="valid")
    elif valid_lr_folder is None:
        beside = [_valid_beside(folder) for folder in (lr_folder, hr_folder)]
        if None not in beside:
            valid_lr_folder, valid_hr_folder = beside
    return Folders(lr_folder, hr_folder, valid_lr_folder, valid_hr_folder)


def training_and_validation_pairs(
    lr_folder: Path | None,
    hr_folder: Path | None,
    valid_lr_folder: Path | None,
    valid_hr_folder: Path | None,
    n_valid: int,
) -> tuple[Pairs, Pairs]:
    """Return (LR path, HR path) pairs to train on, and at most `n_valid` that are held out.

    Folders that are None are found by `choose_folders`; where it finds none for validation, the
    last tenth of the photos is held out.

    Raises:
        ValueError: one folder of a pair is missing, or LR and HR do not belong together.
    """
    folders = choose_folders(lr_folder, hr_folder, valid_lr_folder, valid_hr_folder)
    train = list_pairs(folders.lr, folders.hr)
    if folders.valid_lr is not None:
        return train, list_pairs(folders.valid_lr, folders.valid_hr)[:n_valid]
    photos = sorted({hr for _, hr in train})
    if len(photos) == 1:
        print(f"{photos[0]} is the only photo: validation figures are of the training photo")
        return train, train
    n_valid = min(n_valid, max(1, len(photos) // 10))
    print(f"no validation folders: the last {n_valid} of {len(photos)} photos are held out")
    held_out = set(photos[-n_valid:])
    valid = [pair for pair in train if pair[1] in held_out]
    return [pair for pair in train if pair[1] not in held_out], valid


def _valid_beside(folder: Path) -> Path | None:
    """Return the folder whose path has `valid` where the last part with `train` has that."""
    parts = list(Path(folder).absolute().parts)
    for i in reversed(range(len(parts))):
        if "train" in parts[i]:
            parts[i] = parts[i].replace("train", "valid")
            beside = Path(*parts)
            return beside if beside.is_dir() else None
    return None
