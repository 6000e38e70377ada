"""Standard streams that printing never fails on: closed, full, without a reader, of few letters."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

PLAIN = str.maketrans({"±": "+-", "…": "...", "━": "=", "─": "-"})
"""What stands for letters that an encoding lacks; others are written as Python escapes them."""


def encoded(text: str, encoding: str) -> bytes:
    """Encodes a text, whatever letters it has.

    Args:
        text: any letters.
        encoding: which may lack some.
    """
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(PLAIN).encode(encoding, "backslashreplace")


class Output:
    """A text stream on which writing always succeeds.

    What cannot be written is dropped, and so is all that follows.

    Args:
        stream: the stream behind it; None: it is closed.

    Attributes:
        lost: the first error of writing, None while everything was written.
    """

    def __init__(self, stream: TextIO | None):
        self.lost: OSError | None = None
        self._closed = stream is None
        self._stream = stream or io.TextIOWrapper(io.BytesIO(), encoding="utf-8")

    def write(self, text: str) -> int:
        """Writes text, or as much of it as the stream can hold.

        Args:
            text: of any letters.

        Returns:
            The number of letters.
        """
        try:
            if not self._closed:
                self._stream.write(text)
            elif text:
                raise OSError(errno.EBADF, "it is closed")
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            return self.write(encoded(text, encoding).decode(encoding)) and len(text)
        except OSError as error:
            self._lose(error)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Writes lines one after the other.

        Args:
            lines: texts, with their ends.
        """
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Passes on what was written."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lose(self, error: OSError) -> None:
        """Remembers an error; the descriptor leads nowhere from then on, for other writers too."""
        self.lost = self.lost or error
        with contextlib.suppress(OSError):  # some streams have no descriptor
            descriptor = self._stream.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


@contextlib.contextmanager
def forgiving_streams() -> Iterator[Callable[[], bool]]:
    """Makes an `Output` of stdout and of stderr within the block.

    At its end, one line on stderr says why results were not printed, unless their reader went away.

    Yields:
        A function that says whether something could not be printed on stdout.
    """
    # a file that is opened later must not get the number of a standard stream
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)

    before = sys.stdout, sys.stderr
    out, err = Output(sys.stdout), Output(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield lambda: out.lost is not None
    finally:
        out.flush()
        if out.lost is not None and not isinstance(out.lost, BrokenPipeError):
            why = out.lost.strerror or out.lost
            err.write(f"purejaxppo: not everything could be printed on standard output: {why}\n")
        err.flush()
        sys.stdout, sys.stderr = before
