"""Leaving a training loop cleanly when a signal asks for it."""

from __future__ import annotations

import signal
import threading


class StopSignal:
    """Notes Ctrl-C and SIGTERM inside a `with` block, so that a loop can save and leave.

    `stop.received` is the signal's number, 0 before it; a second Ctrl-C interrupts at once.
    """

    def __enter__(self) -> StopSignal:
        self.received = 0
        self._before = {}
        if threading.current_thread() is threading.main_thread():  # elsewhere signals do not arrive
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: object) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        print(f"\n{signal.Signals(number).name}: saving after this step", flush=True)

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
