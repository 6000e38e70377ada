"""Loggers beside the run folder's own: callbacks `(step, row)`, each an extra."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from purejaxppo.errors import ConfigError
from purejaxppo.runs.journal import Row


class TensorBoard:
    """Scalars of each seed as a run of its own, in `<run folder>/tensorboard/seed_<i>`.

    Args:
        run_dir: the run folder; of what a resumed run wrote before, later steps are hidden.

    Raises:
        ConfigError: tensorboardX is not installed.
    """

    def __init__(self, run_dir: str | Path):
        self._folder, self._writers = Path(run_dir) / "tensorboard", {}
        self._make = module("tensorboard").SummaryWriter

    def __call__(self, step: int, row: Row) -> None:
        """Writes a row."""
        seed = row["seed"]
        if seed not in self._writers:
            folder = str(self._folder / f"seed_{seed}")
            self._writers[seed] = self._make(folder, purge_step=step)
        for name, value in _scalars(row):
            self._writers[seed].add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is left."""
        for writer in self._writers.values():
            writer.close()


class WandB:
    """Scalars to Weights & Biases, named `seed_<i>/...`; offline with WANDB_MODE=offline.

    Args:
        run_dir: the run folder: a resumed run goes on under its identity there.
        project: where to.
        config: shown beside the curves.

    Raises:
        ConfigError: wandb is not installed.
    """

    def __init__(self, run_dir: str | Path, project: str, config: dict[str, Any]):
        self._wandb, self._run_dir, self._run = module("wandb"), Path(run_dir), None
        self._about = {"project": project, "config": config}

    def __call__(self, step: int, row: Row) -> None:
        """Writes a row."""
        if self._run is None:  # not before the run folder is made
            self._run = self._init()
        named = {f"seed_{row['seed']}/{name}": value for name, value in _scalars(row)}
        self._run.log(named, step=step)

    def close(self) -> None:
        """Writes what is left."""
        if self._run is not None:
            self._run.finish()

    def _init(self) -> Any:
        path = self._run_dir / "wandb.json"
        known = json.loads(path.read_text())["id"] if path.exists() else None
        run = self._wandb.init(**self._about, dir=str(self._run_dir), id=known, resume="allow")
        path.write_text(json.dumps({"id": run.id}))
        return run


def _scalars(row: Row) -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if name not in ("step", "seed") and math.isfinite(value):
            yield name, value


def module(extra: str) -> Any:
    """The package of an extra.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module(_PACKAGES[extra])
    except ImportError as error:
        raise ConfigError(f"{error}: pip install 'purejaxppo[{extra}]'") from error


_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
