"""The command line: `purejaxppo COMMAND ...`.

Heavy imports stand inside the commands, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Annotated, Any

import tyro

from purejaxppo.config.coerce import parse_options
from purejaxppo.config.schema import Algorithm, PPOConfig
from purejaxppo.errors import ConfigError, HostError, RunWarning
from purejaxppo.runs.options import (
    EvalOptions,
    ExportOptions,
    PlotOptions,
    RenderOptions,
    ReportOptions,
    RunOptions,
)

USAGE = """usage: purejaxppo COMMAND ...

  train ENV           train agents on an environment; --resume goes on where a run stopped
  eval RUN            play whole episodes with what a run has trained
  plot RUN...         draw the learning curves of one run or compare many
  render RUN          film a trained policy
  report RUN...       put runs on one page that opens offline
  export RUN          write a policy that runs without purejaxppo (JAX, ONNX or NumPy)
  envs [SUITE]        list the environments that can be trained
  check-env ENV       hold an environment, by name or as module:object, to what training needs

purejaxppo COMMAND --help tells every option. RUN is a run folder, as train writes it.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainArgs(PPOConfig, RunOptions):
    """Train PPO and its relatives, all seeds in one compiled program."""

    env: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV")] = dataclasses.field()
    """What to train on; `purejaxppo envs` lists the names."""
    preset: str | None = None  # pyright: ignore[reportIncompatibleMethodOverride]
    """Preset to start from: a name, or none for the plain algorithm; default: the environment's."""

    def __post_init__(self) -> None:
        """Leaves the fields alone: `parse_train` validates them, once the preset is known."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckArgs:
    """Step an environment at random and hold what it does against what training needs."""

    env: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV")] = dataclasses.field()
    """A name that `purejaxppo envs` lists, or module:object, an environment or what makes one."""
    env_options: tuple[str, ...] = ()
    """What it is made with, as name=value."""
    num_steps: int = 200
    """Random steps of each of 4 copies."""


def parse(kind: type, argv: Sequence[str], default: Any = None, command: str = "train") -> Any:
    """Reads arguments into a dataclass.

    Raises:
        ConfigError: they cannot be read; tyro's report, in one line.
    """
    report = io.StringIO()
    prog = f"purejaxppo {command}"
    try:
        with contextlib.redirect_stderr(report):
            return tyro.cli(kind, args=argv, prog=prog, default=default)
    except SystemExit as stop:
        if not stop.code:
            raise
    text = re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯│─]+", " ", report.getvalue())
    text = re.sub(r"For full helptext.*", "", text, flags=re.DOTALL)
    # the title of tyro's box repeats what follows it
    raise ConfigError(re.sub(r"^(\w+( \w+){1,2}) (?=\1|Error|\w+ )", "", " ".join(text.split())))


def base_config(env: str, algorithm: Algorithm, preset: str | None) -> PPOConfig:
    """The defaults of a run: the preset that is named, else the environment's, else none."""
    from purejaxppo.config import presets

    if preset is None and env in presets.names() and algorithm in presets.tables(env):
        preset = env
    if preset in (None, "none"):
        return getattr(PPOConfig, algorithm)(env=env)
    return PPOConfig.preset(preset, algorithm, env=env)


def parse_train(argv: Sequence[str]) -> tuple[RunOptions, PPOConfig]:
    """Arguments of `train`, read twice: first which preset or run, then over its values."""
    first = parse(TrainArgs, argv)
    base, own = base_config(first.env, first.algorithm, first.preset), {}
    if first.resume:
        base, own = resumed(first, base)
    given = {f.name: getattr(first, f.name) for f in dataclasses.fields(TrainArgs)}
    args = parse(TrainArgs, argv, TrainArgs(**{**given, **own, **base.to_dict()}))
    values = {f.name: getattr(args, f.name) for f in dataclasses.fields(PPOConfig)}
    options = {f.name: getattr(args, f.name) for f in dataclasses.fields(RunOptions)}
    # one by one over the preset's, as all other options are
    env_options = {**parse_options(base.env_options), **parse_options(args.env_options)}
    return RunOptions(**options), PPOConfig(**{**values, "env_options": env_options})


