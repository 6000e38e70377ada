"""The run folder: what is in it, and how it is read.

config.toml        every field of the configuration
run.json           seeds, versions and device it was begun with
metrics.jsonl      a row for each update and seed
evaluations.jsonl  a row for each evaluation and seed
checkpoints/       the last whole states, one file each, named by the updates done
agents.npz         parameters and statistics at the end; best.npz: the best by evaluation
curve.png          return against steps
summary.json       the results
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.runs import checkpoint
from purejaxppo.runs.metric_rows import metrics_from_rows
from purejaxppo.types import Metrics


def is_run(run_dir: str | Path | None) -> bool:
    """Whether the folder holds a run that has begun."""
    return run_dir is not None and (Path(run_dir) / "config.toml").exists()


def check_free(run_dir: str | Path, resume: bool = False) -> None:
    """Raises ConfigError if the folder holds anything, or cannot be a folder.

    With `resume`, it may hold what a run that was killed at once has left.
    """
    path = Path(run_dir)
    left = {"run.json", "run.json.partial", "config.toml.partial"} if resume else set()
    if path.exists() and (not path.is_dir() or {p.name for p in path.iterdir()} - left):
        raise ConfigError(
            f"run folder {str(path)!r} exists and is not empty: name another with --run-dir, or "
            "go on with what it holds with --resume"
        )


def create_run_dir(run_dir: str | Path | None, env: str, resume: bool = False) -> Path:
    """Makes a run's folder: the one named, else the next free `runs/<env>-<date>-<n>`.

    Raises:
        ConfigError: the folder that is named is not empty, or cannot be made.
    """
    if run_dir is not None:
        check_free(run_dir, resume)
        path = Path(run_dir)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"run folder {str(path)!r} cannot be made: {error}") from error
        return path
    stem = f"{_stem(env)}-{datetime.date.today().isoformat()}"
    n = 1
    while True:
        path = Path("runs") / f"{stem}-{n}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            n += 1
        except OSError as error:
            raise ConfigError(
                f"run folder {str(path)!r} cannot be made ({error}): name another with --run-dir"
            ) from error
        else:
            return path


def newest_run(env: str) -> Path:
    """The folder below `runs/` where training on an environment was begun last.

    Raises:
        ConfigError: there is none.
    """
    found = [path.parent for path in Path("runs").glob(f"{_stem(env)}-*/run.json")]
    found = [path for path in found if is_run(path) and read_run(path)[0].env == env]
    if not found:
        raise ConfigError(f"no run of {env} in runs/ to go on with: name its folder with --run-dir")
    return max(found, key=lambda path: (path / "run.json").stat().st_mtime)


def _stem(env: str) -> str:
    return env.replace("/", "-")


def write_run(run_dir: Path, config: PPOConfig, about: Mapping[str, Any]) -> None:
    """Writes `run.json` and, last, `config.toml`, which says that the run has begun.

    Args:
        run_dir: the folder.
        config: what is trained.
        about: its seeds, versions and device.
    """
    about = {name: value for name, value in about.items() if name != "config"}
    checkpoint.write_json(run_dir / "run.json", about)
    config.to_toml(run_dir / "config.toml.partial")
    os.replace(run_dir / "config.toml.partial", run_dir / "config.toml")


def read_run(run_dir: str | Path) -> tuple[PPOConfig, dict[str, Any]]:
    """The configuration of a run, and what it was begun with.

    Raises:
        ConfigError: the folder holds no run.
    """
    folder = Path(run_dir)
    try:
        config = PPOConfig.from_toml(folder / "config.toml")
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if "seeds" not in run:
            raise ValueError("run.json does not say how many seeds")
    except (OSError, ValueError, TypeError) as error:
        words = str(error).removesuffix(".")
        raise ConfigError(
            f"{str(folder)!r} holds no run ({words}): name a folder that purejaxppo train wrote"
        ) from error
    return config, run


def lock(folder: Path) -> int:
    """Takes a folder for this process, until the file descriptor that it gives is closed.

    Raises:
        ConfigError: another process has it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConfigError(
            f"another process trains in {str(folder)!r}: wait for it, or name another folder"
        ) from error
    return descriptor


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSON Lines file, None for numbers that were not finite; none without a file.

    A last line that was cut short is left out.
    """
    if not path.exists():
        return
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def read_metrics(run_dir: str | Path) -> Metrics:
    """What `metrics.jsonl` holds of whole updates: every field [seeds, updates], NumPy."""
    _, run = read_run(run_dir)
    return metrics_from_rows(list(read_rows(Path(run_dir) / "metrics.jsonl")), run["seeds"])
