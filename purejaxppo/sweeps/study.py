"""The folder of a study: begun, gone on with, and written while trials end."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError, shown
from purejaxppo.run_folder.begin import make_folder, names_in, next_folder
from purejaxppo.run_folder.files import (
    JsonLinesFile,
    left_over,
    read_lines,
    remove_left_overs,
    write_json,
    write_whole,
)
from purejaxppo.run_folder.find import STUDY, TRIALS, is_study
from purejaxppo.run_folder.lock import LOCK, FolderLock
from purejaxppo.run_folder.paths import given_path
from purejaxppo.runs.problems import Problems
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.outputs import best_toml, table_of, write_table
from purejaxppo.sweeps.read import (
    RETRAINED,
    DimensionFile,
    StudyFile,
    parse_result,
    ranked,
    read_about,
    read_results,
    winner,
)
from purejaxppo.sweeps.samplers import count_of
from purejaxppo.sweeps.space import Space
from purejaxppo.sweeps.trials import Result

WHOLE = re.compile(r"study\.json|best\.toml|trials\.(csv|parquet)|lineage\.jsonl|rungs\.npz")
"""Files that are written whole; a killed process may leave a part of one."""

WHAT_IT_IS = (
    "sampler", "scheduler", "seeds", "seed", "score", "eval_episodes", "min_steps", "factor",
    "population", "evolve_every", "replaced", "perturb", "resample",
)  # fmt: skip
"""Options that make a study another one; more trials, devices or a storage do not."""


def create_study_dir(study_dir: str | Path | None, env: str) -> Path:
    """Finds the folder of a study: the one named, else a new `studies/<env>-<date>-<n>`.

    Args:
        study_dir: the folder; None: a new one below `studies/`, which is made.
        env: name of the environment.

    Returns:
        The folder.

    Raises:
        ConfigError: it cannot be made.
    """
    if study_dir is None:
        return next_folder(Path("studies"), env, "study")
    return given_path(study_dir, "study_dir")


class Study:
    """A study, and its folder if it has one: what came of trials, and where runs of theirs go.

    Whatever cannot be written while trials go on is reported, and they go on. `open` begins it.

    Attributes:
        folder: where it is; None: nothing is written.
        config: the base configuration, over which settings are laid.
        space: what is varied.
        options: of the sweep.
        own: what was passed in place of what is configured, see `describe_custom`.
        env_params: numbers of the environment that all trials have, where they were passed.
        results: those that were told, by number of the trial.
        problems: what went wrong, a line each.
        retrained: the best settings on fresh seeds, once they were trained again.
    """

    def __init__(
        self,
        folder: Path | None,
        config: PPOConfig,
        space: Space,
        options: SweepOptions,
        about: StudyFile,
    ):
        self.folder, self.config, self.space, self.options = folder, config, space, options
        self.own, self.env_params, self._about = about["own"], about["env_params"], about
        self.results: dict[int, Result] = {}
        self.problems = Problems()
        self.retrained: list[Result] = []
        self._lock: FolderLock | None = None
        self._file: JsonLinesFile | None = None

    @classmethod
    def open(
        cls,
        folder: str | Path | None,
        config: PPOConfig,
        space: Space,
        options: SweepOptions,
        *,
        trials: int | None = None,
        own: Mapping[str, str] | None = None,
        env_params: Mapping[str, float] | None = None,
    ) -> Study:
        """Begins a study, or goes on with the one that is in the folder.

        Args:
            folder: where; None: nothing is written.
            config: the base configuration.
            space: what is varied.
            options: of the sweep; those in `WHAT_IT_IS` make it another study.
            trials: how many are to be tried; None: see `count_of`.
            own: what was passed in place of what is configured, see `describe_custom`.
            env_params: numbers of the environment that all trials have, where they were passed.

        Returns:
            The study, with the results that are told already.

        Raises:
            ConfigError: the folder is in use, cannot be made or written, or holds another study,
                a damaged one or something else.
        """
        about = _about(config, space, options, trials, own, env_params)
        if folder is None:
            return cls(None, config, space, options, about)

        # nothing in the folder is touched before it is known to be this study's
        path = given_path(folder, "study_dir")
        if is_study(path):
            _check_same(path, read_about(path)[1], about)
        else:
            _check_free(path)
        study = cls(make_folder(path, "study"), config, space, options, about)
        study._lock = FolderLock(path, "study")
        try:
            study._begin()
        except OSError as error:
            study._lock.release()
            raise ConfigError(
                f"study folder {str(path)!r} cannot be written ({error.strerror or error}): name "
                "another with --study-dir"
            ) from error
        except BaseException:
            study._lock.release()
            raise
        return study

    def _begin(self) -> None:
        """Writes what the study is, and reads what has come of it, with the folder locked."""
        assert self.folder is not None
        if is_study(self.folder):
            before = read_about(self.folder)[1]  # another may have come meanwhile
            _check_same(self.folder, before, self._about)
            self._note_versions(before)
            self._about["versions"], self._about["created"] = before["versions"], before["created"]
        else:
            _check_free(self.folder)
        # what was torn by a kill is cut off; results that are told again come behind
        self.results = read_results(self.folder)
        lines = (line for line, _ in read_lines(self.folder / TRIALS, parse_result))
        write_json(self.folder / STUDY, self._about)
        self._file = JsonLinesFile(self.folder / TRIALS, lines)
        remove_left_overs(self.folder, WHOLE)
        if is_study(self.folder / RETRAINED):
            self.retrained = list(read_results(self.folder / RETRAINED).values())

    def __enter__(self) -> Study:
        """Returns the study itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    # -- while trials go on -----------------------------------------------------------------------

    def run_dir(self, name: str) -> Path | None:
        """Returns where the run of a program goes, which need not exist; None: nowhere.

        Args:
            name: of the folder below the study's, as `Result.run` has it: "runs/0000".
        """
        return None if self.folder is None else self.folder / name

    def tell(self, result: Result) -> None:
        """Keeps what has come of a trial, on the disk once this returns.

        Args:
            result: plain values, numbers that are finite. One of a trial that was told before is
                kept in its place.

        Raises:
            ValueError: it holds what JSON cannot, or what is no result.
        """
        line = result._asdict() | {"setting": dict(result.setting)}
        # what is kept is what will be read again
        self.results[result.number] = parse_result(_encoded(line))
        if self._file is None or self._taken_over():
            return
        with self.problems.attempt(TRIALS):
            self._file.write([line])
            self._file.sync()

    def best(self, k: int = 1) -> list[Result]:
        """Returns the trials with the best scores, the best first.

        Args:
            k: how many at most; those without a score are left out, and those that were stopped
                early come behind those that were not.
        """
        return ranked(self.results.values())[:k]

    @property
    def winner(self) -> Result | None:
        """Returns the trial whose setting is written to `best.toml`; None: none has a score.

        See `read.winner`: it may be one that was trained again on fresh seeds.
        """
        return winner(self.results.values(), self.retrained)

    def write(self) -> None:
        """Writes what others read: `trials.csv`, `trials.parquet` with pyarrow, and `best.toml`."""
        if self.folder is None or self._taken_over():
            return
        write_table(self.folder, table_of(self.results.values(), self._names()), self.problems)
        best = self.winner
        if best is not None:
            text = best_toml(self.config, best, best in self.retrained, self._about)
            with self.problems.attempt("best.toml"):
                write_whole(self.folder / "best.toml", lambda file: file.write(text.encode()))

    def close(self) -> None:
        """Closes the file, and lets others have the folder; after that it does nothing."""
        if self._file is not None:
            with self.problems.attempt(TRIALS):
                if not self._taken_over():
                    self._file.sync()
            self._file.close()
            self._file = None
        if self._lock is not None:
            self._lock.release()

    def _names(self) -> list[str]:
        return [dimension["name"] for dimension in self._about["space"]]

    def _taken_over(self) -> bool:
        """Reports a folder that has become another study's, where nothing more is written."""
        if self._lock is None or not self._lock.taken_over():
            return False
        self.problems.report(
            f"the study folder {str(self.folder)!r} was deleted, and another study has it: nothing "
            "more is written into it"
        )
        return True

    def _note_versions(self, before: StudyFile) -> None:
        """Warns of versions other than those that the study was begun with."""
        for name, then in before["versions"].items():
            now = self._about["versions"].get(name)
            if then != now:
                self.problems.note(
                    f"the study was begun with {name} {then} and goes on with {now}: its trials "
                    "may differ in the last digits"
                )


