r"""Asynchronous successive halving (ASHA): places that are never idle while there are trials left.

So many places train side by side, each a trial, by one program. They are advanced together to the
next rung that any of them reaches. A trial that reaches a rung goes on if it is among the best
$\max(1, \lfloor n / \eta \rfloor)$ of the n trials that have reached it so far, itself included;
else it is stopped, and its place takes the next trial of the source.

Places advance in lockstep, so that nothing depends on how fast a machine is: of trials that reach a
rung together all count before one of them is judged. The first to arrive are so compared with one
another; one alone, or of fewer than $\eta$ the best, goes on. Who went on is not judged again when
better ones come later. Trials that have ended no episode come last, and equal scores go by number,
the lower first.

Reference: arXiv:1810.05934, algorithm 2, where a trial that is not promoted is stopped for good.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from purejaxppo.parallel import SEEDS, platform_of, shardings_of
from purejaxppo.runs.compiled import Programs, compiled
from purejaxppo.runs.vary import own_of
from purejaxppo.sweeps.schedulers.crew import (
    advance,
    columns_of,
    keys_of,
    place_state,
    rows_of,
)
from purejaxppo.sweeps.schedulers.rungs import (
    Schedule,
    agents_of,
    best_of,
    restore,
    save,
    saved,
    scores_of,
    share_of,
    take,
    tiled,
)
from purejaxppo.sweeps.space import trial_of
from purejaxppo.sweeps.trials import Result, Trial
from purejaxppo.tuning import compiled_for
from purejaxppo.types import Array, LearnerState, Metrics


def fill_places(schedule: Schedule) -> Iterator[Result]:
    """Trains trials in places, until none are left.

    Args:
        schedule: what they are trained by; `population` of its options is the number of places.

    Yields:
        Results, as trials end.
    """
    about, results = saved(schedule.study), schedule.study.results
    going = [] if about is None else [t for t in about["trials"] if t is not None]
    untold = [t for t in going if t[0] not in results]
    trials, failed = schedule.ask(len(untold))
    yield from failed
    if about is not None and going and sorted(map(plain, trials)) == sorted(untold):
        places = Places(schedule, _read(schedule, about), about)
    else:  # none are in training, or they were taken up elsewhere
        more, failed = schedule.ask(schedule.options.population - len(trials))
        yield from failed
        if not trials + more:
            return
        places = Places(schedule, [*trials, *more], about and {"records": about["records"]})
    while places.going and not schedule.stop:
        places.advance()
        yield from places.judge()
        yield from places.refill()


def plain(trial: Trial) -> list[Any]:
    """Returns number and setting of a trial, as JSON gives them back.

    Args:
        trial: any.
    """
    return [trial.number, dict(trial.setting)]


def _read(schedule: Schedule, about: dict[str, Any]) -> list[Trial | None]:
    """Returns the trials of places that were written down; None where a place was empty."""
    config = schedule.components.config
    return [None if t is None else trial_of(t[0], t[1], config) for t in about["trials"]]


class Places:
    """Places that train a trial each, side by side.

    Args:
        schedule: what they are trained by.
        trials: one for each place, None where it is empty.
        about: what was written down of these trials, or `records` alone; None: nothing was.
    """

    def __init__(
        self, schedule: Schedule, trials: list[Trial | None], about: dict[str, Any] | None = None
    ):
        self._schedule, self._seeds = schedule, schedule.options.seeds
        self._trials, about = trials, about or {}
        count, options = len(trials), schedule.options
        self._done = np.array(about.get("done", [0] * count))  # updates of each trial
        self._seconds = np.array(about.get("seconds", [0.0] * count))
        # who has reached each rung, with which score
        self._records = about.get("records", [[] for _ in schedule.rungs])

        # an empty place has the setting of another one, and is not looked at
        some = next(t for t in trials if t is not None)
        self._last = [t or some for t in trials]
        self._programs = schedule.compile(self._values())
        self._renew = compile_renewal(self._programs)
        agents = count * self._seeds
        self._keys = self._programs.place(tiled(keys_of(options), count))
        if "done" in about:
            tree = restore(schedule.study, self._programs, agents, schedule.rungs[-1])
            self._state = place_state(self._programs, tree["state"])
            self._history = jax.tree.map(np.array, tree["history"])  # to be written to
        else:
            self._state = self._programs.init(self._keys, self._programs.place(self._own()))
            self._history = jax.tree.map(
                lambda x: np.zeros((agents, schedule.rungs[-1], *x.shape[2:]), x.dtype),
                self._programs.metrics,
            )
        schedule.announce("training")

    @property
    def going(self) -> list[int]:
        """Returns the places that have a trial."""
        return [i for i, trial in enumerate(self._trials) if trial is not None]

    def advance(self) -> None:
        """Trains all to the next rung that any of them reaches."""
        going, rungs = self.going, np.array(self._schedule.rungs)
        updates = min(int(rungs[rungs > self._done[i]][0] - self._done[i]) for i in going)
        clock = time.perf_counter()
        self._state, metrics = advance(self._programs, self._state, self._own(), updates)
        seconds = time.perf_counter() - clock
        for i in going:
            agents, start = agents_of([i], self._seeds), self._done[i]

            def write(kept: np.ndarray, new: np.ndarray) -> None:
                kept[agents, start : start + updates] = new[agents]  # noqa: B023

            jax.tree.map(write, self._history, metrics)
        self._done[going] += updates
        self._seconds[going] += seconds / len(going)

    def judge(self) -> Iterator[Result]:
        """Stops trials that are not among the best of their rung, and ends those at the last one.

        Yields:
            Their results, but for those that are told already.
        """
        schedule, arrived = self._schedule, []
        for i in self.going:
            if self._done[i] in schedule.rungs:
                rung, trial = schedule.rungs.index(int(self._done[i])), self._trials[i]
                assert trial is not None
                score = scores_of(self._logged(i), schedule.options)[0]
                self._records[rung].append([trial.number, float(score)])
                arrived.append((i, rung, trial))

        # all that have arrived count before one is judged
        finished = [i for i, rung, _ in arrived if rung == len(schedule.rungs) - 1]
        ended: list[Result] = []
        if finished:
            rows = agents_of(finished, self._seeds)
            ended += schedule.finish(
                [self._trials[i] for i in finished],  # pyright: ignore[reportArgumentType]
                take(self._state, rows), rows_of(self._history, rows),
                [float(self._seconds[i]) for i in finished],
            )  # fmt: skip
        for i, rung, trial in arrived:
            if i not in finished and not goes_on(
                self._records[rung], trial.number, schedule.options.factor
            ):
                seconds = float(self._seconds[i])
                ended.append(schedule.result(trial, "stopped", self._logged(i), seconds))
        numbers = {result.number for result in ended}
        self._trials = [
            None if t is not None and (t.number in numbers or i in finished) else t
            for i, t in enumerate(self._trials)
        ]
        yield from (r for r in ended if r.number not in schedule.study.results)

    def refill(self) -> Iterator[Result]:
        """Gives empty places the next trials, and writes down how all of them stand.

        Yields:
            Results of trials that cannot be trained.
        """
        empty = [i for i, trial in enumerate(self._trials) if trial is None]
        trials, failed = self._schedule.ask(len(empty))
        yield from failed
        fresh = np.zeros(len(self._trials), bool)
        for i, trial in zip(empty, trials, strict=False):
            self._trials[i], self._last[i], fresh[i] = trial, trial, True
        self._done[fresh], self._seconds[fresh] = 0, 0.0
        if fresh.any():
            own = self._programs.place(self._own())
            begun = self._programs.init(self._keys, own)
            mask = self._programs.place(np.repeat(fresh, self._seeds))
            self._state = self._renew(self._state, begun, mask)
        about = {
            "trials": [None if t is None else plain(t) for t in self._trials],
            "done": self._done.tolist(),
            "seconds": self._seconds.tolist(),
            "records": self._records,
        }
        save(self._schedule.study, self._state, self._history, about)

    def _own(self) -> Any:
        """Returns what the agents have of their own."""
        return own_of(self._values(), self._schedule.components.env_params)

    def _values(self) -> dict[str, np.ndarray]:
        """Returns the settings of the agents by name, also of those in places that are empty."""
        return columns_of(self._last, self._schedule.names, self._seeds)

    def _logged(self, place: int) -> Metrics:
        """Returns the metrics of a trial so far, every field [seeds, updates]."""
        agents, updates = agents_of([place], self._seeds), int(self._done[place])
        return jax.tree.map(lambda x: x[agents, :updates], self._history)


def goes_on(record: list[list[Any]], number: int, factor: int) -> bool:
    """Says whether a trial goes on from a rung.

    Args:
        record: number and score of all that have reached it, this one included.
        number: of the trial.
        factor: of the sweep.
    """
    numbers, scores = [n for n, _ in record], [score for _, score in record]
    kept = best_of(scores, numbers, share_of(len(record), factor))
    return number in [numbers[i] for i in kept]


def compile_renewal(programs: Programs) -> Callable[[LearnerState, LearnerState, Array], Any]:
    """Compiles what puts new agents into the places of some.

    Args:
        programs: of the agents.

    Returns:
        `(state, begun, mask [S]) -> state`, which has `begun` where the mask is True. The state is
        donated.
    """

    def renew(state, begun, fresh):
        return jax.tree.map(lambda new, old: jax.vmap(jnp.where)(fresh, new, old), begun, state)

    here = shardings_of(programs.mesh, programs.specs)
    by_seed = NamedSharding(programs.mesh, P(SEEDS))
    mask = jax.ShapeDtypeStruct(programs.template.step.shape, bool)
    program = jax.jit(
        renew, donate_argnums=0, in_shardings=(here, here, by_seed), out_shardings=here
    )
    with compiled_for(platform_of(programs.mesh)):
        return compiled(program.lower(programs.template, programs.template, mask))
