"""What the CVAE is trained and validated on: aligned 32x32 and 128x128 crops, held-out photos."""

from pathlib import Path

import torch

from common.data.crops import PairedCrops
from common.data.pairs import training_and_validation_pairs
from common.measure.validation import Validation
from CVAE.model import PATCH


def crops_and_validation(
    *folders: Path | None, n_valid: int, valid_crop: int, valid_patches: int, seed: int
) -> tuple[PairedCrops, Validation, list[torch.Tensor]]:
    """Return the crops to train on, the held-out photos, and patches of them: LR and HR.

    Args:
        folders: LR, HR, held-out LR and held-out HR, as `training_and_validation_pairs` takes them.
    Raises:
        ValueError: LR and HR do not belong together, or a photo is smaller than a patch.
    """
    train, valid = training_and_validation_pairs(*folders, n_valid)
    validation = Validation(valid, valid_crop)
    patches = validation.patches(valid_patches, PATCH)
    return PairedCrops(train, 4 * PATCH, seed), validation, patches
