"""Callbacks that write rows for other programs: TensorBoard, Weights & Biases, and tables (CSV)."""

from __future__ import annotations

import csv
import io
import math
import os
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.run_folder.files import (
    damaged_line,
    opened,
    read_json,
    write_json,
    write_whole,
)
from purejaxppo.run_folder.paths import given_path
from purejaxppo.run_folder.rows import info_columns
from purejaxppo.run_folder.schemas import WandBFile
from purejaxppo.runs.callbacks import Callback
from purejaxppo.types import Row

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
"""The package that each extra installs."""

GROUPS = {
    "rollout": (
        "episodes", "return_sum", "length_sum", "episode_return", "episode_length", "empty_masks",
    ),
    "train": (
        "policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "grad_norm",
        "explained_variance", "learning_rate", "kl_coef", "gradient_steps", "skipped_steps",
    ),
    "time": ("steps_per_second",),
}  # fmt: skip
"""Columns of an update by the group that they are shown in.

Those of `info_metrics` are in rollout, those of a custom objective in train; all of an evaluation
are in eval.
"""

GROUP_OF = {column: group for group, columns in GROUPS.items() for column in columns}
OTHERS = "train"
PLACE = ("step", "seed")
TABLES = ("progress.csv", "evaluations.csv")


def import_extra(extra: str) -> ModuleType:
    """Imports the package of an extra.

    Args:
        extra: its name, a key of `PACKAGES`.

    Returns:
        The package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module(PACKAGES[extra])
    except ImportError as error:
        raise ConfigError(f"{error}: pip install 'purejaxppo[{extra}]'") from error


class RowLogger(Callback):
    """A callback that writes the numbers of rows by group and name; subclasses define `write`."""

    def __init__(self):
        self._speed, self._groups = Speed(), GROUP_OF

    def on_start(self, config: PPOConfig, run_dir: Path | None) -> None:
        """Begins to measure the speed.

        Args:
            config: what is trained.
            run_dir: the run folder, if the run has one.
        """
        infos = info_columns(config.info_metrics).values()
        self._speed, self._groups = Speed(config), GROUP_OF | dict.fromkeys(infos, "rollout")

    def on_row(self, step: int, row: Row) -> None:
        """Writes the row of an update and seed.

        Args:
            step: environment steps of each seed so far.
            row: of the update.
        """
        row = {**row, "steps_per_second": self._speed.at(step)}
        self._write(step, row, self._groups)

    def on_evaluation(self, step: int, row: Row) -> None:
        """Writes the row of an evaluation and seed.

        Args:
            step: environment steps of each seed so far.
            row: of the evaluation.
        """
        self._write(step, row, dict.fromkeys(row, "eval"))

    def _write(self, step: int, row: Row, groups: Mapping[str, str]) -> None:
        """Writes what is finite in a row, but for what says where it belongs."""
        scalars = {
            f"{groups.get(name, OTHERS)}/{name}": value
            for name, value in row.items()
            if name not in PLACE and math.isfinite(value)
        }
        self.write(step, row["seed"], scalars)

    def write(self, step: int, seed: int, scalars: Mapping[str, float]) -> None:
        """Writes numbers.

        Args:
            step: environment steps of each seed so far.
            seed: which one they are of.
            scalars: finite, by `<group>/<name>`.
        """
        raise NotImplementedError


class Speed:
    """How fast a run goes on, since it has begun or was resumed.

    Args:
        config: of the run that begins here; None: there is none, and speeds are NaN.
    """

    def __init__(self, config: PPOConfig | None = None):
        self._config, self._began = config, time.perf_counter()
        self._first: int | None = None

    def at(self, step: int) -> float:
        """Returns the environment steps of each seed per second.

        Args:
            step: environment steps of each seed so far.
        """
        if self._config is None:
            return math.nan
        if self._first is None:  # the first row is of the first update
            self._first = step - self._config.batch_size
        return (step - self._first) / max(time.perf_counter() - self._began, 1e-9)


class TensorBoard(RowLogger):
    """A callback that writes for TensorBoard: scalars like `rollout/episode_return`.

    Each seed is a run of TensorBoard's, in `<run folder>/tensorboard/seed_<i>`.

    Args:
        run_dir: the run folder. Of what a resumed run wrote there before, TensorBoard hides the
            steps after the one that it goes on from.

    Raises:
        ConfigError: tensorboardX is not installed.
    """

    def __init__(self, run_dir: str | Path):
        super().__init__()
        self._folder, self._writers = given_path(run_dir) / "tensorboard", {}
        self._make = import_extra("tensorboard").SummaryWriter

    def write(self, step: int, seed: int, scalars: Mapping[str, float]) -> None:
        """Writes numbers.

        Args:
            step: environment steps of each seed so far.
            seed: which one they are of.
            scalars: finite, by `<group>/<name>`.
        """
        if seed not in self._writers:
            folder = str(self._folder / f"seed_{seed}")
            self._writers[seed] = self._make(folder, purge_step=step)
        for name, value in scalars.items():
            self._writers[seed].add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is still in memory."""
        while self._writers:
            self._writers.popitem()[1].close()


