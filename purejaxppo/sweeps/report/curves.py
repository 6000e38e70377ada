"""The runs of single trials, taken out of those of the programs that they were trained in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from purejaxppo.errors import ConfigError
from purejaxppo.report.results import Results, read_results
from purejaxppo.sweeps.read import LINEAGE, StudyResults
from purejaxppo.sweeps.schedulers.evolution import along, lengths_of, line_of
from purejaxppo.sweeps.trials import Result
from purejaxppo.types import Metrics

Own = tuple[Metrics, Mapping[str, np.ndarray]]
"""Metrics and evaluations, every field [seeds, ...]."""


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
    read: dict[Path, Results] = {}
    for trial in trials:
        label = f"trial {trial.number}"
        if trial.run is None or not trial.agents:
            missing.append(f"{label} has kept no run")
            continue
        folder = study.folder / trial.run
        try:
            if folder not in read:
                read[folder] = read_results(folder)
            run = read[folder]
            if max(trial.agents) >= run.seeds:
                raise ConfigError(f"{str(folder)!r} has {run.seeds} agents only")
            own = _of_a_population if study.lineage else _of_agents
            metrics, evaluations = own(study, run, trial.agents)
        except ConfigError as error:
            missing.append(f"{label}: {error}")
            continue
        found.append(
            run._replace(
                about={**run.about, "seeds": len(trial.agents)},
                metrics=metrics, evaluations=evaluations,
                label=f"{study.name}, {label}" if named else label,
                summary=None,  # which is one of all agents
            )
        )  # fmt: skip
    return found, missing


def _of_agents(study: StudyResults, run: Results, agents: Sequence[int]) -> Own:
    """Returns what some agents of a run have done."""
    rows = np.array(agents)
    return jax.tree.map(lambda x: x[rows], (run.metrics, run.evaluations))


def _of_a_population(study: StudyResults, run: Results, agents: Sequence[int]) -> Own:
    """Returns what an agent has done, and before it took over those whom it was copied from.

    Raises:
        ConfigError: the study does not say from whom.
    """
    (agent,) = agents
    parents = [x["agent"] if x["parent"] is None else x["parent"] for x in study.lineage]
    lengths = lengths_of(study.config, study.about["options"]["evolve_every"])
    if len(parents) != len(lengths) * run.seeds:
        path = study.folder / LINEAGE
        raise ConfigError(f"{str(path)!r} does not say of all generations who took over from whom")
    line = line_of(np.reshape(parents, (len(lengths), run.seeds)), agent, lengths)
    return along(line, run.metrics), _of_agents(study, run, agents)[1]  # it is not evaluated
