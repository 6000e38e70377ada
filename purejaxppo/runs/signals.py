"""Being stopped: ctrl-C, and SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """A list that the first signal goes into; a second one does what it did before.

    Which is to raise KeyboardInterrupt for ctrl-C, and to end the process for SIGTERM.
    """
    requests: list[int] = []
    before = {}

    def restore():
        for number, handler in before.items():
            signal.signal(number, handler)

    def on_signal(number, frame):
        requests.append(number)
        restore()

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, on_signal)
    except ValueError:  # not the main thread: signals are not ours to handle
        yield requests
        return
    try:
        yield requests
    finally:
        restore()
