"""LR and HR photos that have nothing to do with each other, as a CycleGAN is trained on."""

from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from common.data.crops import Crop, photo_of_crop, take_crops
from common.data.pairs import Pairs, choose_folders, list_images, list_pairs, scene_name
from common.data.photos import image_size, read_image
from common.data.pixel_store import PixelStore
from common.data.workers import in_processes
from common.progress import progress_bar


def unpaired_photos(
    lr_folder: Path | None,
    hr_folder: Path | None,
    valid_lr_folder: Path | None,
    valid_hr_folder: Path | None,
    n_valid: int,
) -> tuple[list[Path], list[Path], Pairs]:
    """Return LR photos, HR photos of other scenes, and at most `n_valid` held-out (LR, HR) pairs.

    Of photos that are in both folders (`0001x4.png` and `0001.png`) every second is taken from the
    LR folder and the others from the HR folder, so that no scene is in both. Folders that are None
    are found by `choose_folders`; where it finds none for validation, the last tenth of the photos
    that are in both is held out.

    Raises:
        ValueError: one folder of a pair is missing, the folders are swapped, there is no pair to
            measure on, or nothing is left to train on.
    """
    folders = choose_folders(lr_folder, hr_folder, valid_lr_folder, valid_hr_folder)
    lr_folder, hr_folder, valid_lr_folder, valid_hr_folder = folders
    lr, hr = _by_scene(lr_folder), _by_scene(hr_folder)
    both = sorted(lr.keys() & hr.keys())
    for scene in both:
        (h, w), (hr_h, hr_w) = image_size(lr[scene][0]), image_size(hr[scene][0])
        if h * w >= hr_h * hr_w:
            raise ValueError(
                f"{lr[scene][0]} is {w}x{h} and {hr[scene][0]} is {hr_w}x{hr_h}, expected the HR "
                "photo to be the larger: are the two folders swapped?"
            )
    if valid_lr_folder is not None:
        valid = list_pairs(valid_lr_folder, valid_hr_folder)[:n_valid]
    elif len(both) < 3:
        raise ValueError(
            f"{lr_folder} and {hr_folder} share {len(both)} photos by name (NAMEx4.png, "
            "NAME.png), too few to hold some out for validation: name folders of paired photos "
            "(valid_lr_folder, valid_hr_folder); scripts/prepare_dataset.py makes them from any"
        )
    else:
        n_valid = min(n_valid, max(1, len(both) // 10))
        print(f"no validation folders: the last {n_valid} of {len(both)} photos are held out")
        both, held_out = both[:-n_valid], both[-n_valid:]
        valid = [(lr.pop(scene)[0], hr.pop(scene)[0]) for scene in held_out]
    for scene in both[1::2]:
        del lr[scene]
    for scene in both[::2]:
        del hr[scene]
    if not (lr and hr):
        raise ValueError(
            f"{lr_folder} and {hr_folder} hold only {', '.join(both)}: unpaired training needs "
            "two photos or more"
        )
    return list(chain.from_iterable(lr.values())), list(chain.from_iterable(hr.values())), valid


def _by_scene(folder: Path) -> dict[str, list[Path]]:
    """Return a folder's photos by `scene_name`; of one scene there may be several."""
    scenes: dict[str, list[Path]] = {}
    for path in list_images(folder):
        scenes.setdefault(scene_name(path), []).append(path)
    return scenes


class UnpairedPhotos(Dataset):
    """Square LR and HR images, drawn independently of each other, as uint8.

    Image k of epoch e depends on (seed, e, k) alone: not on the number of workers, nor on what was
    drawn before. An epoch goes through all LR photos in a random order, and again in another, and
    through the HR photos in orders of their own.

    Args:
        lr_paths, hr_paths: of different scenes, see `unpaired_photos`.
        lr_size, hr_size: pixels of the images, HR 4 times LR.
        seed: 0 or more.
        crop: False resizes each photo as a whole to that size (bicubic, antialiased; once, before
            training) and flips it at random; True cuts at the photo's own scale and also turns it.
    Raises:
        ValueError: a photo is smaller than a crop; the message names it.
    """

    def __init__(
        self,
        lr_paths: list[Path],
        hr_paths: list[Path],
        lr_size: int = 64,
        hr_size: int = 256,
        seed: int = 0,
        crop: bool = False,
    ):
        self.sizes, self.seed, self.is_crop = (lr_size, hr_size), seed, crop
        self.paths = lr_paths, hr_paths
        if crop:
            self.photos = (
                PixelStore(lr_paths, crop_size=lr_size),
                PixelStore(hr_paths, crop_size=hr_size),
            )
        else:
            self.photos = _resized(lr_paths, lr_size), _resized(hr_paths, hr_size)

    def __len__(self) -> int:
        return len(self.photos[0]) + len(self.photos[1])

    def __str__(self) -> str:
        return f"{len(self.photos[0])} LR and {len(self.photos[1])} HR photos of other scenes"

    def names(self, epoch: int, ks: range) -> list[str]:
        """Return the names of the photos that images `ks` of `epoch` are made of."""
        crops = ((domain, self.choose_crop(epoch, k, domain)) for domain in (0, 1) for k in ks)
        return [self.paths[domain][crop.photo].name for domain, crop in crops]

    def choose_crop(self, epoch: int, k: int, domain: int) -> Crop:
        """Return how image `k` of `epoch` is made; `domain` is 0 for LR, 1 for HR."""
        photo = photo_of_crop((self.seed, epoch, domain), k, len(self.paths[domain]))
        rng = np.random.default_rng((self.seed, epoch, domain, k))
        top, left, turns = 0, 0, 0
        if self.is_crop:
            h, w = self.photos[domain].sizes[photo]
            top, left = (int(rng.integers(n - self.sizes[domain] + 1)) for n in (h, w))
            turns = int(rng.integers(4))
        flip_rows, flip_columns = (int(flip) for flip in rng.integers(2, size=2))
        return Crop(photo, top, left, turns, flip_rows, flip_columns)

    def __getitem__(self, batch: tuple[int, range]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the images `range` of an epoch: LR (N, 3, h, h) and HR (N, 3, H, H), uint8."""
        return take_crops(self, *batch)


def _resized(paths: list[Path], size: int) -> list[np.ndarray]:
    """Return the photos as (size, size, 3) uint8, whatever their shape was."""
    jobs = [(path, size) for path in paths]
    images = in_processes(_read_resized, jobs)
    return list(progress_bar(images, total=len(jobs), desc=f"resizing to {size}", unit="photo"))


def _read_resized(job: tuple[Path, int]) -> np.ndarray:
    path, size = job
    photo = Image.fromarray(read_image(path))
    return np.asarray(photo.resize((size, size), Image.Resampling.BICUBIC))
