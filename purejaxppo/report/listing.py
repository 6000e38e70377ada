"""The list of runs as a table of text, in as many columns as there are."""

from __future__ import annotations

import datetime
import os
import textwrap
from collections.abc import Collection, Sequence
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
    problems = [line.problem for line in lines if line.problem]
    return in_columns(HEAD, RIGHT, rows, [_what(line) for line in lines], problems, width)


def in_columns(
    head: Sequence[str],
    right: Collection[str],
    rows: Sequence[Sequence[str]],
    what: Sequence[str],
    problems: Sequence[str],
    width: int,
) -> str:
    """Returns a table in as many columns as a terminal has.

    Args:
        head: names of the columns, of which the first is made narrower where there is no room.
        right: those whose texts stand to the right.
        rows: texts of each line.
        what: a text that stands behind each line, or below it where there is no room.
        problems: what stands below the table.
        width: columns of the terminal.
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    # what was trained stands beside the rest where all of it has room, else below
    rest = sum(widths[1:]) + len(GAP) * (len(head) - 1)
    beside = widths[0] + rest + len(GAP) + max(map(len, what)) <= width
    widths[0] = min(widths[0], max(width - rest, NARROWEST))

    def joined(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(size) if name in right else cell.ljust(size)
            for name, cell, size in zip(head, cells, widths, strict=True)
        ]
        return GAP.join(padded)

    printed = [joined(head) + f"{GAP}what" * beside]
    for (name, *cells), words in zip(rows, what, strict=True):
        line = joined([shortened(name, widths[0]), *cells])
        printed.append(f"{line}{GAP}{words}" if beside else line)
        if words and not beside:
            printed.append(GAP + shortened(words, width - len(GAP)))
    wrap = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    damaged = [part for problem in problems for part in wrap.wrap(problem)]
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


def name_from(folder: Path, path: Path) -> str:
    """Returns what a folder is called in a list.

    Args:
        folder: from here.
        path: of what is listed.
    """
    name = os.path.relpath(path, folder)
    name = path.resolve().name if name == os.curdir else name
    # names of files may hold bytes that are no text
    return name.encode("utf-8", "replace").decode()


def begun_words(begun: datetime.datetime | None) -> str:
    """Returns when something was begun: the hour if that was today, else the day.

    Args:
        begun: when; None: nothing says so.
    """
    if begun is None:
        return UNKNOWN
    today = begun.date() == datetime.date.today()
    return f"{begun:%H:%M}" if today else f"{begun:%Y-%m-%d}"


def _cells(line: RunLine, folder: Path) -> list[str]:
    """Returns the texts of a run's line, in the order of the head."""
    steps = compact(line.steps)
    if line.steps != line.total:
        steps += f"/{compact(line.total)}"
    mean = UNKNOWN if line.mean is None else number(line.mean)
    if line.std is not None:
        mean += f" ± {number(line.std)}"
    numbers = [str(line.seeds), steps, mean] if line.config else [UNKNOWN] * 3
    return [name_from(folder, line.folder), *numbers, line.state, begun_words(line.begun)]


def _what(line: RunLine) -> str:
    """Says what was trained, and in which fields it differs from others of its kind."""
    if line.config is None:
        return ""
    apart = [
        f"{name}={','.join(map(str, x)) if isinstance(x, tuple) else x}"
        for name, x in line.apart.items()
    ]
    return ", ".join([f"{line.env} {line.algorithm}", *apart])
