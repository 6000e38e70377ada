"""Runs of a sweep's schedulers, in folders such as `fit` writes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from purejaxppo.components import Components
from purejaxppo.run_folder.env_params import plain_params
from purejaxppo.run_folder.rows import metrics_rows, numeric_problems
from purejaxppo.runs.agents import Best
from purejaxppo.runs.identity import describe_custom
from purejaxppo.runs.options import FitOptions
from purejaxppo.runs.summary import summarize
from purejaxppo.runs.writer import CheckpointInfo, RunWriter
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.types import LearnerState, Metrics, PyTree


@contextlib.contextmanager
def written_run(
    components: Components,
    agents: int,
    options: SweepOptions,
    run_dir: Path | None,
    vary: Mapping[str, list[float]] | None = None,
) -> Iterator[RunWriter]:
    """Opens the folder of a run, or goes on with the one that is there.

    Args:
        components: what is trained, and how.
        agents: S.
        options: of the sweep.
        run_dir: where; None: nothing is written.
        vary: settings that agents have of their own, see `fit`; None: they change on the way.

    Yields:
        The writer, which is closed however it ends.

    Raises:
        ConfigError: the folder is in use, or another run's.
    """
    fit_options = FitOptions(
        seeds=agents, seed=options.seed, resume=True, keep_checkpoints=1,
        run_dir=None if run_dir is None else str(run_dir),
    )  # fmt: skip
    given = components.own_params
    kept = None if given is None else plain_params(given, components.default_params)
    about = {"scheduler": options.scheduler, "env": components.env_name}
    values = {"env_params": kept, "vary": vary}
    parts = describe_custom(components.custom)
    writer = RunWriter(components.config, fit_options, (), about, parts, values)
    try:
        yield writer
    finally:
        writer.close()
        writer.release()


def save(writer: RunWriter, state: LearnerState, updates: int, more: Mapping[str, PyTree]) -> None:
    """Writes a checkpoint of agents.

    Args:
        writer: of their run.
        state: the learners.
        updates: done so far.
        more: what to keep beside them, by name.
    """
    tree = {"state": state, "best": Best.unscored(state), **more}
    writer.save(tree, CheckpointInfo(updates, None, (FitOptions.eval_episodes, False)))


def write_results(
    writer: RunWriter,
    components: Components,
    state: LearnerState,
    metrics: Metrics,
    times: Mapping[str, Any],
    vary: Mapping[str, list[float]] | None = None,
) -> None:
    """Writes what agents have come to at their end.

    Args:
        writer: of their run.
        components: what was trained, and how.
        state: the learners.
        metrics: every field [S, updates], NumPy.
        times: `resumed_at`, `compile_seconds` and `run_seconds`.
        vary: settings that agents have of their own at the end, see `fit`.
    """
    for problem in numeric_problems(metrics):
        writer.problems.report(problem)
    known = {
        "env": components.env_name,
        "own": describe_custom(components.custom),
        "run_dir": None if writer.folder is None else str(writer.folder),
        "problems": writer.problems,
        "vary": vary,
    }
    best = Best.unscored(state)
    summary = summarize(components.config, state, metrics, best, known, times)
    writer.write_results(metrics, summary, times["resumed_at"])


def write_finished(
    components: Components,
    state: LearnerState,
    metrics: Metrics,
    options: SweepOptions,
    run_dir: Path | None,
    vary: Mapping[str, list[float]],
    seconds: float,
) -> None:
    """Writes the run of agents that have come to their end, as `fit(vary=...)` had written it.

    Args:
        components: what was trained, and how.
        state: the learners, [S].
        metrics: every field [S, U], NumPy.
        options: of the sweep.
        run_dir: where; None: nothing is written.
        vary: their settings.
        seconds: that they took.
    """
    agents, updates = metrics.episodes.shape
    if run_dir is None:
        return
    with written_run(components, agents, options, run_dir, vary) as writer:
        writer.open(0)
        writer.log_metrics(metrics_rows(metrics, 0, components.config))
        save(writer, state, updates, {})
        times = {"resumed_at": 0, "compile_seconds": 0.0, "run_seconds": max(seconds, 1e-9)}
        write_results(writer, components, state, metrics, times, vary)
