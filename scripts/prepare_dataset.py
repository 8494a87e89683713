r"""Make DIV2K's layout from any folder of photos, for training on one's own.

    python scripts/prepare_dataset.py PHOTOS OUT
    python ESRGAN/train_esrgan.py --hr-folder OUT/DIV2K_train_HR \
        --lr-folder OUT/DIV2K_train_LR_bicubic/X4

Each photo becomes OUT/DIV2K_train_HR/NAME.png, cropped to a multiple of 4, and
OUT/DIV2K_train_LR_bicubic/X4/NAMEx4.png, a quarter of the size with MATLAB's imresize.
`--split valid` makes the held-out photos likewise (OUT/DIV2K_valid_HR, ...).

    python scripts/prepare_dataset.py builtin

lays out the photos that come inside scikit-image's package, training ones and two held-out ones, in
div2k/builtin: for trying any of the training scripts without a download.

    python scripts/prepare_dataset.py PHOTOS OUT --degradation realistic

makes OUT/DIV2K_train_LR_realistic/X4/NAMEx4.png instead, blurred, noisy and JPEG-compressed
(scripts/inference/first_order.py), of the same HR photos: for training on unpaired
photos. `second_order` is Real-ESRGAN's stronger form, to measure on.

    python scripts/prepare_dataset.py PHOTOS OUT --sizes 1 0.9 0.8 0.7 0.6

makes more of few photos: each is there in these sizes as well, the smaller ones as NAME_90.png and
so on (Dong et al. 2016, "Accelerating the Super-Resolution Convolutional Neural Network"). Hold
out other photos then (`--split valid`), or sizes of one photo are trained and measured on.
"""

import contextlib
import errno
import itertools
import sys
import zlib
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import common  # noqa: F401, it says what is not installed

import numpy as np
import tyro
from PIL import Image

from common.data.degradations import second_order
from common.data.pairs import list_images
from common.data.photos import read_image, to_tensor, to_uint8, write_image
from common.data.resize import imresize
from common.data.workers import in_processes
from common.files import locked, refuse_unwritable, remove_leftovers
from common.progress import progress_bar
from common.run.flags import command_line
from scripts.inference.first_order import first_order
from scripts.inference.outputs import skipped_files

SCALE = 4


class Job(NamedTuple):
    photo: Path
    size: float
    hr_path: Path
    lr_path: Path
    degradation: str
    seed: int
    overwrite: bool


def prepare_dataset(
    photos: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path | None, tyro.conf.Positional] = None,
    *,
    split: Literal["train", "valid"] = "train",
    degradation: Literal["bicubic", "realistic", "second_order"] = "bicubic",
    sizes: tuple[float, ...] = (1.0,),
    seed: int = 0,
    processes: int | None = None,
    overwrite: bool = False,
) -> tuple[Path, Path]:
    """Write HR and LR photos in DIV2K's layout and return (hr_folder, lr_folder).

    Pairs that are there already are left as they are; of an HR photo that is there alone, the LR
    photo is made. Photos that cannot be read are skipped and named at the end, and so are those
    whose name another photo has taken in an earlier call.

    Args:
        photos: a folder of photos in any format; `builtin`: those inside scikit-image.
        out: where DIV2K's folders are made; for `builtin` div2k/builtin, if it is not named.
        split: which of DIV2K's folders.
        degradation: how LR photos are made: MATLAB's imresize, or blur, noise and JPEG as well,
            once or twice (Real-ESRGAN).
        sizes: in which each photo is written, as a part of its own size; the smaller ones are
            reduced by bicubic, which makes more HR photos of few.
        seed: of the degradation, 0 or more; a photo's depends on it and its name alone.
        processes: how many convert; None: one a processor; 0: this process alone.
        overwrite: make pairs anew that are there already.
    Raises:
        OSError, ValueError: there is no such folder, it holds no photos, two photos would get the
            same name, photos would be overwritten, none could be read, `out` is the folder of
            photos or cannot be written to, a size is not in (0, 1] or there twice, or the seed is
            below 0.
    """
    if str(photos) == "builtin" and not photos.exists():
        from scripts.evidence import builtin_photos  # (which calls this)

        if sizes != (1.0,):
            way_on = "name photos/train in the folder that it makes, and another to lay them out in"
            raise ValueError(f"builtin has no --sizes: {way_on}")
        lr, hr, *_ = builtin_photos.builtin_photos(out or builtin_photos.FOLDER, degradation)
        return hr, lr
    if out is None:
        raise ValueError(f"{photos}: name the folder where the photos are to be laid out as well")
    if seed < 0:
        raise ValueError(f"the seed is {seed}, expected 0 or more")
    percents = {round(100 * size) for size in sizes}
    if not sizes or len(percents) < len(sizes) or not all(0 < size <= 1 for size in sizes):
        expected = "expected parts of a photo's, above 0 up to 1, different by 0.01 or more"
        raise ValueError(f"the sizes are {sizes}, {expected}")
    paths = list_images(photos)
    if out.resolve() == photos.resolve():
        raise ValueError(f"{out} is the folder of photos: name another for what is made of them")
    hr_folder = out / f"DIV2K_{split}_HR"
    lr_folder = out / f"DIV2K_{split}_LR_{degradation}" / f"X{SCALE}"
    if photos.resolve() == lr_folder.resolve() or (
        overwrite and photos.resolve() == hr_folder.resolve()
    ):
        raise ValueError(f"{photos} is where results are written, over the photos: choose another")
    jobs = []
    for path, size in itertools.product(paths, sizes):
        name = path.stem if size == 1 else f"{path.stem}_{round(100 * size)}"
        hr_path, lr_path = hr_folder / f"{name}.png", lr_folder / f"{name}x{SCALE}.png"
        jobs.append(Job(path, size, hr_path, lr_path, degradation, seed, overwrite))
    uses = Counter(job.hr_path for job in jobs)
    if same := sorted({job.photo.name for job in jobs if uses[job.hr_path] > 1}):
        raise ValueError(f"{photos}: these would get the same name, rename them: {', '.join(same)}")
    if overwrite or not all(_is_there(j.hr_path) and _is_there(j.lr_path) for j in jobs):
        for folder in (out, hr_folder, lr_folder):
            refuse_unwritable(folder)
    with contextlib.ExitStack() as stack:
        lock = locked(out / f"DIV2K_{split}", f"prepares {hr_folder}")
        age = 0.0 if stack.enter_context(lock) else 3600.0
        for folder in (hr_folder, lr_folder):
            remove_leftovers(folder, older_than=age)
        there = [j for j in jobs if not overwrite and _is_there(j.hr_path) and _is_there(j.lr_path)]
        problems = []
        options = {"desc": f"preparing {hr_folder.name}", "unit": "photo"}
        bar = stack.enter_context(progress_bar(total=len(jobs), **options))
        for problem in in_processes(_make_pair, jobs, processes):
            bar.update()
            problems += [problem] if problem else []
    print(f"{hr_folder} and {lr_folder}: {len(jobs) - len(problems)} photos", end="")
    print(f", {len(there)} of them were there already")
    if problems:
        print(f"{len(problems)} skipped:", *dict.fromkeys(problems), sep="\n  ", file=sys.stderr)
    if others := skipped_files(photos):
        print(others, file=sys.stderr)
    if folders := sorted(p.name for p in photos.iterdir() if p.is_dir() and p.name[0] != "."):
        print(f"{photos}: folders in it are not looked into: {', '.join(folders)}", file=sys.stderr)
    if len(problems) == len(jobs):
        raise ValueError(f"none of the {len(jobs)} photos in {photos} could be used")
    return hr_folder, lr_folder


