"""What is drawn of runs: a metric, and what it is drawn against."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from purejaxppo.errors import ConfigError, did_you_mean
from purejaxppo.report.aggregate import Curve, episode_sums, iqm, learning_curves
from purejaxppo.report.axes import Axis
from purejaxppo.report.results import Results
from purejaxppo.run_folder.rows import SCALARS

RETURNS = ("episode_return", "eval_return_mean")
"""Metrics that a run is to make large, so that one may ask how soon it has."""

FEW = range(2, 5)
"""Counts of seeds whose interval is that from the lowest to the highest, whatever is asked for."""

CAUTION = "intervals of 2, 3 or 4 seeds hold the median in 50, 75 or 88% of cases, not in 95%"


class Drawn(NamedTuple):
    """What a picture shows.

    Attributes:
        metric: a column of the rows; those of evaluations begin with `eval_`.
        x: what it is drawn against.
    """

    metric: str = "episode_return"
    x: Axis = "steps"


LEARNING = Drawn()
"""A learning curve."""


def named_metric(metric: str, runs: Sequence[Results]) -> str:
    """Returns the name of a metric that is in the rows of one of the runs at least.

    Args:
        metric: a column; `evaluations` is their mean return.
        runs: one or more.

    Returns:
        The column.

    Raises:
        ConfigError: it is none, or of evaluations that were not made.
    """
    name = "eval_return_mean" if metric == "evaluations" else metric
    known = dict.fromkeys(name for run in runs for name in _columns(run))
    if name in known:
        return name
    if name.startswith("eval_") and not any(run.eval_steps.size for run in runs):
        raise ConfigError(
            f"metric={metric!r}: no run was evaluated: train with --eval-every, or use "
            "episode_return"
        )
    raise ConfigError(f"unknown metric {metric!r}: {did_you_mean(name, known)}")


def with_metric(
    runs: Sequence[Results], metric: str
) -> tuple[Sequence[Results], Sequence[Results]]:
    """Returns the runs whose rows have a metric, and those whose rows have not.

    Args:
        runs: one or more.
        metric: a column.
    """
    have = [run for run in runs if metric in _columns(run)]
    return have, [run for run in runs if metric not in _columns(run)]


def few_seeds(runs: Sequence[Results]) -> list[Results]:
    """Returns the runs with too few seeds for the interval that is drawn; one seed has none.

    Of n = 2, 3 or 4 seeds, the percentile bootstrap gives the interval from the lowest to the
    highest. It holds the middle of what they are drawn from unless all lie on one side of it: in
    1 - 2 / 2**n of all cases.

    Args:
        runs: one or more.
    """
    return [run for run in runs if run.seeds in FEW]


def curves_of(runs: Sequence[Results], drawn: Drawn = LEARNING) -> list[Curve]:
    """Averages what is drawn of runs, over stretches of about the same number of steps.

    Args:
        runs: one or more, whose rows have the metric.
        drawn: metric and axis.

    Returns:
        A curve for each: of evaluations, a point for each.

    Raises:
        ConfigError: a run does not know how long it took, and seconds are asked for.
    """
    if drawn.metric.startswith("eval_"):
        columns = [run.evaluations[drawn.metric.removeprefix("eval_")] for run in runs]
        curves = [Curve(r.eval_steps, x, iqm(x)) for r, x in zip(runs, columns, strict=True)]
    else:
        sources = [(run.metrics, run.config.batch_size) for run in runs]
        curves = learning_curves(sources, name=drawn.metric)
    return [
        curve._replace(steps=along(run, curve.steps, drawn.x))
        for run, curve in zip(runs, curves, strict=True)
    ]


def along(run: Results, steps: np.ndarray, x: Axis) -> np.ndarray:
    """Returns where steps of a run lie on an axis.

    Args:
        run: results.
        steps: of each agent.
        x: the axis. Rows have no times: seconds are those that the steps take at the speed that
            the summary gives, without compilation.

    Raises:
        ConfigError: the run has no summary yet, and so no speed.
    """
    size = run.config.batch_size
    if x == "updates":
        return steps / size
    if x == "episodes":
        ended = np.cumsum(np.asarray(run.metrics.episodes, np.float64).mean(axis=0))
        return np.interp(steps, size * np.arange(len(ended) + 1), np.append(0.0, ended))
    if x == "seconds":
        speed = run.summary["steps_per_second"] if run.summary else None
        if not speed:
            raise ConfigError(
                f"x='seconds': {os.fspath(run.folder)!r} does not say how fast it ran (its "
                "summary.json does, once it has ended): use steps, updates or episodes"
            )
        return steps * run.seeds / speed
    return steps


def _columns(run: Results) -> list[str]:
    """Returns the names of what can be drawn of a run."""
    evaluations = [f"eval_{name}" for name in run.evaluations] if run.eval_steps.size else []
    return [*episode_sums(run.metrics), *SCALARS, *run.metrics.extra, *evaluations]
