"""What a study writes for others to read: its trials as a table, and the best configuration."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import tomli_w

from purejaxppo.config.schema import PPOConfig
from purejaxppo.run_folder.files import write_whole
from purejaxppo.runs.problems import Problems
from purejaxppo.sweeps.read import StudyFile
from purejaxppo.sweeps.space import env_params_in, with_setting
from purejaxppo.sweeps.trials import Result

HAS_PARQUET = importlib.util.find_spec("pyarrow") is not None
"""Whether tables are written as Parquet too."""

ABOUT_TRIAL = ("status", "score", "scores")
ABOUT_TRAINING = ("steps", "seconds", "run", "agents", "parent", "why")
"""Columns of `trials.csv` before those of what was measured, and behind them."""


def table_of(results: Iterable[Result], names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns results as rows of a table, in the order of their numbers.

    Args:
        results: any.
        names: of what is varied.

    Returns:
        A row for each, all with the same names: number, what is varied, status and score, what was
        measured, and what is known of the training; None where there is no value.
    """
    ordered = sorted(results, key=lambda r: r.number)
    measured = dict.fromkeys(name for r in ordered for name in r.measured)
    return [
        {"number": r.number}
        | {name: r.setting.get(name) for name in names}
        | {name: getattr(r, name) for name in ABOUT_TRIAL}
        | {name: r.measured.get(name) for name in measured}
        | {name: getattr(r, name) for name in ABOUT_TRAINING}
        for r in ordered
    ]


def write_table(folder: Path, rows: Sequence[Mapping[str, Any]], problems: Problems) -> None:
    """Writes rows as CSV, and as Parquet where pyarrow is installed; nothing if there are none.

    Args:
        folder: of the study.
        rows: of `table_of`.
        problems: where a failure to write is reported.
    """
    if not rows:
        return
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    # a list is its entries, separated by spaces
    writer.writerows(
        {k: _joined(x) if isinstance(x, list | tuple) else x for k, x in row.items()}
        for row in rows
    )
    with problems.attempt("trials.csv"):
        write_whole(folder / "trials.csv", lambda out: out.write(file.getvalue().encode()))
    if HAS_PARQUET:
        with problems.attempt("trials.parquet"):
            write_whole(folder / "trials.parquet", lambda out: _write_parquet(out, rows))


def _joined(values: Sequence[Any]) -> str:
    return " ".join("" if x is None else str(x) for x in values)


def _write_parquet(file: IO[bytes], rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as Parquet; a column of several types is one of texts."""
    import pyarrow
    import pyarrow.parquet

    columns = {name: [row[name] for row in rows] for name in rows[0]}
    for name, values in columns.items():
        kinds = {type(x) for x in values if x is not None}
        if len(kinds) > 1 and not kinds <= {int, float}:
            columns[name] = [None if x is None else str(x) for x in values]
    pyarrow.parquet.write_table(pyarrow.table(columns), file)


def best_toml(config: PPOConfig, best: Result, retrained: bool, about: StudyFile) -> str:
    """Returns the whole configuration of the best trial as TOML, as `train --config` takes it.

    Args:
        config: the base configuration.
        best: the trial.
        retrained: it is the best of those that were trained again.
        about: what was swept.

    Returns:
        Every field, a table `env_params` where some of those are varied or were passed, and above
        it comments: the first says what it is the best of.
    """
    measure, seeds = about["options"]["score"][0], len(best.scores)
    of = "settings that were trained again, on fresh seeds" if retrained else "trials"
    comments = [
        f"trial {best.number} has the best {measure} of the {of}: {best.score:.6g}, the mean over "
        f"{seeds} seed{'s' * (seeds > 1)}",
        *(f"{name} = {value}" for name, value in best.setting.items()),
        *(
            f"trained with {kind} {what}, which no file of TOML holds"
            for kind, what in about["own"].items()
            if kind != "env_params" or not about["env_params"]
        ),
    ]
    text = with_setting(config, best.setting).as_toml()
    params = {**about["env_params"], **env_params_in(best.setting)}
    table = f"\n{tomli_w.dumps({'env_params': params})}" if params else ""
    # a comment ends with its line, and holds what is printed alone
    lines = ("".join(c if c.isprintable() else " " for c in line) for line in comments)
    return "".join(f"# {line}\n" for line in lines) + text + table
