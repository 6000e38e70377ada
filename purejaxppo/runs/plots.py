"""Learning curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from purejaxppo.config import PPOConfig
from purejaxppo.ppo.records import Metrics


def binned_returns(metrics: Metrics, bins: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Mean episode return in up to `bins` equal stretches of a run.

    Args:
        metrics: every field [seeds, updates].
        bins: how many.

    Returns:
        The last update of each stretch (counted from 1), and returns [seeds, stretches]: NaN where
        a seed ended no episode.
    """
    updates = np.asarray(metrics.episodes).shape[1]
    ends = np.unique(np.linspace(0, updates, min(bins, updates) + 1).astype(int)[1:])

    def sums(x):
        return np.diff(np.cumsum(np.asarray(x, np.float64), axis=1)[:, ends - 1], prepend=0.0)

    episodes, returns = sums(metrics.episodes), sums(metrics.return_sum)
    return ends, np.where(episodes > 0, returns / np.maximum(episodes, 1), np.nan)


def plot_curve(path: Path, metrics: Metrics, config: PPOConfig) -> None:
    """Draws return against steps: the mean over seeds, and one standard deviation around it."""
    ends, returns = binned_returns(metrics)
    ended = np.isfinite(returns).any(axis=0)
    steps, returns = ends[ended] * config.batch_size, returns[:, ended]
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    mean, spread = np.nanmean(returns, axis=0), np.nanstd(returns, axis=0)
    axes.plot(steps, mean, color="C0", linewidth=2)
    axes.fill_between(steps, mean - spread, mean + spread, color="C0", alpha=0.2, linewidth=0)
    seeds = f"{returns.shape[0]} seed" + "s, mean ± std" * (returns.shape[0] > 1)
    axes.set(title=f"{config.env} ({seeds})", xlabel="environment steps", ylabel="episode return")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
