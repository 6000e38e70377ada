"""What the files of a run folder say, each read in one place and compared with its schema."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from purejaxppo.bounds import MOST_SEEDS
from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.run_folder.begin import folder_stem, is_run
from purejaxppo.run_folder.files import (
    damaged,
    damaged_line,
    read_bytes,
    read_json,
    read_lines,
)
from purejaxppo.run_folder.paths import given_path
from purejaxppo.run_folder.schemas import (
    ActingFile,
    RunFile,
    SummaryFile,
    parse_row,
    wrong_column,
)

if TYPE_CHECKING:
    from purejaxppo.types import Metrics, Row


def newest_run(env: str) -> Path:
    """Finds the folder below `runs/` where training on an environment was begun last.

    Args:
        env: name of the environment.

    Returns:
        The folder.

    Raises:
        ConfigError: there is none.
    """
    found = [path.parent for path in Path("runs").glob(f"{folder_stem(env)}-*/run.json")]
    # older ones are not looked at, for they may be damaged
    for path in sorted(found, key=lambda path: -(path / "run.json").stat().st_mtime):
        if is_run(path) and read_run(path)[0].env == env:
            return path
    raise ConfigError(f"no run of {env} in runs/ to go on with: name its folder with --run-dir")


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
    return (row for _, row in read_lines(path, parse_row))


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
    # arrays of metrics are JAX's records; all else in a folder is read without it
    from purejaxppo.run_folder.rows import SCALARS, info_columns, metrics_from_rows

    config, run = read_run(run_dir)
    path, seeds = given_path(run_dir) / "metrics.jsonl", run["seeds"]
    known = {*SCALARS, *info_columns(config.info_metrics).values()}
    rows: list[Row] = []
    for at, row in enumerate(read_rows(path)):
        if updates is not None and at == updates * seeds:
            break
        place = {"step": (at // seeds + 1) * config.batch_size, "seed": at % seeds}
        names = set(rows[0]) if rows else set(row)
        words = wrong_column(row, names, known | place.keys()) or _wrong_place(row, place)
        if words is not None:
            raise damaged_line(path, at + 1, words)
        rows.append(row)
    return metrics_from_rows(rows, seeds, config.info_metrics)


def _wrong_place(row: Row, place: Mapping[str, int]) -> str | None:
    """Returns in which number a row differs from those of its place; None if in none."""
    for name, number in place.items():
        if row[name] != number:
            return f"{name} is {row[name]}, not {number}"
    return None


def read_evaluations(
    run_dir: str | Path, seeds: int, step: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Reads the mean returns that evaluations gave.

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
    steps, columns = read_evaluation_table(run_dir, seeds, step)
    return steps, columns["return_mean"]


def read_evaluation_table(
    run_dir: str | Path, seeds: int, step: int | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Reads all that evaluations gave.

    Args:
        run_dir: a run folder.
        seeds: agents of the run.
        step: the last one to read; None: all.

    Returns:
        Steps [evaluations], and columns by name [seeds, evaluations], `return_mean` at least: NaN
        where a number is missing or was not finite.

    Raises:
        ConfigError: a row is damaged, or not in its place.
    """
    path = given_path(run_dir) / "evaluations.jsonl"
    steps: list[int] = []
    rows: list[Row] = []
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
        rows.append(row)
    missing = len(steps) * seeds - len(rows)
    if step is not None and missing:
        raise damaged(path, f"it has not {seeds} rows of step {steps[-1]}")

    def column(name: str) -> np.ndarray:
        values = [row.get(name) for row in rows] + [None] * missing
        return np.array(values, np.float64).reshape(len(steps), seeds).T

    names = dict.fromkeys(["return_mean", *(name for row in rows[:1] for name in row)])
    return np.array(steps, int), {x: column(x) for x in names if x not in ("step", "seed")}


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
