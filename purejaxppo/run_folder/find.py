"""Run folders and studies below a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from purejaxppo.errors import ConfigError
from purejaxppo.run_folder.begin import is_run
from purejaxppo.run_folder.lock import LOCK
from purejaxppo.run_folder.paths import given_path

MARKS = {
    "config.toml", "run.json", "metrics.jsonl", "summary.json", "agents.npz", "checkpoints", LOCK,
}  # fmt: skip
"""Names in a run folder; each by itself may be that of something else."""


STUDY, TRIALS = "study.json", "trials.jsonl"
"""Files of a study: what is swept, and what has come of it."""


def is_study(folder: Path) -> bool:
    """Says whether a folder holds a study that has begun.

    Args:
        folder: it need not exist.
    """
    return os.path.lexists(folder / STUDY) and any(
        os.path.lexists(folder / name) for name in (TRIALS, LOCK)
    )


def find_runs(folder: Path) -> list[Path]:
    """Finds the run folders in a folder and below it, damaged ones and such that have not begun.

    Args:
        folder: where to look; hidden folders and links in it are passed over, and studies below
            it, whose runs are those of programs, not of trials.

    Returns:
        Them, in the order of their names, in which run-10 comes after run-9.
    """
    # two of the names: a config.toml alone may be anybody's
    found = [
        where for where, names in _folders(folder)
        if len(MARKS.intersection(names)) > 1 and not is_study(where)
    ]  # fmt: skip
    return sorted(found, key=_in_order)


def find_studies(folder: Path) -> list[Path]:
    """Finds the studies in a folder and below it, but for those within another one.

    Args:
        folder: where to look; hidden folders and links in it are passed over.

    Returns:
        Them, in the order of their names, in which study-10 comes after study-9.
    """
    found = [folder] if is_study(folder) else [x for x, _ in _folders(folder) if is_study(x)]
    return sorted(found, key=_in_order)


def _folders(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yields a folder and those below it, with the names in each, but for what studies hold."""
    for text, folders, files in os.walk(folder):
        where = Path(text)
        yield where, folders + files
        inside = is_study(where) and where != folder
        folders[:] = [
            name for name in folders if not (inside or name[0] == "." or name == "checkpoints")
        ]


def _in_order(path: Path) -> list[tuple[int, str]]:
    """Returns a key by which numbers within names count as numbers."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(int(part), "") if at % 2 else (-1, part) for at, part in enumerate(parts)]


def named_runs(paths: Sequence[str]) -> list[Path]:
    """Returns the runs that are named: run folders, and all below a folder that is none.

    Args:
        paths: one or more.

    Returns:
        Run folders in the order given; those that a folder adds only if they are not there yet.

    Raises:
        ConfigError: there are none, or a folder is no run and has none below it.
    """
    if not paths:
        raise ConfigError("no run is named: give one or more run folders, or a folder of runs/")
    found: list[Path] = []
    for path in map(given_path, paths):
        below = [] if is_run(path) else find_runs(path)
        if not path.is_dir() or is_run(path) or path in below:  # who reads it says what is wrong
            found.append(path)
            continue
        below = [run for run in below if is_run(run)]
        if not below:
            raise ConfigError(
                f"{str(path)!r} holds no run, and there is none below it: name a folder that "
                "purejaxppo train wrote, or one with such folders in it"
            )
        found += [run for run in below if run not in found]
    return found


def named_studies(paths: Sequence[str]) -> list[Path]:
    """Returns the studies that are named: study folders, and all below one without runs.

    Args:
        paths: one or more.

    Returns:
        Study folders in the order given, each once; none if no study is named.

    Raises:
        ConfigError: some of the paths are studies, and others are not.
    """
    found: list[Path] = []
    others: list[Path] = []
    for path in map(given_path, paths):
        studies = [] if is_run(path) or not path.is_dir() else find_studies(path)
        if path not in studies and (not studies or find_runs(path)):
            others.append(path)
        else:
            found += [study for study in studies if study not in found]
    if found and others:
        raise ConfigError(
            f"{str(found[0])!r} is a study and {str(others[0])!r} is none: name studies, or runs"
        )
    return found
