"""The second ctrl-C on the command line: it ends the process whatever it does."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS_TO_UNWIND = 1.0
SHOW_CURSOR = b"\x1b[?25h"


@contextmanager
def end_at_second_signal() -> Iterator[None]:
    """Says that a first signal was received, and ends the process at a second one.

    Python's own handlers wait until a compilation or a step of the device is over, which may take
    minutes; this one listens in a thread, to the pipe that signals are written into at once.
    """
    receiving, sending = os.pipe()
    os.set_blocking(sending, False)
    before = signal.set_wakeup_fd(sending, warn_on_full_buffer=False)

    def listen() -> None:
        # nothing is read once the pipe is closed, at the end of the block
        if os.read(receiving, 1):
            print(
                "purejaxppo: stopping after the updates in flight; again: at once", file=sys.stderr
            )
            number = os.read(receiving, 1)
            if number:
                # the KeyboardInterrupt of the second signal may end the process by itself
                time.sleep(SECONDS_TO_UNWIND)
                os.write(2, SHOW_CURSOR * os.isatty(2) + b"purejaxppo: interrupted\n")
                os._exit(128 + number[0])
        os.close(receiving)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(sending)
