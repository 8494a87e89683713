"""Leaving a training loop cleanly when a signal asks for it."""

from __future__ import annotations

import signal
import threading

from common import processes


class StopSignal:
    """Notes Ctrl-C and SIGTERM inside a `with` block, so that a loop can save and leave.

    `stop.received` is the signal's number, 0 before it; a second Ctrl-C interrupts at once. Several
    processes leave in the same step.
    """

    def __enter__(self) -> StopSignal:
        self.received, self.agreed = 0, 0
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

    def asked(self, step: int, every: int) -> int:
        """Return the signal's number that any process received, 0 before.

        Several processes ask each other at every `every` steps only.
        """
        if processes.count() == 1:
            self.agreed = self.received
        elif step % every == 0:
            self.agreed = max(processes.from_all(self.received))
        return self.agreed
