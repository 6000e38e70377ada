"""What a run looks like on a terminal: lines of text, of its numbers and the width alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from purejaxppo.cli.words import clock, compact, counted, number

MOST_SEEDS = 16
"""More seeds share a line."""

BARS = (10, 20, 30, 40)
"""Columns that the bar may have."""

RETURNS = ("return", "evaluated")
"""Columns that come first, and of which bounds are shown."""

LENGTHS = ("length",)
"""Columns that are written with one decimal, as returns are."""

GAP = "  "


class Progress(NamedTuple):
    """Where a run is.

    Attributes:
        step: environment steps of each seed so far.
        total: those at its end.
        speed: steps of all seeds in a second; None: not known yet.
        elapsed: seconds since it began to train.
        left: seconds until it ends; None: not known yet.
        columns: a number of each seed by name, the most important name first; NaN where it has
            none.
    """

    step: int
    total: int
    speed: float | None
    elapsed: float
    left: float | None
    columns: Mapping[str, Sequence[float]]


def waiting(phase: str, seconds: float) -> str:
    """Returns the line that is shown before the training.

    Args:
        phase: what is done.
        seconds: since when.
    """
    return f"{phase}{GAP}{f'{seconds:.1f} s' if seconds < 60 else clock(seconds)}"


def frame(progress: Progress, width: int, height: int) -> list[str]:
    """Returns the lines of a run: one of totals, and one for each seed, or for all.

    Args:
        progress: where the run is.
        width: columns that no line goes beyond; what does not fit is left out or written shorter.
        height: lines at most.
    """
    seeds = len(next(iter(progress.columns.values())))
    alone = seeds <= min(MOST_SEEDS, height - 1)
    rows = range(seeds) if alone else ()
    lines = [fitted(_totals(progress), width)]
    lines += [fitted(_of_seed(progress.columns, i), width, gaps=False) for i in rows]
    if not alone:
        lines.append(fitted(_of_all(progress.columns), width, gaps=False))
    return lines[:height]


def fitted(wishes: Iterable[tuple[int, str]], width: int, gaps: bool = True) -> str:
    """Puts texts on a line, as many as it holds.

    Args:
        wishes: a place on the line and what stands there, the most important first; a later text
            for the same place is a longer one, which is taken if there is room for it.
        width: columns.
        gaps: after what does not fit, less important texts are tried that may be shorter.
    """
    chosen, line = {}, ""
    for place, text in wishes:
        wanted = {**chosen, place: text}
        joined = GAP.join(wanted[key] for key in sorted(wanted))
        if len(joined) <= width:
            chosen, line = wanted, joined
        elif not gaps:
            break
    return line


def _totals(progress: Progress) -> Iterator[tuple[int, str]]:
    """Returns what the line of totals would say: a bar, and the numbers of all seeds."""
    step, total = progress.step, progress.total
    bar, percent, steps, speed, elapsed, left = range(6)
    yield steps, f"{compact(step)} of {compact(total)} steps"
    if progress.left is not None:
        yield left, f"{clock(progress.left)} left"
    if progress.speed is not None:
        yield speed, f"{compact(progress.speed)} steps/s"
    yield elapsed, clock(progress.elapsed)
    yield percent, f"{100 * step // total:3}%"
    if progress.speed is not None:
        yield speed, f"{progress.speed:,.0f} steps/s"
    yield steps, f"{step:{len(f'{total:,}')},} of {total:,} steps"
    yield elapsed, f"{clock(progress.elapsed)} elapsed"
    for columns in BARS:
        done = columns * step // total
        yield bar, "━" * done + "─" * (columns - done)


def _of_seed(columns: Mapping[str, Sequence[float]], seed: int) -> Iterator[tuple[int, str]]:
    """Returns what the line of one seed would say."""
    last = len(next(iter(columns.values()))) - 1
    yield 0, f"seed {seed:{len(str(last))}}"
    for place, (name, numbers) in enumerate(columns.items(), 1):
        yield place, f"{name} {_aligned(name, numbers[seed])}"


def _of_all(columns: Mapping[str, Sequence[float]]) -> Iterator[tuple[int, str]]:
    """Returns what the line of many seeds would say: means, and within which bounds they are."""
    yield 0, counted(len(next(iter(columns.values()))), "seed")
    places, means, bounds = {}, {}, {}
    for place, (name, numbers) in enumerate(columns.items(), 1):
        known = [x for x in numbers if math.isfinite(x)]
        text = f"{name} {_aligned(name, sum(known) / len(known) if known else math.nan)}"
        within = f" ({number(min(known))} .. {number(max(known))})" if known else ""
        places[name], means[name], bounds[name] = place, text, text + within

    # losses before lengths, so that a wide terminal has all of them
    returns = [name for name in columns if name in RETURNS]
    lengths = [name for name in columns if name in LENGTHS]
    losses = [name for name in columns if name not in (*returns, *lengths)]
    wishes = [(name, means) for name in returns] + [(name, bounds) for name in returns[:1]]
    wishes += [(name, means) for name in (*losses, *lengths)]
    wishes += [(name, bounds) for name in returns[1:]]
    for name, texts in wishes:
        yield places[name], texts[name]


def _aligned(name: str, x: float) -> str:
    """Writes a number in as many columns as any other of its name."""
    if name in (*RETURNS, *LENGTHS):
        return f"{number(x):>9}"
    return f"{f'{x:.3g}' if math.isfinite(x) else '-':>9}"
