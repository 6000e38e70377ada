"""Being stopped: ctrl-C, and SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS_TO_UNWIND = 1.0


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


@contextmanager
def at_once() -> Iterator[None]:
    """Says that a first signal is heard, and ends the process at a second one, whatever it does.

    Python's own handlers wait until a compilation or a step of the device is over.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)
    before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)

    def listen():
        if os.read(heard, 1):
            print(
                "purejaxppo: stopping after the updates in flight; again: at once", file=sys.stderr
            )
            number = os.read(heard, 1)
            if number:
                time.sleep(SECONDS_TO_UNWIND)  # KeyboardInterrupt may do it
                os.write(2, b"\x1b[?25h" * os.isatty(2) + b"purejaxppo: interrupted\n")
                os._exit(128 + number[0])
        os.close(heard)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(told)
