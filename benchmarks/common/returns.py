"""Returns of the agents that a benchmark trains, two numbers of each, and how far two sets differ.

The mean return of a seed is that over its run: the mean over all updates of that of the episodes
that ended in each. Its final return is that of the episodes that ended in the last tenth of the
updates. Actions are sampled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from purejaxppo import FitResult, HostEnvironment, PPOConfig, fit, make_env
from purejaxppo.report.aggregate import bootstrap_interval, iqm
from purejaxppo.run_folder.rows import final_returns
from purejaxppo.sweeps.scores import mean_returns

KINDS = ("mean_returns", "final_returns")


def shortened(config: PPOConfig, total_timesteps: int | None) -> PPOConfig:
    """Returns a configuration for other steps, of one update at least; None: as it is."""
    if total_timesteps is None:
        return config
    return config.replace(total_timesteps=max(total_timesteps, config.batch_size))


def runs_of(config: PPOConfig, seeds: int, seed: int = 0, **options: Any) -> list[FitResult]:
    """Trains agents: in one program, or on the host one after the other.

    Args:
        config: of each.
        seeds: how many.
        seed: that their keys are split from; on the host, of the first agent, counted up.
        **options: of `fit`.
    """
    hosted = isinstance(options.get("env") or make_env(config.env)[0], HostEnvironment)
    keys = [(1, seed + i) for i in range(seeds)] if hosted else [(seeds, seed)]
    return [fit(config, seeds=n, seed=key, **options) for n, key in keys]


def returns_of(config: PPOConfig, seeds: int, seed: int = 0, **parts: Any) -> dict[str, Any]:
    """Trains agents, see `runs_of`.

    Returns:
        `mean_returns` and `final_returns`, a list of one number for each seed, and the seconds.
    """
    runs = runs_of(config, seeds, seed, **parts)
    return {
        "mean_returns": np.concatenate([mean_returns(r.metrics) for r in runs]).tolist(),
        "final_returns": np.concatenate([final_returns(r.metrics) for r in runs]).tolist(),
        "run_seconds": sum(r.run_seconds for r in runs),
    }


def spread(values: list[float]) -> dict[str, Any]:
    """Returns mean, deviation, every value, and the interquartile mean with its 95% interval."""
    low, high = bootstrap_interval(np.array(values))
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        "iqm": float(iqm(np.array(values))),
        "iqm_95": [float(low), float(high)],
        "values": values,
    }


def over(returns: list[float], plain: list[float]) -> list[float] | None:
    """Returns the 95% interval of the difference of two means (Welch's t); None if it has none."""
    both = [*returns, *plain]
    if np.std(both) < 1e-6 * np.abs(np.mean(both)):  # a return that all reach, such as 500
        return None
    interval = stats.ttest_ind(returns, plain, equal_var=False).confidence_interval()
    return [float(interval.low), float(interval.high)]


def holm(chances: list[float]) -> list[float]:
    """Adjusts the p-values of several tests, so that their least is one of all together (Holm)."""
    order = np.argsort(chances)
    factors = np.arange(len(chances), 0, -1)
    adjusted = np.minimum(1.0, np.maximum.accumulate(factors * np.array(chances)[order]))
    found = np.empty(len(chances))
    found[order] = adjusted
    return found.tolist()


def chance_of(returns: list[float], plain: list[float]) -> float:
    """Returns the p-value of the difference of two means (Welch's t)."""
    test: Any = stats.ttest_ind(returns, plain, equal_var=False)
    return float(test.pvalue)


def compared(returns: dict[str, Any], plain: dict[str, Any] | None) -> dict[str, Any]:
    """Returns what there is to report of agents, beside that of others.

    Args:
        returns: of `returns_of`.
        plain: of this function, of the others; None: there are none.
    """
    found: dict[str, Any] = {"run_seconds": returns["run_seconds"]}
    for kind in KINDS:
        found[kind] = spread(returns[kind])
        if plain is not None:
            found[kind]["over_plain_95"] = over(returns[kind], plain[kind]["values"])
    return found
