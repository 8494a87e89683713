"""HTTP with servers that nobody vouches for: what crawls, or never ends, is left."""

from __future__ import annotations

import http.client
import io
import re
import time
import urllib.request
from collections.abc import Callable
from typing import Any

LEAST_BYTES = 1 << 16  # in a window; a connection that brings fewer counts as broken
WINDOW = 60.0  # seconds
MAX_EXTRA = 1 << 20  # bytes beside a body: headers, and pages that lead elsewhere


class TooSlowError(ConnectionError):
    """Fewer than `LEAST_BYTES` came in `WINDOW` seconds."""


class _Watched(io.RawIOBase):
    """What a connection brings, as long as it brings enough in time, and not too much."""

    def __init__(self, raw: io.RawIOBase):
        self.raw, self.left = raw, MAX_EXTRA
        self.since, self.n_bytes = time.monotonic(), 0  # of this window

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        n_bytes, seconds = self.raw.readinto(buffer), time.monotonic() - self.since
        self.left -= n_bytes or 0
        self.n_bytes += n_bytes or 0
        if self.left < 0:
            raise ConnectionError(f"{MAX_EXTRA} bytes came and the answer had not begun or ended")
        if seconds >= WINDOW:
            if self.n_bytes < LEAST_BYTES:
                raise TooSlowError(f"{self.n_bytes} bytes came in {seconds:.0f} seconds")
            self.since, self.n_bytes = time.monotonic(), 0
        return n_bytes

    def close(self) -> None:
        self.raw.close()
        super().close()


class Response(http.client.HTTPResponse):
    """An answer; `watched` counts what it may still bring."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.watched = _Watched(self.fp.detach())
        self.fp = io.BufferedReader(self.watched)


class _ReadingWatched:
    """Makes urllib's handlers read through `_Watched`, from an answer's first byte on."""

    def do_open(self, http_class: Callable, request: urllib.request.Request, **options: Any) -> Any:
        def connect(*args: Any, **more: Any) -> http.client.HTTPConnection:
            connection = http_class(*args, **more)
            connection.response_class = Response
            return connection

        return super().do_open(connect, request, **options)


class _Http(_ReadingWatched, urllib.request.HTTPHandler):
    pass


class _Https(_ReadingWatched, urllib.request.HTTPSHandler):
    pass


def open_url(
    url: str, timeout: float, headers: dict[str, str] | None = None, method: str = "GET"
) -> Response:
    """Ask for `url`, follow where the answer leads, and return it with its body still to come.

    Who reads the body adds as many bytes to the response's `watched.left` as it may have.

    Args:
        timeout: seconds without a byte after which the connection counts as broken.
    Raises:
        OSError, http.client.HTTPException: it cannot be reached, says no, or is a bad server.
    """
    request = urllib.request.Request(url, headers=headers or {}, method=method)
    try:
        response = urllib.request.build_opener(_Http, _Https).open(request, timeout=timeout)
    except ValueError as error:  # an address to go on to that is none, and the like
        raise ConnectionError(f"{url} gave an answer that makes no sense: {error}") from error
    if not isinstance(response, Response):
        raise ConnectionError(f"{url} leads to {response.url}, expected http or https")
    return response


def length_of(response: Response, unknown: int) -> int:
    """Return how many bytes the server says that follow; `unknown` when it says nothing usable."""
    said = response.headers.get("Content-Length", "")
    return int(said) if re.fullmatch("[0-9]{1,18}", said) else unknown
