"""All runs below a folder, a line each, read without jax and without more than is shown."""

from __future__ import annotations

import datetime
import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.report.differences import algorithm_of, fields_apart
from purejaxppo.run_folder.find import find_runs
from purejaxppo.run_folder.lock import is_held
from purejaxppo.run_folder.paths import given_path
from purejaxppo.run_folder.progress import State, last_returns, state_of
from purejaxppo.run_folder.read import read_summary, read_whole_run

UNKNOWN = "\N{EN DASH}"


def number(x: float) -> str:
    """Returns a number to read, or a dash for what is not known.

    Args:
        x: any.
    """
    if not math.isfinite(x):
        return UNKNOWN
    return f"{x:,.1f}" if abs(x) >= 10 else f"{x:.3g}"


class RunLine(NamedTuple):
    """What a list says of a run.

    Attributes:
        folder: where it is.
        state: what it does; "damaged" where that cannot be read.
        problem: what is damaged; None for all others.
        config: what is trained; None where that is damaged.
        env: the name of what it is trained on; None likewise.
        algorithm: its name; None likewise.
        seeds: agents trained side by side.
        seed: of their key.
        steps: done by each agent.
        returns: the mean return of each agent in the last tenth, NaN where no episode ended.
        begun: when it was begun; None if nothing says so.
        apart: values of the fields in which runs of its environment and algorithm differ.
    """

    folder: Path
    state: State | Literal["damaged"]
    problem: str | None = None
    config: PPOConfig | None = None
    env: str | None = None
    algorithm: str | None = None
    seeds: int = 0
    seed: int = 0
    steps: int = 0
    returns: Sequence[float] = ()
    begun: datetime.datetime | None = None
    apart: dict[str, Any] = {}  # noqa: RUF012

    @property
    def total(self) -> int:
        """Counts the steps that each agent is to do."""
        return 0 if self.config is None else self.config.num_updates * self.config.batch_size

    @property
    def mean(self) -> float | None:
        """Returns the mean return over the seeds that have one; None if none has."""
        known = self._known()
        return statistics.fmean(known) if known else None

    @property
    def std(self) -> float | None:
        """Returns the sample standard deviation over seeds; None for one seed, which has none."""
        known = self._known()
        return statistics.stdev(known) if len(known) > 1 else None

    def _known(self) -> list[float]:
        return [x for x in self.returns if math.isfinite(x)]

    def as_json(self) -> dict[str, Any]:
        """Returns it as plain values, null for what is not known."""
        return {
            "kind": "run",
            "folder": os.fspath(self.folder),
            "state": self.state,
            "env": self.env,
            "algorithm": self.algorithm,
            "apart": {
                name: list(x) if isinstance(x, tuple) else x for name, x in self.apart.items()
            },
            "seeds": self.seeds or None,
            "seed": self.seed if self.seeds else None,
            "timesteps": self.steps,
            "total_timesteps": self.total or None,
            "return_mean": self.mean,
            "return_std": self.std,
            "created": self.begun and self.begun.isoformat(),
            "problem": self.problem,
        }


def list_runs(folder: str | Path) -> list[RunLine]:
    """Reads what a list says of the runs in a folder and below it.

    Args:
        folder: where to look.

    Returns:
        A line for each, the newest last.

    Raises:
        ConfigError: there is no such folder.
    """
    path = given_path(folder, "folder")
    if not path.is_dir():
        raise ConfigError(
            f"there is no folder {str(path)!r}: name one with runs below it, such as runs"
        )
    lines = [_line(run) for run in find_runs(path)]

    # what runs differ in is asked among those of one kind
    kinds: dict[tuple[str | None, str | None], list[PPOConfig]] = {}
    for line in lines:
        if line.config is not None:
            kinds.setdefault((line.env, line.algorithm), []).append(line.config)
    apart = {kind: fields_apart(configs) for kind, configs in kinds.items()}
    lines = [
        line if line.config is None else line._replace(
            apart={
                name: getattr(line.config, name)
                for name in apart[line.env, line.algorithm]
            }
        )
        for line in lines
    ]  # fmt: skip
    return sorted(lines, key=lambda line: 0.0 if line.begun is None else line.begun.timestamp())


def _line(folder: Path) -> RunLine:
    """Reads what a list says of a run."""
    held = is_held(folder)
    try:
        config, about = read_whole_run(folder)
        seeds, size = about["seeds"], config.batch_size
        summary = read_summary(folder, seeds)
        updates, returns = last_returns(folder, seeds, size)
    except ConfigError as error:
        begun = time_begun(None, folder / "run.json")
        return RunLine(folder, "running" if held else "damaged", str(error), begun=begun)
    ended = summary is not None and summary["timesteps"] >= updates * size
    state = state_of(
        held=held, steps=updates * size, total=config.num_updates * size, ended=ended
    )  # fmt: skip
    return RunLine(
        folder, state, None, config, about.get("env", config.env),
        algorithm_of(config, about), seeds, about["seed"], updates * size, returns,
        time_begun(about.get("created"), folder / "run.json"),
    )  # fmt: skip


def time_begun(created: str | None, path: Path) -> datetime.datetime | None:
    """Returns when something was begun: as it says, else when its oldest file was written.

    Args:
        created: what it says; None: nothing.
        path: the file.

    Returns:
        The time; None if nothing says so.
    """
    try:
        time = datetime.datetime.fromisoformat(created or "")
    except ValueError:
        try:
            seconds = path.stat().st_mtime
        except OSError:
            return None
        time = datetime.datetime.fromtimestamp(seconds)
    return time.astimezone()
