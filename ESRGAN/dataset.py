"""Which photos ESRGAN is trained and validated on."""

from __future__ import annotations

from pathlib import Path

from common.folders import choose_folders
from common.images import list_pairs

Pairs = list[tuple[Path, Path]]


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
