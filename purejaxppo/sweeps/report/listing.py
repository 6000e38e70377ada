"""The studies below a folder, a line each, read without jax."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from purejaxppo.errors import ConfigError
from purejaxppo.report.listing import UNKNOWN, begun_words, in_columns, name_from
from purejaxppo.report.overview import number, time_begun
from purejaxppo.run_folder.find import STUDY, find_studies
from purejaxppo.run_folder.lock import is_held
from purejaxppo.run_folder.paths import given_path
from purejaxppo.run_folder.progress import State
from purejaxppo.sweeps.read import StudyResults, read_study

HEAD = ("study", "trials", "failed", "best", "state", "begun")
RIGHT = {"trials", "failed", "best"}  # numbers stand to the right


class StudyLine(NamedTuple):
    """What a list says of a study.

    Attributes:
        folder: where it is.
        state: what it does; "damaged" where that cannot be read.
        study: what is in it; None where that is damaged.
        problem: what is damaged; None for all others.
        begun: when it was begun; None if nothing says so.
    """

    folder: Path
    state: State | Literal["damaged"]
    study: StudyResults | None
    problem: str | None
    begun: datetime.datetime | None

    def as_json(self) -> dict[str, Any]:
        """Returns it as plain values, null for what is not known."""
        study, about = self.study, self.study and self.study.about
        winner = study and study.winner
        return {
            "kind": "study",
            "folder": os.fspath(self.folder),
            "state": self.state,
            "env": study and study.config.env,
            "space": about and [x["name"] for x in about["space"]],
            "sampler": about and about["options"].get("sampler"),
            "scheduler": about and about["options"].get("scheduler"),
            "trials": about and about["trials"],
            "trials_done": None if study is None else len(study.results),
            "trials_failed": None if study is None else study.failed,
            "measure": study and study.measure,
            "best_trial": winner and winner.number,
            "best_score": winner and winner.score,
            "best_setting": winner and dict(winner.setting),
            "retrained": None if study is None else study.retrained is not None,
            "created": self.begun and self.begun.isoformat(),
            "problem": self.problem,
        }


def list_studies(folder: str | Path) -> list[StudyLine]:
    """Reads what a list says of the studies in a folder and below it.

    Args:
        folder: where to look, which is there.

    Returns:
        A line for each, the newest last.
    """
    lines = [_line(path) for path in find_studies(given_path(folder, "folder"))]
    return sorted(lines, key=lambda line: 0.0 if line.begun is None else line.begun.timestamp())


def _line(folder: Path) -> StudyLine:
    """Reads what a list says of a study."""
    try:
        study = read_study(folder)
    except ConfigError as error:
        state = "running" if is_held(folder) else "damaged"
        return StudyLine(folder, state, None, str(error), time_begun(None, folder / STUDY))
    begun = time_begun(study.about["created"], folder / STUDY)
    return StudyLine(folder, study.state, study, None, begun)


def table_of_studies(lines: Sequence[StudyLine], folder: Path, width: int) -> str:
    """Returns a table of studies: a line for each, or two where one has no room.

    Args:
        lines: one or more.
        folder: their names are given from here.
        width: columns of the terminal.

    Returns:
        The table, and below it what is damaged.
    """
    rows = [_cells(line, folder) for line in lines]
    what = [_what(line) for line in lines]
    problems = [line.problem for line in lines if line.problem]
    return in_columns(HEAD, RIGHT, rows, what, problems, width)


def _cells(line: StudyLine, folder: Path) -> list[str]:
    """Returns the texts of a study's line, in the order of the head."""
    numbers, study = [UNKNOWN] * 3, line.study
    if study is not None:
        told, planned = len(study.results), study.about["trials"]
        trials = str(told) if planned <= told else f"{told}/{planned}"
        best = study.winner
        score = UNKNOWN if best is None or best.score is None else number(best.score)
        numbers = [trials, str(study.failed), score]
    return [name_from(folder, line.folder), *numbers, line.state, begun_words(line.begun)]


def _what(line: StudyLine) -> str:
    """Says what is swept."""
    if line.study is None:
        return ""
    options = line.study.about["options"]
    how = [options.get("sampler"), options.get("scheduler")]
    words = " ".join(str(x) for x in how if x not in (None, "none"))
    names = ", ".join(x["name"] for x in line.study.about["space"])
    again = ", best on fresh seeds" * line.study.is_fresh
    return f"{line.study.config.env} {words}, by {line.study.measure}{again}: {names}"
