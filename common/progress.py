"""Progress bars that suit a terminal as well as a log file."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from common.processes import is_main


def progress_bar(iterable: Iterable | None = None, **options: Any) -> tqdm:
    """Return a tqdm bar; where nobody watches (a pipe, a file) it writes a line now and then."""
    if not is_main():
        options["disable"] = True
    if sys.stderr.isatty():
        return tqdm(iterable, **options)
    every = dict.fromkeys(("mininterval", "maxinterval", "delay"), 10.0)  # seconds
    return _Lines(iterable, **options | every)


class _Lines(tqdm):
    """Writes whole lines, without the control characters that move a terminal's cursor."""

    write = staticmethod(print)  # (tqdm's would draw the bar again)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if line := str(self) if msg is None else msg:
            print(line, file=self.fp, flush=True)

    def clear(self, nolock: bool = False) -> None:
        pass

    def close(self) -> None:
        if not self.disable and self.n != self.last_print_n:
            self.display()
        self.leave = False  # or an empty line would follow
        super().close()
