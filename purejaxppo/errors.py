"""Errors and warnings that users meet, and the hint that names what they may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
    close = difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.5)
    found = [folded[n] for n in close] or names
    return f"did you mean {' or '.join(found)}?" if close else f"known: {', '.join(found)}"


def raised_in(error: BaseException) -> str:
    """Returns the name of the module in which an error was raised.

    Args:
        error: it was caught.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
