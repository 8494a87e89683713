"""DIV2K, the photos everything here is trained and validated on: downloaded, checked, unpacked.

    hr_folder, lr_folder = download_div2k("div2k")  # 3.8 GB the first time, nothing afterwards

    python common/div2k.py --root div2k --split valid --track unknown

Agustsson and Timofte, "NTIRE 2017 Challenge on Single Image Super-Resolution: Dataset and Study".
"""

import os
import re
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Literal

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import common  # noqa: F401, it says what is not installed

from common.download import NETWORK_ERRORS, digest_of, download, part_of
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
) -> tuple[Path, Path]:
    """Download and unpack what is missing of DIV2K's x4 photos, and return the folders (HR, LR).

    A relative `root` hangs from the repository's root. An archive that already lies in `root` is
    used; an archive is removed once all its photos are there. Raises `ValueError` for a split and
    track that do not exist, `ConnectionError` when the download fails, `OSError` for a full disk, a
    damaged archive or a folder that is not what it should be.
    """
    hr, lr = f"DIV2K_{split}_HR", f"DIV2K_{split}_LR_{track}"
    lr = lr if lr in ARCHIVES else f"{lr}_X4"
    if lr not in ARCHIVES:
        known = ", ".join(name for name in ARCHIVES if "_LR_" in name)
        raise ValueError(f"DIV2K has no split {split!r} of track {track!r}, there are: {known}")
    root = REPOSITORY / Path(root).expanduser()
    if not all([_is_complete(root, name) for name in (hr, lr)]):
        with locked(root / "DIV2K", f"downloads DIV2K to {root}"):
            _fetch(root, [name for name in (hr, lr) if not _is_complete(root, name)], base_url)
    return _folder(root, hr), _folder(root, lr)


def _fetch(root: Path, names: list[str], base_url: str) -> None:
    """Download the archives `names`, unless they lie in `root`; unpack them and remove them."""
    urls = {name: f"{base_url.rstrip('/')}/{name}.zip" for name in names}
    for name in names:
        archive, (md5, n_photos) = root / f"{name}.zip", ARCHIVES[name]
        if archive.exists() and (found := digest_of(archive)) != md5:
            way_on = "damaged or incomplete, so replace it, or delete it and run again"
            raise OSError(f"{archive} has the MD5 {found}, expected {md5}: {way_on}")
        try:
            if not archive.exists():
                download(urls[name], archive, md5, space=2)  # photos take as much as their archive
        except NETWORK_ERRORS as error:
            reason = one_line(f"{type(error).__name__}: {error}")
            by_hand = [url for n, url in urls.items() if not (root / f"{n}.zip").exists()]
            ways = WAYS_ON.format(error=reason, root=root, urls="\n    ".join(by_hand))
            raise ConnectionError(ways) from error
        _unpack(archive, _folder(root, name), n_photos)
        archive.unlink()
        part_of(archive).unlink(missing_ok=True)  # where the archive came by hand
        del urls[name]


def _unpack(archive: Path, folder: Path, n_photos: int) -> None:
    """Unpack the photos in an archive to `folder`, which appears when all of them are there."""
    temporary = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)  # a killed process may have left it
    with zipfile.ZipFile(archive) as zipped:
        members = {Path(member.filename).name: member for member in zipped.infolist()}
        photos = {k: v for k, v in members.items() if re.fullmatch(r"[0-9]\w*\.png", k)}
        if len(photos) != n_photos:
            raise OSError(f"{archive} holds {len(photos)} images, expected {n_photos}")
        n_bytes = sum(member.file_size for member in photos.values())
        require_free_space(folder, n_bytes, f"to unpack {archive.name}")
        temporary.mkdir(parents=True)
        for name in progress_bar(photos, desc=f"unpack {archive.name}", unit="photo"):
            with (temporary / name).open("wb") as target:
                target.write(zipped.read(photos[name]))
                target.flush()
                os.fsync(target.fileno())  # the archive is removed soon
    temporary.rename(folder)


def _folder(root: Path, name: str) -> Path:
    """Return the folder that holds, or will hold, the photos of `name`.zip."""
    folder = root / name.replace("_X4", "/X4")
    return folder / "X4" if (folder / "X4").is_dir() else folder


def _is_complete(root: Path, name: str) -> bool:
    """Tell whether the photos of `name`.zip are there; raise `OSError` when only some are."""
    folder, expected = _folder(root, name), ARCHIVES[name][1]
    found = len(list(folder.glob("[0-9]*.png")))  # (without macOS's "._0001.png")
    if folder.exists() and found != expected:
        way_on = "delete the folder and run again to download it anew"
        raise OSError(f"{folder} holds {found} images, expected {expected}: {way_on}")
    return folder.exists()


if __name__ == "__main__":
    import tyro

    try:
        print(*tyro.cli(download_div2k), sep="\n")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
