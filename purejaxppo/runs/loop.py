"""The loop of a run: chunks of updates, one in flight ahead of what the host logs and saves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.ppo.normalize import with_fresh_returns
from purejaxppo.processes import agree, of_first, whole
from purejaxppo.run_folder.rows import (
    evaluation_rows,
    info_columns,
    metrics_rows,
    numeric_problems,
)
from purejaxppo.runs.agents import Agents, Best, better
from purejaxppo.runs.beginning import Beginning
from purejaxppo.runs.compiled import Programs
from purejaxppo.runs.evaluate import Evaluation
from purejaxppo.runs.options import FitOptions
from purejaxppo.runs.vary import Variation
from purejaxppo.runs.writer import CheckpointInfo, RunWriter
from purejaxppo.types import Array, Learner, LearnerState, Metrics, PyTree

SECONDS_PER_CHUNK = 0.5
SECONDS_PER_CHECKPOINT = 60.0


class Chunk(NamedTuple):
    """Updates in flight, and what is to be done once they are there."""

    first: int  # updates before it
    length: int
    metrics: Metrics  # on the device
    dispatched: float  # seconds


class Turn(NamedTuple):
    """What all processes do next, as the first one's clock and callbacks, or any signal, say."""

    stopping: bool
    length: int  # of the next chunk, at most
    saving: bool  # it is time to, where no steps are given


