"""The runs of single trials, taken out of those of the programs that they were trained in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from purejaxppo.errors import ConfigError
from purejaxppo.report.results import Results, read_results
from purejaxppo.sweeps.read import StudyResults
from purejaxppo.sweeps.trials import Result


def runs_of(
    study: StudyResults, trials: Iterable[Result], named: bool = False
) -> tuple[list[Results], list[str]]:
    """Reads what the runs of a study say of some of its trials.

    Args:
        study: of which they are.
        trials: which, in their order.
        named: the labels have the name of the study too.

    Returns:
        The results of each trial as those of a run of its own; and, in words, which trials have
        none, and why.
    """
    found: list[Results] = []
    missing: list[str] = []
    read: dict[Path, Results | ConfigError] = {}
    for trial in trials:
        if trial.run is None or not trial.agents:
            missing.append(f"trial {trial.number} has kept no run")
            continue
        folder = study.folder / trial.run
        if folder not in read:
            try:
                read[folder] = read_results(folder)
            except ConfigError as error:
                read[folder] = error
        run = read[folder]
        if isinstance(run, ConfigError):
            missing.append(f"trial {trial.number}: {run}")
        elif max(trial.agents) >= run.seeds:
            missing.append(f"trial {trial.number}: {str(folder)!r} has {run.seeds} agents only")
        else:
            label = f"trial {trial.number}"
            found.append(agents_of(run, trial.agents, f"{study.name}, {label}" if named else label))
    return found, missing


def agents_of(run: Results, agents: Iterable[int], label: str) -> Results:
    """Returns the results of some agents of a run, as those of a run of their own.

    Args:
        run: results of all agents.
        agents: which, counted from 0.
        label: what they are called in pictures.
    """
    rows = np.array(list(agents))
    about: Any = {**run.about, "seeds": len(rows)}
    return run._replace(
        about=about,
        metrics=jax.tree.map(lambda x: x[rows], run.metrics),
        evaluations={name: x[rows] for name, x in run.evaluations.items()},
        summary=None,  # which is one of all agents
        label=label,
    )
