"""The list of runs as a table of text, in as many columns as there are."""

from __future__ import annotations

import datetime
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

from purejaxppo.report.overview import RunLine, number

HEAD = ("run", "seeds", "steps", "return", "state", "begun")
RIGHT = {"seeds", "steps", "return"}  # numbers stand to the right
GAP = "  "
UNKNOWN = "-"
NARROWEST = 12  # letters of a name


def table_of(lines: Sequence[RunLine], folder: Path, width: int) -> str:
    """Returns a table of runs: a line for each, or two where one has no room.

    Args:
        lines: one or more.
        folder: their names are given from here.
        width: columns of the terminal.

    Returns:
        The table, and below it what is damaged.
    """
    rows = [_cells(line, folder) for line in lines]
    what = [_what(line) for line in lines]
    widths = [max(map(len, column)) for column in zip(HEAD, *rows, strict=True)]

    # what was trained stands beside the rest where all of it has room, else below
    rest = sum(widths[1:]) + len(GAP) * (len(HEAD) - 1)
    beside = widths[0] + rest + len(GAP) + max(map(len, what)) <= width
    widths[0] = min(widths[0], max(width - rest, NARROWEST))

    printed = [_joined(HEAD, widths) + f"{GAP}what" * beside]
    for (name, *cells), words in zip(rows, what, strict=True):
        line = _joined([shortened(name, widths[0]), *cells], widths)
        printed.append(f"{line}{GAP}{words}" if beside else line)
        if words and not beside:
            printed.append(GAP + shortened(words, width - len(GAP)))
    wrap = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    damaged = [part for line in lines if line.problem for part in wrap.wrap(line.problem)]
    return "\n".join(line.rstrip() for line in [*printed, *damaged])


def shortened(text: str, width: int) -> str:
    """Returns a text in so many letters: what is too much is taken out of its middle.

    Args:
        text: any.
        width: letters at most.
    """
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - end :]}"


def compact(count: int) -> str:
    """Returns a count in thousands, millions or billions, three digits of it.

    Args:
        count: at least 0.
    """
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size * 0.9995:
            return f"{count / size:.3g}{letter}"
    return str(count)


def _joined(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.rjust(width) if name in RIGHT else cell.ljust(width)
        for name, cell, width in zip(HEAD, cells, widths, strict=True)
    ]
    return GAP.join(padded)


def _cells(line: RunLine, folder: Path) -> list[str]:
    """Returns the texts of a run's line, in the order of the head."""
    name = os.path.relpath(line.folder, folder)
    name = line.folder.resolve().name if name == os.curdir else name
    steps = compact(line.steps)
    if line.steps != line.total:
        steps += f"/{compact(line.total)}"
    mean = UNKNOWN if line.mean is None else number(line.mean)
    if line.std is not None:
        mean += f" ± {number(line.std)}"
    begun = UNKNOWN
    if line.begun is not None:
        today = line.begun.date() == datetime.date.today()
        begun = f"{line.begun:%H:%M}" if today else f"{line.begun:%Y-%m-%d}"
    numbers = [str(line.seeds), steps, mean] if line.config else [UNKNOWN] * 3
    # names of files may hold bytes that are no text
    return [name.encode("utf-8", "replace").decode(), *numbers, line.state, begun]


def _what(line: RunLine) -> str:
    """Says what was trained, and in which fields it differs from others of its kind."""
    if line.config is None:
        return ""
    apart = [
        f"{name}={','.join(map(str, x)) if isinstance(x, tuple) else x}"
        for name, x in line.apart.items()
    ]
    return ", ".join([f"{line.config.env} {line.algorithm}", *apart])
