"""Being stopped: ctrl-C, and SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects the first SIGINT or SIGTERM within the block in place of what it does by default.

    A second one does what it did before: it raises KeyboardInterrupt (ctrl-C), or ends the process
    (SIGTERM).

    Yields:
        A list, empty until the number of the first signal is put into it; it stays empty outside
        of the main thread, where Python lets nobody handle signals.
    """
    requests: list[int] = []
    before = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def on_signal(number: int, frame: FrameType | None) -> None:
        requests.append(number)
        restore()

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, on_signal)
    except ValueError:  # raised outside of the main thread
        yield requests
        return
    try:
        yield requests
    finally:
        restore()
