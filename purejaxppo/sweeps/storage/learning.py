"""Samplers of Optuna, for spaces and options of ours; and values as Optuna keeps them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, CmaEsSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial

from purejaxppo.errors import ConfigError
from purejaxppo.sweeps.dimensions import Dimension, Space
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.samplers import BATCH
from purejaxppo.sweeps.trials import Setting, Trial

MOST_POPULATION = 50
"""Trials of a generation of NSGA-II at most, as in Optuna."""


def sampler_for(
    space: Space, options: SweepOptions, listed: Sequence[Trial], total: int
) -> Callable[[int], BaseSampler]:
    """Returns what makes a sampler for the trials from a number on.

    Args:
        space: what is varied.
        options: of the sweep.
        listed: for samplers that do not learn, all trials by their numbers.
        total: how many trials there are.
    """
    batch = options.batch or BATCH
    settings = [encoded(space, trial.setting) for trial in listed]

    def make(number: int) -> BaseSampler:
        seed = int(np.random.SeedSequence([options.seed, number]).generate_state(1)[0])
        match options.sampler:
            case "tpe":
                # dimensions are drawn together, for they interact; trials that run count as bad
                # ones, so that those of a batch differ
                return TPESampler(seed=seed, multivariate=True, constant_liar=True)
            case "cmaes":
                # a generation is a batch: of a larger one, only the first would be learned from
                size = max(batch, 4 + int(3 * math.log(len(space.dimensions))))
                return CmaEsSampler(seed=seed, popsize=size)
            case "nsga2":
                # four generations, or more
                size = min(MOST_POPULATION, max(4, total // 4))
                return NSGAIISampler(seed=seed, population_size=size)
            case _:
                return _Listed(distributions_of(space), settings)

    return make


class _Listed(BaseSampler):
    """Settings that are fixed by the number of the trial."""

    def __init__(self, distributions: dict[str, BaseDistribution], settings: Sequence[Setting]):
        self._distributions, self._settings = distributions, settings

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return dict(self._settings[trial.number])

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:  # fmt: skip
        return self._settings[trial.number][param_name]


def check_sampler(space: Space, options: SweepOptions) -> None:
    """Checks that a sampler of Optuna can draw from a space, for these scores.

    Args:
        space: what is varied.
        options: of the sweep.

    Raises:
        ConfigError: it cannot.
    """
    named = [d.name for d in space.dimensions if d.choices]
    if options.sampler == "cmaes" and named:
        raise ConfigError(
            f"sampler='cmaes' draws from ranges, and {named[0]} is varied by choices: use "
            "sampler='tpe', or give it a range"
        )


def distributions_of(space: Space) -> dict[str, BaseDistribution]:
    """Returns what Optuna draws from, by name.

    Args:
        space: what is varied.
    """
    return {d.name: _distribution(d) for d in space.dimensions}


def _distribution(dimension: Dimension) -> BaseDistribution:
    """Returns what Optuna draws a dimension's values from."""
    if dimension.choices:
        return CategoricalDistribution([label(x) for x in dimension.choices])
    if dimension.integer:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def label(value: Any) -> Any:
    """Returns a value that a storage can keep: itself, or as Python writes it.

    Args:
        value: of a setting.
    """
    value = tuple(value) if isinstance(value, list) else value  # read from JSON
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def encoded(space: Space, setting: Setting) -> dict[str, Any]:
    """Returns values as Optuna keeps them; those that have no effect are in the middle.

    Args:
        space: what is varied.
        setting: values by name.
    """
    return {d.name: label(setting.get(d.name, d.at(0.5))) for d in space.dimensions}


def decoded(space: Space, params: Setting) -> dict[str, Any]:
    """Returns the setting that Optuna keeps as these values.

    Args:
        space: what is varied.
        params: values by name.
    """
    return {
        d.name: next((x for x in d.choices if label(x) == params[d.name]), params[d.name])
        for d in space.dimensions
    }
