"""The results of a run as its folder holds them, for plots and pages."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from purejaxppo.config import presets
from purejaxppo.config.coerce import parse_options
from purejaxppo.config.schema import Algorithm, PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.report.differences import (
    algorithm_of,
    changes,
    defaults_of,
    fields_apart,
)
from purejaxppo.run_folder.find import named_runs
from purejaxppo.run_folder.lock import is_held
from purejaxppo.run_folder.paths import given_path
from purejaxppo.run_folder.progress import State, state_of
from purejaxppo.run_folder.read import (
    read_evaluation_table,
    read_metrics,
    read_summary,
    read_whole_run,
)
from purejaxppo.run_folder.rows import final_returns
from purejaxppo.run_folder.schemas import RunFile, SummaryFile
from purejaxppo.types import Metrics

FIELDS_IN_A_LABEL = 3


class Results(NamedTuple):
    """The results of a run, finished or not.

    Attributes:
        folder: where it is.
        config: what was trained.
        about: what it was begun with, `run.json`.
        metrics: every field [seeds, updates done].
        eval_steps: [evaluations], steps of each agent.
        evaluations: columns of the evaluations by name, [seeds, evaluations] each, NaN where not
            finite.
        summary: `summary.json`; None before the end.
        state: what it did when it was read.
        label: what it is called in pictures; None: see `labels`.
    """

    folder: Path
    config: PPOConfig
    about: RunFile
    metrics: Metrics
    eval_steps: np.ndarray
    evaluations: Mapping[str, np.ndarray]
    summary: SummaryFile | None
    state: State
    label: str | None = None

    @property
    def name(self) -> str:
        """Returns the name of the folder."""
        return self.folder.resolve().name

    @property
    def seeds(self) -> int:
        """Counts the agents trained side by side."""
        return self.about["seeds"]

    @property
    def steps(self) -> int:
        """Counts the environment steps done by each agent."""
        return self.metrics.episodes.shape[1] * self.config.batch_size

    @property
    def env(self) -> str:
        """Returns the name of what it was trained on."""
        return self.about.get("env", self.config.env)

    @property
    def algorithm(self) -> Algorithm:
        """Returns the algorithm that it was begun as; else the one whose defaults are closest."""
        return algorithm_of(self.config, self.about)

    @property
    def total_steps(self) -> int:
        """Counts the environment steps that each agent is to do."""
        return self.config.num_updates * self.config.batch_size

    @property
    def eval_returns(self) -> np.ndarray:
        """Returns the mean return of each evaluation, [seeds, evaluations]."""
        return self.evaluations["return_mean"]

    @property
    def final_returns(self) -> np.ndarray:
        """Computes the mean return in the last tenth, [seeds]; NaN where no episode ended."""
        return final_returns(self.metrics)


def read_results(run_dir: str | Path) -> Results:
    """Reads a run folder, also one that is being written.

    Args:
        run_dir: the folder.

    Returns:
        All that is in it.

    Raises:
        ConfigError: it holds no run, or a damaged one.
    """
    folder = given_path(run_dir)
    held = is_held(folder)  # before its rows: those of a run that ends just now are not all there
    config, about = read_whole_run(folder)
    evaluations = read_evaluation_table(folder, about["seeds"])
    summary = read_summary(folder, about["seeds"])
    metrics = read_metrics(folder)
    # a run that was stopped and goes on has the summary of its first part
    steps = metrics.episodes.shape[1] * config.batch_size
    if summary is not None and summary["timesteps"] < steps:
        summary = None
    total = config.num_updates * config.batch_size
    state = state_of(held=held, steps=steps, total=total, ended=summary is not None)
    return Results(folder, config, about, metrics, *evaluations, summary, state)


def read_all(run_dirs: Sequence[str]) -> list[Results]:
    """Reads many run folders.

    Args:
        run_dirs: one or more; one that holds no run stands for all that are below it.

    Returns:
        Their results, in the same order.

    Raises:
        ConfigError: there are none, or one of them cannot be read.
    """
    return [read_results(run_dir) for run_dir in named_runs(run_dirs)]


def by_env(runs: Sequence[Results]) -> dict[str, list[Results]]:
    """Groups runs by their environment, in the order given.

    Args:
        runs: results of any environments.
    """
    groups: dict[str, list[Results]] = {}
    for run in runs:
        groups.setdefault(run.env, []).append(run)
    return groups


def labels(runs: Sequence[Results]) -> list[str]:
    """Names runs on one environment so that they can be distinguished, in a few words each.

    By the algorithm; among runs of one algorithm, by the fields in which they differ; by the folder
    where those are none, too many, or the same for several.

    Args:
        runs: results of one environment.

    Returns:
        A label for each.
    """
    return [
        run.label or _label(run, [r for r in runs if r.algorithm == run.algorithm]) for run in runs
    ]


def with_labels(runs: Sequence[Results], given: str | None) -> list[Results]:
    """Gives runs the labels that a user has written.

    Args:
        runs: any.
        given: a label for each, separated by commas; None: they keep their own.

    Returns:
        The runs.

    Raises:
        ConfigError: there are more labels than runs, or fewer, or an empty one.
    """
    if given is None:
        return list(runs)
    found = [label.strip() for label in given.split(",")]
    if len(found) != len(runs) or not all(found):
        names = ", ".join(run.name for run in runs[:4]) + ", ..." * (len(runs) > 4)
        raise ConfigError(
            f"labels={given!r} names {len(list(filter(None, found)))} of {len(runs)} runs: give "
            f"one for each, separated by commas, in the order {names}"
        )
    return [run._replace(label=label) for run, label in zip(runs, found, strict=True)]


def _label(run: Results, peers: Sequence[Results]) -> str:
    """Names a run among those of its algorithm."""
    if len(peers) == 1:
        return run.algorithm
    apart = fields_apart([r.config for r in peers])
    apart = apart if len(apart) <= FIELDS_IN_A_LABEL else []
    values = [[getattr(r.config, name) for name in apart] for r in peers]
    own = [getattr(run.config, name) for name in apart]
    words = [f"{name}={value}" for name, value in zip(apart, own, strict=True)]
    if values.count(own) > 1:
        names = [r.name for r in peers]
        words.append(run.name if names.count(run.name) == 1 else str(run.folder))
    # names of files may hold bytes that are no text
    return ", ".join([run.algorithm, *words]).encode("utf-8", "replace").decode()


def train_command(run: Results) -> str:
    """Returns the command line that trains the same again.

    Args:
        run: what it trains.
    """
    env, algorithm, arguments = run.config.env, run.algorithm, []

    # what the command starts from: the environment's preset, or the algorithm's defaults
    base = defaults_of(run.config, algorithm)
    if presets.has(env, algorithm):
        preset = PPOConfig.preset(env, algorithm)
        # options are added to the preset's: where one was taken out, only the defaults will do
        if parse_options(preset.env_options).keys() <= parse_options(run.config.env_options).keys():
            base = preset
        else:
            arguments = ["--preset", "none"]

    # what differs from it has to be said
    if algorithm != "ppo":
        arguments += ["--algorithm", algorithm]
    for name, value in changes(run.config, base).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, tuple) else [value]
            arguments += [f"--{flag}", *map(str, values)]
    # what it was begun with, which is none of its configuration
    given = _options(run)
    arguments += ["--env-params", *given["env_params"]] if given.get("env_params") else []
    for name in ("init_from", "init_weights", "init_agent") if given.get("init_from") else ():
        if given.get(name) is not None:
            arguments += [f"--{name.replace('_', '-')}", str(given[name])]
    arguments += ["--init-optimizer"] if given.get("init_optimizer") else []
    arguments += ["--seeds", str(run.seeds), "--seed", str(run.about["seed"])]
    return shlex.join(["purejaxppo", "train", env, *arguments])


def given_in_python(run: Results) -> list[str]:
    """Names what a run was given that no command line can say.

    Args:
        run: what it trains.
    """
    about: Mapping[str, Any] = run.about
    own = [name for name in about.get("own", {}) if name != "env_params"]
    if "env_params" in about.get("own", {}) and not _options(run).get("env_params"):
        own.append("env_params")
    return own + ["vary"] * bool(about.get("vary"))


def _options(run: Results) -> Mapping[str, Any]:
    """Returns the options of the command that a run was begun by; none where it was no command."""
    about: Mapping[str, Any] = run.about
    return about.get("options") or {}
