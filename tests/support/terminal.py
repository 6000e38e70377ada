"""A command on a terminal of its own: what it writes, when, and what is to be seen."""

import importlib
import os
import re
import select
import struct
import subprocess
import time

import pyte

FRAME = re.compile(r"\r(?!\n)(?:\x1b\[\d+A)?((?:[^\x1b\r]|\x1b\[K|\r\n)+)\x1b\[J")
"""What a screen draws at once, whole; its lines end in the code that erases what is behind."""


class Terminal:
    """A pseudo-terminal on which a command runs.

    Args:
        command: the words.
        columns: of the terminal.
        rows: of the terminal.
        **options: of `subprocess.Popen`.
    """

    def __init__(self, command, columns, rows=24, **options):
        pty = importlib.import_module("pty")
        self._master, slave = pty.openpty()
        self.resize(columns, rows)
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, **options
        )
        os.close(slave)
        self.text = ""
        self._left = b""
        self.first = None  # seconds until something was written

    def resize(self, columns, rows=24):
        """Changes the size, of which a program is told by asking."""
        termios, fcntl = map(importlib.import_module, ("termios", "fcntl"))
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def read(self, until, seconds=120):
        """Reads on until that is true of all that was written, or the command ends.

        Args:
            until: `(text written since the call) -> bool`.
            seconds: at most.

        Returns:
            What was written since the call.
        """
        begin, ends = len(self.text), time.monotonic() + seconds
        while not until(self.text[begin:]):
            assert time.monotonic() < ends, self.text[begin:][-2000:]
            if not select.select([self._master], [], [], 0.1)[0]:
                continue
            try:
                data = os.read(self._master, 65536)
            except OSError:  # the other end is closed
                data = b""
            if not data:
                break
            self.first = self.first or time.monotonic() - self.started
            # letters may come in halves
            self._left += data
            decoded = self._left.decode(errors="ignore")
            if decoded.encode() == self._left:
                self.text += decoded
                self._left = b""
        return self.text[begin:]

    def end(self, seconds=60):
        """Reads to the end of the command.

        Returns:
            Its exit code.
        """
        self.read(lambda text: False, seconds)
        code = self.process.wait(timeout=seconds)
        os.close(self._master)
        return code


def frames(text):
    """The lines of every frame in what a screen has written."""
    return [
        found.replace("\x1b[K", "").replace("\r\n", "\n").split("\n")
        for found in FRAME.findall(text)
    ]


def screenshot(text, columns, rows=24):
    """The lines that are to be seen on a terminal at the end of a text."""
    screen = pyte.Screen(columns, rows)
    pyte.Stream(screen).feed(text)
    lines = [line.rstrip() for line in screen.display]
    while lines and not lines[-1]:
        lines.pop()
    return lines
