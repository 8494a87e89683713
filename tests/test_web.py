"""Servers that crawl or never end, each a few lines on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable

import pytest
import torch

from common import download, files, web
from common import perceptual as vgg

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def serve(monkeypatch):
    """Give a function that answers each connection with the bytes it is given, and says where."""
    monkeypatch.setenv("no_proxy", "*")
    sockets, threads, ended = [], [], threading.Event()

    def answer(listener: socket.socket, what: Callable[[], Iterable[bytes]]) -> None:
        with contextlib.suppress(OSError):  # the listener is closed, or the client has left
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(65536)
                    for some in itertools.takewhile(lambda _: not ended.is_set(), what()):
                        connection.sendall(some)

    def start(what: Callable[[], Iterable[bytes]]) -> str:
        sockets.append(listener := socket.create_server(("127.0.0.1", 0)))
        threads.append(threading.Thread(target=answer, args=(listener, what), daemon=True))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/a.zip"

    yield start
    ended.set()
    for listener in sockets:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join(5)


def endless(beginning: bytes, more: bytes) -> Callable[[], Iterable[bytes]]:
    """Send `beginning`, and `more` again and again; not for ever, but longer than anyone waits."""
    return lambda: itertools.chain([beginning], itertools.repeat(more * (65536 // len(more)), 3000))


def get(url: str, part, n_bytes: int = 0) -> int:
    return download._download_rest(url, part, n_bytes)


@pytest.mark.parametrize(
    "answer",
    [
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        endless(OK, b"A: b\r\n"),
        endless(OK + b"A: ", b"b"),
        endless(b"", b"x"),
        endless(b"HTTP/1.1 302 Found\r\nLocation: /a.zip\r\n\r\n", b"x"),
        endless(CHUNKED + b"0\r\n", b"A: b\r\n"),
        endless(CHUNKED, b"1;" + b"x" * 500 + b"\r\na\r\n"),
        endless(CHUNKED, b"f" * 100),
    ],
    ids=["interim", "headers", "header", "status", "redirect", "trailers", "chunks", "chunk size"],
)
def test_what_never_ends_beside_the_body_is_left(serve, answer, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_BYTES", 10**5)
    with pytest.raises(download.NETWORK_ERRORS):
        get(serve(answer), tmp_path / "part")
    assert download.size_of(tmp_path / "part") < 10**5


def test_endless_body_without_a_length_is_left(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_BYTES", 10**6)
    with pytest.raises(OSError, match="goes on after 1000000 bytes"):
        get(serve(endless(OK + b"\r\n", b"x")), tmp_path / "part")


def dripping(beginning: bytes) -> Callable[[], Iterable[bytes]]:
    def drops() -> Iterable[bytes]:
        yield beginning
        for _ in range(200):
            time.sleep(0.02)
            yield b"x"

    return drops


@pytest.mark.parametrize(
    "beginning",
    [b"", OK + b"A: ", OK + b"Content-Length: 9999\r\n\r\n", CHUNKED + b"270F\r\n"],
    ids=["status", "header", "body", "chunk"],
)
def test_connection_that_drips_is_left_after_a_window(serve, tmp_path, monkeypatch, beginning):
    monkeypatch.setattr(web, "WINDOW", 0.1)
    began = time.monotonic()
    with pytest.raises(web.TooSlowError, match=r"\d+ bytes came in 0 seconds"):
        get(serve(dripping(beginning)), tmp_path / "part")
    assert time.monotonic() - began < 2  # the server would go on for 4 seconds


def test_server_that_always_drips_is_given_up(serve, tmp_path, monkeypatch):
    """Though each attempt brings some bytes."""
    monkeypatch.setattr(web, "WINDOW", 0.05)
    url, connections = serve(dripping(OK + b"Content-Length: 9999\r\n\r\n")), []
    original = download._download_rest
    monkeypatch.setattr(
        download, "_download_rest", lambda *a: connections.append(1) or original(*a)
    )
    with pytest.raises(web.TooSlowError):
        download.download(url, tmp_path / "a.zip", "0" * 32, 9999, pause=0)
    assert len(connections) == download.ATTEMPTS


def test_slow_connection_that_brings_enough_is_kept(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(web, "WINDOW", 0.05)
    monkeypatch.setattr(web, "LEAST_BYTES", 2)
    answer = dripping(OK + b"Content-Length: 20\r\n\r\n")
    assert get(serve(answer), tmp_path / "part", 20) == 20


def served_weights(serve, monkeypatch, torch_home, answer: Callable[[], Iterable[bytes]]):
    """Let VGG19's weights come from a server on this machine."""
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    monkeypatch.setattr(vgg, "URL", serve(answer))
    monkeypatch.setattr(vgg, "_PAUSE", 0)
    return torch_home / "hub" / "checkpoints" / "a.zip"


@pytest.mark.parametrize("has_locks", [True, False])
def test_vgg_weights_are_downloaded_and_kept(serve, vgg_file, tmp_path, monkeypatch, has_locks):
    def no_locks(*args, **kwargs):
        raise NotImplementedError("this file system has none")

    if not has_locks:
        monkeypatch.setattr(files.FileLock, "acquire", no_locks)
    content = vgg_file.read_bytes()
    answer = OK + f"Content-Length: {len(content)}\r\n\r\n".encode() + content
    path = served_weights(serve, monkeypatch, tmp_path, lambda: [answer])
    monkeypatch.setattr(vgg, "_SHA256", hashlib.sha256(content).hexdigest()[:8])
    features = vgg.VGG19Features().state_dict()
    assert path.read_bytes() == content and vgg.cached_weights() == path
    expected = vgg.VGG19Features(vgg_file).state_dict()
    assert all(torch.equal(features[key], expected[key]) for key in expected)


def test_vgg_weights_that_never_end_or_are_others_are_left(serve, tmp_path, monkeypatch):
    path = served_weights(serve, monkeypatch, tmp_path, endless(OK + b"\r\n", b"x"))
    monkeypatch.setattr(vgg, "_MOST_BYTES", 10**6)
    with pytest.raises(ConnectionError, match=r"goes on after 1000000 bytes.*vgg_weights="):
        vgg.VGG19Features()
    answer = OK + b"Content-Length: 3\r\n\r\nabc"
    path = served_weights(serve, monkeypatch, tmp_path, lambda: [answer])
    with pytest.raises(ConnectionError, match=r"wrong SHA256.*expected dcbb9e9d"):
        vgg.VGG19Features()
    assert not path.exists() and vgg.cached_weights() is None


def test_body_in_small_chunks_arrives(serve, tmp_path):
    n = web.MAX_EXTRA
    chunks = b"8\r\n12345678\r\n" * (n // 8)  # five bytes around each eight
    url = serve(lambda: [CHUNKED + chunks + b"0\r\n\r\n"])
    assert get(url, tmp_path / "part", n) == n
    assert (tmp_path / "part").read_bytes() == b"12345678" * (n // 8)
