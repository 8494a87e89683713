"""Progress bars that suit a terminal as well as a log file."""

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

from common.processes import is_main

_SECONDS = 10.0  # between the lines of a bar that nobody watches


def progress_bar(iterable: Iterable | None = None, **options: Any) -> tqdm:
    """Return a tqdm bar; where nobody watches (a pipe, a file) it writes a line now and then."""
    if not is_main():
        options["disable"] = True
    if sys.stderr.isatty():
        return tqdm(iterable, **options)
    options |= {"mininterval": _SECONDS, "maxinterval": _SECONDS, "delay": _SECONDS}
    return _Lines(iterable, **options)


class _Lines(tqdm):
    """Writes whole lines, without the control characters that move a terminal's cursor."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        line = str(self) if msg is None else msg
        if line:
            self.fp.write(f"{line}\n")
            self.fp.flush()

    def clear(self, nolock: bool = False) -> None:
        pass

    def close(self) -> None:
        if not self.disable and self.n != self.last_print_n:
            self.display()
        self.leave = False  # or an empty line would follow
        super().close()

    @classmethod
    @contextlib.contextmanager
    def external_write_mode(cls, *args: Any, **options: Any) -> Iterator[None]:
        yield
