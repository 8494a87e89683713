"""What the SRVAE is trained and validated on: aligned crops of any size, held-out photos."""

from pathlib import Path

import torch

from common.data.crops import PairedCrops
from common.data.pairs import training_and_validation_pairs
from common.measure.validation import Validation


def crops_and_validation(
    *folders: Path | None,
    n_valid: int,
    valid_crop: int,
    valid_patches: int,
    patch_size: int,
    seed: int,
) -> tuple[PairedCrops, Validation, list[torch.Tensor]]:
    """Return the crops to train on, the held-out photos, and patches of them: LR and HR.

    Args:
        folders: LR, HR, held-out LR and held-out HR, as `training_and_validation_pairs` takes them.
        patch_size: of HR, in pixels.
    Raises:
        ValueError: LR and HR do not belong together, or a photo is smaller than a patch.
    """
    train, valid = training_and_validation_pairs(*folders, n_valid)
    validation = Validation(valid, valid_crop)
    patches = validation.patches(valid_patches, patch_size // 4)
    return PairedCrops(train, patch_size, seed), validation, patches
