"""Settings that are fixed by their number: grids, random ones, and Sobol's sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.space import Space, trial_of
from purejaxppo.sweeps.trials import Result, Trial

FIXED = ("random", "grid", "sobol")
"""Samplers of `drawn`; others learn from what was tried."""

TRIALS = 64
"""Trials of a sweep that says no number."""

BATCH = 16
"""Trials at a time of a sampler that learns from those before, of a sweep that says no number."""

MOST_TRIALS = 2**31


def asked_at_once(options: SweepOptions) -> int:
    """Returns how many trials are asked for at once, at most.

    What learns from trials gives a few at a time, and what is shared leaves some to others.

    Args:
        options: `batch`, `sampler` and `storage` of them.
    """
    few = options.sampler not in FIXED or options.storage is not None
    return options.batch or (BATCH if few else MOST_TRIALS)


class Source(Protocol):
    """Where trials come from."""

    def ask(self, count: int) -> list[Trial]:
        """Returns the next trials, none of which was returned or told before.

        Args:
            count: how many at most.

        Returns:
            Fewer where fewer are left; none at the end.
        """
        ...

    def tell(self, result: Result) -> None:
        """Takes in what has come of a trial, of this process or of an earlier one.

        Args:
            result: of the trial.
        """
        ...


class Numbered:
    """Trials that depend on nothing but their number; those that are told are not asked again.

    Args:
        make: returns the trial of a number.
        count: how many there are.
    """

    def __init__(self, make: Callable[[int], Trial], count: int):
        self._make, self._left = make, dict.fromkeys(range(count))

    def ask(self, count: int) -> list[Trial]:
        """Returns the next trials; see `Source`.

        Args:
            count: how many at most.
        """
        numbers = list(self._left)[:count]
        for number in numbers:
            del self._left[number]
        return [self._make(number) for number in numbers]

    def tell(self, result: Result) -> None:
        """Takes in that a trial is done.

        Args:
            result: of the trial.
        """
        self._left.pop(result.number, None)


def drawn(space: Space, config: PPOConfig, options: SweepOptions) -> Source:
    """Returns the trials of a grid, random ones, or those of Sobol's sequence.

    Trial i of a seed is the same however many there are.

    Args:
        space: what is varied.
        config: of the sweep.
        options: `sampler`, `seed` and `trials`.

    Returns:
        A source of them.

    Raises:
        ConfigError: a grid of ranges; or another number of trials than a grid has points.
    """
    if options.sampler == "grid":
        trials = _grid(space, config, options.trials)
        return Numbered(lambda number: trials[number], len(trials))
    count = count_of(space, config, options)
    place = (
        _sobol(space, options.seed, count)
        if options.sampler == "sobol"
        else _random(space, options.seed)
    )
    return Numbered(lambda number: trial_of(number, space.at(place(number)), config), count)


def count_of(space: Space, config: PPOConfig, options: SweepOptions) -> int:
    """Returns how many trials a sweep has, or agents of a population.

    Args:
        space: what is varied.
        config: of the sweep.
        options: of the sweep.

    Raises:
        ConfigError: see `drawn`.
    """
    if options.scheduler == "pbt":
        return options.population
    if options.sampler == "grid":
        return len(_grid(space, config, options.trials))
    return TRIALS if options.trials is None else options.trials


def _grid(space: Space, config: PPOConfig, count: int | None) -> list[Trial]:
    """Returns one trial for each different combination of choices.

    Args:
        space: what is varied.
        config: of the sweep.
        count: how many were asked for; None: all.

    Raises:
        ConfigError: a range, or another number than the grid has points.
    """
    # what has no effect in a combination is no difference
    different = {}
    for setting in space.grid():
        trial = trial_of(0, setting, config)
        different.setdefault(repr(trial.setting), trial)
    trials = [trial._replace(number=i) for i, trial in enumerate(different.values())]
    if count not in (None, len(trials)):
        raise ConfigError(
            f"trials={count} must be the {len(trials)} settings of the grid: leave it out, or use "
            "sampler='random'"
        )
    return trials


def _random(space: Space, seed: int) -> Callable[[int], list[float]]:
    """Returns independent points of the unit cube by their number."""

    def place(number: int) -> list[float]:
        stream = np.random.Generator(np.random.Philox(key=np.array([seed, number], np.uint64)))
        return stream.random(len(space.dimensions)).tolist()

    return place


def _sobol(space: Space, seed: int, count: int) -> Callable[[int], list[float]]:
    """Returns the points of a scrambled Sobol sequence by their number."""
    from scipy.stats import qmc

    stream = np.random.default_rng(seed)  # `seed` is called so by SciPy 1.14 and later ones
    sequence = qmc.Sobol(len(space.dimensions), seed=stream)  # pyright: ignore[reportCallIssue]
    # a whole power of 2: SciPy warns of others, and no point depends on how many are drawn
    points = sequence.random_base2((count - 1).bit_length())
    return lambda number: points[number].tolist()
