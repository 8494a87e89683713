"""DIV2K, the photos everything here is trained and validated on: downloaded, checked, unpacked.

    hr_folder, lr_folder = download_div2k("div2k")  # 3.8 GB the first time, nothing afterwards

    python common/div2k.py --root div2k --split valid --track unknown

Agustsson and Timofte, "NTIRE 2017 Challenge on Single Image Super-Resolution: Dataset and Study".
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import zipfile
from functools import partial
from pathlib import Path
from typing import Literal

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.download import (
    NETWORK_ERRORS,
    content_length,
    digest_of,
    download,
    part_of,
    retry,
    size_of,
)
from common.files import locked, one_line, require_free_space
from common.progress import progress_bar

REPOSITORY = Path(__file__).resolve().parents[1]
BASE_URL = "https://data.vision.ee.ethz.ch/cvl/DIV2K"

# NAME.zip: its MD5 and how many photos it holds. It unpacks to the folder NAME, "_X4" being "/X4".
ARCHIVES = {
    "DIV2K_train_HR": ("bdc2d9338d4e574fe81bf7d158758658", 800),
    "DIV2K_valid_HR": ("9fcdda83005c5e5997799b69f955ff88", 100),
    "DIV2K_train_LR_bicubic_X4": ("76c43ec4155851901ebbe8339846d93d", 800),
    "DIV2K_valid_LR_bicubic_X4": ("21962de700c8d368c6ff83314480eff0", 100),
    "DIV2K_train_LR_unknown_X4": ("e3c7febb1b3f78bd30f9ba15fe8e3956", 800),
    "DIV2K_valid_LR_unknown_X4": ("8ac3413102bb3d0adc67012efb8a6c94", 100),
    "DIV2K_train_LR_mild": ("807b3e3a5156f35bd3a86c5bbfb674bc", 800),
    "DIV2K_train_LR_difficult": ("5a8f2b9e0c5f5ed0dac271c1293662f4", 800),
    "DIV2K_train_LR_wild": ("d00982366bffee7c4739ba7ff1316b3b", 3200),
}
# The LR archive, and what its photos' names add to those of the HR photos: 0001.png, 0001x4.png.
TRACKS = {
    "bicubic": ("DIV2K_{split}_LR_bicubic_X4", ["x4"]),
    "unknown": ("DIV2K_{split}_LR_unknown_X4", ["x4"]),
    "mild": ("DIV2K_{split}_LR_mild", ["x4m"]),
    "difficult": ("DIV2K_{split}_LR_difficult", ["x4d"]),
    "wild": ("DIV2K_{split}_LR_wild", ["x4w1", "x4w2", "x4w3", "x4w4"]),
}

WAYS_ON = """DIV2K cannot be downloaded ({error}). You can
- run again later: it continues with what has arrived;
- download by hand, put what you get into {root} as it is, and run again:
    {urls}
- train on real photos that come with scikit-image, without a download:
    bash scripts/quickstart.sh