class WandB(RowLogger):
    """A callback that writes for Weights & Biases: scalars like `seed_0/rollout/episode_return`.

    With WANDB_MODE=offline nothing is sent.

    Args:
        run_dir: the run folder, where the identity of the run is kept: a resumed run goes on
            under it. What is sent again then is equal to what was sent, and is left out.
        project: name of the project.

    Raises:
        ConfigError: wandb is not installed.
    """

    def __init__(self, run_dir: str | Path, project: str):
        super().__init__()
        self._wandb, self._run_dir, self._run = import_extra("wandb"), given_path(run_dir), None
        self._about: dict[str, Any] = {"project": project}

    def on_start(self, config: PPOConfig, run_dir: Path | None) -> None:
        """Notes what is shown beside the curves.

        Args:
            config: what is trained.
            run_dir: the run folder, if the run has one.
        """
        super().on_start(config, run_dir)
        self._about["config"] = config.to_dict()

    def write(self, step: int, seed: int, scalars: Mapping[str, float]) -> None:
        """Writes numbers.

        Args:
            step: environment steps of each seed so far.
            seed: which one they are of.
            scalars: finite, by `<group>/<name>`.
        """
        if self._run is None:  # where nothing is left to do, nothing is begun
            self._run = self._init()
        self._run.log({f"seed_{seed}/{name}": x for name, x in scalars.items()}, step=step)

    def close(self) -> None:
        """Writes what is still in memory."""
        run, self._run = self._run, None
        if run is not None:
            run.finish()

    def _init(self) -> Any:
        """Begins the run of Weights & Biases, or goes on with the one that the folder names."""
        path = self._run_dir / "wandb.json"
        known = read_json(path, WandBFile)["id"] if os.path.lexists(path) else None
        run = self._wandb.init(**self._about, dir=str(self._run_dir), id=known, resume="allow")
        write_json(path, {"id": run.id})
        return run


class CSVLogger(Callback):
    """A callback that writes tables: `progress.csv`, and `evaluations.csv` where there are some.

    They have the rows and columns of `metrics.jsonl` and `evaluations.jsonl`, and the
    `steps_per_second` of each seed; what is not a number is left empty. The first row fixes the
    columns. A resumed run goes on with the tables, without the rows that come again.

    Args:
        run_dir: the run folder, or another one.
    """

    def __init__(self, run_dir: str | Path):
        self._folder, self._speed = given_path(run_dir), Speed()
        self._begun = False
        self._files: dict[str, IO[str]] = {}
        self._columns: dict[str, list[str]] = {}

    def on_start(self, config: PPOConfig, run_dir: Path | None) -> None:
        """Begins to measure the speed.

        Args:
            config: what is trained.
            run_dir: the run folder, if the run has one.
        """
        self._speed, self._begun = Speed(config), False

    def on_row(self, step: int, row: Row) -> None:
        """Writes the row of an update and seed.

        Args:
            step: environment steps of each seed so far.
            row: of the update.
        """
        self._write("progress.csv", step, {**row, "steps_per_second": self._speed.at(step)})

    def on_evaluation(self, step: int, row: Row) -> None:
        """Writes the row of an evaluation and seed.

        Args:
            step: environment steps of each seed so far.
            row: of the evaluation.
        """
        self._write("evaluations.csv", step, row)

    def close(self) -> None:
        """Closes the files."""
        while self._files:
            self._files.popitem()[1].close()

    def _write(self, name: str, step: int, row: Row) -> None:
        # the first row of all says where the run goes on: what is there of later steps comes again
        if not self._begun:
            self._folder.mkdir(parents=True, exist_ok=True)
            for table in TABLES:
                cut_table(self._folder / table, step)
            self._begun = True
        if name not in self._files:
            self._open(name, list(row))
        values = (row.get(column) for column in self._columns[name])
        known = ["" if x is None or math.isnan(x) else x for x in values]
        csv.writer(self._files[name], lineterminator="\n").writerow(known)

    def _open(self, name: str, columns: list[str]) -> None:
        """Opens a table, which has its header then."""
        path = self._folder / name
        if not os.path.lexists(path):
            header = io.StringIO()
            csv.writer(header, lineterminator="\n").writerow(columns)
            write_whole(path, lambda file: file.write(header.getvalue().encode()))
        with open(path, encoding="utf-8", newline="") as file:
            found = next(csv.reader(file), [])
        if found != columns:
            raise ConfigError(
                f"{str(path)!r} has the columns {', '.join(found)}, not {', '.join(columns)}: move "
                "it away, or write into another folder"
            )
        # a row is on its way to the disk as soon as it is written
        self._files[name] = open(path, "a", encoding="utf-8", newline="", buffering=1)  # noqa: SIM115
        self._columns[name] = columns


def cut_table(path: Path, step: int) -> None:
    """Takes the rows from a step on out of a table, and what a kill has left of a row.

    Args:
        path: the file, whose rows begin with their step, in ascending order; where it is a link,
            the link is replaced, not what it names.
        step: the first one that is taken out.

    Raises:
        ConfigError: it cannot be read, or a row does not begin with a step.
        OSError: it cannot be written.
    """
    if not os.path.lexists(path):
        return
    with opened(path) as file:
        kept = [file.readline()]
        for number, line in enumerate(file, 2):
            if not line.endswith(b"\n"):
                break
            try:
                if int(line.split(b",", 1)[0]) >= step:
                    break
            except ValueError as error:
                raise damaged_line(path, number, error) from error
            kept.append(line)
    if len(kept) == 1:  # no rows: the next ones bring their header
        path.unlink()
    else:
        write_whole(path, lambda file: file.writelines(kept))
