"""The run folder: what is in it, how it is begun, and how it is read.

config.toml        every field of the configuration
run.json           seeds, versions and device it was begun with
metrics.jsonl      a row for each update and seed
evaluations.jsonl  a row for each evaluation and seed
checkpoints/       the last whole states, one file each, named by the updates done
agents.npz         parameters and statistics at the end; best.npz: the best by evaluation
curve.png          return against steps
summary.json       the results
.lock              empty; who trains here holds it, and it stays
"""

from __future__ import annotations

import datetime
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.runs.files import (
    damaged,
    damaged_line,
    left_over,
    read_bytes,
    read_json,
    read_lines,
    write_json,
    write_whole,
)
from purejaxppo.runs.lock import LOCK
from purejaxppo.runs.metric_rows import SCALARS, metrics_from_rows
from purejaxppo.runs.options import MOST_SEEDS
from purejaxppo.runs.paths import given_path
from purejaxppo.runs.schemas import ActingFile, RunFile, SummaryFile, wrong_column
from purejaxppo.types import Metrics, Row

BEGINNING = re.compile(r"run\.json|config\.toml")
"""Files that are written before all others, `config.toml` last."""

WHOLE = re.compile(BEGINNING.pattern + r"|(agents|best)\.npz|curve\.png|summary\.json|wandb\.json")
"""Files that are written whole; a killed process may leave a part of one."""

CHECKPOINT = re.compile(r"[0-9]{10,}\.npz")
"""Files of the folder `checkpoints`, by the updates done."""

# -- beginning a run ------------------------------------------------------------------------------


def is_run(run_dir: str | Path | None) -> bool:
    """Says whether a folder holds a run that has begun.

    Args:
        run_dir: the folder, which need not exist; None is no run.
    """
    return run_dir is not None and os.path.lexists(Path(run_dir) / "config.toml")


def begun_in(run_dir: str | Path) -> bool:
    """Says whether a folder holds a run, or what is left of one that was killed before it began.

    Args:
        run_dir: the folder, which need not exist.

    Raises:
        ConfigError: it cannot be looked into.
    """
    return is_run(run_dir) or bool(_names_in(Path(run_dir)))


def check_free(run_dir: str | Path, resume: bool = False) -> None:
    """Refuses a folder that holds anything, or that cannot be a folder.

    Args:
        run_dir: the folder, which need not exist.
        resume: it may hold what is left of a run that was killed before it had begun.

    Raises:
        ConfigError: it is a file, or not empty.
    """
    path = given_path(run_dir)
    others = [
        name for name in _names_in(path)
        if name != LOCK and not (resume and _is_beginning(path / name))
    ]  # fmt: skip
    if os.path.lexists(path) and (not os.path.isdir(path) or others):
        what = "holds no run to go on with" if resume else "exists"
        raise ConfigError(
            f"run folder {str(path)!r} {what} and is not empty: name another with --run-dir"
            + ("" if resume else ", or go on with what it holds with --resume")
        )


def _is_beginning(path: Path) -> bool:
    """Says whether a file is written before `config.toml` is, which says that a run has begun."""
    return path.name == "run.json" or left_over(path, BEGINNING)


def _names_in(path: Path) -> list[str]:
    """Returns the names in a folder; none if there is no folder."""
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigError(
            f"run folder {str(path)!r} cannot be read ({error.strerror}): name another"
        ) from error


def create_run_dir(run_dir: str | Path | None, env: str, resume: bool = False) -> Path:
    """Makes a run's folder: the one named, else the next free `runs/<env>-<date>-<n>`.

    Args:
        run_dir: the folder; None: a new one below `runs/`.
        env: name of the environment, of which the name of a new folder is made.
        resume: the folder may hold what is left of a run that was killed before it had begun.

    Returns:
        The folder.

    Raises:
        ConfigError: the folder that is named is not empty, or cannot be made.
    """
    if run_dir is not None:
        check_free(run_dir, resume)
        path = given_path(run_dir)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"run folder {str(path)!r} cannot be made: {error}") from error
        return path

    # making the folder is what claims its name: two runs that begin together get two numbers
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
    """Finds the folder below `runs/` where training on an environment was begun last.

    Args:
        env: name of the environment.

    Returns:
        The folder.

    Raises:
        ConfigError: there is none.
    """
    found = [path.parent for path in Path("runs").glob(f"{_stem(env)}-*/run.json")]
    found = [path for path in found if is_run(path) and read_run(path)[0].env == env]
    if not found:
        raise ConfigError(f"no run of {env} in runs/ to go on with: name its folder with --run-dir")
    return max(found, key=lambda path: (path / "run.json").stat().st_mtime)


def _stem(env: str) -> str:
    # neither can be in the name of a folder, ":" on Windows
    return env.replace("/", "-").replace(":", "-")


# -- what a run is begun with ---------------------------------------------------------------------


def write_run(run_dir: Path, config: PPOConfig, about: Mapping[str, Any]) -> None:
    """Writes `run.json` and, last, `config.toml`, which says that the run has begun.

    Args:
        run_dir: the folder.
        config: what is trained.
        about: its seeds, versions and device; a value named "config" is left out.

    Raises:
        OSError: one of them cannot be written.
    """
    write_json(run_dir / "run.json", {k: value for k, value in about.items() if k != "config"})
    text = config.as_toml()
    write_whole(run_dir / "config.toml", lambda file: file.write(text.encode()))


# -- reading --------------------------------------------------------------------------------------


