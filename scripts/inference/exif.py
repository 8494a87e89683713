"""EXIF goes from a photo to its enlarged version; into TIFFs, too, where libvips leaves it out."""

import struct
from pathlib import Path

from PIL import Image

from common.data.photos import exif_of, open_image, orientation

# Tags of EXIF's main directory that describe the photo and not how the file is laid out:
# description, make, model, software, date, artist, copyright, Windows' title to subject.
_DESCRIPTIVE = {270, 271, 272, 305, 306, 315, 33432, *range(40091, 40096)}
_ORIENTATION, _EXIF, _GPS = 274, 34665, 34853
_OLD_SIZE = {40962, 40963}  # EXIF's width and height


def read_exif(path: Path) -> tuple[Image.Exif, int | None]:
    """Return EXIF without thumbnail and layout, and the orientation, None where it is not read."""
    exif, turned = Image.Exif(), None
    try:
        with open_image(path) as image:
            turned = orientation(image)
            found = exif_of(image)
            for tag in _DESCRIPTIVE & found.keys():
                exif[tag] = found[tag]
            for directory in (_EXIF, _GPS):
                tags = {t: v for t, v in found.get_ifd(directory).items() if t not in _OLD_SIZE}
                if tags:
                    exif.get_ifd(directory).update(tags)
        exif.tobytes()
    except Exception:  # Pillow raises nearly every kind; the photo itself was read
        return Image.Exif(), turned
    if exif:
        exif[_ORIENTATION] = 1
    return exif, turned


def add_exif_to_tiff(path: Path, exif: Image.Exif) -> None:
    """Add EXIF to a TIFF, whose tags it is; libvips leaves it out. Not to one beyond 4 GB.

    EXIF's directory and a new main one, of its entries and the file's own, go to the file's end.
    """

    def entries(directory: bytes) -> dict[int, bytes]:
        (n,) = struct.unpack_from("<H", directory)
        rows = [directory[2 + 12 * i : 14 + 12 * i] for i in range(n)]
        return {struct.unpack("<H", row[:2])[0]: row for row in rows}

    with path.open("rb+") as file:
        order, version, place = struct.unpack("<2sHL", file.read(8))
        if (order, version) != (b"II", 42):
            return
        file.seek(place)
        (n,) = struct.unpack("<H", file.read(2))
        file.seek(place)
        own = file.read(2 + 12 * n)
        end = file.seek(0, 2)
        end += end % 2
        exif.endian = "<"
        added = exif.tobytes(offset=end)[14:]  # without the headers of EXIF and TIFF
        added += b"\0" * (len(added) % 2)
        rows = entries(added) | entries(own)
        file.seek(end)
        file.write(added + struct.pack("<H", len(rows)))
        file.write(b"".join(rows[tag] for tag in sorted(rows)) + struct.pack("<L", 0))
        file.seek(4)
        file.write(struct.pack("<L", end + len(added)))