class Run:
    """A run between its compilation and its end.

    Attributes:
        begun: updates that were done before.
        done: updates, those in flight included.
        best: the best agents so far.
    """

    def __init__(
        self,
        config: PPOConfig,
        options: FitOptions,
        programs: Programs,
        evaluate: Callable[[Agents], Evaluation] | None,
        writer: RunWriter,
        beginning: Beginning | None = None,
        variation: Variation | None = None,
    ):
        self._beginning, self._variation = beginning, variation
        self._config, self._options, self._programs = config, options, programs
        self._evaluate, self._writer = evaluate, writer
        self._eval_every, self._save_every = (
            None if steps is None else -(-steps // config.batch_size)
            for steps in (options.eval_every, options.checkpoint_every)
        )
        self._how = (options.eval_episodes, options.eval_sampled)
        self._length, self._ready, self._saved = 1, 0.0, 0.0
        empty = jax.tree.map(lambda x: np.empty((options.seeds, 0), x.dtype), programs.metrics)
        self._parts: list[Metrics] = [empty]
        _check_columns(empty, config)
        self._evaluation: list[float] | None = None
        self._warned = False
        self.begun = self.done = 0
        self.best: Best = jax.eval_shape(Best.unscored, programs.template)

    def begin(self, learner: Learner) -> None:
        """Starts from the last checkpoint, or from the beginning.

        Args:
            learner: the run.

        Raises:
            ConfigError: the checkpoint, or what is logged, is of another run.
        """
        # a resumed run on the host has a key of its own: other episodes than those it began with
        template = {"state": self._programs.template, "best": self.best}
        restored = of_first(lambda: self._writer.restore(template))
        key = jax.random.key(self._options.seed)
        if restored is not None:
            key = jax.random.fold_in(key, restored[1].updates)
        if self._variation is None:
            keys = jax.random.split(key, self._options.seeds)
        else:
            keys = self._variation.keys(key)
        if restored is None or learner.close is not None:
            self._state = self._programs.init(self._programs.place(keys))
            if restored is None and self._beginning is not None:
                placed = self._programs.place(self._beginning.tree)
                self._state = self._beginning.put_into(self._state, placed)
            self.best = Best.unscored(self._state)

        # what was saved takes the place of the beginning, except environments on the host
        if restored is not None:
            tree, info = restored
            tree = {
                "state": self._programs.place(tree["state"], self._programs.specs),
                "best": self._programs.place(tree["best"]),
            }
            self.begun = self.done = info.updates
            self.best, self._evaluation = tree["best"], info.evaluation
            if self._options.eval_every is None:  # the best stays that of evaluations before
                self._how = info.evaluated
            if info.evaluated != self._how and self._evaluation is not None:
                self._writer.problems.note("evaluations are others than before: best begins anew")
                self.best, self._evaluation = Best.unscored(tree["state"]), None
            if learner.close is not None:
                self._writer.problems.note("environments on the host begin new episodes")
                fresh = ("env_state", "obs", "episode_start", "carry")
                new = {name: getattr(self._state, name) for name in fresh}
                norms = with_fresh_returns(tree["state"].normalizers, self._state.normalizers)
                tree["state"] = tree["state"].replace(normalizers=norms, **new)
            self._state = tree["state"]

        # rows go on where the checkpoint stands; all are read before one is cut off
        if self.done and self._options.run_dir is not None:
            self._parts.append(of_first(self._logged))
        self._writer.open(self.done * self._config.batch_size)
        self._saved = time.perf_counter()

    def _logged(self) -> Metrics:
        """Returns the metrics of the updates that were done before, as the program gives them."""
        logged, empty = self._writer.logged_metrics(self.done), self._parts[0]
        names, where = set(empty.extra), str(self._writer.folder)
        if logged.extra.keys() != names:
            raise ConfigError(
                f"the run in {where!r} has logged values named {sorted(logged.extra)}, not "
                f"{sorted(names)}: go on with its own objective, or train into another folder"
            )

        def as_given(column: np.ndarray, like: np.ndarray) -> np.ndarray:
            whole = np.issubdtype(like.dtype, np.integer)
            if whole and not (np.isfinite(column) & (column == np.trunc(column))).all():
                raise ConfigError(
                    f"metrics.jsonl in {where!r} has numbers that are not whole where others "
                    "cannot be: put the rows back, or train into another folder"
                )
            return column.astype(like.dtype)

        return jax.tree.map(as_given, logged, empty)

    @property
    def going_on(self) -> bool:
        """Says whether updates are left, and the target is not reached."""
        target, last = self._options.target_return, self._evaluation
        reached = target is not None and last is not None and all(x >= target for x in last)
        return self.done < self._config.num_updates and not reached

    def train(self, stop: list[int]) -> LearnerState:
        """Updates until the end, the target, a signal or a callback that stops; then saves.

        Args:
            stop: numbers of the signals that were heard.

        Returns:
            The learners at the end.
        """
        waiting: Chunk | None = None
        rows: list[dict[str, Any]] = []
        saved = None
        while True:
            # the device is given the next chunk before the host turns to the last one
            turn = self._next_turn(stop)
            chunk = None
            if self.going_on and not turn.stopping:
                chunk = self._dispatch(turn.length)
            if waiting is not None:
                self._finish(waiting, rows, saved)
            if chunk is None:
                break

            # what is due behind this chunk is taken before its state is donated to the next
            waiting, rows, saved = chunk, [], None
            if self._due(self._eval_every) or (self._eval_every and not self.going_on):
                rows = self._score()
            due = turn.saving if self._save_every is None else self._due(self._save_every)
            if due and self.going_on:
                saved = self._snapshot()

        # the end is saved, also of a run that was stopped
        last = self._snapshot()
        if self.done > self.begun or not self.done:
            self._save(last, self.done)
        elif last is not None:  # those of a run that was killed before it had written them
            self._writer.save_agents(last)
        return self._state

    def metrics(self) -> Metrics:
        """Returns those of all updates: every field [seeds, updates]."""
        return jax.tree.map(lambda *xs: np.concatenate(xs, axis=1), *self._parts)

    def _next_turn(self, stop: list[int]) -> Turn:
        """Finds out with all processes what is done next; a signal of one stops all."""
        called_off = self._writer.callbacks.stopped_by is not None
        late = time.perf_counter() - self._saved > SECONDS_PER_CHECKPOINT
        said = agree(*stop[:1] or [0], called_off, self._length, late)
        (number, called_off), (length, late) = said[:, :2].max(0), said[0, 2:]
        if number and not stop:
            stop.append(int(number))
        return Turn(bool(number or called_off), int(length), bool(late))

    def _dispatch(self, length: int) -> Chunk:
        """Gives the device the next updates, as many as fit before something is due."""
        marks = [self._config.num_updates]
        marks += [self.done - self.done % n + n for n in (self._eval_every, self._save_every) if n]
        length = min(length, self._programs.most, min(marks) - self.done)
        first, self.done = self.done, self.done + length
        self._state, metrics = self._programs.run_chunk(self._state, length)
        return Chunk(first, length, metrics, time.perf_counter())

    def _due(self, every: int | None) -> bool:
        return every is not None and self.done % every == 0

    def _score(self) -> list[dict[str, Any]]:
        """Evaluates the agents as they are now, and keeps those that are better than before."""
        agents = Agents.of(self._state)
        assert self._evaluate is not None
        evaluation = self._evaluate(agents)
        self.best = better(self.best, agents, evaluation.returns.mean(1))
        rows = evaluation_rows(evaluation, self.done * self._config.batch_size)
        self._evaluation = [row["return_mean"] for row in rows]
        return rows

    def _snapshot(self) -> PyTree:
        """Copies the whole run to memory of the host: the device's is donated."""
        if self._options.run_dir is None:
            return None
        self._saved = time.perf_counter()
        return jax.tree.map(_copy, whole({"state": self._state, "best": self.best}))

    def _finish(self, chunk: Chunk, rows: list[dict[str, Any]], saved: PyTree) -> None:
        """Logs and saves a chunk, and learns from it how long the next ones may be."""
        # sliced on the host: on the device, each length would be compiled
        part = jax.tree.map(lambda x: np.array(np.asarray(x)[:, : chunk.length]), chunk.metrics)

        # chunks grow to half a second, at most doubling: the first updates can be slower
        now = time.perf_counter()
        seconds, self._ready = now - max(chunk.dispatched, self._ready), now
        wanted = max(1, round(SECONDS_PER_CHUNK * chunk.length / seconds))
        self._length = min(2 * chunk.length, wanted)

        # what is left out is said as soon as it is seen, and at the end with its share
        words = [] if self._warned else numeric_problems(part)
        if words:
            self._warned = True
            self._writer.problems.note(words[0])

        # rows before the checkpoint: resuming must find all that came before it
        self._parts.append(part)
        self._writer.log_metrics(metrics_rows(part, chunk.first, self._config))
        self._writer.log_evaluations(rows)
        if saved is not None:
            self._save(saved, chunk.first + chunk.length)

    def _save(self, tree: PyTree, updates: int) -> None:
        if tree is not None:
            self._writer.save(tree, CheckpointInfo(updates, self._evaluation, self._how))


def _check_columns(metrics: Metrics, config: PPOConfig) -> None:
    """Refuses values of an objective that would have the columns of `info_metrics`."""
    for name, column in info_columns(config.info_metrics).items():
        if column in metrics.extra:
            raise ConfigError(
                f"the objective returns a value named {column!r}, which is the column of {name!r} "
                f"in info_metrics: name it {'my_' + name!r}"
            )


def _copy(x: Array) -> Array | np.ndarray:
    """Copies an array to the host; keys stay where they are."""
    return jnp.copy(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.array(x)
