"""Download a large file, checked by its digest, going on where an earlier attempt stopped."""

from __future__ import annotations

import hashlib
import http.client
import ssl
import time
import urllib.error
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tqdm import tqdm

from common.progress import progress_bar
from common.web import TooSlowError, length_of, open_url

TIMEOUT = 20  # seconds without a byte after which a connection counts as broken
ATTEMPTS = 6  # in a row without progress
MAX_CONNECTIONS = 1000  # for one archive, so that a server that crawls cannot hold us forever
MAX_BYTES = 20 * 10**9  # of an archive whose server does not say how long it is
BLOCK = 1 << 18  # bytes
NETWORK_ERRORS = (
    urllib.error.URLError, ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException
)  # fmt: skip


def size_of(path: Path) -> int:
    """Return how many bytes the file at `path` has, 0 when there is none."""
    return path.stat().st_size if path.exists() else 0


def part_of(archive: Path) -> Path:
    """Return where an archive lies until all of it has arrived."""
    return archive.with_name(f"{archive.name}.part")


def _bar(what: str, total: int, initial: int = 0) -> tqdm:
    """Return a progress bar in bytes, `total` 0 when it is not known."""
    return progress_bar(desc=what, total=total or None, initial=initial, unit="B", unit_scale=True)


def digest_of(path: Path, kind: str = "md5") -> str:
    """Return the digest of the file at `path`, as hexadecimal digits."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file, _bar(f"check {path.name}", size_of(path)) as bar:
        while block := file.read(BLOCK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def retry(attempt: Callable[[], int], pause: float, progress: Callable[[], int] = lambda: 0) -> int:
    """Repeat `attempt` with growing pauses until it returns, and return what it returns.

    Raises its network error after `ATTEMPTS` in a row in which `progress()` did not grow, or hardly
    did. Raises it at once for an answer such as 404, and soon when nobody is there: who is offline
    is to know it.
    """
    start = furthest = progress()
    failures = 0
    for _ in range(MAX_CONNECTIONS):
        try:
            return attempt()
        except NETWORK_ERRORS as error:
            status = getattr(error, "code", None)
            if status and status < 500 and status not in (408, 429):
                raise
            is_stuck = isinstance(error, TooSlowError) or progress() <= furthest
            failures = failures + 1 if is_stuck else 1
            furthest = max(furthest, progress())
            is_unreachable = isinstance(error, urllib.error.URLError) and not status
            if failures >= (2 if is_unreachable and furthest == start else ATTEMPTS):
                raise
        time.sleep(pause * 2 ** (failures - 1))
    raise ConnectionError(f"not complete after {MAX_CONNECTIONS} connections")


def content_length(url: str) -> int:
    """Return how many bytes `url` has, 0 when its server does not tell."""
    with open_url(url, TIMEOUT, method="HEAD") as response:
        return length_of(response, 0)


def download(
    url: str, archive: Path, digest: str, n_bytes: int, pause: float, kind: str = "md5"
) -> None:
    """Download `url` to `archive`, going on with the part that an interrupted run has left.

    A download with a wrong digest is repeated once from the first byte, then raises `OSError`.

    Args:
        digest: hexadecimal digits; of a `kind` such as "sha256" the first ones are enough.
        n_bytes: at most; 0: unknown.
    """
    archive.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(archive)
    for _ in range(2):
        retry(partial(_download_rest, url, part, n_bytes), pause, partial(size_of, part))
        if (found := digest_of(part, kind)).startswith(digest):
            part.replace(archive)
            return
        part.unlink()
    raise OSError(
        f"{url} came twice with a wrong {kind.upper()}, {found}, expected {digest}: something on "
        "the way changes it, so try another network or download it by hand"
    )


def _download_rest(url: str, part: Path, n_bytes: int) -> int:
    """Append to `part` what it lacks of `url`, and return its size.

    Whether old and new bytes belong together is left to the digest. Raises one of `NETWORK_ERRORS`
    when the connection breaks, `OSError` when more than `n_bytes` (0: unknown) come.
    """
    start = size_of(part)
    try:
        response = open_url(url, TIMEOUT, {"Range": f"bytes={start}-"} if start else {})
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing follows: the part is the whole
            return start
        raise
    if response.status != 206:  # the server sends all of it again
        start = 0
    elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        response.close()
        part.unlink(missing_ok=True)  # to be asked for from the first byte on
        raise ConnectionError(f"{url} sent another part than the one from byte {start} on")
    end = start + length_of(response, n_bytes - start)
    limit = n_bytes or MAX_BYTES
    response.watched.left += 2 * max(0, limit - start)  # (twice: a body that comes in small chunks)
    with response, part.open("ab" if start else "wb") as file, _bar(part.stem, end, start) as bar:
        while block := response.read1(BLOCK):
            if file.tell() + len(block) > limit:
                file.truncate(0)
                raise OSError(f"{url} goes on after {limit} bytes, where it should end: gave up")
            file.write(block)
            bar.update(len(block))
        if file.tell() < end:
            raise ConnectionError(f"{url} broke off after {file.tell()} of {end} bytes")
        return file.tell()
