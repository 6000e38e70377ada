"""What the files of a study folder say, each read in one place and compared with its schema.

study.json         what is swept: base configuration, space, options, versions
trials.jsonl       a line for each result, in the order in which they came
trials.csv         the same as a table, and in Parquet where pyarrow is installed
best.toml          the whole configuration of the best trial
lineage.jsonl      who took over from whom, under population-based training
runs/              run folders of the programs that trials were trained in
retrained/         a study of the best settings on fresh seeds
optuna.journal     what samplers that learn have seen
.lock              empty; who sweeps here holds it, and it stays
"""

# annotations are values here: which keys a record needs is read from them

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from purejaxppo.config.rules import types_of
from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError, shown
from purejaxppo.run_folder.files import damaged, read_json, read_lines
from purejaxppo.run_folder.find import STUDY, TRIALS, is_study
from purejaxppo.run_folder.lock import is_held
from purejaxppo.run_folder.paths import given_path
from purejaxppo.run_folder.progress import State
from purejaxppo.run_folder.schemas import misfit, parse_json
from purejaxppo.sweeps.dimensions import Dimension
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.trials import Result, Status

LINEAGE, RETRAINED = "lineage.jsonl", "retrained"


class DimensionFile(TypedDict):
    """A dimension of a space: one of the choices if there are some, else from low to high."""

    name: str
    low: float
    high: float
    log: bool
    integer: bool
    choices: list[Any]


class StudyFile(TypedDict):
    """The file `study.json`."""

    config: dict[str, Any]
    space: list[DimensionFile]
    options: dict[str, Any]  # those that make it another study
    trials: int  # how many are to be tried; no part of what a study is
    own: dict[str, str]  # what was passed in place of what is configured, see describe_custom
    env_params: dict[str, float]  # numbers of all trials, where some were passed
    versions: dict[str, str]
    created: str


class TrialLine(TypedDict):
    """A line of `trials.jsonl`, see `Result`."""

    number: int
    setting: dict[str, Any]
    status: Status
    score: float | None
    scores: list[float | None]
    measured: dict[str, float | None]
    steps: int
    seconds: float
    run: str | None
    agents: list[int]
    parent: int | None
    why: str | None


class LineageLine(TypedDict):
    """A line of `lineage.jsonl`: an agent of a population at the end of a generation."""

    generation: int
    agent: int
    parent: int | None  # the agent that it took over from; None: it went on by itself
    score: float | None
    setting: dict[str, Any]


class StudyResults(NamedTuple):
    """A study as its folder holds it, finished or not.

    Attributes:
        folder: where it is.
        about: what is swept, `study.json`.
        config: the base configuration.
        results: of the trials, the last one of each, by number.
        lineage: of a population, in the order of generations.
        state: what it did when it was read.
        retrained: the best settings on fresh seeds; None where they were not trained again.
    """

    folder: Path
    about: StudyFile
    config: PPOConfig
    results: dict[int, Result]
    lineage: list[LineageLine]
    state: State
    retrained: "StudyResults | None" = None

    @property
    def name(self) -> str:
        """Returns the name of the folder."""
        return self.folder.resolve().name

    @property
    def dimensions(self) -> list[Dimension]:
        """Returns what was varied."""
        return [
            Dimension(**{**x, "choices": tuple(map(with_tuple, x["choices"]))})
            for x in self.about["space"]
        ]

    @property
    def ranked(self) -> list[Result]:
        """Returns the results that have a score, the best first."""
        return ranked(self.results.values())

    @property
    def winner(self) -> Result | None:
        """Returns the best trial; None: none has a score."""
        again = {} if self.retrained is None else self.retrained.results
        return winner(self.results.values(), again.values())

    @property
    def is_fresh(self) -> bool:
        """Says whether the best is known from fresh seeds."""
        return self.retrained is not None and self.winner in self.retrained.ranked

    @property
    def failed(self) -> int:
        """Counts the trials that have no score."""
        return sum(result.score is None for result in self.results.values())

    @property
    def measure(self) -> str:
        """Names what trials are scored by."""
        return self.about["options"]["score"][0]


def ranked(results: Iterable[Result]) -> list[Result]:
    """Returns the results that have a score, the best first.

    Those that were stopped early come behind those that were not: their scores are of fewer steps.

    Args:
        results: in any order.
    """
    known = [(r.status != "done", -r.score, r.number, r) for r in results if r.score is not None]
    return [r for *_, r in sorted(known, key=lambda x: x[:3])]


