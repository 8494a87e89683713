"""Progress bars that suit a terminal as well as a log file."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from tqdm import tqdm

from common.processes import is_first


def progress_bar(iterable: Iterable | None = None, **options) -> tqdm:
    """Return a tqdm bar; where nobody watches (a pipe, a file) it writes every ten seconds only."""
    if not is_first():
        options["disable"] = True
    seconds = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(iterable, mininterval=seconds, maxinterval=max(seconds, 10.0), **options)
