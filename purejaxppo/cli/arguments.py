"""What the commands take; without jax, so that help and mistakes are quick."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from purejaxppo.bounds import Bound
from purejaxppo.cli.reading import Arguments
from purejaxppo.config.rules import COUNT, INDEX, SEED, option
from purejaxppo.config.schema import Algorithm, PPOConfig
from purejaxppo.report.axes import Axis
from purejaxppo.runs.options import AgentOptions, FilmOptions, FitOptions, Format, Weights
from purejaxppo.sweeps.options import SweepOptions

Shell = Literal["bash", "zsh", "fish"]
"""What completion can be printed for."""

SECONDS = Bound(lambda v: 0.1 <= v <= 86_400, "within 0.1 .. 86400 (a day)")

PROCESSES = Bound(lambda v: v == "auto" or 1 <= v < 2**31, "1 or more, or 'auto'")

# annotated types: how an argument is shown in a help
RunFolder = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
RunFolders = Annotated[
    tuple[str, ...],
    tyro.conf.Positional,
    tyro.conf.arg(metavar="RUN...", help_behavior_hint="(one or more)"),
]
Folder = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[FOLDER]")]
EnvName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV")]
SuiteName = Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[SUITE]")]
ShellName = Annotated[Shell, tyro.conf.Positional, tyro.conf.arg(metavar="SHELL")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions(FitOptions):
    """A run from the command line."""

    algorithm: Algorithm = option("ppo", group="what is trained")
    """Where the defaults come from (a preset's table of this name, if there is one)."""
    env_params: tuple[str, ...] = ()
    """Numbers of its environment's parameters, as name=value."""
    coordinator: str | None = option(None, group="several processes")
    """HOST:PORT of the first of the processes that train together, where the others reach it."""
    num_processes: int | Literal["auto"] | None = option(None, PROCESSES)
    """How many there are; auto: JAX finds all three by itself (SLURM, Open MPI, cloud TPU)."""
    process_id: int | None = option(None, *INDEX)
    """Which of them this is, counted from 0: the first one prints, and writes the run folder."""
    csv: bool = option(False, group="loggers")
    """Write progress.csv and evaluations.csv into the run folder."""
    tensorboard: bool = False
    """Write TensorBoard's files into the run folder (needs purejaxppo[tensorboard])."""
    wandb: str | None = None
    """Project of Weights & Biases to log to (needs purejaxppo[wandb]); WANDB_MODE=offline works."""
    compilation_cache: bool = option(True, group="compilation and output")
    """Keep compiled programs in the user's cache folder, so that the next run starts sooner."""
    quiet: bool = False
    """No plan, no progress, no table."""
    json: bool = False
    """Print one JSON object as the last line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalOptions(Arguments):
    """Play episodes with the agents of a run, statistics frozen."""

    run: RunFolder = dataclasses.field()
    """A run folder."""
    episodes: int = option(100, *COUNT)
    """Whole episodes of each agent."""
    seed: int = option(0, *SEED)
    """Of the random key that episodes and actions are drawn from."""
    sampled: bool = False
    """Sampled actions rather than the most probable ones."""
    weights: Weights = "final"
    """Parameters at the end of the run, or the best by evaluation."""
    json: bool = False
    """Print one JSON object instead of the table."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions(Arguments, AgentOptions):
    """Write a trained policy to a file that runs without purejaxppo."""

    run: RunFolder = dataclasses.field()
    """A run folder."""
    format: Format = "stablehlo"
    """stablehlo: for any JAX; onnx (needs purejaxppo[onnx]); npz: for NumPy alone."""
    out: str | None = None
    """The file; default: policy.<format> in the run folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderOptions(Arguments, FilmOptions):
    """Film a trained policy."""

    run: RunFolder = dataclasses.field()
    """A run folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunsOptions(Arguments):
    """What is made of one or many runs, or studies."""

    runs: RunFolders = dataclasses.field()
    """Run folders or study folders, or folders with such below them."""
    overwrite: bool = False
    """Write over a file that exists."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlotOptions(RunsOptions):
    """Draw the learning curves of one or many runs, or the trials of studies."""

    out: str | None = None
    """The picture: .png, .svg or .pdf; default: curves.png (slices.png of a study), or curves-2.png
    where that exists."""
    metric: str | None = None
    """A column of the rows, such as eval_return_mean (evaluations: that one), of a study those of
    its best trials; None: episode_return, of a study the scores against what was varied."""
    x: Axis = "steps"
    """What it is drawn against; seconds: at the run's mean speed, without compilation."""
    title: str | None = None
    """What stands above; default: the environment."""
    labels: str | None = None
    """What the runs are called, one for each, separated by commas."""
    single: bool = False
    """The curves alone, without the panel of sample efficiency."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions(RunsOptions):
    """Put one or many runs, or studies, on one page that opens offline."""

    out: str | None = None
    """The page; default: report.html, or report-2.html where that exists."""
    watch: float | None = option(None, SECONDS)
    """Write the page anew every so many seconds (10 where no number is given) while runs go on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListOptions(Arguments):
    """List the runs and studies in a folder and below it, the newest last."""

    folder: Folder = "runs"
    """Where to look."""
    json: bool = False
    """Print one JSON array instead of the table."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfigArgs(Arguments, PPOConfig):
    """A configuration from the command line, and what it starts from."""

    env: EnvName = dataclasses.field()
    """A name that `purejaxppo envs` lists, or module:object, an environment or what makes one."""
    preset: str | None = option(None, group="what is trained")  # pyright: ignore[reportIncompatibleMethodOverride]
    """Preset to start from: a name, or none for the plain algorithm; default: the environment's."""
    config: str | None = None
    """TOML file to start from instead, as best.toml of a study; it may name ENV."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainArgs(RunOptions, ConfigArgs):
    """Train PPO and its relatives, all seeds in one compiled program."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepRun(SweepOptions):
    """A sweep from the command line."""

    algorithm: Algorithm = option("ppo", group="what is trained")
    """Where the defaults come from (a preset's table of this name, if there is one)."""
    env_params: tuple[str, ...] = ()
    """Numbers of its environment's parameters in all trials, as name=value."""
    compilation_cache: bool = option(True, group="compilation and output")
    """Keep compiled programs in the user's cache folder, so that the next run starts sooner."""
    quiet: bool = False
    """No plan, no progress, no table."""
    json: bool = False
    """Print one JSON object as the last line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VaryArgs(ConfigArgs):
    """A configuration, and what is varied in it."""

    vary: tuple[str, ...] = option((), group="what is varied")
    """NAME=LOW..HIGH, log:LOW..HIGH or A,B,C: any field, env_options.NAME or env_params.NAME."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepArgs(SweepRun, VaryArgs):
    """Train many settings as few programs, in a study that goes on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckArgs(Arguments):
    """Step an environment at random and compare what it does with what training needs."""

    env: EnvName = dataclasses.field()
    """A name that `purejaxppo envs` lists, or module:object, an environment or what makes one."""
    env_options: tuple[str, ...] = ()
    """What it is made with, as name=value."""
    num_steps: int = option(200, *COUNT)
    """Random steps of each of 4 copies."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvsArgs(Arguments):
    """List the environments that can be trained."""

    suite: SuiteName = None
    """Of this suite alone: the word before the / of their names."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompletionArgs(Arguments):
    """Print what completes commands, options and their values in a shell."""

    shell: ShellName = dataclasses.field()
    """The one that it is for."""


ARGUMENTS: dict[str, type[Arguments]] = {
    "train": TrainArgs,
    "sweep": SweepArgs,
    "eval": EvalOptions,
    "runs": ListOptions,
    "plot": PlotOptions,
    "render": RenderOptions,
    "report": ReportOptions,
    "export": ExportOptions,
    "envs": EnvsArgs,
    "check-env": CheckArgs,
    "completion": CompletionArgs,
}
"""What each command takes, by its name."""


def with_value(argv: Sequence[str], option: str, value: str) -> list[str]:
    """Puts a number behind an option that stands without one.

    Args:
        argv: the arguments after the command.
        option: its name.
        value: what is put behind it.

    Returns:
        The arguments.
    """
    found: list[str] = []
    for word, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        found.append(word)
        if word == option:
            try:
                float(following)
            except ValueError:
                found.append(value)
    return found