# -- begun, or gone on with ------------------------------------------------------------------------


def _about(
    config: PPOConfig,
    space: Space,
    options: SweepOptions,
    trials: int | None,
    own: Mapping[str, str] | None,
    env_params: Mapping[str, float] | None,
) -> StudyFile:
    """Returns what a study is, as JSON gives it back."""
    # jax is imported for the versions alone: a study is read without it
    from purejaxppo.runs.identity import to_plain, versions

    about = {
        "config": config.to_dict(),
        "space": [
            {name: getattr(dimension, name) for name in DimensionFile.__annotations__}
            for dimension in space.dimensions
        ],
        "options": {name: getattr(options, name) for name in WHAT_IT_IS},
        "trials": count_of(space, config, options) if trials is None else trials,
        "own": dict(own or {}),
        "env_params": dict(env_params or {}),
        "versions": versions(),
        "created": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    return cast(StudyFile, to_plain(about))


def _check_free(path: Path) -> None:
    """Refuses a folder that holds anything but what is left of a study that has not begun."""
    if path.exists() and not path.is_dir():
        raise ConfigError(f"study_dir={str(path)!r} is a file: name a folder with --study-dir")
    others = sorted(
        name for name in names_in(path, "study")
        if name != LOCK and not left_over(path / name, WHOLE)
    )  # fmt: skip
    if others:
        raise ConfigError(
            f"study folder {str(path)!r} holds no study, and is not empty (it has {others[0]!r}): "
            "name another with --study-dir"
        )


def _check_same(path: Path, before: StudyFile, after: StudyFile) -> None:
    """Refuses to go on with another study, and names the first difference."""
    then, now = _compared(before), _compared(after)
    for name in {**then, **now}:
        if then.get(name) != now.get(name):
            raise ConfigError(
                f"the study in {str(path)!r} has {name}={shown(then.get(name))}, not "
                f"{shown(now.get(name))}: go on with its own, or name another folder with "
                "--study-dir"
            )


def _compared(about: StudyFile) -> dict[str, Any]:
    """Returns all that makes a study what it is, by name."""
    dimensions = {
        f"space.{x['name']}": {name: value for name, value in x.items() if name != "name"}
        for x in about["space"]
    }
    # the order counts: settings are drawn in it
    names = {"space": [x["name"] for x in about["space"]]}
    options = {name: getattr(SweepOptions, name) for name in WHAT_IT_IS} | about["options"]
    return {**about["config"], **about["own"], **names, **dimensions, **options}


def _encoded(line: Mapping[str, Any]) -> bytes:
    """Returns a result as it stands in its file."""
    return json.dumps(line, allow_nan=False).encode()