- bring your own photos into DIV2K's layout:
    python scripts/prepare_dataset.py PHOTOS OUT"""


def download_div2k(
    root: str | Path = "div2k",
    *,
    split: Literal["train", "valid"] = "train",
    track: Literal["bicubic", "unknown", "mild", "difficult", "wild"] = "bicubic",
    base_url: str = BASE_URL,
    pause: float = 2.0,
) -> tuple[Path, Path]:
    """Download and unpack what is missing of DIV2K's x4 photos under `root`.

    An archive that already lies in `root` is used; archives are removed once the photos they
    unpacked to have been checked.

    Returns the folders (HR, LR) that hold the PNGs. Raises `ValueError` for a split and track that
    do not exist, `ConnectionError` when the download fails, `OSError` for a full disk, a damaged
    archive or a folder that is not what it should be.

    Args:
        root: a relative one hangs from the repository's root.
        split: photos to train on, or held-out ones.
        track: how LR was made.
        base_url: where the archives lie.
        pause: seconds before a failed attempt is repeated, doubled each time.
    """
    lr, suffixes = TRACKS.get(track, ("", []))
    hr, lr = f"DIV2K_{split}_HR", lr.format(split=split)
    if lr not in ARCHIVES:
        known = ", ".join(name for name in ARCHIVES if "_LR_" in name)
        raise ValueError(f"DIV2K has no split {split!r} of track {track!r}, there are: {known}")

    root = REPOSITORY / Path(root).expanduser()
    names = [name for name in (hr, lr) if not _is_complete(root, name)]
    with contextlib.ExitStack() as stack:
        if names:
            stack.enter_context(locked(root / "DIV2K", f"downloads DIV2K to {root}"))
            _fetch(root, [name for name in names if not _is_complete(root, name)], base_url, pause)
        _check_pairs(_folder(root, hr), _folder(root, lr), suffixes)
        for name in names:
            _archive(root, name).unlink(missing_ok=True)
            part_of(_archive(root, name)).unlink(missing_ok=True)  # if the archive came by hand
    return _folder(root, hr), _folder(root, lr)


def _fetch(root: Path, names: list[str], base_url: str, pause: float) -> None:
    """Download and unpack the archives `names`; they stay until the photos have been checked."""
    archives = {name: _archive(root, name) for name in names}
    urls = {}
    for name, archive in archives.items():
        if not archive.exists():
            urls[name] = f"{base_url.rstrip('/')}/{name}.zip"
        elif (found := digest_of(archive)) != ARCHIVES[name][0]:
            raise OSError(
                f"{archive} has the MD5 {found}, expected {ARCHIVES[name][0]}: it is damaged or "
                "incomplete, so replace it, or delete it and run again to download it anew"
            )

    try:
        sizes = {name: retry(partial(content_length, u), pause) for name, u in urls.items()}
        # Photos take as much space as their archive: PNGs do not get smaller in a zip.
        to_come = sum(2 * size - size_of(part_of(archives[name])) for name, size in sizes.items())
        to_unpack = sum(size_of(archive) for archive in archives.values())
        require_free_space(root, to_come + to_unpack, f"for {', '.join(archives)}")
        for name, url in urls.items():
            download(url, archives[name], ARCHIVES[name][0], sizes[name], pause)
    except NETWORK_ERRORS as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        by_hand = "\n    ".join(urls[name] for name in urls if not archives[name].exists())
        raise ConnectionError(WAYS_ON.format(error=reason, root=root, urls=by_hand)) from error

    for name, archive in archives.items():
        _unpack(archive, _folder(root, name), ARCHIVES[name][1])


def _unpack(archive: Path, folder: Path, n_photos: int) -> None:
    """Unpack the photos in an archive to `folder`, which appears when all of them are there."""
    temporary = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)  # a killed process may have left it
    with zipfile.ZipFile(archive) as zipped:
        photos = {Path(member.filename).name: member for member in zipped.infolist()}
        photos = {name: photos[name] for name in photos if re.fullmatch(r"[0-9]\w*\.png", name)}
        if len(photos) != n_photos:
            raise OSError(f"{archive} holds {len(photos)} images, expected {n_photos}")
        n_bytes = sum(member.file_size for member in photos.values())
        require_free_space(folder, n_bytes, f"to unpack {archive.name}")
        temporary.mkdir(parents=True)
        bar = progress_bar(photos.items(), desc=f"unpack {archive.name}", unit="photo")
        for name, member in bar:
            with zipped.open(member) as source, (temporary / name).open("wb") as target:
                shutil.copyfileobj(source, target)
                target.flush()
                os.fsync(target.fileno())  # the archive is removed soon
    temporary.rename(folder)


def _archive(root: Path, name: str) -> Path:
    return root / f"{name}.zip"


def _folder(root: Path, name: str) -> Path:
    """Return the folder that holds, or will hold, the photos of `name`.zip."""
    folder = root / name.replace("_X4", "/X4")
    return folder / "X4" if (folder / "X4").is_dir() else folder


def _photos(folder: Path) -> set[str]:
    """Return the names of the photos in `folder` (without macOS's "._0001.png")."""
    return {path.name for path in folder.glob("[0-9]*.png")}


def _is_complete(root: Path, name: str) -> bool:
    """Tell whether the photos of `name`.zip are there; raise `OSError` when only some are."""
    folder, expected = _folder(root, name), ARCHIVES[name][1]
    found = len(_photos(folder))
    if folder.exists() and found != expected:
        raise OSError(
            f"{folder} holds {found} images, expected {expected}: "
            "delete the folder and run again to download it anew"
        )
    return folder.exists()


def _check_pairs(hr_folder: Path, lr_folder: Path, suffixes: list[str]) -> None:
    """Raise `OSError` when an HR photo has no LR photo."""
    wanted = {f"{Path(hr).stem}{suffix}.png" for hr in _photos(hr_folder) for suffix in suffixes}
    if lacking := sorted(wanted - _photos(lr_folder)):
        raise OSError(
            f"{lr_folder} lacks {len(lacking)} photos that belong to those in {hr_folder}, "
            f"such as {lacking[0]}: delete both folders and run again to download them anew"
        )


if __name__ == "__main__":
    import tyro

    try:
        print(*tyro.cli(download_div2k), sep="\n")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
