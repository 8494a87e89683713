"""Checkpoints: files of tensors that are written whole, checked when read, and never executed."""

import errno
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from common.device import is_out_of_memory
from common.files import written_whole


def save(path: str | Path, content: dict[str, Any], previous: Path | None = None) -> None:
    """Write a dict of tensors, plain values and such dicts, completely or not at all.

    The file that was there is kept as `previous`, if that is given. Raises `OSError`, and leaves
    what was there, when the new one cannot be written.
    """
    try:
        with written_whole(path, previous) as temporary:
            torch.save(content, temporary)
    except (OSError, RuntimeError) as error:  # torch's writer says "unexpected pos" on a full disk
        reason = str(error.__context__ or error).splitlines()[0]
        raise OSError(f"{path} cannot be written ({reason}): is the disk full?") from error


def load(path: str | Path) -> dict[str, Any]:
    """Read what `save` wrote, on the CPU; nothing in the file is executed.

    Raises `ValueError`, which names the file, when it is missing, damaged or no checkpoint; errors
    of reading and of memory as they are.
    """
    if Path(path).is_dir():
        raise ValueError(f"{path}: this is a folder: name the .pth in it")
    if not Path(path).is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        with Path(path).open("rb") as file:
            beginning = file.read(4)
        if zipfile.is_zipfile(path):  # torch's format before 1.6 is none, and has no checksums
            with zipfile.ZipFile(path) as zipped:
                if damaged := zipped.testzip():  # torch does not look at them
                    raise ValueError(f"the checksum of {damaged} is wrong")
        elif beginning in (b"", b"PK\3\4"):
            raise ValueError(f"it is cut off, after {Path(path).stat().st_size:,} bytes")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on damaged files
        unreadable = isinstance(error, OSError) and error.errno != errno.EINVAL
        if unreadable or is_out_of_memory(error):  # which says nothing of its content
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        if re.search("weights.only", reason, re.IGNORECASE):  # torch's advice is to execute it
            reason = "it holds something else, nothing of which was executed"
        raise ValueError(f"{path} is damaged or no checkpoint of tensors: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a dict of tensors")
    return content
