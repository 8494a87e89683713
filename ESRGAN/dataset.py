"""What ESRGAN is trained and validated on: aligned crops, and whole photos that are held out."""

from __future__ import annotations

from pathlib import Path

from common.data.crops import PairedCrops
from common.data.pairs import training_and_validation_pairs
from common.measure.validation import Validation


def crops_and_validation(
    *folders: Path | None, n_valid: int, valid_crop: int, patch_size: int, seed: int
) -> tuple[PairedCrops, Validation]:
    """Return the crops to train on, and the held-out photos.

    Args:
        folders: LR, HR, held-out LR and held-out HR, as `training_and_validation_pairs` takes them.
        patch_size: of HR, in pixels.
    """
    train, valid = training_and_validation_pairs(*folders, n_valid)
    return PairedCrops(train, patch_size, seed), Validation(valid, valid_crop)
