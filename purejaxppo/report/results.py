"""The results of a run as its folder holds them, for plots and pages."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from purejaxppo.config import presets
from purejaxppo.config.coerce import parse_options
from purejaxppo.config.schema import Algorithm, PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.run_folder.paths import given_path
from purejaxppo.run_folder.read import read_evaluations, read_metrics, read_summary, read_whole_run
from purejaxppo.run_folder.rows import final_returns
from purejaxppo.run_folder.schemas import RunFile, SummaryFile
from purejaxppo.types import Metrics

FIELDS = [field.name for field in dataclasses.fields(PPOConfig)]
FIELDS_IN_A_LABEL = 3


class Results(NamedTuple):
    """The results of a run, finished or not.

    Attributes:
        folder: where it is.
        config: what was trained.
        about: what it was begun with, `run.json`.
        metrics: every field [seeds, updates done].
        eval_steps: [evaluations], steps of each agent.
        eval_returns: [seeds, evaluations], mean return of each, NaN where not finite.
        summary: `summary.json`; None before the end.
    """

    folder: Path
    config: PPOConfig
    about: RunFile
    metrics: Metrics
    eval_steps: np.ndarray
    eval_returns: np.ndarray
    summary: SummaryFile | None

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
    def algorithm(self) -> Algorithm:
        """Returns the algorithm that it was begun as; else the one whose defaults are closest."""
        known = get_args(Algorithm)
        closest = min(known, key=lambda x: len(changes(self.config, defaults_of(self.config, x))))
        return self.about.get("algorithm", closest)

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
    config, about = read_whole_run(folder)
    evaluations = read_evaluations(folder, about["seeds"])
    summary = read_summary(folder, about["seeds"])
    run = Results(folder, config, about, read_metrics(folder), *evaluations, summary)
    # a run that was stopped and goes on has the summary of its first part
    stale = summary is not None and summary["timesteps"] < run.steps
    return run._replace(summary=None) if stale else run


def read_all(run_dirs: Sequence[str]) -> list[Results]:
    """Reads many run folders.

    Args:
        run_dirs: one or more.

    Returns:
        Their results, in the same order.

    Raises:
        ConfigError: there are none, or one of them cannot be read.
    """
    if not run_dirs:
        raise ConfigError("no run is named: give one or more run folders, such as runs/*")
    return [read_results(run_dir) for run_dir in run_dirs]


def by_env(runs: Sequence[Results]) -> dict[str, list[Results]]:
    """Groups runs by their environment, in the order given.

    Args:
        runs: results of any environments.
    """
    groups: dict[str, list[Results]] = {}
    for run in runs:
        groups.setdefault(run.config.env, []).append(run)
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
    return [_label(run, [r for r in runs if r.algorithm == run.algorithm]) for run in runs]


def _label(run: Results, peers: Sequence[Results]) -> str:
    """Names a run among those of its algorithm."""
    if len(peers) == 1:
        return run.algorithm
    apart = [name for name in FIELDS if len({getattr(r.config, name) for r in peers}) > 1]
    apart = apart if len(apart) <= FIELDS_IN_A_LABEL else []
    values = [[getattr(r.config, name) for name in apart] for r in peers]
    own = [getattr(run.config, name) for name in apart]
    words = [f"{name}={value}" for name, value in zip(apart, own, strict=True)]
    if values.count(own) > 1:
        names = [r.name for r in peers]
        words.append(run.name if names.count(run.name) == 1 else str(run.folder))
    # names of files may hold bytes that are no text
    return ", ".join([run.algorithm, *words]).encode("utf-8", "replace").decode()


def defaults_of(config: PPOConfig, algorithm: Algorithm) -> PPOConfig:
    """Returns an algorithm's defaults, on the environment of a configuration.

    Args:
        config: names the environment.
        algorithm: whose defaults.
    """
    return getattr(PPOConfig, algorithm)(env=config.env)


def changes(config: PPOConfig, base: PPOConfig) -> dict[str, Any]:
    """Returns the fields in which a configuration differs from another one, with its values.

    Args:
        config: whose values are returned.
        base: what it is compared with.
    """
    ours, theirs = config.to_dict(), base.to_dict()
    return {name: value for name, value in ours.items() if value != theirs[name]}


def train_command(run: Results) -> str:
    """Returns the command line that trains the same again.

    Args:
        run: what it trains.
    """
    env, algorithm, arguments = run.config.env, run.algorithm, []

    # what the command starts from: the environment's preset, or the algorithm's defaults
    base = defaults_of(run.config, algorithm)
    if env in presets.names() and algorithm in presets.tables(env):
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
    arguments += ["--seeds", str(run.seeds), "--seed", str(run.about["seed"])]
    return shlex.join(["purejaxppo", "train", env, *arguments])
