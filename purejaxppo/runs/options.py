"""What the commands need to be told beside a configuration; without jax, so that help is quick."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal

import tyro

from purejaxppo.config.coerce import coerce
from purejaxppo.config.schema import Algorithm
from purejaxppo.errors import ConfigError, did_you_mean

Weights = Literal["final", "best"]
Format = Literal["stablehlo", "onnx", "npz"]
RunFolder = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
RunFolders = Annotated[
    tuple[str, ...],
    tyro.conf.Positional,
    tyro.conf.arg(metavar="RUN...", help_behavior_hint="(one or more)"),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Seeds, where results go, and what happens between updates."""

    seeds: int = 1
    """Agents trained side by side."""
    seed: int = 0
    """Of the random key that every agent's is split from."""
    run_dir: str | None = None
    """Folder for the results; on the command line None is runs/<env>-<date>-<n>."""
    resume: bool = False
    """Go on with the run in run_dir (None: the newest) from its last checkpoint."""
    checkpoint_every: int | None = None
    """Steps of each agent between checkpoints, rounded up to whole updates; None: once a minute."""
    keep_checkpoints: int = 3
    """How many of the last checkpoints stay."""
    eval_every: int | None = None
    """Steps of each agent between evaluations, rounded up to whole updates; None: never."""
    eval_episodes: int = 16
    """Episodes of an evaluation, which begin alike every time and for every agent."""
    eval_sampled: bool = False
    """Evaluate sampled actions rather than the most probable ones."""
    target_return: float | None = None
    """Stop once the evaluations of all agents reach this mean return."""

    def __post_init__(self) -> None:
        """Brings values to their declared types, then checks every rule.

        Raises:
            ConfigError: a value of another type, a number that is too small, or an option that has
                no effect without another.
        """
        for field in dataclasses.fields(FitOptions):
            value = getattr(self, field.name)
            value = str(value) if isinstance(value, PurePath) else value
            object.__setattr__(self, field.name, coerce(field.name, field.type, value))
        if self.seed >= 2**63:
            raise ConfigError(f"seed={self.seed} is too large: use a number below 2**63")
        least = {"seeds": 1, "seed": 0, "keep_checkpoints": 1, "eval_episodes": 1}
        for name, bound in {**least, "checkpoint_every": 1, "eval_every": 1}.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ConfigError(f"{name}={value} is too small: use {max(1, bound)}")
        self._check_idle("eval_every", "eval_episodes", "eval_sampled", "target_return")

    def _check_idle(self, needed: str, *names: str) -> None:
        """Refuses options that do nothing while another is None."""
        for name in names:
            value = getattr(self, name)
            if value != getattr(FitOptions, name) and getattr(self, needed) is None:
                raise ConfigError(f"{name}={value} has no effect without {needed}: set both")


def fit_options(values: Mapping[str, Any]) -> FitOptions:
    """Options from a mapping.

    Raises:
        ConfigError: an unknown name (the nearest is given), or see `FitOptions`.
    """
    names = [field.name for field in dataclasses.fields(FitOptions)]
    for name in values:
        if name not in names:
            raise ConfigError(f"unknown option {name!r}: {did_you_mean(name, names)}")
    options = FitOptions(**values)
    options._check_idle("run_dir", "resume", "checkpoint_every", "keep_checkpoints")
    return options


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions(FitOptions):
    """A run from the command line."""

    algorithm: Algorithm = "ppo"
    """Where the defaults come from (a preset's table of this name, if there is one)."""
    tensorboard: bool = False
    """Write TensorBoard's files into the run folder (needs purejaxppo[tensorboard])."""
    wandb: str | None = None
    """Project of Weights & Biases to log to (needs purejaxppo[wandb]); WANDB_MODE=offline works."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next run starts sooner."""
    quiet: bool = False
    """No plan, no progress, no table."""
    json: bool = False
    """Print one JSON object as the last line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Play episodes with the agents of a run, statistics frozen."""

    run: RunFolder = dataclasses.field()
    """A run folder."""
    episodes: int = 100
    """Whole episodes of each agent."""
    seed: int = 0
    """Of the random key that episodes and actions are drawn from."""
    sampled: bool = False
    """Sampled actions rather than the most probable ones."""
    weights: Weights = "final"
    """Parameters at the end of the run, or the best by evaluation."""
    json: bool = False
    """Print one JSON object instead of the table."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentOptions:
    """What is made of one trained agent."""

    run: RunFolder = dataclasses.field()
    """A run folder."""
    agent: int = 0
    """Which of the run's seeds, counted from 0."""
    weights: Weights = "final"
    """Parameters at the end of the run, or the best by evaluation."""
    overwrite: bool = False
    """Write over a file that exists."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions(AgentOptions):
    """Write a trained policy to a file that runs without purejaxppo."""

    format: Format = "stablehlo"
    """stablehlo: for any JAX; onnx (needs purejaxppo[onnx]); npz: for NumPy alone."""
    out: str | None = None
    """The file; default: policy.<format> in the run folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderOptions(AgentOptions):
    """Film a trained policy."""

    out: str | None = None
    """The file; default: policy.gif (policy.html for brax) in the run folder."""
    seed: int = 0
    """Of the random key that the episode is drawn from."""
    max_steps: int = 500
    """Steps at most."""
    fps: int = 30
    """Frames per second."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunsOptions:
    """What is made of one or many runs."""

    runs: RunFolders = dataclasses.field()
    """Run folders."""
    overwrite: bool = False
    """Write over a file that exists."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlotOptions(RunsOptions):
    """Draw the learning curves of one or many runs."""

    out: str = "curves.png"
    """The picture: .png, .svg or .pdf."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions(RunsOptions):
    """Put one or many runs on one page that opens offline."""

    out: str = "report.html"
    """The page."""