def _make_pair(job: Job) -> str | None:
    """Write what is missing of one pair; return what is wrong with the photo, None for nothing."""
    # An HR photo that is there stays: other LR folders belong to it, and its pixel store.
    keep_hr = _is_there(job.hr_path) and not job.overwrite
    try:
        hr = read_image(job.hr_path) if keep_hr else _read(job)
    except ValueError as error:
        return str(error)
    h, w = (n // SCALE * SCALE for n in hr.shape[:2])
    if min(h, w) == 0:
        return f"{job.photo}: {hr.shape[1]}x{hr.shape[0]} is smaller than {SCALE}x{SCALE}"
    hr = hr[:h, :w]
    is_whole = keep_hr and _is_there(job.lr_path)
    if not is_whole and (problem := _write_pair(job, hr, keep_hr)):
        return problem
    if keep_hr and job.photo.resolve() != job.hr_path.resolve():
        try:
            same = _is_made_of(hr, _read(job))
        except ValueError as error:
            return str(error)
        if not same:
            return (
                f"{job.photo}: {job.hr_path} is there already, of another photo: rename one of the "
                "two (or --overwrite)"
            )
    return None


def _read(job: Job) -> np.ndarray:
    """Read a job's photo in its size."""
    photo = read_image(job.photo)
    if job.size == 1:
        return photo
    h, w = (max(1, round(n * job.size)) for n in photo.shape[:2])
    return np.array(Image.fromarray(photo).resize((w, h), Image.Resampling.BICUBIC))


def _is_made_of(hr: np.ndarray, photo: np.ndarray) -> bool:
    """Tell whether an HR photo shows `photo`; decoders of JPEG may differ by a little."""
    photo = photo[: hr.shape[0], : hr.shape[1]]
    if photo.shape != hr.shape:
        return False
    return np.abs(photo.astype(np.int16) - hr).mean() < 1


def _write_pair(job: Job, hr: np.ndarray, keep_hr: bool) -> str | None:
    seeds = [job.seed, zlib.crc32(job.hr_path.stem.encode("utf-8", "surrogateescape"))]
    if job.degradation == "realistic":
        lr = first_order(hr, np.random.default_rng(seeds))
    elif job.degradation == "second_order":
        lr = to_uint8(second_order(to_tensor(hr), [seeds]))
    else:
        lr = imresize(hr, 1 / SCALE)
    try:
        if not keep_hr:
            job.lr_path.unlink(missing_ok=True)  # of another HR photo, should this be interrupted
            write_image(job.hr_path, hr)
        write_image(job.lr_path, lr)
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
            raise
        if not keep_hr and _is_there(job.hr_path):  # the shorter name, and without LR no use
            job.hr_path.unlink()
        return f"{job.photo}: {job.lr_path.name} cannot be written ({error.strerror}): rename it"
    return None


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # (before Python 3.12) the name is too long
        return False


if __name__ == "__main__":
    command_line(prepare_dataset)
