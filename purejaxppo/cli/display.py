"""The progress of a run: bars on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from purejaxppo.config.schema import PPOConfig
from purejaxppo.types import Row

SECONDS_BETWEEN_FRAMES = 0.2
SECONDS_BETWEEN_LINES = 10.0
MOST_BARS = 16  # more seeds share one


class Display:
    """A logger that shows steps, the return of each seed, speed and time left.

    Args:
        config: what is trained.
        seeds: how many agents.
    """

    def __init__(self, config: PPOConfig, seeds: int):
        self._total, self._seeds = config.timesteps, seeds
        console = Console(stderr=True)
        self._terminal = console.is_terminal
        self._wait = SECONDS_BETWEEN_FRAMES if self._terminal else SECONDS_BETWEEN_LINES
        self._first: tuple[int, float] | None = None  # steps and time of the first row
        self._shown = 0.0
        self._episodes, self._returns = np.zeros(seeds), np.zeros(seeds)  # since the last time
        self._means, self._evaluated = np.full(seeds, np.nan), np.full(seeds, np.nan)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:,.0f} steps  {task.fields[text]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._terminal,
            transient=True,
        )
        names = [f"seed {i}" for i in range(seeds)] if seeds <= MOST_BARS else [f"{seeds} seeds"]
        self._tasks = [self._bars.add_task(name, total=self._total, text="") for name in names]

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, step: int, row: Row) -> None:
        """Takes in a row, and shows where the run is if it is time to.

        Args:
            step: environment steps of each seed so far.
            row: of an update or an evaluation of one seed.
        """
        if "eval_return_mean" in row:
            self._evaluated[row["seed"]] = row["eval_return_mean"]
            return
        self._episodes[row["seed"]] += row["episodes"]
        self._returns[row["seed"]] += row["return_sum"]

        # speed is counted from the first row: compilation comes before it
        now = time.perf_counter()
        if self._first is None:
            self._first, self._shown = (step, now), now
        # only once all seeds are at this step
        last = row["seed"] == self._seeds - 1
        if last and step > self._first[0] and now - self._shown > self._wait:
            self._shown = now
            self._show(step, (step - self._first[0]) / (now - self._first[1]))

    def _show(self, step: int, speed: float) -> None:
        """Shows a frame of the bars, or a line.

        Args:
            step: environment steps of each seed so far.
            speed: steps per second of one seed.
        """
        # the mean of what ended since the last time; a seed that ended nothing keeps its last one
        ended = self._episodes > 0
        self._means[ended] = self._returns[ended] / self._episodes[ended]
        self._episodes[:], self._returns[:] = 0, 0

        rate = f"{speed * self._seeds:,.0f} steps/s"
        if self._terminal:
            alone = len(self._tasks) == self._seeds
            each = zip(self._means, self._evaluated, strict=True)
            texts = (_numbers(*pair) for pair in each) if alone else [self._summary()]
            for task, text in zip(self._tasks, texts, strict=True):
                self._bars.update(task, completed=step, text=f"return {text}  {rate}")
        else:
            left = (self._total - step) / speed
            text = f"{step:,} steps  return {self._summary()}  {rate}  {left:.0f} s left"
            print(text, file=sys.stderr, flush=True)

    def _summary(self) -> str:
        """Returns the mean over seeds, and each of them if they are few."""
        known = self._means[np.isfinite(self._means)]
        if self._seeds == 1 or not known.size:
            return _numbers(self._means[0], self._evaluated[0])
        mean = _numbers(known.mean(), self._evaluated.mean())
        if self._seeds > MOST_BARS:
            return f"{mean} ({known.min():.1f} to {known.max():.1f})"
        return f"{mean} ({' '.join(map(_number, self._means))})"


def _numbers(mean: float, evaluated: float) -> str:
    """Returns a return as text, and that of the last evaluation if there was one."""
    return _number(mean) + (f"  evaluated {evaluated:.1f}" if np.isfinite(evaluated) else "")


def _number(x: float) -> str:
    return f"{x:.1f}" if np.isfinite(x) else "-"
