"""What `purejaxppo sweep` shows: one line that moves on a terminal, else one now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from purejaxppo.cli.progress.display import SECONDS_BETWEEN_LINES
from purejaxppo.cli.progress.frame import fitted
from purejaxppo.cli.progress.screen import OnScreen
from purejaxppo.cli.words import clock, counted
from purejaxppo.sweeps.read import ranked
from purejaxppo.sweeps.trials import PLAN, Result, Setting


class TrialsDisplay(OnScreen):
    """Says what a sweep does, how many of its trials have ended, and which is best so far.

    Args:
        quiet: show nothing.
    """

    def __init__(self, quiet: bool = False):
        super().__init__(quiet)
        self._phase, self._since = "importing jax", time.perf_counter()
        self._total: int | None = None
        self._begun, self._shown = self._since, 0.0
        self._earlier, self._ended, self._failed = 0, 0, 0
        self._best: Result | None = None

    def begin(self, total: int, earlier: Sequence[Result] = ()) -> None:
        """Takes in that trials begin.

        Args:
            total: how many there will be.
            earlier: those that have ended before.
        """
        self._total, self._begun = total, time.perf_counter()
        self._earlier = self._ended = len(earlier)
        self._best = next(iter(ranked(earlier)), None)

    @property
    def told(self) -> int:
        """Returns how many trials have ended since it began."""
        return self._ended - self._earlier

    def announce(self, phase: str) -> None:
        """Takes in what is done from here on; what begins with `PLAN` stays on the screen.

        Args:
            phase: in a few words.
        """
        if not phase.startswith(PLAN):
            self._phase, self._since = phase, time.perf_counter()
        elif not self._quiet:
            print(phase.removeprefix(PLAN), flush=True)

    def __call__(self, result: Result) -> None:
        """Takes in what has come of a trial, and shows it if it is time to.

        Args:
            result: of the trial.
        """
        self._ended += 1
        self._failed += result.status == "failed"
        self._best = next(iter(ranked(filter(None, [self._best, result]))), None)
        now = time.perf_counter()
        due = now - self._shown > SECONDS_BETWEEN_LINES or self._ended == self._total
        if due and self._screen is None and not self._quiet:
            self._shown = now
            print(self._line(1000), file=sys.stderr, flush=True)

    def _lines(self, columns: int, rows: int) -> list[str]:
        """Returns what a terminal shows."""
        return [self._line(columns)]

    def _line(self, width: int) -> str:
        """Returns where the sweep is, in one line; what matters least is left out first."""
        now = time.perf_counter()
        doing = f"{self._phase} {clock(now - self._since)}"
        if self._total is None:
            return fitted([(0, doing)], width)
        known = max(self._total, self._ended)
        wishes = [(0, f"{self._ended:,} of {counted(known, 'trial')}")]
        if self._best is not None:
            wishes.append((1, f"best {self._best.score:.6g}"))
        if self._screen is not None:
            wishes.append((4, doing))
        if self._earlier < self._ended < known:  # as long for each trial as so far
            each = (now - self._begun) / (self._ended - self._earlier)
            left = each * (known - self._ended)
            wishes.append((5, f"about {clock(left)} left"))
        if self._failed:
            wishes.append((3, f"{self._failed:,} failed"))
        if self._best is not None:
            wishes.append((2, f"({in_short(self._best.setting)})"))
        return fitted(wishes, width)


def in_short(setting: Setting) -> str:
    """Writes a setting in a line.

    Args:
        setting: values by name.
    """
    return ", ".join(f"{name}={value_in_short(value)}" for name, value in setting.items())


def value_in_short(value: Any) -> str:
    """Writes a value as it is read: four digits of a number, widths as 64x64.

    Args:
        value: of a setting.
    """
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple | list):
        return "x".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
