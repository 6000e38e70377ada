"""What a trial has come to: its measures, and its score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from purejaxppo.run_folder.rows import final_returns
from purejaxppo.runs.fit import FitResult
from purejaxppo.sweeps.trials import Result, Status, Trial
from purejaxppo.types import Metrics

NOTHING = {
    "final_return": "no episode ended in the last tenth of its training, or a return is not finite",
    "mean_return": "no episode ended, or a return is not finite",
    "evaluation": "it was not evaluated, or the return is not finite",
    "steps_per_second": "its time is not known",
}
"""Why a trial has no score, by measure."""


def failed(trial: Trial, why: str) -> Result:
    """Returns the result of a trial that was not trained.

    Args:
        trial: which.
        why: in words.
    """
    return Result(trial.number, trial.setting, "failed", None, [], {}, 0, 0.0, why=why)


def mean_returns(metrics: Metrics) -> np.ndarray:
    """Returns the mean over a run of the mean return of the episodes that ended in each update.

    Args:
        metrics: every field [seeds, updates], NumPy.

    Returns:
        [seeds] float64; updates in which none ended are left out, NaN where none ended at all.
    """
    count = np.asarray(metrics.episodes)
    each = np.asarray(metrics.return_sum, np.float64) / np.maximum(count, 1)
    updates = (count > 0).sum(1)
    return np.where(updates > 0, (each * (count > 0)).sum(1) / np.maximum(updates, 1), np.nan)


def measured(result: FitResult, rate: float) -> dict[str, np.ndarray]:
    """Returns every measure of the agents of a run.

    Args:
        result: of the run.
        rate: training steps per second.

    Returns:
        [seeds] by name, NaN where there is no value.
    """
    evaluations = np.asarray(result.best.returns, np.float64)
    return {
        "final_return": final_returns(result.metrics),
        "mean_return": mean_returns(result.metrics),
        "evaluation": np.where(np.isfinite(evaluations), evaluations, np.nan),
        "steps_per_second": np.full(len(evaluations), rate),
    }


def scored(
    trial: Trial,
    values: Mapping[str, np.ndarray],
    score: Sequence[str],
    *,
    steps: int,
    seconds: float,
    run: str | None = None,
    agents: Sequence[int] = (),
    status: Status = "done",
) -> Result:
    """Returns the result of a trial that was trained.

    Args:
        trial: which.
        values: [seeds] of every measure, by name, NaN where there is none.
        score: names of the measures that the sweep asks for, the first of which is the score.
        steps: environment steps of each seed.
        seconds: that it took.
        run: folder of its run, below the study's.
        agents: which seeds of that run are its own.
        status: how it ended, unless it has no score.

    Returns:
        The result: failed where one of its seeds has no value of a measure that is asked for.
    """
    scores = [float(x) if np.isfinite(x) else None for x in values[score[0]]]
    means = {name: float(np.mean(x)) for name, x in values.items()}
    whole = {name: x if np.isfinite(x) else None for name, x in means.items()}
    lacking = [name for name in score if whole[name] is None]
    why = None
    if lacking:
        without = [str(i) for i, x in enumerate(values[lacking[0]]) if not np.isfinite(x)]
        who = f" of seed {', '.join(without)}" if len(values[lacking[0]]) > 1 else ""
        why, status = f"{NOTHING[lacking[0]]}{who}", "failed"
    return Result(
        trial.number, trial.setting, status, whole[score[0]] if why is None else None, scores,
        whole, steps, seconds, run, [*agents], why=why,
    )  # fmt: skip
