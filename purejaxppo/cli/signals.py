"""What ends the command line at once, whatever it does: ctrl-C, SIGTERM, the loss of a process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

from purejaxppo.runs.signals import StopRequests

ENDING = (signal.SIGINT, signal.SIGTERM)
_ending = threading.RLock()
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"

_words: list[Callable[[str], str]] = [lambda what: what]
"""What is said when something ends the process, made of what that is: the last of these."""

_beside: list[Callable[[], contextlib.AbstractContextManager[None]]] = [contextlib.nullcontext]
"""What is entered while something is said: the last of these."""


@contextlib.contextmanager
def saying(words: Callable[[str], str]) -> Iterator[None]:
    """Says more than "interrupted" when something ends the process within the block.

    Args:
        words: returns what to say, without the name of the program, of what has ended it.
    """
    _words.append(words)
    try:
        yield
    finally:
        _words.pop()


@contextlib.contextmanager
def beside(aside: Callable[[], contextlib.AbstractContextManager[None]]) -> Iterator[None]:
    """Moves what is drawn on the terminal aside when a signal says something within the block.

    Args:
        aside: enters a block in which nothing is drawn.
    """
    _beside.append(aside)
    try:
        yield
    finally:
        _beside.pop()


@contextlib.contextmanager
def end_at_signals() -> Iterator[None]:
    """Ends the process at SIGINT or SIGTERM: at the first, or the second where one saves a run.

    Python's handlers wait until a compilation or a step of the device is over, which may take
    minutes, and what they raise gets lost or does harm inside of other libraries. So nothing is
    raised: the handler ends the process, or a thread, which listens to the socket that signals are
    written into at once. Files are whole or not there at any moment, so nothing is lost by it. Who
    listened before gets the numbers of all signals as ever.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiving, sending = socket.socketpair()
    sending.setblocking(False)
    others = signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
    # a signal without a handler is not written; one that the process ignores stays ignored
    before = {
        number: signal.signal(number, lambda number, frame: _end(number))
        for number in ENDING
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    threading.Thread(target=_listen, args=(receiving, others), daemon=True).start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        # whoever has taken our place in the meantime keeps it
        after = signal.set_wakeup_fd(others)
        if after != sending.fileno():
            signal.set_wakeup_fd(after)
        sending.close()


def _listen(receiving: socket.socket, others: int) -> None:
    """Reads the numbers of signals until the socket is closed at its other end.

    Args:
        receiving: where they come from.
        others: the descriptor that they were written to before, or -1.
    """
    stopping = False
    with receiving:
        while data := receiving.recv(1):
            if others != -1:
                with contextlib.suppress(OSError):
                    os.write(others, data)
            number = data[0]
            if number not in ENDING:
                continue
            # a run that is under way takes the first one as a wish to be saved
            if isinstance(signal.getsignal(number), StopRequests) and not stopping:
                stopping = True
                with _beside[-1]():
                    _say("stopping after the updates in flight; again: at once")
            else:
                _end(number)


def _end(number: int) -> None:
    end("interrupted", 128 + number)


def end(what: str, code: int = 1) -> None:
    """Ends the process and those of its environments; who comes second waits for the first.

    Args:
        what: has ended it.
        code: the exit code.
    """
    with _ending, _beside[-1]():
        _say(_words[-1](what))
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(code)


def _say(text: str) -> None:
    """Writes a line to stderr, whoever else may be writing there, and shows the cursor again."""
    line = SHOW_CURSOR * os.isatty(2) + f"purejaxppo: {text}\n"
    with contextlib.suppress(OSError):
        os.write(2, line.encode(errors="backslashreplace"))
