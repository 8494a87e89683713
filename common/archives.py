"""Archives of DIV2K's photos, unpacked without trust in what they say of themselves."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from common.download import size_of
from common.files import require_free_space
from common.plain import plain
from common.progress import progress_bar


def unpack(archive: Path, folder: Path, n_images: int) -> None:
    """Unpack the photos in `archive` to `folder`, which appears when all of them are there.

    Raises `OSError` before anything is written when `archive` does not hold `n_images` photos, or
    holds what no archive of DIV2K does: paths that lead elsewhere, links, photos that swell; and
    when it is damaged.
    """
    temporary = folder.with_name(f".{folder.name}.unpacking")
    if temporary.exists():  # a killed process has left it
        shutil.rmtree(temporary)
    with _opened(archive) as zipped:
        photos = _checked_photos(zipped, archive.stem.removesuffix("_X4"))
        n_bytes = sum(member.file_size for member in photos.values())
        if len(photos) != n_images:
            raise OSError(f"{archive} holds {len(photos)} images, expected {n_images}")
        if n_bytes > 2 * size_of(archive):
            raise OSError(f"{archive} would swell to {n_bytes} bytes, as no archive of PNGs does")
        require_free_space(folder, n_bytes, f"to unpack {archive.name}")
        try:
            temporary.mkdir(parents=True)
            bar = progress_bar(photos.items(), desc=f"unpack {archive.name}", unit="photo")
            for name, member in bar:
                with zipped.open(member) as source, (temporary / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
                    target.flush()
                    os.fsync(target.fileno())  # the archive is removed soon
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive; what is wrong with it, then or when it is read, is an `OSError`."""
    try:
        with zipfile.ZipFile(archive) as zipped:
            yield zipped
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError) as error:
        raise OSError(
            f"{archive} cannot be unpacked ({plain(error)}): delete it and run again"
        ) from error


def _checked_photos(zipped: zipfile.ZipFile, top: str) -> dict[str, zipfile.ZipInfo]:
    """Return the photos in an archive by name; raise `OSError` unless all files are under `top`.

    What macOS adds to archives (`__MACOSX/`) is passed over.
    """
    photos = {}
    for member in zipped.infolist():
        *folders, name = member.filename.split("/")
        is_inside = folders[:1] in ([top], ["__MACOSX"]) and ".." not in [*folders, name]
        is_plain = stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
        if not is_inside or not is_plain or re.search(r"[\\:\0]", member.orig_filename):
            raise OSError(f"{zipped.filename} holds {member.filename!r}, expected {top}/*.png only")
        if folders[:1] == [top] and re.fullmatch(r"[0-9][0-9a-z]*\.png", name):
            if name in photos:
                raise OSError(f"{zipped.filename} holds {name} twice")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise OSError(f"{zipped.filename} packs {name} as DIV2K's archives do not")
            photos[name] = member
    return photos
