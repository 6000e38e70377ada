"""Returns over seeds: interquartile means, bootstrap intervals, steps to reach a return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from purejaxppo.run_folder.rows import info_columns
from purejaxppo.types import Array, Metrics


def episode_sums(metrics: Metrics) -> dict[str, Array]:
    """Returns what is averaged over episodes, by its name in the rows: sums over those that ended.

    Args:
        metrics: any.
    """
    sums = {"episode_return": metrics.return_sum, "episode_length": metrics.length_sum}
    infos = info_columns(metrics.info_sum)
    return sums | {column: metrics.info_sum[name] for name, column in infos.items()}


def binned_returns(
    metrics: Metrics, bins: int = 100, name: str = "episode_return"
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean episode return in up to `bins` equal stretches of a run, or another mean.

    Args:
        metrics: every field [seeds, updates].
        bins: how many.
        name: what is averaged: a metric, over updates; or return or length, over episodes.

    Returns:
        The last update of each stretch (counted from 1), and means [seeds, stretches]: NaN where
        a seed ended no episode. Updates whose number is not finite are left out.
    """
    # of what each update gives: how much, and how many
    by_episode, extra = episode_sums(metrics), metrics.extra
    if name in by_episode:
        total, counts = np.asarray(by_episode[name]), metrics.episodes
    else:
        total = np.asarray(extra[name] if name in extra else getattr(metrics, name))
        counts = np.ones(total.shape, int)

    # stretches are as equal as whole updates allow
    finite = np.isfinite(total)
    updates = finite.shape[1]
    ends = np.unique(np.linspace(0, updates, min(bins, updates) + 1).astype(int)[1:])
    starts = np.append(0, ends)[:-1]

    def sums(x: np.ndarray | Array) -> np.ndarray:
        return np.add.reduceat(np.where(finite, x, 0).astype(np.float64), starts, axis=1)

    # episodes weigh alike, whatever update they ended in
    count, summed = sums(counts), sums(total)
    return ends, np.where(count > 0, summed / np.maximum(count, 1), np.nan)


def carried_forward(returns: np.ndarray) -> np.ndarray:
    """Replaces each NaN by the last number before it, which is what was known at the time.

    Interpolating instead would let a seed reach a return before it has.

    Args:
        returns: [seeds, stretches].

    Returns:
        The same shape, NaN only before the first number of a seed.
    """
    known = np.where(np.isnan(returns), -1, np.arange(returns.shape[1]))
    last = np.maximum.accumulate(known, axis=1)
    return np.where(last < 0, np.nan, np.take_along_axis(returns, np.maximum(last, 0), axis=1))


def iqm(returns: np.ndarray) -> np.ndarray:
    """Returns the interquartile mean over seeds: without the lowest and the highest quarter.

    Args:
        returns: [seeds, ...]; seeds that are NaN do not count.

    Returns:
        [...], NaN where no seed counts.
    """
    count = (~np.isnan(returns)).sum(axis=0)
    cut = count // 4
    rank = np.arange(len(returns)).reshape(-1, *[1] * (returns.ndim - 1))
    kept = (rank >= cut) & (rank < count - cut)
    # ranks are those of the sorted returns, NaN at the end
    total = np.where(kept, np.sort(returns, axis=0), 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count - 2 * cut, 1), np.nan)


def bootstrap_interval(
    returns: np.ndarray, confidence: float = 0.95, resamples: int = 1000
) -> tuple[np.ndarray, np.ndarray]:
    """Returns an interval of the interquartile mean, by the percentile bootstrap.

    Equal calls give equal bits.

    Seeds are drawn with replacement from this run alone, so runs that are compared are strata
    (arXiv:2108.13264, section 4.1).

    Args:
        returns: [seeds, ...]; a seed is drawn whole.
        confidence: probability mass between the ends.
        resamples: how many.

    Returns:
        Its lower and upper end, [...] each; NaN where no seed counts.
    """
    # seeds are drawn whole: returns of one seed at two steps belong together
    seeds = len(returns)
    draws = np.random.default_rng(0).integers(0, seeds, (resamples, seeds))
    means = np.stack([iqm(returns[draw]) for draw in draws])

    known = ~np.isnan(returns).all(axis=0)
    tail = 50 * (1 - confidence)
    ends = np.full((2, *returns.shape[1:]), np.nan)
    if known.any():
        # resamples in which nobody counts are left out
        ends[:, known] = np.nanpercentile(means[:, known], [tail, 100 - tail], axis=0)
    return ends[0], ends[1]


def steps_to_reach(steps: np.ndarray, returns: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Returns the steps after which each seed's return first was at a level or above.

    Args:
        steps: [stretches], at their ends.
        returns: [seeds, stretches], NaN where nothing is known.
        levels: [levels].

    Returns:
        [seeds, levels], infinite where a seed never was.
    """
    best = np.maximum.accumulate(np.where(np.isnan(returns), -np.inf, returns), axis=1)
    ends = np.append(steps, np.inf)
    return np.stack([ends[np.searchsorted(row, levels)] for row in best])


def share_has_reached(times: np.ndarray, share: float) -> np.ndarray:
    """Returns the steps after which so large a share of the seeds has reached a level.

    Args:
        times: [seeds, levels], infinite for never.
        share: 0.5 gives the median seed, those that never get there included.

    Returns:
        [levels].
    """
    return np.sort(times, axis=0)[int(np.ceil(share * len(times))) - 1]


class Curve(NamedTuple):
    """The returns of a run as it went on, or another metric.

    Attributes:
        steps: [stretches], of each agent, at their ends; or what stands for them on another axis.
        returns: [seeds, stretches], NaN before the first episode of a seed has ended.
        mean: [stretches], interquartile.
    """

    steps: np.ndarray
    returns: np.ndarray
    mean: np.ndarray


def learning_curves(
    runs: Sequence[tuple[Metrics, int]], bins: int = 100, name: str = "episode_return"
) -> list[Curve]:
    """Averages runs over stretches of about the same number of steps, `bins` in the longest run.

    Otherwise the finer curve would be the noisier one, and so the first to touch a return.

    Args:
        runs: metrics, every field [seeds, updates], and the steps of an update.
        bins: how many.
        name: what is averaged, see `binned_returns`.

    Returns:
        A curve for each.
    """
    steps = [metrics.episodes.shape[1] * batch_size for metrics, batch_size in runs]
    longest = max([1, *steps])
    curves = []
    for (metrics, batch_size), length in zip(runs, steps, strict=True):
        ends, returns = binned_returns(metrics, max(1, round(bins * length / longest)), name)
        returns = carried_forward(returns)
        curves.append(Curve(ends * batch_size, returns, iqm(returns)))
    return curves


def common_levels(curves: Sequence[Curve], shares: np.ndarray) -> np.ndarray:
    """Spreads returns between the lowest and the highest interquartile mean of all curves.

    Args:
        curves: of runs on one environment.
        shares: [levels], 0 for the lowest, 1 for the highest.

    Returns:
        [levels], each once; none if no episode ended.
    """
    means = np.concatenate([curve.mean for curve in curves])
    means = means[~np.isnan(means)]
    if not means.size:
        return np.empty(0)
    low, high = means.min(), means.max()
    # rounding must not put a level above the highest mean, which then nobody would reach
    return np.unique(np.minimum(low + shares * (high - low), high))
