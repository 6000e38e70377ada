"""The best settings trained again on fresh seeds, so that luck is not taken for a good setting.

The best score of many is too high on average, the more so the more trials there are and the more
scores differ from seed to seed: it was chosen for its luck too. Scores of fresh seeds have not been
chosen, and are right on average.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.read import RETRAINED
from purejaxppo.sweeps.space import trial_of
from purejaxppo.sweeps.study import Study
from purejaxppo.sweeps.trials import Result, Trial

Train = Callable[[SweepOptions, Study, Sequence[Trial]], Iterator[Result]]
"""`(options, study, trials)` trains trials, with their runs below the study, and yields results."""

FRESH = 2**31
"""Added to the seed of a study, for keys that none of its trials has had."""


def retrain(study: Study, k: int, seeds: int, train: Train) -> list[Result]:
    """Trains the best settings of a study again on fresh seeds, in a study inside of it.

    What was trained before is taken from there. `best.toml` is then that of the best mean.

    Args:
        study: with results, which is open.
        k: how many settings at most.
        seeds: of each.
        train: trains trials of one shape side by side in one program, see `Train`.

    Returns:
        What came of them, in the order of the scores that they were chosen by; of a training that
        was stopped on its way, what there is.

    Raises:
        ConfigError: the study inside is another one, of other seeds for example.
    """
    options = dataclasses.replace(
        study.options, seeds=seeds, seed=(study.options.seed + FRESH) % 2**32
    )
    chosen = study.best(k)
    if not chosen:
        return []
    folder = study.run_dir(RETRAINED)
    with Study.open(
        folder, study.config, study.space, options, trials=len(chosen), own=study.own,
        env_params=study.env_params,
    ) as inner:  # fmt: skip
        trials = [
            trial_of(r.number, r.setting, study.config)
            for r in chosen if r.number not in inner.results
        ]  # fmt: skip
        for result in train(options, inner, trials) if trials else ():
            inner.tell(result)
        inner.write()
        study.retrained = list(inner.results.values())
        study.problems.extend(f"{RETRAINED}: {problem}" for problem in inner.problems)
        found = [inner.results[r.number] for r in chosen if r.number in inner.results]
    study.write()
    return found


class Spread(NamedTuple):
    """Scores of a setting over its seeds.

    Attributes:
        mean: of them; NaN where there are none.
        std: standard deviation of one seed, s = sqrt(sum (x - mean)**2 / (n - 1)); NaN of one.
        low: end of the 95% interval of the mean, mean - t s / sqrt(n), with Student's t of n - 1
            degrees of freedom; NaN of one.
        high: its other end.
    """

    mean: float
    std: float
    low: float
    high: float


def spread_over_seeds(result: Result) -> Spread:
    """Computes mean, spread and interval of the scores of a trial's seeds.

    Args:
        result: of the trial; seeds without a score do not count.
    """
    scores = np.array([x for x in result.scores if x is not None], float)
    n = len(scores)
    if n < 2:
        return Spread(float(scores.mean()) if n else math.nan, math.nan, math.nan, math.nan)
    mean, std = float(scores.mean()), float(scores.std(ddof=1))
    half = float(scipy.stats.t.ppf(0.975, n - 1)) * std / math.sqrt(n)
    return Spread(mean, std, mean - half, mean + half)
