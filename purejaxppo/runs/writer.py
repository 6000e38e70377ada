"""What a run leaves behind while it goes on: rows, checkpoints, agents; and what went wrong."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.runs import checkpoint
from purejaxppo.runs import folder as store
from purejaxppo.runs.about import device, plain, versions
from purejaxppo.runs.agents import FILES, Agents, save_agents
from purejaxppo.runs.journal import Journal, Row
from purejaxppo.runs.options import FitOptions
from purejaxppo.runs.problems import Problems
from purejaxppo.types import Metrics

Callback = Callable[[int, Row], Any]


class Record:
    """The folder of a run, if it has one, and its callbacks. Whatever fails here, training goes on.

    Args:
        config: what is trained.
        options: where, and how often.
        callbacks: `(step, row)`, called with every row that is logged.
        about: what else to say in `run.json`.
        own: names of what was passed in place of what `config` describes.

    Attributes:
        problems: what went wrong, a line each.

    Raises:
        ConfigError: the folder holds a run already, or with `resume` another one than this.
    """

    def __init__(
        self,
        config: PPOConfig,
        options: FitOptions,
        callbacks: Sequence[Callback],
        about: Mapping[str, Any],
        own: Mapping[str, str],
    ):
        self.problems = Problems()
        self._callbacks, self._keep = list(callbacks), options.keep_checkpoints
        self._config, self._about = (
            config,
            {
                "config": plain(config),
                "seeds": options.seeds,
                "seed": options.seed,
                "own": own,
                "versions": versions(),
                "device": device(),
            },
        )
        self._journals: dict[str, Journal] = {}
        self.folder = None if options.run_dir is None else Path(options.run_dir)
        self._resume = options.resume and store.is_run(self.folder)
        if self.folder is None:
            return
        if self._resume:
            saved, run = store.read_run(self.folder)
            self._compare({**run, "config": plain(saved)})
        else:
            store.create_run_dir(self.folder, config.env, options.resume)
        self._lock = store.lock(self.folder)
        created = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        self._said = {**about, **self._about, "created": created}
        self._say()

    def restore(self, template: Any) -> tuple[Any, dict[str, Any]]:
        """The last whole checkpoint and what was said of it, or (None, {}) to begin from the start.

        Args:
            template: its shapes and dtypes.

        Raises:
            ConfigError: it is of another run, or there are some and none is whole.
        """
        found = self._checkpoints() if self._resume else []
        for path in reversed(found):
            try:
                tree, about = checkpoint.load(path, template)
            except checkpoint.Damaged as error:
                self.problems.note(f"{error}: it is passed over for the one before it")
                continue
            except OSError as error:
                raise ConfigError(f"{str(path)!r} cannot be read: {error.strerror}") from error
            self._compare(about)
            return tree, about
        agents = self.folder is not None and (self.folder / FILES["final"]).exists()
        if found or (self._resume and agents):
            raise ConfigError(
                f"{str(self.folder)!r} holds no whole checkpoint to go on from: put one back, or "
                "train into another folder"
            )
        return None, {}

    def open(self, step: int) -> None:
        """Begins to log after a step; rows of later ones, which will come again, are taken out."""
        if self.folder is not None:
            for left in self.folder.rglob("*.partial"):  # by a process that was killed
                left.unlink(missing_ok=True)
            for name in ("metrics.jsonl", "evaluations.jsonl"):
                with self.problems.attempt(name):
                    self._journals[name] = Journal(self.folder / name, step)

    def metrics(self, updates: int) -> Metrics:
        """What is logged of the updates that were done before: every field [seeds, updates].

        Raises:
            ConfigError: rows are missing.
        """
        assert self.folder is not None
        metrics = store.read_metrics(self.folder)
        found = metrics.episodes.shape[1]
        if found != updates:
            raise ConfigError(
                f"metrics.jsonl in {str(self.folder)!r} has {found} of {updates} updates: put the "
                "rows back, or train into another folder"
            )
        return metrics

    def log(self, name: str, rows: Sequence[Row], prefix: str = "") -> None:
        """Appends rows to a file, and passes them to the callbacks, their names with a prefix."""
        if name in self._journals:
            with self.problems.attempt(name):
                self._journals[name].write(rows)
        if prefix:
            rows = [_prefixed(row, prefix) for row in rows]
        for callback in list(self._callbacks):
            with self._guarded(callback):
                for row in rows:
                    callback(row["step"], row)

    def save(self, tree: Any, updates: int, **about: Any) -> None:
        """Writes a checkpoint, and the agents in it; the oldest that are too many are removed.

        Args:
            tree: what `restore` gives back, with `state` and `best`.
            updates: done so far.
            **about: what to say of it.
        """
        if self.folder is None:
            return
        self._say()
        with self.problems.attempt("checkpoints"):
            for journal in self._journals.values():
                journal.sync()  # rows first: resuming must find all that came before
            folder = self.folder / "checkpoints"
            folder.mkdir(exist_ok=True)
            path = folder / f"{updates:010d}.npz"
            checkpoint.save(path, tree, {**self._about, "updates": updates, **about})
            before = [old for old in self._checkpoints() if old < path]
            # those after it were passed over
            passed = [old for old in self._checkpoints() if old > path]
            for old in before[: max(0, len(before) + 1 - self._keep)] + passed:
                old.unlink()
        self.save_agents(tree)

    def save_agents(self, tree: Any) -> None:
        """Writes what acting needs: the agents as they are, and the best if any were scored."""
        if self.folder is None:
            return
        with self.problems.attempt(FILES["final"]):
            save_agents(self.folder / FILES["final"], Agents.of(tree["state"]))
        if np.isfinite(tree["best"].returns).any():
            with self.problems.attempt(FILES["best"]):
                save_agents(self.folder / FILES["best"], tree["best"].agents)

    def close(self) -> None:
        """Writes what was kept back, and closes files and callbacks."""
        for name, journal in self._journals.items():
            with self.problems.attempt(name):
                journal.sync()
            journal.close()
        for callback in list(self._callbacks):
            with self._guarded(callback):
                getattr(callback, "close", lambda: None)()
        if self.folder is not None:
            os.close(self._lock)

    def _say(self) -> None:
        """Writes what the run is, unless it is written."""
        if self.folder is not None and not store.is_run(self.folder):
            with self.problems.attempt("run.json"):
                store.write_run(self.folder, self._config, self._said)

    @contextlib.contextmanager
    def _guarded(self, callback: Callback) -> Iterator[None]:
        """One that raises is reported and left out."""
        try:
            yield
        except Exception as error:
            self._callbacks.remove(callback)
            with contextlib.suppress(Exception):
                getattr(callback, "close", lambda: None)()
            who = getattr(callback, "__name__", type(callback).__name__)
            self.problems.report(
                f"callback {who} is not called again: {type(error).__name__}: {error}"
            )

    def _checkpoints(self) -> list[Path]:
        """From the oldest to the newest."""
        return sorted(self.folder.glob("checkpoints/*.npz")) if self.folder else []

    def _compare(self, saved: Mapping[str, Any]) -> None:
        """Refuses to go on with another run; warns where the next bits may differ."""
        ours = self._about
        before, after = (
            {**run["config"], **run.get("own", {}), "seeds": run["seeds"], "seed": run.get("seed")}
            for run in (saved, ours)
        )
        for name in {**before, **after}:
            then, now = before.get(name), after.get(name)
            if then != now:
                raise ConfigError(
                    f"the run in {str(self.folder)!r} has {name}={then!r}, not {now!r}: go on with "
                    "its own, or train into another folder"
                )
        for name in ("versions", "device"):
            for part, then in saved.get(name, {}).items():
                now = ours[name].get(part)
                if then != now:
                    self.problems.note(
                        f"the run was begun with {part} {then} and goes on with {now}: from here "
                        "on it may differ in the last digits"
                    )


def _prefixed(row: Row, prefix: str) -> Row:
    """The row, its values named with a prefix."""
    return {name if name in ("step", "seed") else prefix + name: row[name] for name in row}
