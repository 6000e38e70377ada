"""Errors and warnings that users meet, and the hint that names what they may have meant."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


class ConfigError(ValueError):
    """Something the user asked for cannot be done; the message says what would work."""


class HostError(RuntimeError):
    """An environment that runs in Python has failed; the message is its own."""


class RunWarning(UserWarning):
    """Something around a run went wrong; the run goes on."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Names the known names nearest to `name`, or all of them if none is near.

    Args:
        name: what was given.
        known: what could have been given.

    Returns:
        A clause for the end of a message: "did you mean ...?" or "known: ...".
    """
    names = sorted(known)
    folded = {n.lower(): n for n in names}
    close = difflib.get_close_matches(name[:100].lower(), folded, n=3, cutoff=0.5)
    found = [folded[n] for n in close] or names
    return f"did you mean {' or '.join(found)}?" if close else f"known: {', '.join(found)}"


class _Short(reprlib.Repr):
    """Values as Python writes them, without what makes them long."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = self.maxarray = 8
        self.maxstring = self.maxother = 100

    def repr_int(self, x: int, level: int) -> str:
        """Writes the size of an integer whose digits nobody would read (Python may refuse to)."""
        bits = x.bit_length()
        return repr(x) if bits <= 128 else f"{'-' * (x < 0)}2**{bits - 1} or more"


def shown(value: Any) -> str:
    """Writes a value for a message: in one line, shortened where it is long.

    Args:
        value: of any type; its `repr` may fail.

    Returns:
        Its text.
    """
    return " ".join(_SHORT.repr(value).split())


_SHORT = _Short()


def raised_in(error: BaseException) -> str:
    """Returns the name of the module in which an error was raised.

    Args:
        error: it was caught.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
