"""Loggers beside the files of the run folder, each in an extra of the package."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from purejaxppo.errors import ConfigError
from purejaxppo.run_folder.files import read_json, write_json
from purejaxppo.run_folder.schemas import WandBFile
from purejaxppo.types import Row

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
"""The package that each extra installs."""


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


class TensorBoard:
    """A logger to TensorBoard: each seed is a run, in `<run folder>/tensorboard/seed_<i>`.

    Args:
        run_dir: the run folder. Of what a resumed run wrote there before, TensorBoard hides the
            steps after the one that it goes on from.

    Raises:
        ConfigError: tensorboardX is not installed.
    """

    def __init__(self, run_dir: str | Path):
        self._folder, self._writers = Path(run_dir) / "tensorboard", {}
        self._make = import_extra("tensorboard").SummaryWriter

    def __call__(self, step: int, row: Row) -> None:
        """Writes the scalars of a row."""
        seed = row["seed"]
        if seed not in self._writers:
            folder = str(self._folder / f"seed_{seed}")
            self._writers[seed] = self._make(folder, purge_step=step)
        for name, value in _scalars(row):
            self._writers[seed].add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is still in memory."""
        for writer in self._writers.values():
            writer.close()


class WandB:
    """A logger to Weights & Biases, of scalars `seed_<i>/<name>`; offline with WANDB_MODE=offline.

    Args:
        run_dir: the run folder, where the identity of the run is kept: a resumed run goes on
            under it.
        project: name of the project.
        config: plain values to show beside the curves.

    Raises:
        ConfigError: wandb is not installed.
    """

    def __init__(self, run_dir: str | Path, project: str, config: Mapping[str, object]):
        self._wandb, self._run_dir, self._run = import_extra("wandb"), Path(run_dir), None
        self._about = {"project": project, "config": config}

    def __call__(self, step: int, row: Row) -> None:
        """Writes the scalars of a row."""
        if self._run is None:  # not before the run folder is made
            self._run = self._init()
        named = {f"seed_{row['seed']}/{name}": value for name, value in _scalars(row)}
        self._run.log(named, step=step)

    def close(self) -> None:
        """Writes what is still in memory."""
        if self._run is not None:
            self._run.finish()

    def _init(self) -> Any:
        """Begins the run of Weights & Biases, or goes on with the one that the folder names."""
        path = self._run_dir / "wandb.json"
        known = read_json(path, WandBFile)["id"] if os.path.lexists(path) else None
        run = self._wandb.init(**self._about, dir=str(self._run_dir), id=known, resume="allow")
        write_json(path, {"id": run.id})
        return run


def _scalars(row: Row) -> Iterator[tuple[str, float]]:
    """Yields the finite values of a row by name, but for those that say where it belongs."""
    for name, value in row.items():
        if name not in ("step", "seed") and math.isfinite(value):
            yield name, value