def resumed(first: TrainArgs, base: PPOConfig) -> tuple[PPOConfig, dict[str, Any]]:
    """Where a run that is resumed starts from: its own configuration and options.

    A preset or an algorithm that is named is taken as it is: it must be the run's own then.
    """
    from purejaxppo.runs import folder as store

    run_dir = first.run_dir or str(store.newest_run(first.env))
    own: dict[str, Any] = {"run_dir": run_dir}
    if store.is_run(run_dir):
        saved, run = store.read_run(run_dir)
        own |= {name: run[name] for name in ("seeds", "seed", "algorithm") if name in run}
        own |= run.get("options", {})
        if first.preset is None and first.algorithm == TrainArgs.algorithm:
            base = saved.replace(env=first.env)
    return base, own


def train(argv: Sequence[str]) -> int:
    """`purejaxppo train`: returns the exit code."""
    options, config = parse_train(argv)
    from purejaxppo.cli import train as console

    return console.train(config, options)


def of_runs(command: str, argv: Sequence[str]) -> int:
    """A command about run folders: returns the exit code."""
    kind, room = OF_RUNS[command]
    options = parse(kind, argv, command=command)
    return import_module(f"purejaxppo.{room}").main(options)


def envs(argv: Sequence[str]) -> int:
    """`purejaxppo envs`: returns the exit code."""
    from purejaxppo.config import presets
    from purejaxppo.envs import registry

    if argv in (["-h"], ["--help"]):
        print("usage: purejaxppo envs [SUITE]\n\nList the environments that can be trained.")
        return 0
    if len(argv) > 1 or set(argv) - set(registry.SUITES):
        suites = ", ".join(filter(None, registry.SUITES))
        raise ConfigError(f"envs takes one suite or none, not {' '.join(argv)!r}: use {suites}")
    tuned = presets.names()
    for name in registry.names(*argv):
        print(f"{name}  (preset: {', '.join(presets.tables(name))})" if name in tuned else name)
    for suite, what in registry.missing(*argv).items():
        print(f"{suite}/...  ({what})")
    return 0


def check_env(argv: Sequence[str]) -> int:
    """`purejaxppo check-env`: returns the exit code, 1 if there are faults."""
    args = parse(CheckArgs, argv, command="check-env")
    from purejaxppo import check
    from purejaxppo.envs import registry

    if args.num_steps < 1:
        raise ConfigError(f"num_steps={args.num_steps} is too small: use 200")
    env, params = registry.find_env(args.env, **parse_options(args.env_options))
    try:
        spec = check.check_env(env, params, num_steps=args.num_steps)
    except ConfigError as faults:
        print(faults, file=sys.stderr)
        return 1
    print(f"{args.env}: no faults\nobservation  {spec.observation}\naction       {spec.action}")
    return 0


OF_RUNS: dict[str, tuple[type, str]] = {
    "eval": (EvalOptions, "runs.evaluate"),
    "plot": (PlotOptions, "report.plots"),
    "render": (RenderOptions, "rendering.render"),
    "report": (ReportOptions, "report.page"),
    "export": (ExportOptions, "export.export_policy"),
}
COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    **{command: partial(of_runs, command) for command in OF_RUNS},
    "envs": envs,
    "check-env": check_env,
}


def main() -> None:
    """Runs the command; bad input gets one line on stderr and exit code 2."""
    warnings.simplefilter("always", RunWarning)
    show = warnings.showwarning
    warnings.showwarning = lambda text, kind, *where: (
        print(f"purejaxppo: {text}", file=sys.stderr)
        if issubclass(kind, RunWarning)
        else show(text, kind, *where)
    )
    sys.path.append("")  # environments of one's own, in the folder where the user is
    command, *rest = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE, end="")
        sys.exit(0)
    try:
        if command not in COMMANDS:
            raise ConfigError(f"unknown command {command!r}: use {' or '.join(COMMANDS)}")
        code = COMMANDS[command](rest)
        sys.stdout.flush()
        sys.exit(code)
    except BrokenPipeError:  # `| head` has seen enough; what is left has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except ConfigError as error:
        print(f"purejaxppo: {error}", file=sys.stderr)
        sys.exit(2)
    except HostError as error:
        print(f"purejaxppo: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("purejaxppo: interrupted", file=sys.stderr)
        sys.exit(130)
