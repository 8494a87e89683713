"""Processes that do jobs beside this one: they decode photos, or cut crops ahead."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch


def in_processes(function: Callable, jobs: list, n_processes: int | None = None) -> Iterator[Any]:
    """Yield `function(job)` of each job, in order, computed by several processes.

    As many as there are processors where `n_processes` is None (for few jobs none, as starting them
    takes longer); 0: none beside this one. A script that calls this (or trains) does so below
    `if __name__ == "__main__":`, which Windows, macOS and Python 3.14 need.
    """
    if n_processes is None:
        n_processes = 0 if len(jobs) < 16 else min(len(jobs), os.cpu_count() or 1, 16)
    if n_processes == 0:
        yield from map(function, jobs)
        return
    with ProcessPoolExecutor(n_processes, initializer=_begin_worker) as pool:
        yield from pool.map(function, jobs)


def _begin_worker() -> None:
    def end_with_parent() -> None:  # if that was killed, nobody would end this process
        multiprocessing.parent_process().join()
        os._exit(1)

    torch.set_num_threads(1)
    threading.Thread(target=end_with_parent, daemon=True).start()


def begin_loader_worker(worker: int) -> None:
    """Let a `DataLoader`'s worker end with the training process, and not before.

    Ctrl-C and SIGTERM reach both, but the training process may still need crops to finish its step:
    the worker gives it five seconds.
    """
    _begin_worker()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # (Windows has no such signals)
        signal.signal(signal.SIGALRM, lambda number, frame: os._exit(0))
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(5))