def winner(results: Iterable[Result], retrained: Iterable[Result]) -> Result | None:
    """Returns the trial whose setting is the best that is known; None: none has a score.

    Args:
        results: of all trials.
        retrained: of those whose settings were trained again on fresh seeds. If the best trial is
            among them, the best of them is returned, as scores by which a trial was chosen are too
            high; one that was better than all of them came later.
    """
    again = {result.number: result for result in retrained}
    best = next(iter(ranked(results)), None)
    known = ranked(again.values())
    return known[0] if known and (best is None or best.number in again) else best


def read_study(study_dir: str | Path) -> StudyResults:
    """Reads a study folder, also one that is being written.

    Args:
        study_dir: the folder.

    Returns:
        All that is in it, but for the runs.

    Raises:
        ConfigError: it holds no study, or a damaged one.
    """
    folder = given_path(study_dir, "study_dir")
    held = is_held(
        folder
    )  # before the lines: those of a study that ends just now are not all there
    config, about = read_about(folder)
    results, lineage = read_results(folder), read_lineage(folder)
    for result in results.values():
        _check_setting(folder / TRIALS, about["space"], result.setting)
    for line in lineage:
        _check_setting(folder / LINEAGE, about["space"], line["setting"])
    inner = folder / RETRAINED
    all_told = len(results) >= about["trials"]
    state: State = "running" if held else "finished" if all_told else "stopped"
    return StudyResults(
        folder, about, config, results, lineage, state,
        read_study(inner) if is_study(inner) else None,
    )  # fmt: skip


def read_about(folder: Path) -> tuple[PPOConfig, StudyFile]:
    """Reads what is swept.

    Args:
        folder: of the study.

    Returns:
        The base configuration, and `study.json`, its configuration with all fields.

    Raises:
        ConfigError: the folder holds no study, or the file is damaged.
    """
    path = folder / STUDY
    if not os.path.lexists(path):
        raise ConfigError(
            f"{str(folder)!r} holds no study ({STUDY} is not there): name a folder that purejaxppo "
            "sweep wrote"
        )
    about = read_json(path, StudyFile)
    try:
        config = PPOConfig.from_dict(about["config"])
        known = {k: x for k, x in about["options"].items() if k in types_of(SweepOptions)}
        SweepOptions(**{"score": (), **known})
    except ConfigError as error:
        raise damaged(path, error) from error
    for x in about["space"]:
        if not x["choices"] and not (x["low"] < x["high"] and (x["low"] > 0 or not x["log"])):
            raise damaged(path, f"{x['name']} is from {x['low']} to {x['high']}")
    about["config"] = json.loads(json.dumps(config.to_dict()))
    return config, about


def _check_setting(path: Path, space: list[DimensionFile], setting: Mapping[str, Any]) -> None:
    """Checks that values in a file are some that the space could have.

    Raises:
        ConfigError: one is none.
    """
    for x in space:
        if x["choices"] or x["name"] not in setting:
            continue
        value = setting[x["name"]]
        if misfit(value, float) is not None or (x["log"] and value <= 0):
            raise damaged(path, f"{x['name']} is {shown(value)}")


def read_results(folder: Path) -> dict[int, Result]:
    """Reads the results of a study's trials.

    Args:
        folder: of the study.

    Returns:
        By number; of a trial that was told again, the last.

    Raises:
        ConfigError: the file cannot be read, or a line of it is no result.
    """
    lines = read_lines(folder / TRIALS, parse_result)
    return {result.number: result for _, result in lines}


def parse_result(line: bytes) -> Result:
    """Reads a line of `trials.jsonl`.

    Args:
        line: UTF-8.

    Returns:
        The result; values of its setting as Python has them, tuples rather than lists.

    Raises:
        ValueError: it is none.
    """
    value = parse_json(line)
    words = misfit(value, TrialLine)
    if words is not None:
        raise ValueError(words)
    values: dict[str, Any] = {name: value[name] for name in Result._fields}
    setting = {name: with_tuple(x) for name, x in value["setting"].items()}
    return Result(**{**values, "setting": setting})


def with_tuple(value: Any) -> Any:
    """Returns a value of a setting: JSON has no tuples, and settings no lists.

    Args:
        value: as JSON has it.
    """
    return tuple(value) if isinstance(value, list) else value


def read_lineage(folder: Path) -> list[LineageLine]:
    """Reads who took over from whom in a population.

    Args:
        folder: of the study.

    Raises:
        ConfigError: the file cannot be read, or a line of it says something else.
    """

    def parse(line: bytes) -> LineageLine:
        value = parse_json(line)
        words = misfit(value, LineageLine)
        if words is not None:
            raise ValueError(words)
        return value

    return [value for _, value in read_lines(folder / LINEAGE, parse)]
