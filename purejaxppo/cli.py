"""The command line: `purejaxppo train ENV`, `purejaxppo envs` and `purejaxppo check-env ENV`.

Heavy imports stand inside the commands, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tyro

from purejaxppo.coercion import parse_options
from purejaxppo.config import Algorithm, PPOConfig
from purejaxppo.runs.options import RunOptions
from purejaxppo.validation import ConfigError, HostError

USAGE = """usage: purejaxppo COMMAND ...

  train ENV           train agents on an environment (purejaxppo train --help: every option)
  envs [SUITE]        list the environments that can be trained
  check-env ENV       hold an environment, by name or as module:object, to what training needs
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainArgs(PPOConfig, RunOptions):
    """Train PPO and its relatives, all seeds in one compiled program."""

    env: Annotated[str, tyro.conf.Positional] = dataclasses.field()
    """What to train on; `purejaxppo envs` lists the names."""
    preset: str | None = None  # pyright: ignore[reportIncompatibleMethodOverride]
    """Preset to start from: a name, or none for the plain algorithm; default: the environment's."""

    def __post_init__(self) -> None:
        """Leaves the fields alone: `parse_train` validates them, once the preset is known."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckArgs:
    """Step an environment at random and hold what it does against what training needs."""

    env: Annotated[str, tyro.conf.Positional] = dataclasses.field()
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
    from purejaxppo import presets

    if preset is None and env in presets.names() and algorithm in presets.tables(env):
        preset = env
    if preset in (None, "none"):
        return getattr(PPOConfig, algorithm)(env=env)
    return PPOConfig.preset(preset, algorithm, env=env)


def parse_train(argv: Sequence[str]) -> tuple[TrainArgs, PPOConfig]:
    """Arguments of `train`, read twice: first which preset, then over its values."""
    first = parse(TrainArgs, argv)
    for name in ("seeds", "seed"):
        if getattr(first, name) < (name == "seeds"):
            raise ConfigError(f"{name}={getattr(first, name)} is too small: use 1")
    base = base_config(first.env, first.algorithm, first.preset)
    own = {f.name: getattr(first, f.name) for f in dataclasses.fields(TrainArgs)}
    args = parse(TrainArgs, argv, TrainArgs(**{**own, **base.to_dict()}))
    names = [field.name for field in dataclasses.fields(PPOConfig)]
    values = {name: getattr(args, name) for name in names}
    # one by one over the preset's, as all other options are
    options = {**parse_options(base.env_options), **parse_options(args.env_options)}
    return args, PPOConfig(**{**values, "env_options": options})


def train(argv: Sequence[str]) -> int:
    """`purejaxppo train`: returns the exit code."""
    args, config = parse_train(argv)
    from purejaxppo.runs.report import run_and_report

    return run_and_report(config, args)


def envs(argv: Sequence[str]) -> int:
    """`purejaxppo envs`: returns the exit code."""
    from purejaxppo import presets
    from purejaxppo.envs import registry

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


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "envs": envs,
    "check-env": check_env,
}


def main() -> None:
    """Runs the command; bad input gets one line on stderr and exit code 2."""
    sys.path.append("")  # environments of one's own, in the folder where the user is
    command, *rest = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE, end="")
        sys.exit(0)
    try:
        if command not in COMMANDS:
            raise ConfigError(f"unknown command {command!r}: use {' or '.join(COMMANDS)}")
        sys.exit(COMMANDS[command](rest))
    except ConfigError as error:
        print(f"purejaxppo: {error}", file=sys.stderr)
        sys.exit(2)
    except HostError as error:
        print(f"purejaxppo: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("purejaxppo: interrupted", file=sys.stderr)
        sys.exit(130)
