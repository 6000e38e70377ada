"""Agents of a sweep that train side by side: their settings, programs and scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from purejaxppo.components import Components
from purejaxppo.errors import ConfigError
from purejaxppo.parallel import SEEDS
from purejaxppo.run_folder.rows import final_returns
from purejaxppo.runs.compiled import Programs, compile_run
from purejaxppo.runs.plan import plan_of
from purejaxppo.runs.vary import Own, own_of
from purejaxppo.sharding import spread_over
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.scores import mean_returns
from purejaxppo.sweeps.space import Space
from purejaxppo.sweeps.trials import Trial
from purejaxppo.sweeps.widths import devices_for
from purejaxppo.types import Array, LearnerState, Metrics, PyTree

RETURNS = ("final_return", "mean_return")
"""What agents are known by while they train."""


def check_schedulable(components: Components, space: Space, options: SweepOptions) -> None:
    """Checks that a scheduler can train a space: within one program, scored by its returns.

    Args:
        components: what is trained, and how.
        space: what is varied.
        options: of the sweep.

    Raises:
        ConfigError: a dimension needs a program of its own for each value, a score is known at the
            end alone, or environments run on the host.
    """
    if components.hosted:
        raise ConfigError(
            f"scheduler={options.scheduler!r} trains agents side by side, and "
            f"{components.config.env} runs on the host for one at a time: use scheduler='none'"
        )
    static = [d.name for d in space.dimensions if not (d.traced and all(map(_number, d.choices)))]
    if static:
        raise ConfigError(
            f"scheduler={options.scheduler!r} trains one program, in which {', '.join(static)} "
            "cannot vary: leave it out of the space, or use scheduler='none'"
        )
    for name in options.score:
        if name not in RETURNS:
            raise ConfigError(
                f"scheduler={options.scheduler!r} ranks agents while they train, and "
                f"score={name!r} is measured behind that: use score='final_return'"
            )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def columns_of(
    trials: Sequence[Trial], names: Sequence[str], seeds: int = 1
) -> dict[str, np.ndarray]:
    """Returns settings as columns, each as often as there are seeds of it.

    Args:
        trials: K of them.
        names: of what is varied. One that has no effect in a trial is not in its setting, and has
            the value of its configuration.
        seeds: agents of each, one behind the other.

    Returns:
        [K * seeds] float32, by name.
    """

    def value(trial: Trial, name: str) -> float:
        if name in trial.setting:
            return trial.setting[name]
        return getattr(trial.config, name) or 0.0  # None would be another program

    return {
        name: np.repeat(np.array([value(t, name) for t in trials], np.float32), seeds)
        for name in names
    }


def compile_agents(
    components: Components,
    values: Mapping[str, Any],
    options: SweepOptions,
    announce: Callable[[str], None],
    begins: bool = True,
) -> Programs:
    """Compiles the programs of agents that train side by side, in turns where memory is short.

    Args:
        components: what is trained, and how.
        values: [S], by name.
        options: of the sweep, whose devices are shared out among them.
        announce: called with the name of each phase as it begins.
        begins: agents are to begin with them, rather than to go on.

    Returns:
        The programs, which are called with the agents' own values.

    Raises:
        ConfigError: see `plan_of`.
    """
    agents = len(next(iter(values.values())))
    plan = plan_of(components, agents, devices_for(agents, options.devices))
    spread, own = spread_over(components, plan.mesh, SEEDS), own_of(values, components.env_params)
    hyper = components.hyperparams()
    return compile_run(
        spread, agents, components.config, hyper, announce, plan.at_once, own, begins
    )


def advance(
    programs: Programs, state: LearnerState, own: Own, updates: int
) -> tuple[LearnerState, Metrics]:
    """Trains agents for so many updates.

    Args:
        programs: of the agents.
        state: where they are; donated.
        own: what each has of its own.
        updates: how many.

    Returns:
        Where they are then, and every metric, [S, updates] of NumPy.
    """
    own, parts = programs.place(own), []
    while updates > 0:
        length = min(updates, programs.most)
        state, metrics = programs.run_chunk(state, length, own)
        parts.append(jax.tree.map(lambda x: np.array(np.asarray(x)[:, :length]), metrics))  # noqa: B023
        updates -= length
    return state, joined(parts)


def joined(parts: Sequence[Metrics]) -> Metrics:
    """Joins metrics of updates that follow one another.

    Args:
        parts: every field [S, some updates], NumPy.
    """
    return jax.tree.map(lambda *xs: np.concatenate(xs, axis=1), *parts)


def rows_of(tree: PyTree, rows: Any) -> PyTree:
    """Takes some rows out of arrays with a leading axis.

    Args:
        tree: [S, ...].
        rows: which, [K].

    Returns:
        [K, ...].
    """
    return jax.tree.map(lambda x: x[rows], tree)


def returns_in(metrics: Metrics) -> dict[str, np.ndarray]:
    """Returns what agents are known by while they train.

    Args:
        metrics: every field [S, updates so far], NumPy.

    Returns:
        [S] float64 by name (see `Measure`), NaN where no episode ended.
    """
    return {"final_return": final_returns(metrics), "mean_return": mean_returns(metrics)}


def latest_returns(metrics: Metrics) -> dict[str, np.ndarray]:
    """Returns what agents are known by on their way: no less where their episodes are long.

    Args:
        metrics: every field [S, updates so far], NumPy.

    Returns:
        As `returns_in`; but where no episode ended in the last tenth of the updates, final_return
        is that of the last update in which one did. NaN where none did at all.
    """
    found, count = returns_in(metrics), np.asarray(metrics.episodes)
    last = count.shape[1] - 1 - np.argmax(count[:, ::-1] > 0, axis=1)
    ended, total = (x[np.arange(len(count)), last] for x in (count, metrics.return_sum))
    recent = np.where(ended > 0, total / np.maximum(ended, 1).astype(np.float64), np.nan)
    final = found["final_return"]
    return found | {"final_return": np.where(np.isnan(final), recent, final)}


def place_state(programs: Programs, state: PyTree) -> LearnerState:
    """Puts the state of agents where their programs have it.

    Args:
        programs: of the agents.
        state: of so many agents, on the host or on other devices.
    """
    return programs.place(state, programs.specs)


def keys_of(options: SweepOptions) -> Array:
    """Returns the random keys of the seeds of a setting, the same in every setting.

    Args:
        options: of the sweep.
    """
    return jax.random.split(jax.random.key(options.seed), options.seeds)
