"""Numbers in words: as short as they are read."""

from __future__ import annotations

import math


def counted(count: int, noun: str) -> str:
    """Writes how many there are of something: "1 seed", "2 seeds".

    Args:
        count: how many.
        noun: of one; an s makes it many.
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def number(x: float) -> str:
    """Writes a return or a length in at most 9 characters, "-" where there is none.

    Args:
        x: any number.
    """
    if not math.isfinite(x):
        return "-"
    text = f"{x:z.1f}"
    return text if len(text) <= 9 else f"{x:.3g}"


def compact(count: float) -> str:
    """Writes a count in three digits and a letter: 999, 12.3k, 450M, 1B.

    Args:
        count: 0 or more.
    """
    for power, letter in enumerate(["", "k", "M", "B", "T"]):
        text = f"{count / 1000**power:.3g}"
        if float(text) < 1000:
            return text + letter
    return f"{count:.3g}"


def clock(seconds: float) -> str:
    """Writes a time as a clock shows it, or in days: 0:05, 12:34, 1:02:03, 5 days.

    Args:
        seconds: 0 or more.
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 100:
        return f"{hours // 24} days"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
