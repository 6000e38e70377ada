"""What the commands take; without jax, so that help and mistakes are quick."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from purejaxppo.bounds import Bound
from purejaxppo.cli.reading import Arguments, read
from purejaxppo.config.coerce import coerce, parse_options
from purejaxppo.config.rules import COUNT, INDEX, SEED, option, types_of
from purejaxppo.config.schema import Algorithm, PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.report.axes import Axis
from purejaxppo.runs.options import AgentOptions, FilmOptions, FitOptions, Format, Weights

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
class TrainArgs(Arguments, RunOptions, PPOConfig):
    """Train PPO and its relatives, all seeds in one compiled program."""

    env: EnvName = dataclasses.field()
    """A name that `purejaxppo envs` lists, or module:object, an environment or what makes one."""
    preset: str | None = option(None, group="what is trained")  # pyright: ignore[reportIncompatibleMethodOverride]
    """Preset to start from: a name, or none for the plain algorithm; default: the environment's."""


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


def parse_train(argv: Sequence[str]) -> tuple[RunOptions, PPOConfig]:
    """Reads the arguments of `purejaxppo train`.

    Args:
        argv: the arguments after the command.

    Returns:
        Options and configuration, checked.

    Raises:
        ConfigError: they cannot be read, or cannot be trained; or the run to go on with is not
            there.
    """
    args = read_train(argv)
    # the two parents of TrainArgs apart again: each checks itself
    values = {f.name: getattr(args, f.name) for f in dataclasses.fields(PPOConfig)}
    options = {f.name: getattr(args, f.name) for f in dataclasses.fields(RunOptions)}
    return RunOptions(**options), PPOConfig(**values)


def read_train(argv: Sequence[str], env: str | None = None) -> TrainArgs:
    """Reads the arguments of `purejaxppo train` over the values of a preset or of a run.

    Args:
        argv: the arguments after the command.
        env: what is trained on if they do not say; None: they must.

    Returns:
        The arguments, of which only types are checked.

    Raises:
        ConfigError: they cannot be read, the preset does not exist, or the run to go on with is not
            there.
    """
    # read twice: first for the preset or the run that defaults come from, then over its values
    first = read(TrainArgs, argv, "train", None if env is None else TrainArgs(env=env))
    base, own = base_config(first.env, first.algorithm, first.preset), {}
    if first.resume:
        base, own = resumed(first, base)
    given = {f.name: getattr(first, f.name) for f in dataclasses.fields(TrainArgs)}
    args = read(TrainArgs, argv, "train", TrainArgs(**{**given, **own, **base.to_dict()}))

    # options of the environment go over the preset's one by one, as all other options do
    env_options = {**parse_options(base.env_options), **parse_options(args.env_options)}
    texts = coerce("env_options", tuple[str, ...], env_options)
    return dataclasses.replace(args, env_options=texts)


def base_config(env: str, algorithm: Algorithm, preset: str | None) -> PPOConfig:
    """Returns the defaults of a run: of the preset that is named, else of the environment's.

    Args:
        env: name of the environment.
        algorithm: whose defaults, or which table of the preset.
        preset: a name; "none" for the plain algorithm; None for the environment's if it has one.

    Raises:
        ConfigError: there is no such preset, or it has no table for the algorithm.
    """
    preset = preset_of(env, algorithm, preset)
    if preset is None:
        return getattr(PPOConfig, algorithm)(env=env)
    return PPOConfig.preset(preset, algorithm, env=env)


def preset_of(env: str, algorithm: Algorithm, preset: str | None) -> str | None:
    """Returns the name of the preset that a run starts from, None for the plain algorithm.

    Args:
        env: name of the environment.
        algorithm: which table of the preset.
        preset: a name; "none" for none; None for the environment's if it has one.
    """
    from purejaxppo.config import presets

    if preset is None and env in presets.names() and algorithm in presets.tables(env):
        return env
    return None if preset == "none" else preset


def resumed(first: TrainArgs, base: PPOConfig) -> tuple[PPOConfig, dict[str, Any]]:
    """Returns what a run that is resumed starts from: its own configuration and options.

    Args:
        first: the arguments, read for the first time.
        base: the defaults, if the run has none of its own: it was never begun, or a preset or an
            algorithm is named, which must be the run's then.

    Returns:
        The configuration, and options by name.

    Raises:
        ConfigError: there is no run in the folder that is named, nor in `runs/` if none is; or it
            was begun with options that are not known here.
    """
    from purejaxppo.run_folder.begin import begun_in, is_run
    from purejaxppo.run_folder.paths import given_path
    from purejaxppo.run_folder.read import newest_run, read_whole_run

    run_dir = str(newest_run(first.env) if first.run_dir is None else given_path(first.run_dir))
    if not begun_in(run_dir):
        raise ConfigError(
            f"there is nothing to resume in {run_dir!r}: leave out --resume, or name the folder of "
            "a run"
        )
    own: dict[str, Any] = {"run_dir": run_dir}
    if is_run(run_dir):
        saved, run = read_whole_run(run_dir)
        own |= {name: x for name, x in run.items() if name in ("seeds", "seed", "algorithm")}
        own |= _kept_options(run_dir, run.get("options", {}))
        if first.preset is None and first.algorithm == TrainArgs.algorithm:
            base = saved.replace(env=first.env)
    return base, own


def _kept_options(run_dir: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options in a `run.json`, of their declared types."""
    known, kept = types_of(RunOptions), {}
    for name, value in options.items():
        try:
            if name not in known:
                raise ConfigError(f"unknown option {name!r}")
            kept[name] = coerce(name, known[name], value, getattr(RunOptions, name))
        except ConfigError as error:
            raise ConfigError(
                f"{str(Path(run_dir) / 'run.json')!r} is damaged, or of another version ({error}): "
                "go on with the version that has written it"
            ) from error
    return kept


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
