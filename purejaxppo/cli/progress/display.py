"""What `purejaxppo train` shows of a run: lines that move on a terminal, else one now and then."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

from purejaxppo.cli.progress.frame import MOST_SEEDS, Progress, frame, waiting
from purejaxppo.cli.progress.screen import SECONDS_BETWEEN_FRAMES, OnScreen
from purejaxppo.cli.words import number

SECONDS_BETWEEN_LINES = 10.0
TRAINING = "training"
LONG = ("tracing", "compiling")
"""What may take minutes, and gets a line where none moves."""

LOSSES = ("policy_loss", "value_loss", "entropy", "approx_kl")
"""Columns of rows that are shown as they are."""


class Display(OnScreen):
    """Says what is being done, and as a logger where a run is: its returns, speed and time left.

    Args:
        total: environment steps of each seed.
        seeds: how many agents.
        evaluated: whether they will be; room is left for it.
        quiet: show nothing.
    """

    def __init__(self, total: int, seeds: int, evaluated: bool = False, quiet: bool = False):
        super().__init__(quiet)
        self._total, self._seeds = total, seeds
        self._always = {"return", "evaluated"} if evaluated else {"return"}
        self._wait = SECONDS_BETWEEN_LINES if self._screen is None else SECONDS_BETWEEN_FRAMES
        self._phase, self._since = "importing jax", time.perf_counter()
        self._first: tuple[int, float] | None = None  # steps and time of the first row
        self._step, self._shown, self._speed = 0, 0.0, None
        # sums since the last time something was shown
        self._episodes, self._sums = [0.0] * seeds, {n: [0.0] * seeds for n in ("return", "length")}
        self._columns: dict[str, list[float]] = {
            name: [math.nan] * seeds for name in ("return", "evaluated", "length", *LOSSES)
        }

    def announce(self, phase: str) -> None:
        """Takes in what is done from here on.

        Args:
            phase: in a word or two.
        """
        self._phase, self._since = phase, time.perf_counter()
        if phase in LONG and self._screen is None and not self._quiet:
            print(f"{phase} ...", file=sys.stderr, flush=True)

    def __call__(self, step: int, row: Mapping[str, Any]) -> None:
        """Takes in a row, and shows where the run is if it is time to.

        Args:
            step: environment steps of each seed so far.
            row: of an update or an evaluation of one seed.
        """
        seed = row["seed"]
        if "eval_return_mean" in row:
            self._columns["evaluated"][seed] = row["eval_return_mean"]
            return
        self._episodes[seed] += row["episodes"]
        for name, sums in self._sums.items():
            sums[seed] += row.get(f"{name}_sum", 0.0)
        for name in LOSSES:
            self._columns[name][seed] = row.get(name, math.nan)

        # speed is counted from the first row: compilation comes before it
        now = time.perf_counter()
        if self._first is None:
            self._first, self._shown = (step, now), now
        # only once all seeds are at this step
        last = seed == self._seeds - 1
        if last and step > self._first[0] and now - self._shown > self._wait:
            self._shown, self._step = now, step
            self._speed = self._seeds * (step - self._first[0]) / (now - self._first[1])
            self._take_means()
            if self._screen is None and not self._quiet:
                print(self._line(), file=sys.stderr, flush=True)

    def _take_means(self) -> None:
        """Takes means of what ended since the last time; a seed that ended nothing keeps its."""
        for seed, episodes in enumerate(self._episodes):
            if episodes:
                for name, sums in self._sums.items():
                    self._columns[name][seed] = sums[seed] / episodes
        self._episodes = [0.0] * self._seeds
        self._sums = {name: [0.0] * self._seeds for name in self._sums}

    def _progress(self) -> Progress:
        """Returns where the run is; what no seed has is left out."""
        now = time.perf_counter()
        left = None
        if self._speed is not None:
            left = self._seeds * (self._total - self._step) / self._speed
            left = max(0.0, left - (now - self._shown))
        columns = {
            name: numbers for name, numbers in self._columns.items()
            if name in self._always or any(map(math.isfinite, numbers))
        }  # fmt: skip
        elapsed = now - self._since
        return Progress(self._step, self._total, self._speed, elapsed, left, columns)

    def _lines(self, columns: int, rows: int) -> list[str]:
        """Returns what a terminal shows."""
        if self._phase == TRAINING:
            return frame(self._progress(), columns, rows)
        return [waiting(self._phase, time.perf_counter() - self._since)[:columns]]

    def _line(self) -> str:
        """Returns what a pipe gets."""
        progress = self._progress()
        parts = [f"{progress.step:,} steps", f"return {self._summary()}"]
        parts += [f"{progress.speed or 0:,.0f} steps/s", f"{progress.left or 0:.0f} s left"]
        return "  ".join(parts)

    def _summary(self) -> str:
        """Returns the mean over seeds, and each of them if they are few."""
        returns, evaluated = self._columns["return"], self._columns["evaluated"]
        known = [x for x in returns if math.isfinite(x)]
        text = number(sum(known) / len(known) if known else math.nan)
        if all(map(math.isfinite, evaluated)):
            text += f"  evaluated {number(sum(evaluated) / self._seeds)}"
        if self._seeds == 1 or not known:
            return text
        if self._seeds > MOST_SEEDS:
            return f"{text} ({number(min(known))} .. {number(max(known))})"
        return f"{text} ({' '.join(map(number, returns))})"
