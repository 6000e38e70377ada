"""Trials by the shape of their program, within which what is traced differs and nothing else."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from purejaxppo.config.schema import PPOConfig
from purejaxppo.hyperparams import BOUNDS
from purejaxppo.sweeps.space import env_params_in
from purejaxppo.sweeps.trials import Trial

LENGTH = "total_timesteps"
"""An argument of the compiled program, but of all agents of a run alike."""


def shape_of(config: PPOConfig) -> Hashable:
    """Returns what two configurations have in common that one compiled program serves.

    Args:
        config: of a trial.
    """
    fields = config.to_dict()
    return tuple(
        (name, value)
        for name, value in fields.items()
        if (name not in BOUNDS or value is None) and name != LENGTH
    )


def by_shape(trials: Iterable[Trial]) -> list[list[Trial]]:
    """Groups trials that one run can train side by side.

    Args:
        trials: that can be trained.

    Returns:
        The groups, those of one shape behind each other; in each of them, and of the first trials
        of shapes, the order is that of `trials`.
    """
    shapes: dict[Hashable, dict[int, list[Trial]]] = {}
    for trial in trials:
        lengths = shapes.setdefault(shape_of(trial.config), {})
        lengths.setdefault(trial.config.total_timesteps, []).append(trial)
    return [group for lengths in shapes.values() for group in lengths.values()]


def varied_in(trials: Sequence[Trial]) -> dict[str, list[float]]:
    """Returns what trials of one group differ in, or could: all that is varied and traced.

    What has no effect in one of them, and is at its default there, may differ too.

    Args:
        trials: of one group.

    Returns:
        Values by name, as `fit(vary=...)` takes them; at least one name, so that programs of one
        trial and of many are of one kind.
    """
    config = trials[0].config
    names = {name for trial in trials for name in trial.setting if name in BOUNDS}
    names |= {name for name in BOUNDS if len({getattr(t.config, name) for t in trials}) > 1}
    names = {name for name in names if getattr(config, name) is not None} or {"learning_rate"}
    values: dict[str, list[Any]] = {
        name: [getattr(trial.config, name) for trial in trials] for name in sorted(names)
    }
    given = [env_params_in(trial.setting) for trial in trials]
    for name in given[0]:
        values[f"env_params.{name}"] = [params[name] for params in given]
    return values
