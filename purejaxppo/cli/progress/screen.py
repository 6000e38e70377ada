"""The last lines of a terminal, drawn anew several times a second; other output goes above them."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self, TextIO, cast

from purejaxppo.cli.signals import HIDE_CURSOR, SHOW_CURSOR, beside
from purejaxppo.cli.streams import encoded

SECONDS_BETWEEN_FRAMES = 0.2
UP, ERASE_LINE, ERASE_BELOW = "\x1b[{}A", "\x1b[K", "\x1b[J"
NO_ESCAPES = ("dumb", "unknown")
"""Values of TERM that say that a terminal does not understand them."""


def is_screen(stream: TextIO) -> bool:
    """Says whether lines of a stream can be drawn anew.

    Args:
        stream: a standard stream.
    """
    if not stream.isatty() or os.environ.get("TERM", "").lower() in NO_ESCAPES:
        return False
    if os.name != "nt":
        return True
    from rich.console import detect_legacy_windows

    return not detect_legacy_windows()


class Screen:
    """Draws lines on stderr from a thread of its own while it is entered.

    Args:
        lines: `(columns, rows)` of the terminal to lines that fit it.
    """

    def __init__(self, lines: Callable[[int, int], list[str]]):
        self._lines = lines
        self._descriptor, self._encoding = sys.stderr.fileno(), sys.stderr.encoding
        self._drawing, self._over = threading.Lock(), threading.Event()
        self._shown: list[str] = []
        self._streams = contextlib.ExitStack()

    def __enter__(self) -> Screen:
        self._thread = threading.Thread(target=self._draw_on, daemon=True)
        self._streams.enter_context(beside(self.aside))
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream.isatty():
                above = Above(stream, self)
                setattr(sys, name, cast(TextIO, above))
                self._streams.callback(setattr, sys, name, stream)
                self._streams.callback(above.close)
        self._write(HIDE_CURSOR)
        self._draw()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops drawing, and leaves nothing behind."""
        self._over.set()
        self._thread.join()
        with self.aside():
            self._write(SHOW_CURSOR)
        self._streams.close()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Takes the lines away within the block, so that others may write where they were.

        It is for handlers of signals too, which may come while the lines are drawn: who holds them
        is waited for a moment only.
        """
        held = self._drawing.acquire(timeout=SECONDS_BETWEEN_FRAMES)
        try:
            self._write(self._back() + ERASE_BELOW)
            self._shown = []
            yield
        finally:
            if held:
                self._drawing.release()

    def _draw_on(self) -> None:
        """Draws until the screen is left."""
        while not self._over.wait(SECONDS_BETWEEN_FRAMES):
            self._draw()

    def _draw(self) -> None:
        """Draws the lines as they are now over those that were drawn before."""
        with self._drawing:
            columns, rows = self._size()
            # the last column stays free: behind it, some terminals begin a line of their own
            lines = self._lines(columns - 1, rows)
            if lines != self._shown:
                text = "\n".join(line + ERASE_LINE for line in lines)
                self._write(self._back() + text + ERASE_BELOW)
                self._shown = lines

    def _back(self) -> str:
        """Returns what moves the cursor to where the lines begin."""
        above = len(self._shown) - 1
        return "\r" + (UP.format(above) if above > 0 else "")

    def _size(self) -> tuple[int, int]:
        """Returns the columns and rows of the terminal as it is now."""
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(self._descriptor)
            if size.columns > 0 and size.lines > 0:
                return size
        return shutil.get_terminal_size()

    def _write(self, text: str) -> None:
        """Writes at once; a terminal that has gone away is no fault."""
        with contextlib.suppress(OSError):
            os.write(self._descriptor, encoded(text, self._encoding))


class Above:
    """A stream to the terminal of a screen: its lines go above the screen's, when they are whole.

    Args:
        stream: the one behind it.
        screen: where it writes to.
    """

    def __init__(self, stream: TextIO, screen: Screen):
        self._stream, self._screen = stream, screen
        self._begun = ""

    def write(self, text: str) -> int:
        """Writes the lines that end in a text, and keeps what is left.

        Args:
            text: anything.

        Returns:
            The number of its letters.
        """
        whole, end, self._begun = (self._begun + text).rpartition("\n")
        if end:
            with self._screen.aside():
                self._stream.write(whole + end)
                self._stream.flush()
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Writes lines one after the other.

        Args:
            lines: texts, with their ends.
        """
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Leaves a line that is begun where it is: it could not be gone on with."""

    def close(self) -> None:
        """Writes what was kept; the stream behind stays open."""
        self._stream.write(self._begun)
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class OnScreen:
    """Shows what a command is doing, on a screen where stderr is one, until it is closed.

    Args:
        quiet: show nothing.
    """

    def __init__(self, quiet: bool):
        self._quiet = quiet
        self._screen = Screen(self._lines) if not quiet and is_screen(sys.stderr) else None

    def _lines(self, columns: int, rows: int) -> list[str]:
        """Returns the lines that a screen of this size shows."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        if self._screen is not None:
            self._screen.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Shows nothing more, and leaves the terminal as it was."""
        self._quiet = True
        if self._screen is not None:
            screen, self._screen = self._screen, None
            screen.__exit__()
