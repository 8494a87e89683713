"""Download a large file, checked by its digest, continuing where an earlier attempt stopped."""

import hashlib
import http.client
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path

import torch

from common.files import locked, one_line, require_free_space
from common.progress import progress_bar

TIMEOUT = 20  # seconds without a byte after which a connection counts as broken
ATTEMPTS = 6  # in a row that bring nothing new
PAUSE = 2.0  # seconds before a failed attempt is repeated, doubled each time
MAX_BYTES = 20 * 10**9  # of a file whose server does not say how long it is
NETWORK_ERRORS = (urllib.error.URLError, ConnectionError, TimeoutError, ssl.SSLError)
NETWORK_ERRORS += (http.client.HTTPException,)
_BLOCK = 1 << 18  # bytes


def download(url: str, path: Path, digest: str, kind: str = "md5", space: int = 1) -> None:
    """Download `url` to `path`, continuing the part that an interrupted run has left.

    `digest` is in hexadecimal digits, the first ones are enough; with a wrong one the download is
    repeated once. Raises `OSError` when it is wrong again, or before it begins when the disk has
    less free than `space` times the file's size.
    """
    part = part_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        _download_all(url, part, space)
        if (found := digest_of(part, kind)).startswith(digest):
            part.replace(path)
            return
        part.unlink()
    way_on = "something on the way changes it, so try another network or download it by hand"
    wrong = f"a wrong {kind.upper()}, {found}, expected {digest}"
    raise OSError(f"{url} came twice with {wrong}: {way_on}")


def fetch(url: str, sha256: str, what: str, otherwise: str) -> Path:
    """Return the file of `url` in torch.hub's folder, downloaded there on first use.

    Raises `ConnectionError` when it cannot be: `what` is named, and `otherwise` is the way on.
    """
    path = hub_path(url)
    if path.exists():
        return path
    try:
        with locked(path, f"downloads {what}"):
            if not path.exists():  # another process may have been faster
                print(f"{what}, from {url}")
                download(url, path, sha256, "sha256")
    except (*NETWORK_ERRORS, OSError) as error:
        way_on = f"fetch {url} by hand into {path.parent}, or {otherwise}"
        why = f"{what}: cannot be downloaded ({one_line(error)})"
        raise ConnectionError(f"{why}: {way_on}") from error
    return path


def hub_path(url: str) -> Path:
    """Return where the file of `url` lies or will lie, as with torch.hub."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def part_of(path: Path) -> Path:
    """Return where a file lies until all of it has arrived."""
    return path.with_name(f"{path.name}.part")


def digest_of(path: Path, kind: str = "md5") -> str:
    """Return the digest of the file at `path`, as hexadecimal digits."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        for block in progress_bar(iter(lambda: file.read(_BLOCK), b""), desc=f"check {path.name}"):
            digest.update(block)
    return digest.hexdigest()


def _download_all(url: str, part: Path, space: int) -> None:
    """Append to `part` what it lacks of `url`, with growing pauses after what breaks off.

    Raises the network error at once for an answer such as 404, after a second attempt when nobody
    answers at all, and after `ATTEMPTS` in a row in which `part` did not grow.
    """
    start = size = _size_of(part)
    failures = 0
    while True:
        try:
            return _download_rest(url, part, space)
        except NETWORK_ERRORS as error:
            failures = 1 if _size_of(part) > size else failures + 1
            size = _size_of(part)
            status = getattr(error, "code", 0)
            is_offline = isinstance(error, urllib.error.URLError) and not status and size == start
            is_final = 0 < status < 500 and status not in (408, 429)
            if is_final or failures >= (2 if is_offline else ATTEMPTS):
                raise
        time.sleep(PAUSE * 2 ** (failures - 1))


def _download_rest(url: str, part: Path, space: int) -> None:
    """Append to `part` what it lacks of `url`; whether the two fit is left to the digest.

    Raises one of `NETWORK_ERRORS` when the connection breaks, `OSError` for too many bytes.
    """
    start = _size_of(part)
    rest = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(rest, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing follows: the part is the whole
            return
        raise
    start = start if response.status == 206 else 0  # 200: the server sends all of it again
    end = start + (response.length or 0)  # `start` where the server does not tell
    require_free_space(part.parent, space * end - start, f"for {part.stem}")
    bar = progress_bar(desc=part.stem, total=end or None, initial=start, unit="B", unit_scale=True)
    with response, bar, part.open("ab" if start else "wb") as file:
        while block := response.read1(_BLOCK):
            if file.tell() + len(block) > MAX_BYTES:
                file.truncate(0)
                raise OSError(f"{url} continues after {MAX_BYTES} bytes: gave up")
            file.write(block)
            bar.update(len(block))
        if file.tell() < end:
            raise ConnectionError(f"{url} broke off after {file.tell()} of {end} bytes")


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
