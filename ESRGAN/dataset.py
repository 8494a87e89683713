"""What ESRGAN is trained and validated on: aligned crops, and whole photos that are held out."""

from pathlib import Path

from common.data.crops import PairedCrops
from common.data.pairs import training_and_validation_pairs
from common.measure.validation import Validation


def crops_and_validation(
    lr_folder: Path | None,
    hr_folder: Path | None,
    valid_lr_folder: Path | None,
    valid_hr_folder: Path | None,
    n_valid: int,
    valid_crop: int,
    patch_size: int,
    seed: int,
) -> tuple[PairedCrops, Validation]:
    """Return the crops to train on, of `patch_size` HR pixels, and the held-out photos.

    Folders are as `training_and_validation_pairs` takes them.
    """
    folders = lr_folder, hr_folder, valid_lr_folder, valid_hr_folder
    train, valid = training_and_validation_pairs(*folders, n_valid)
    return PairedCrops(train, patch_size, seed), Validation(valid, valid_crop)