def read_run(run_dir: str | Path) -> tuple[PPOConfig, ActingFile]:
    """Reads the configuration of a run, and what acting needs to know of it.

    Args:
        run_dir: the folder.

    Returns:
        The configuration, and `run.json`.

    Raises:
        ConfigError: the folder holds no run, or one of the two files is damaged.
    """
    return _read_both(run_dir, ActingFile)


def read_whole_run(run_dir: str | Path) -> tuple[PPOConfig, RunFile]:
    """Reads the configuration of a run, and what it was begun with.

    Args:
        run_dir: the folder.

    Returns:
        The configuration, and `run.json`.

    Raises:
        ConfigError: the folder holds no run, or one of the two files is damaged.
    """
    return _read_both(run_dir, RunFile)


def _read_both(run_dir: str | Path, declared: Any) -> tuple[PPOConfig, Any]:
    """Reads `config.toml` and `run.json`, of a declared type."""
    folder = given_path(run_dir)
    for name in ("config.toml", "run.json"):
        if not os.path.lexists(folder / name):
            raise ConfigError(
                f"{str(folder)!r} holds no run ({name} is not there): name a folder that "
                "purejaxppo train wrote"
            )
    run = read_json(folder / "run.json", declared)
    if not 1 <= run["seeds"] <= MOST_SEEDS:
        raise damaged(folder / "run.json", f"seeds is {run['seeds']}, not 1 to {MOST_SEEDS}")
    return read_config(folder / "config.toml"), run


def read_config(path: Path) -> PPOConfig:
    """Reads the configuration of a run.

    Args:
        path: its `config.toml`, which is there.

    Raises:
        ConfigError: it cannot be read, or holds no configuration.
    """
    raw = read_bytes(path)
    try:
        return PPOConfig.from_dict(tomllib.loads(raw.decode()))
    # a date is a value of TOML that no field has; numbers of any size are
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise damaged(path, str(error).removesuffix(".")) from error


def read_rows(path: Path) -> Iterator[Row]:
    """Yields the rows of a JSON Lines file, None for numbers that were not finite.

    Args:
        path: the file; one that does not exist has no rows.

    Yields:
        Each row, but for a last one that was cut short.

    Raises:
        ConfigError: the file cannot be read, or a line of it is no row.
    """
    return (row for _, row in read_lines(path))


def read_metrics(run_dir: str | Path, updates: int | None = None) -> Metrics:
    """Reads the metrics of all updates that were logged for every seed.

    Args:
        run_dir: a run folder.
        updates: how many to read, from the first on; None: all.

    Returns:
        Every field [seeds, updates], NumPy: int32 where all numbers are whole, else float32.

    Raises:
        ConfigError: the folder holds no run, or a row is damaged, or not in its place.
    """
    config, run = read_run(run_dir)
    path, seeds = given_path(run_dir) / "metrics.jsonl", run["seeds"]
    rows: list[Row] = []
    for at, row in enumerate(read_rows(path)):
        if updates is not None and at == updates * seeds:
            break
        place = {"step": (at // seeds + 1) * config.batch_size, "seed": at % seeds}
        names = set(rows[0]) if rows else set(row)
        words = wrong_column(row, names, {*SCALARS, *place}) or _wrong_place(row, place)
        if words is not None:
            raise damaged_line(path, at + 1, words)
        rows.append(row)
    return metrics_from_rows(rows, seeds)


def _wrong_place(row: Row, place: Mapping[str, int]) -> str | None:
    """Returns in which number a row differs from those of its place; None if in none."""
    for name, number in place.items():
        if row[name] != number:
            return f"{name} is {row[name]}, not {number}"
    return None


def read_evaluations(
    run_dir: str | Path, seeds: int, step: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Reads what evaluations gave.

    Args:
        run_dir: a run folder.
        seeds: agents of the run.
        step: the last one to read; None: all.

    Returns:
        Steps [evaluations], and mean returns [seeds, evaluations], NaN where one is missing or was
        not finite.

    Raises:
        ConfigError: a row is damaged, or not in its place.
    """
    path = given_path(run_dir) / "evaluations.jsonl"
    steps: list[int] = []
    means: list[float | None] = []
    for at, row in enumerate(read_rows(path)):
        if step is not None and row["step"] > step:
            break
        words = wrong_column(row, set(row), {"step", "seed", "return_mean"})
        # a row for each seed, and the evaluations behind each other
        words = words or _wrong_place(row, {"seed": at % seeds})
        if words is None and at % seeds:
            words = _wrong_place(row, {"step": steps[-1]})
        elif words is None and steps and row["step"] <= steps[-1]:
            words = f"step is {row['step']}, behind {steps[-1]}"
        if words is not None:
            raise damaged_line(path, at + 1, words)
        if at % seeds == 0:
            steps.append(row["step"])
        means.append(row["return_mean"])
    missing = [None] * (len(steps) * seeds - len(means))
    if step is not None and missing:
        raise damaged(path, f"it has not {seeds} rows of step {steps[-1]}")
    table = np.array([*means, *missing], np.float64).reshape(len(steps), seeds)
    return np.array(steps, int), table.T


def read_summary(run_dir: str | Path, seeds: int) -> SummaryFile | None:
    """Reads the results of a run.

    Args:
        run_dir: a run folder.
        seeds: agents of the run.

    Returns:
        `summary.json`; None if there is none.

    Raises:
        ConfigError: it is damaged.
    """
    path = given_path(run_dir) / "summary.json"
    if not os.path.lexists(path):
        return None
    summary = read_json(path, SummaryFile)
    if len(summary["final_returns"]) != seeds:
        raise damaged(path, f"final_returns has not {seeds} entries")
    return summary
