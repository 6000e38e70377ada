"""What arguments start from: a preset, a file or a run, over whose values they are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from purejaxppo.cli.arguments import ConfigArgs, RunOptions, SweepArgs, SweepRun, TrainArgs
from purejaxppo.cli.reading import read
from purejaxppo.config.coerce import NAMED, coerce, parse_options
from purejaxppo.config.file import ConfigFile, read_config_file
from purejaxppo.config.rules import types_of
from purejaxppo.config.schema import Algorithm, PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.sweeps.space import pairs_of

C = TypeVar("C", bound=ConfigArgs)


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
    return RunOptions(**_of(RunOptions, args)), PPOConfig(**_of(PPOConfig, args))


def parse_sweep(argv: Sequence[str]) -> tuple[SweepRun, PPOConfig, list[tuple[str, Any]]]:
    """Reads the arguments of `purejaxppo sweep`.

    Args:
        argv: the arguments after the command.

    Returns:
        Options and configuration, checked, and what is varied as `read_space` reads it.

    Raises:
        ConfigError: they cannot be read, or cannot be trained.
    """
    args, file = read_sweep(argv)
    options, config = SweepRun(**_of(SweepRun, args)), PPOConfig(**_of(PPOConfig, args))
    # a name on the command line takes the place of the one in the file
    given = [*pairs_of(args.vary)]
    names = {name for name, _ in given}
    return options, config, [(n, x) for n, x in pairs_of(file.vary) if n not in names] + given


def _of(kind: type, args: Any) -> dict[str, Any]:
    """Returns one parent's part of arguments, which checks itself when it is made."""
    return {field.name: getattr(args, field.name) for field in dataclasses.fields(kind)}


def read_sweep(argv: Sequence[str], env: str | None = None) -> tuple[SweepArgs, ConfigFile]:
    """Reads the arguments of `purejaxppo sweep` over the values of a preset or a file.

    Args:
        argv: the arguments after the command.
        env: what is trained on if they do not say; None: they must.

    Returns:
        The arguments, of which only types are checked, and what the file holds that they name.

    Raises:
        ConfigError: they cannot be read, or the preset or the file does not exist.
    """
    first, file = read_first(SweepArgs, argv, "sweep", env)
    base = base_of(first, first.algorithm, file)
    return read_over(first, argv, "sweep", base, {"env_params": file.env_params}), file


def read_train(argv: Sequence[str], env: str | None = None) -> TrainArgs:
    """Reads the arguments of `purejaxppo train` over the values of a preset, a file or a run.

    Args:
        argv: the arguments after the command.
        env: what is trained on if they do not say; None: they must.

    Returns:
        The arguments, of which only types are checked.

    Raises:
        ConfigError: they cannot be read, the preset or the file does not exist, or the run to go on
            with is not there.
    """
    first, file = read_first(TrainArgs, argv, "train", env)
    if file.vary:
        raise ConfigError(
            f"{first.config!r} has a table [vary], which `purejaxppo sweep --config` takes: leave "
            "it out to train"
        )
    base, own = base_of(first, first.algorithm, file), {"env_params": file.env_params}
    if first.resume:
        base, kept = resumed(first, base, file)
        own = {**own, **kept}
    return read_over(first, argv, "train", base, own)


def read_first(
    kind: type[C], argv: Sequence[str], command: str, env: str | None
) -> tuple[C, ConfigFile]:
    """Reads arguments for what defaults come from.

    Args:
        kind: the dataclass.
        argv: the arguments after the command.
        command: its name.
        env: what is trained on if neither they nor a file say; None: they must.

    Returns:
        The arguments, `env` among them, and what the file holds that they name.

    Raises:
        ConfigError: they or the file cannot be read, or nothing says what is trained on.
    """
    # a file may say what is trained on, and is read only then
    optional = env is not None or any(word.partition("=")[0] == "--config" for word in argv)
    first = read(kind, argv, command, kind(env="") if optional else None)
    file = ConfigFile() if first.config is None else read_config_file(first.config)
    named = file.config.env if file.config is not None and file.names_env else env
    if not first.env and named is None:
        raise ConfigError(
            f"ENV is missing, and {first.config!r} does not name it: use `purejaxppo {command} "
            f"CartPole-v1 --config {first.config}`"
        )
    return dataclasses.replace(first, env=first.env or named), file


def read_over(
    first: C, argv: Sequence[str], command: str, base: PPOConfig, own: Mapping[str, Any]
) -> C:
    """Reads arguments over the values that they start from.

    Args:
        first: the arguments, read for the first time.
        argv: the arguments after the command.
        command: its name.
        base: the configuration that they start from.
        own: options that they start from, by name, `env_params` among them.

    Returns:
        The arguments, of which only types are checked.

    Raises:
        ConfigError: they cannot be read.
    """
    given = {f.name: getattr(first, f.name) for f in dataclasses.fields(first)}
    start = type(first)(**{**given, **own, **base.to_dict()})
    args = read(type(first), argv, command, start)
    # what an environment is given goes over the start's one by one, as all other options do
    merged = {}
    for name in NAMED:
        texts = {
            **parse_options(getattr(start, name), name),
            **parse_options(getattr(args, name), name),
        }
        merged[name] = coerce(name, tuple[str, ...], texts)
    return dataclasses.replace(args, **merged)


def base_of(first: ConfigArgs, algorithm: Algorithm, file: ConfigFile) -> PPOConfig:
    """Returns the configuration that arguments start from: a file's with fields, or a preset's.

    No preset is mixed into a file, which is the same configuration here as in Python.

    Args:
        first: the arguments, read for the first time.
        algorithm: theirs.
        file: what it holds that they name.

    Raises:
        ConfigError: a preset or an algorithm is named beside a file with fields; or there is none.
    """
    if file.config is None:
        return base_config(first.env, algorithm, first.preset)
    beside = {"preset": first.preset is not None, "algorithm": algorithm != RunOptions.algorithm}
    for name, given in beside.items():
        if given:
            raise ConfigError(
                f"--{name} has no effect beside --config {first.config}, which is a whole "
                "configuration: leave one of them out"
            )
    return file.config.replace(env=first.env)


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

    if preset is None and presets.has(env, algorithm):
        return env
    return None if preset == "none" else preset


def resumed(
    first: TrainArgs, base: PPOConfig, file: ConfigFile
) -> tuple[PPOConfig, dict[str, Any]]:
    """Returns what a run that is resumed starts from: its own configuration and options.

    Args:
        first: the arguments, read for the first time.
        base: the defaults, if the run has none of its own: it was never begun, or a preset, an
            algorithm or a file is named, which must be the run's then.
        file: what it holds that they name.

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
        plain = first.preset is None and first.algorithm == TrainArgs.algorithm
        if plain and file.config is None:
            base = saved.replace(env=first.env)
        if file.env_params:
            own["env_params"] = file.env_params
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
