"""The work and the results of a page's visitors: work that can be stopped, files that go."""

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from torch import nn

_asked_to_stop: ContextVar[threading.Event | None] = ContextVar("asked_to_stop", default=None)


class Stopped(Exception):
    """The visitor has cancelled, begun anew or left."""


class Visits:
    """The work and the results of each visitor: one at a time, the newest only."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._work: dict[str, threading.Event] = {}
        self._kept: dict[str, Path] = {}
        self._running: set[threading.Event] = set()

    @contextlib.contextmanager
    def work(self, visitor: str) -> Iterator[Path]:
        """Give a folder for new results, for which the visitor's older ones are deleted in the end.

        Where the block raises they are kept, and the new ones deleted. Within the block networks
        that are `stoppable` raise `Stopped` when the visitor stops, leaves, or begins anew.
        """
        self.stop(visitor)
        stop = self._work[visitor] = threading.Event()
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        token = _asked_to_stop.set(stop)
        self._running.add(stop)
        try:
            yield folder
            older, self._kept[visitor] = self._kept.get(visitor), folder
            if stop.is_set():
                raise Stopped
            if older:
                shutil.rmtree(older, ignore_errors=True)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            self._running.discard(stop)
            _asked_to_stop.reset(token)

    def stop(self, visitor: str) -> None:
        """Let the visitor's work end at its next layer."""
        if visitor in self._work:
            self._work.pop(visitor).set()

    def leave(self, visitor: str) -> None:
        """End the visitor's work and delete the results."""
        self.stop(visitor)
        if visitor in self._kept:
            shutil.rmtree(self._kept.pop(visitor), ignore_errors=True)

    def end(self, patience: float = 10) -> None:
        """End all work, and wait up to `patience` seconds until it has ended."""
        deadline = time.monotonic() + patience
        while self._running and time.monotonic() < deadline:
            for stop in list(self._running):
                stop.set()
            time.sleep(0.05)


def stoppable(network: nn.Module) -> None:
    """Let each of the network's layers look first whether its work is still wanted.

    A tile can take a minute: too long for one who has cancelled.
    """
    for module in network.modules():
        module.register_forward_pre_hook(_raise_if_asked)


def _raise_if_asked(module: nn.Module, arguments: Any) -> None:
    stop = _asked_to_stop.get()
    if stop is not None and stop.is_set():
        raise Stopped
