"""What a run writes while it goes on: rows, checkpoints, agents; and what went wrong with that."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.run_folder import checkpoint
from purejaxppo.run_folder.begin import (
    CHECKPOINT,
    WHOLE,
    check_free,
    checkpoints_in,
    create_run_dir,
    is_run,
    write_run,
)
from purejaxppo.run_folder.files import JsonLinesFile, remove_left_overs, rows_up_to
from purejaxppo.run_folder.lock import FolderLock
from purejaxppo.run_folder.read import read_evaluations, read_metrics, read_whole_run
from purejaxppo.run_folder.schemas import RunFile, misfit
from purejaxppo.runs.agents import FILES, Agents, save_agents
from purejaxppo.runs.callbacks import Callback, Callbacks
from purejaxppo.runs.identity import (
    check_same_run,
    checked,
    describe_device,
    to_plain,
    versions,
)
from purejaxppo.runs.options import FitOptions
from purejaxppo.runs.problems import Problems
from purejaxppo.runs.summary import write_results
from purejaxppo.types import Metrics, PyTree, Row


class CheckpointInfo(NamedTuple):
    """What a checkpoint says beside the state of the run.

    Attributes:
        updates: done so far.
        evaluation: mean return of each seed at the last evaluation; None before the first.
        evaluated: how evaluations are made, (episodes, sampled): the best of others do not count.
    """

    updates: int
    evaluation: list[float] | None
    evaluated: tuple[int, bool]


class RunWriter:
    """Writer of the folder of a run, if it has one, and of its callbacks.

    Whatever fails here while the run goes on is reported, and training goes on.

    Args:
        config: what is trained.
        options: where results go, and how many checkpoints are kept.
        callbacks: what rows are passed to.
        about: plain values to put into `run.json` before all others.
        custom: what was passed in place of what `config` describes, see `describe_custom`.
        values: what else makes it this run, None where it does not apply: `env_params` that were
            passed, see `plain_params`; `init_from`, which agents it begins with, see `Beginning`;
            `vary`, settings that its agents have of their own.

    Attributes:
        folder: the run folder, or None.
        problems: what went wrong, a line each.
        callbacks: those of the run.

    Raises:
        ConfigError: the folder is in use, cannot be made, holds a run already, or with `resume`
            another one than this.
    """

    def __init__(
        self,
        config: PPOConfig,
        options: FitOptions,
        callbacks: Sequence[Callback],
        about: Mapping[str, Any],
        custom: Mapping[str, str],
        values: Mapping[str, Mapping[str, Any] | None],
    ):
        self.problems = Problems()
        self._config, self._keep = config, options.keep_checkpoints
        self.callbacks = Callbacks(callbacks, self.problems)
        self._files: dict[str, JsonLinesFile] = {}
        # what every checkpoint says of the run that it belongs to
        self._identity: dict[str, Any] = {
            "config": to_plain(config.to_dict()),
            "seeds": options.seeds,
            "seed": options.seed,
            "own": custom,
            **{name: dict(value) for name, value in values.items() if value is not None},
            "versions": versions(),
            "device": describe_device(),
        }
        created = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        self._about = {**about, **self._identity, "created": created}
        words = misfit(self._about, RunFile)
        if words is not None:
            raise ConfigError(f"about={dict(about)!r}: {words}: leave out what the run itself says")
        self.folder = None if options.run_dir is None else Path(options.run_dir)
        self._lock: FolderLock | None = None
        self._longer: str | None = None  # what is said of a run that goes on beyond its end
        self._resume, self._begun_with_agents = options.resume and is_run(self.folder), False
        if self.folder is None:
            return

        # nothing in the folder is touched before it is known to be this run's
        if self._resume:
            saved, run = read_whole_run(self.folder)
            before = {**run, "config": saved.to_dict()}
            check_same_run(self.folder, before, self._identity, self.problems)
            self._go_on(saved, run)
        else:
            create_run_dir(self.folder, config.env, options.resume)
        self._lock = FolderLock(self.folder)
        try:
            if not self._resume:  # another run may have come and gone
                check_free(self.folder, options.resume)
                self._write_run()
        except BaseException:
            self._lock.release()
            raise

    # -- going on with a run ----------------------------------------------------------------------

    def restore(self, template: PyTree) -> tuple[PyTree, CheckpointInfo] | None:
        """Reads the last whole checkpoint.

        Args:
            template: shapes and dtypes of what `save` was given.

        Returns:
            The tree, its arrays on the host, and what was said beside it; None if the run begins
            from the start.

        Raises:
            ConfigError: the checkpoint is of another run, or there are some and none is whole.
        """
        try:
            found = checkpoints_in(self.folder) if self._resume and self.folder else []
        except OSError as error:
            raise ConfigError(
                f"checkpoints in {str(self.folder)!r} cannot be used ({error.strerror}): put the "
                "folder itself there"
            ) from error
        for path in reversed(found):
            try:
                tree, about = checkpoint.load(path, template)
                about = checked(path, about)
            except checkpoint.Damaged as error:
                self.problems.note(f"{error}: it is passed over for the one before it")
                continue
            except OSError as error:
                raise ConfigError(f"{str(path)!r} cannot be read: {error.strerror}") from error
            check_same_run(self.folder, about, self._identity, self.problems)
            evaluated = tuple(about["evaluated"])
            return tree, CheckpointInfo(about["updates"], about["evaluation"], evaluated)

        if self._begun_with_agents and not found:
            raise ConfigError(
                f"the run in {str(self.folder)!r} has no checkpoint, and was begun with agents: "
                "pass the same init_from again"
            )
        # agents are written after a checkpoint: where they are, there has been one
        agents = self.folder is not None and os.path.lexists(self.folder / FILES["final"])
        if found or (self._resume and agents):
            raise ConfigError(
                f"{str(self.folder)!r} holds no whole checkpoint to go on from: put one back, or "
                "train into another folder"
            )
        return None

    def open(self, step: int) -> None:
        """Begins to log after a step; rows of later ones, which will come again, are taken out.

        Args:
            step: environment steps of each seed that were done before.

        Raises:
            ConfigError: a row that was logged before cannot be read.
        """
        if self.folder is None:
            return
        if self._longer is not None:
            self.problems.note(self._longer)
            self._write_run()
        # what a process that was killed has left; not what only looks like it
        for place, names in ((self.folder, WHOLE), (self.folder / "checkpoints", CHECKPOINT)):
            remove_left_overs(place, names)
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            with self.problems.attempt(name):
                path = self.folder / name
                self._files[name] = JsonLinesFile(path, rows_up_to(path, step))

    def logged_metrics(self, updates: int) -> Metrics:
        """Reads what was logged of the updates that were done before.

        Args:
            updates: how many.

        Returns:
            Every field [seeds, updates], NumPy.

        Raises:
            ConfigError: rows are missing or damaged, also of the evaluations.
        """
        assert self.folder is not None
        metrics = read_metrics(self.folder, updates)
        found = metrics.episodes.shape[1]
        if found != updates:
            raise ConfigError(
                f"metrics.jsonl in {str(self.folder)!r} has {found} of {updates} updates: put the "
                "rows back, or train into another folder"
            )
        step = updates * self._config.batch_size
        read_evaluations(self.folder, self._identity["seeds"], step)
        return metrics

    # -- logging and saving -----------------------------------------------------------------------

    def log_metrics(self, rows: Sequence[Row]) -> None:
        """Appends rows of updates to `metrics.jsonl`, and passes them to the callbacks.

        Args:
            rows: see `metrics_rows`.
        """
        self._append("metrics.jsonl", rows)
        self.callbacks.pass_rows(rows)

    def log_evaluations(self, rows: Sequence[Row]) -> None:
        """Appends rows of an evaluation to `evaluations.jsonl`, and passes them to the callbacks.

        Args:
            rows: see `evaluation_rows`.
        """
        self._append("evaluations.jsonl", rows)
        self.callbacks.pass_evaluations(rows)

    def save(self, tree: PyTree, info: CheckpointInfo) -> None:
        """Writes a checkpoint, and the agents in it; the oldest that are too many are removed.

        Args:
            tree: a dictionary of the learners' `state` and the `best` agents, on the host; None
                of it is kept.
            info: what to say beside it.
        """
        if self.folder is None or self._taken_over():
            return
        self._write_run()
        self._report_lost()
        with self.problems.attempt("checkpoints"):
            # rows first: a run that resumes here must find all that came before
            for file in self._files.values():
                file.sync()
            folder = self.folder / "checkpoints"
            folder.mkdir(exist_ok=True)
            before = checkpoints_in(self.folder)  # no other folder that a link names
            path = folder / f"{info.updates:010d}.npz"
            checkpoint.save(path, tree, {**self._identity, **info._asdict()})

            # those of later updates are damaged: the run has passed them over
            older = [old for old in before if old < path]
            damaged = [old for old in before if old > path]
            for old in older[: max(0, len(older) + 1 - self._keep)] + damaged:
                old.unlink()
        self.save_agents(tree)

    def save_agents(self, tree: PyTree) -> None:
        """Writes what acting needs: the agents as they are, and the best if any were scored.

        Args:
            tree: as `save` takes it: a dictionary of the learners' `state` and the `best` agents.
        """
        if self.folder is None or self._taken_over():
            return
        with self.problems.attempt(FILES["final"]):
            save_agents(self.folder / FILES["final"], Agents.of(tree["state"]))
        if np.isfinite(tree["best"].returns).any():
            with self.problems.attempt(FILES["best"]):
                save_agents(self.folder / FILES["best"], tree["best"].agents, tree["best"].returns)

    def close(self) -> None:
        """Writes what was kept back, and closes the files; after that it does nothing."""
        if not self._taken_over():
            self._report_lost()
        while self._files:
            name, file = self._files.popitem()
            with self.problems.attempt(name):
                file.sync()
            file.close()

    def write_results(self, metrics: Metrics, summary: dict[str, Any], resumed_at: int) -> None:
        """Writes what the run has reached, and draws its curve.

        Args:
            metrics: every field [seeds, updates done].
            summary: the results, see `summarize`; problems of writing them are added.
            resumed_at: updates that were done before.
        """
        if self.folder is None or self._taken_over():
            return
        write_results(self.folder, self._config, metrics, summary, resumed_at, self.problems)

    def release(self) -> None:
        """Closes the callbacks, and lets others have the folder, which until here is this run's."""
        self.callbacks.close()
        if self._lock is not None:
            self._lock.release()

    def _report_lost(self) -> None:
        """Reports files of rows that were deleted while they are written."""
        for name, file in self._files.items():
            if file.lost:
                self.problems.report(
                    f"{name} was deleted or replaced while the run went on: its rows are lost"
                )

    def _taken_over(self) -> bool:
        """Reports a folder that has become another run's, where nothing more is written."""
        if self._lock is None or not self._lock.taken_over():
            return False
        self.problems.report(
            f"the run folder {str(self.folder)!r} was deleted, and another run has it: nothing "
            "more is written into it"
        )
        return True

    def _go_on(self, saved: PPOConfig, run: Mapping[str, Any]) -> None:
        """Takes over what the folder says of the run; notes that it is to be longer than before."""
        self._begun_with_agents = "init_from" in run and "init_from" not in self._identity
        if "init_from" in run:
            self._identity["init_from"] = run["init_from"]
        before, after = saved.total_timesteps, self._config.total_timesteps
        if before != after:
            # a run that was killed between the two files has noted it already
            earlier = [n for n in run.get("earlier_timesteps", []) if n < before] + [before]
            self._about = {**run, "earlier_timesteps": earlier}
            self._longer = (
                f"the run goes on to {after:,} steps (before {before:,}): schedules run over the "
                "new total"
            )

    def _write_run(self) -> None:
        """Writes what the run is, unless that is written."""
        if self.folder is not None and (self._longer is not None or not is_run(self.folder)):
            with self.problems.attempt("run.json"):
                write_run(self.folder, self._config, self._about)
                self._longer = None

    def _append(self, name: str, rows: Sequence[Row]) -> None:
        """Appends rows to a file, if there is a folder that has it."""
        if name in self._files:
            with self.problems.attempt(name):
                self._files[name].write(rows)
