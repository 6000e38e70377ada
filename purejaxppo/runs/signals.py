"""Being stopped: ctrl-C, and SIGTERM."""

from __future__ import annotations

import contextlib
import signal
from types import FrameType
from typing import Any


class StopRequests:
    """The handler of SIGINT and SIGTERM that notes the first one, and passes the second one on.

    A second one does what it did before: it raises KeyboardInterrupt (ctrl-C), or ends the process
    (SIGTERM). A signal that the process ignores stays ignored.

    Attributes:
        received: empty until the number of the first one is put into it.
    """

    def __init__(self):
        self.received: list[int] = []
        self._before: dict[int, Any] = {}

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal.

        Args:
            number: its number.
            frame: where the program was.
        """
        if not self.received:
            self.received.append(number)
            return
        self.end()
        signal.raise_signal(number)

    def begin(self) -> None:
        """Takes the place of the handlers that are there.

        Outside of the main thread nothing happens: Python lets nobody handle signals there.
        """
        with contextlib.suppress(ValueError):
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self)

    def end(self) -> None:
        """Puts the handlers back that were there."""
        while self._before:
            signal.signal(*self._before.popitem())
