r"""Successive halving: of all trials that train side by side, the best part goes on from each rung.

Of n trials that reach a rung, the best $\max(1, \lfloor n / \eta \rfloor)$ go on; the others are
stopped. Their agents are gathered into a program of their number: nothing is trained again, and one
program is compiled for each rung, however many batches of trials there are. Trials that have ended
no episode come last (if none has ended one, all go on), and equal scores go by number, the lower
first.

Asynchronous halving, which fills the places of those that are stopped: `asha`.

Reference: arXiv:1502.07943, algorithm 1 (successive halving).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from purejaxppo.components import Components
from purejaxppo.runs.compiled import unheard
from purejaxppo.runs.vary import own_of
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.samplers import Source, asked_at_once
from purejaxppo.sweeps.schedulers.asha import fill_places
from purejaxppo.sweeps.schedulers.crew import (
    advance,
    check_schedulable,
    columns_of,
    joined,
    keys_of,
    place_state,
    rows_of,
)
from purejaxppo.sweeps.schedulers.rungs import (
    Schedule,
    agents_of,
    best_of,
    restore,
    rungs_of,
    save,
    saved,
    scores_of,
    share_of,
    take,
    tiled,
)
from purejaxppo.sweeps.space import Space
from purejaxppo.sweeps.study import Study
from purejaxppo.sweeps.trials import Result, Trial
from purejaxppo.sweeps.widths import width_that_fits


def planned_rungs(components: Components, space: Space, options: SweepOptions) -> tuple[int, ...]:
    """Finds the rungs of trials, see `rungs_of`.

    Args:
        components: what is trained, and how.
        space: what is varied.
        options: of the sweep.

    Raises:
        ConfigError: see `check_schedulable` and `rungs_of`.
    """
    check_schedulable(components, space, options)
    return rungs_of(components.config, options)


def train_halving(
    source: Source,
    components: Components,
    space: Space,
    options: SweepOptions,
    study: Study,
    announce: Callable[[str], None] = unheard,
    stop: Sequence[int] = (),
) -> Iterator[Result]:
    """Trains trials as far as they are among the best: by halving, or `asha`.

    Each trial has the random keys that it would have by itself: what is trained of it is what `fit`
    trains. A study that was interrupted goes on from the last rung: it is told the results that it
    was not told, and then asks for the trials that are in training.

    Args:
        source: where trials come from. It is told each result before the next one is asked for.
        components: what is trained, and how.
        space: what trials have of their own.
        options: of the sweep; `min_steps`, `factor`, `seeds`, `seed`, `score`, `batch` and
            `devices` of them, and for asha `population`.
        study: where runs and `rungs.npz` go, and what it was told before.
        announce: called with the name of each phase as it begins.
        stop: numbers of the signals that were heard; with one it ends at the next rung.

    Yields:
        Results, as trials end: "done" at their last update, or "stopped" at a rung.

    Raises:
        ConfigError: see `planned_rungs` and `plan_of`.
    """
    rungs = planned_rungs(components, space, options)
    names = tuple(space.names)
    schedule = Schedule(source, components, options, study, announce, stop, rungs, names, {})
    yield from fill_places(schedule) if options.scheduler == "asha" else _brackets(schedule)


def _brackets(schedule: Schedule) -> Iterator[Result]:
    """Trains batches of trials one after the other, the one that was interrupted first."""
    about, results = saved(schedule.study), schedule.study.results
    if about is not None:
        # what was decided and not told, then what is in training, as the source gives it again
        stopped = [Result(**values) for values in about["stopped"]]
        yield from (r for r in stopped if r.number not in results)
        width = len(about["trials"])
        left = [i for i, (number, _) in enumerate(about["trials"]) if number not in results]
        asked, failed = schedule.ask(len(left))
        yield from failed
        if asked and [[t.number, dict(t.setting)] for t in asked] == [
            about["trials"][i] for i in left
        ]:
            yield from _bracket(schedule, asked, (about, width, left))
        else:  # they were taken up elsewhere
            yield from _in_parts(schedule, asked)

    while not schedule.stop:
        trials, failed = schedule.ask(asked_at_once(schedule.options))
        yield from failed
        if not trials:
            return
        yield from _in_parts(schedule, trials)


def _in_parts(schedule: Schedule, trials: Sequence[Trial]) -> Iterator[Result]:
    """Trains trials as one bracket, or as several where memory is short."""
    if not trials:
        return
    # all that a batch has, unless memory is short
    options = dataclasses.replace(schedule.options, batch=None)
    size = width_that_fits(schedule.components, len(trials), options)
    for first in range(0, len(trials), size):
        if schedule.stop:
            return
        yield from _bracket(schedule, trials[first : first + size])


def _bracket(
    schedule: Schedule,
    trials: Sequence[Trial],
    checkpoint: tuple[dict[str, Any], int, list[int]] | None = None,
) -> Iterator[Result]:
    """Trains trials side by side to the first rung, the best of them to the next, and so on.

    Args:
        schedule: what they are trained by.
        trials: the bracket, or what is left of it.
        checkpoint: what is said of it, the number of its trials, and which of them these are; None
            at its beginning.

    Yields:
        Results, as trials end.
    """
    options, components, rungs = schedule.options, schedule.components, schedule.rungs
    seeds, first, seconds = options.seeds, 0, 0.0
    if checkpoint is not None:
        first, seconds = checkpoint[0]["rung"], checkpoint[0]["seconds"]
    done = rungs[first - 1] if first else 0
    state, history = None, None
    for rung in range(first, len(rungs)):
        # a program of this width, and its agents: new ones, those that were saved, or those left
        values = columns_of(trials, schedule.names, seeds)
        programs = schedule.compile(values, begins=rung == 0)
        own = own_of(values, components.env_params)
        if state is not None:
            state = place_state(programs, state)
        elif checkpoint is not None:
            about, width, left = checkpoint
            tree = restore(schedule.study, programs, width * seeds, done)
            state = place_state(programs, take(tree["state"], agents_of(left, seeds)))
            history = rows_of(tree["history"], agents_of(left, seeds))
        else:
            keys = tiled(keys_of(options), len(trials))
            state = programs.init(programs.place(keys), programs.place(own))

        # to the rung
        schedule.announce("training")
        clock = time.perf_counter()
        state, metrics = advance(programs, state, own, rungs[rung] - done)
        done = rungs[rung]
        history = metrics if history is None else joined([history, metrics])
        seconds += (time.perf_counter() - clock) / len(trials)
        if done == rungs[-1]:
            yield from schedule.finish(trials, state, history, [seconds] * len(trials))
            return

        # the best go on, and the others are told once that is on the disk
        scores = scores_of(history, options)
        numbers = [t.number for t in trials]
        kept = best_of(scores, numbers, share_of(len(trials), options.factor))
        stopped = [
            schedule.result(t, "stopped", rows_of(history, agents_of([i], seeds)), seconds)
            for i, t in enumerate(trials) if i not in kept
        ]  # fmt: skip
        agents = agents_of(kept, seeds)
        state, history = take(state, agents), rows_of(history, agents)
        trials = [trials[i] for i in kept]
        about = {"rung": rung + 1, "seconds": seconds}
        about["trials"] = [[t.number, dict(t.setting)] for t in trials]
        about["stopped"] = [r._asdict() for r in stopped]
        save(schedule.study, state, history, about)
        yield from stopped
        if schedule.stop:
            return
