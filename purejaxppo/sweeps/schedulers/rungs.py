r"""Rungs: after how many steps trials are compared, which of them go on, and what is kept of them.

Rung k stands at $r \eta^k$ steps, with $r$ = min_steps and $\eta$ = factor, rounded up to whole
updates; the last one is the end of the training. At a rung a trial has the score of its own updates
so far, final_return or mean_return, see `Measure`. Few updates may be shorter than an episode of a
good agent:
where none ended in the last tenth, those of the last update in which one did count instead. Where
no trial has ended one, there is nothing to choose by, and all go on.

Reference: arXiv:1502.07943, algorithm 1; arXiv:1810.05934, algorithms 1 and 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from purejaxppo.components import Components
from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.run_folder import checkpoint
from purejaxppo.runs.compiled import Programs
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.samplers import Source
from purejaxppo.sweeps.schedulers.crew import (
    columns_of,
    compile_agents,
    latest_returns,
    returns_in,
    rows_of,
)
from purejaxppo.sweeps.schedulers.written import write_finished
from purejaxppo.sweeps.scores import failed as failed_trial
from purejaxppo.sweeps.scores import scored
from purejaxppo.sweeps.study import Study
from purejaxppo.sweeps.trials import Result, Status, Trial
from purejaxppo.types import Array, LearnerState, Metrics

RUNGS = "rungs.npz"
"""File of a study: the agents that go on, with all that is known of them."""


def rungs_of(config: PPOConfig, options: SweepOptions) -> tuple[int, ...]:
    """Finds after how many updates trials are compared.

    Args:
        config: what is trained.
        options: `min_steps` and `factor`.

    Returns:
        Updates at each rung, the last of them all updates.

    Raises:
        ConfigError: the first rung stands behind the end.
    """
    steps, factor = options.min_steps, options.factor
    if steps is not None and steps >= config.timesteps:
        raise ConfigError(
            f"min_steps={steps} stops no trial before its end, {config.timesteps} steps: use "
            f"{max(1, config.timesteps // factor**2)}"
        )
    steps = config.total_timesteps / factor**2 if steps is None else steps
    found = set()
    while steps < config.timesteps:
        found.add(-int(-steps // config.batch_size))
        steps *= factor
    return (*sorted(n for n in found if n < config.num_updates), config.num_updates)


def best_of(scores: ArrayLike, numbers: Sequence[int], count: int) -> list[int]:
    """Finds the best trials; all of them where not one has a score.

    Args:
        scores: larger is better; NaN, of trials that have ended no episode, is the worst.
        numbers: of the trials: of equal ones the lower is better.
        count: how many to find.

    Returns:
        Where they stand, in the order in which they are given.
    """
    unknown = np.isnan(scores)
    if unknown.all():
        return [*range(len(numbers))]
    known = np.where(unknown, -np.inf, scores)
    ranked = sorted(range(len(known)), key=lambda i: (-known[i], numbers[i]))
    return sorted(ranked[:count])


def share_of(count: int, factor: int) -> int:
    """Returns how many of so many trials go on: one of `factor`, and one at least.

    Args:
        count: of the trials.
        factor: of the sweep.
    """
    return max(1, count // factor)


def agents_of(places: Sequence[int], seeds: int) -> np.ndarray:
    """Returns the agents of some trials, whose seeds stand one behind the other.

    Args:
        places: of the trials.
        seeds: of each.
    """
    return (np.asarray(places, int)[:, None] * seeds + np.arange(seeds)).ravel()


def scores_of(metrics: Metrics, options: SweepOptions) -> np.ndarray:
    """Scores settings that are in training.

    Args:
        metrics: of their agents, every field [K * seeds, updates so far], NumPy.
        options: of the sweep.

    Returns:
        [K] float64, the mean over the seeds; NaN where one has ended no episode.
    """
    return latest_returns(metrics)[options.score[0]].reshape(-1, options.seeds).mean(1)


take = jax.jit(rows_of)
"""Takes agents out of the state of many, as one program."""


# -- results ---------------------------------------------------------------------------------------


class Schedule(NamedTuple):
    """What a scheduler of rungs works with.

    Attributes:
        source: where trials come from.
        components: what is trained, and how.
        options: of the sweep.
        study: where results go, and what it was told before.
        announce: called with the name of each phase as it begins.
        stop: numbers of the signals that were heard.
        rungs: updates at each.
        names: of what is varied.
        programs: that are compiled, by number of agents, and whether they begin with them.
    """

    source: Source
    components: Components
    options: SweepOptions
    study: Study
    announce: Callable[[str], None]
    stop: Sequence[int]
    rungs: tuple[int, ...]
    names: tuple[str, ...]
    programs: dict[tuple[int, bool], Programs]

    def ask(self, count: int) -> tuple[list[Trial], list[Result]]:
        """Asks for trials, and gives back those that cannot be trained as failed.

        Args:
            count: how many at most.

        Returns:
            Trials, fewer where none are left; and the results of others.
        """
        trials: list[Trial] = []
        failed: list[Result] = []
        while len(trials) < count:
            asked = self.source.ask(count - len(trials))
            if not asked:
                break
            trials += [t for t in asked if t.why is None]
            failed += [
                failed_trial(t, t.why) for t in asked if t.why is not None
            ]  # fmt: skip
        return trials, failed

    def compile(self, values: Mapping[str, Any], begins: bool = True) -> Programs:
        """Compiles the programs of agents, once for each number of them.

        Args:
            values: settings of the agents, [S] by name.
            begins: the agents are to begin with them, rather than to go on.
        """
        key = len(next(iter(values.values()))), begins
        if key not in self.programs:
            self.programs[key] = compile_agents(
                self.components, values, self.options, self.announce, begins
            )
        return self.programs[key]

    def result(
        self, trial: Trial, status: Status, history: Metrics, seconds: float, **known: Any
    ) -> Result:
        """Makes the result of a trial.

        Args:
            trial: that has ended.
            status: how.
            history: metrics of its agents, every field [seeds, updates], NumPy.
            seconds: that it took.
            **known: other fields of `Result`.
        """
        steps = history.episodes.shape[1] * self.components.config.batch_size
        values = returns_in(history) if status == "done" else latest_returns(history)
        return scored(
            trial, values, self.options.score, status=status, steps=steps, seconds=seconds, **known
        )

    def finish(
        self,
        trials: Sequence[Trial],
        state: LearnerState,
        history: Metrics,
        seconds: Sequence[float],
    ) -> Iterator[Result]:
        """Writes the run of trials that have come to the end, and yields their results.

        Args:
            trials: K of them.
            state: of their agents, [K * seeds].
            history: every field [K * seeds, U], NumPy.
            seconds: that each of them took, [K].
        """
        if all(t.number in self.study.results for t in trials):
            return
        name, seeds = f"runs/{trials[0].number:04d}", self.options.seeds
        run_dir = self.study.run_dir(name)
        vary = {n: x.tolist() for n, x in columns_of(trials, self.names).items()}
        write_finished(self.components, state, history, self.options, run_dir, vary, sum(seconds))
        for i, trial in enumerate(trials):
            agents = agents_of([i], seeds)
            yield self.result(
                trial, "done", rows_of(history, agents), seconds[i],
                run=None if run_dir is None else name, agents=agents.tolist(),
            )  # fmt: skip


# -- going on --------------------------------------------------------------------------------------


def save(study: Study, state: LearnerState, history: Metrics, about: Mapping[str, Any]) -> None:
    """Writes down what goes on, if the study has a folder.

    Args:
        study: whose.
        state: of the agents.
        history: of the same.
        about: plain values beside them.
    """
    if study.folder is not None:
        tree = {"state": state, "history": history}
        checkpoint.save(study.folder / RUNGS, tree, about)


def saved(study: Study) -> dict[str, Any] | None:
    """Reads the plain values of what was written down.

    Args:
        study: whose.

    Returns:
        The values; None where nothing is to go on.

    Raises:
        ConfigError: the file is damaged.
    """
    if study.folder is None or not (study.folder / RUNGS).exists():
        return None
    return _load(study, {}, "about alone")[1]


def restore(study: Study, programs: Programs, agents: int, updates: int) -> Any:
    """Reads the agents that were written down.

    Args:
        study: whose.
        programs: of these agents, or of fewer.
        agents: how many they are.
        updates: that their history has place for.

    Returns:
        `{"state", "history"}`, on the host.

    Raises:
        ConfigError: the file is damaged, or holds other agents.
    """

    def shaped(x: Any, *lead: int) -> Any:
        return jax.ShapeDtypeStruct((*lead, *x.shape[len(lead) :]), x.dtype)

    template = {
        "state": jax.tree.map(lambda x: shaped(x, agents), programs.template),
        "history": jax.tree.map(lambda x: shaped(x, agents, updates), programs.metrics),
    }
    return _load(study, template)[0]


def _load(study: Study, template: Any, within: str = "") -> tuple[Any, dict[str, Any]]:
    """Reads the file, all of it or the plain values alone."""
    assert study.folder is not None
    path = study.folder / RUNGS
    try:
        return checkpoint.load(path, template, within)
    except (checkpoint.Damaged, OSError) as error:
        raise ConfigError(
            f"{str(path)!r} cannot be gone on with ({error}): delete it, and the trials that it "
            "holds begin anew"
        ) from error


def tiled(keys: Array, count: int) -> Array:
    """Returns the keys of a trial's seeds for so many trials.

    Args:
        keys: [seeds].
        count: of the trials.
    """
    return jnp.tile(keys, count)
