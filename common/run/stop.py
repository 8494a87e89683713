"""Leaving a training loop cleanly when a signal asks for it."""

import signal
import threading

from common import processes


class StopSignal:
    """Notes Ctrl-C and SIGTERM inside a `with` block, so that a loop can save and leave.

    `signal` is the number of the one to leave for, 0 before; a second Ctrl-C interrupts at once.
    """

    def __enter__(self) -> "StopSignal":
        self.signal, self._received, self._before = 0, 0, {}
        if threading.current_thread() is threading.main_thread():  # elsewhere signals do not arrive
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: object) -> None:
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number
        print(f"\n{signal.Signals(number).name}: saving after this step", flush=True)

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def requested(self, step: int, every: int) -> int:
        """Return `signal`. Several processes leave together, and ask only every `every` steps."""
        if processes.count() == 1:
            self.signal = self._received
        elif step % every == 0:
            self.signal = max(processes.gather(self._received))
        return self.signal
