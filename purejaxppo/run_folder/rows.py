"""What is logged: a row for each update or evaluation, and each seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from purejaxppo.config.schema import PPOConfig
from purejaxppo.types import Metrics, Row

BY_NAME = ("extra", "info_sum")
"""Metrics of which a run may have some, by names of its own."""

SCALARS = tuple(f.name for f in dataclasses.fields(Metrics) if f.name not in BY_NAME)
"""Columns of every run; those of `Metrics.extra` stand behind them."""

DERIVED = ("step", "seed", "episode_return", "episode_length")
"""Columns that are computed from others."""


def info_columns(names: Iterable[str]) -> dict[str, str]:
    """Returns the columns of `info_metrics`, by name of the number.

    Args:
        names: of the numbers.
    """
    return {name: f"info_{name}" for name in names}


def metrics_rows(metrics: Metrics, first: int, config: PPOConfig) -> list[dict[str, Any]]:
    """Makes a row for each update and seed.

    Args:
        metrics: every field [seeds, updates], NumPy.
        first: updates done before them.
        config: gives the steps of an update.

    Returns:
        By update, and within an update by seed: `step`, `seed`, every metric, those of a custom
        objective included, and the mean return, length and infos of the episodes that ended (NaN
        where none did).
    """
    columns = {name: np.asarray(getattr(metrics, name)) for name in SCALARS}
    columns |= {name: np.asarray(x) for name, x in metrics.extra.items()}
    count = columns["episodes"]
    seeds, updates = count.shape

    # what identifies a row comes first
    steps = (first + 1 + np.arange(updates)) * config.batch_size
    place = {"step": np.tile(steps, (seeds, 1)), "seed": np.tile(np.arange(seeds), (updates, 1)).T}

    # sums over episodes are what the update gives; means are what people read
    sums = {f"episode_{name}": columns[f"{name}_sum"] for name in ("return", "length")}
    sums |= {info: metrics.info_sum[name] for name, info in info_columns(metrics.info_sum).items()}
    for name, total in sums.items():
        mean = np.asarray(total, np.float64) / np.maximum(count, 1)
        columns[name] = np.where(count, mean, np.nan)
    columns = place | columns

    # whole columns become Python numbers at once: one by one costs ten times as much
    values = (column.T.ravel().tolist() for column in columns.values())
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]


def metrics_from_rows(rows: Sequence[Row], seeds: int, info: Sequence[str] = ()) -> Metrics:
    """Reads metrics back from the rows of whole updates; what is left over is left out.

    Args:
        rows: as `metrics_rows` wrote them, None for what was not finite.
        seeds: agents that were trained side by side.
        info: the run's `info_metrics`; other columns that not every run has are of its objective.

    Returns:
        Every field [seeds, updates], NumPy: int32 where all numbers are whole, else float32; in 64
        bits where those are too few.

    Raises:
        KeyError: a row lacks a metric.
    """
    # a run that was killed may have logged its last update for some of the seeds only
    whole = rows[: len(rows) // seeds * seeds]
    known = {*SCALARS, *DERIVED, *info_columns(info).values()}
    custom = [name for name in (rows[0] if rows else ()) if name not in known]

    def column(name: str) -> np.ndarray:
        values = [row[name] for row in whole]
        integers = all(isinstance(x, int) for x in values)
        return np.array(values, np.int64 if integers else np.float64).reshape(-1, seeds).T

    fields: dict[str, Any] = {name: _narrowed(column(name)) for name in SCALARS}
    fields["extra"] = {name: _narrowed(column(name)) for name in custom}

    # rows have the means, whose digits are enough to give the sums back to the bit
    count = np.asarray(fields["episodes"], np.float64)
    means = {name: column(mean) for name, mean in info_columns(info).items()}
    fields["info_sum"] = {
        name: _narrowed(np.where(count > 0, mean * count, 0.0)) for name, mean in means.items()
    }
    return Metrics(**fields)


def _narrowed(wide: np.ndarray) -> np.ndarray:
    """Returns a column in 32 bits, if those are enough."""
    whole = wide.dtype == np.int64
    most = np.iinfo(np.int32).max if whole else np.finfo(np.float32).max
    enough = (np.abs(np.nan_to_num(wide)) <= most).all()
    return wide.astype(np.int32 if whole else np.float32) if enough else wide


def evaluation_rows(evaluation: Any, step: int | None = None) -> list[dict[str, Any]]:
    """Makes a row for each seed.

    Args:
        evaluation: an `Evaluation`, whose fields are [seeds, episodes].
        step: environment steps of each seed so far; None: the rows do not say.

    Returns:
        By seed: `step`, `seed`, mean and standard deviation of the returns, mean length, the number
        of episodes, and of those that were cut off.
    """
    returns, lengths = np.asarray(evaluation.returns, np.float64), np.asarray(evaluation.lengths)
    at = {} if step is None else {"step": step}
    return [
        {
            **at,
            "seed": seed,
            "return_mean": float(returns[seed].mean()),
            "return_std": float(returns[seed].std()),
            "length_mean": float(lengths[seed].mean()),
            "episodes": len(returns[seed]),
            "unfinished": int((~np.asarray(evaluation.ended)[seed]).sum()),
        }
        for seed in range(len(returns))
    ]


def final_returns(metrics: Metrics) -> np.ndarray:
    """Returns the mean return of the episodes that ended in the last tenth of a run, per seed.

    Args:
        metrics: every field [..., updates], of the updates that were done: a tenth of them, at
            least one, counts, also of a run that was stopped on its way.

    Returns:
        [...] float64, as many as there are agents, NaN where no episode ended there.

    Raises:
        IndexError: the metrics have no axis of updates.
    """
    last = max(1, np.shape(metrics.episodes)[-1] // 10)
    episodes = np.asarray(metrics.episodes)[..., -last:].sum(-1)
    returns = np.asarray(metrics.return_sum, np.float64)[..., -last:].sum(-1)
    return np.where(episodes > 0, returns / np.maximum(episodes, 1), np.nan)


def numeric_problems(metrics: Metrics) -> list[str]:
    """Describes what went wrong in the numbers of a run, a line for each kind.

    Args:
        metrics: every field [seeds, updates], NumPy.

    Returns:
        Gradient steps that were left out, and action masks that allowed nothing, by seed.
    """
    taken, skipped, empty = (
        np.asarray(column).sum(1)
        for column in (metrics.gradient_steps, metrics.skipped_steps, metrics.empty_masks)
    )
    shares = [
        f"{skipped[seed]:,} of {skipped[seed] + taken[seed]:,} of seed {seed}"
        for seed in np.flatnonzero(skipped)
    ]
    counts = [f"{empty[seed]:,} of seed {seed}" for seed in np.flatnonzero(empty)]
    lines = []
    if shares:
        lines.append(
            "gradient steps were left out, as a loss, gradient or parameter was not finite: "
            f"{_shortened(shares)}; see skipped_steps in the metrics"
        )
    if counts:
        lines.append(
            f"actions were drawn although the mask allowed none: {_shortened(counts)}; see "
            "empty_masks in the metrics"
        )
    return lines


def _shortened(parts: Sequence[str], most: int = 4) -> str:
    more = f" and {len(parts) - most} more seeds" if len(parts) > most else ""
    return ", ".join(parts[:most]) + more
