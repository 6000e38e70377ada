"""What a sweep varies, as users write it, and the configurations that it gives.

Without jax, unless an environment is looked into.
"""

from __future__ import annotations

import itertools
import math
import random
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from purejaxppo.config.coerce import check_said_once, parse_options
from purejaxppo.config.libraries import meaning_of
from purejaxppo.config.rules import types_of, without_effect
from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError, did_you_mean, shown
from purejaxppo.sweeps.dimensions import ENV_OPTIONS, ENV_PARAMS, Dimension, Space
from purejaxppo.sweeps.ranges import DEFAULTS, read_dimension
from purejaxppo.sweeps.trials import Setting, Trial

if TYPE_CHECKING:
    from purejaxppo.types import EnvParams

__all__ = [
    "Dimension", "Space", "env_params_in", "of_environment", "pairs_of", "read_space",
    "refused_in", "trial_of", "with_setting",
]  # fmt: skip


NOT_VARIED = {
    "env": "scores of different environments cannot be compared: use a sweep for each",
    "env_options": "name one option: use env_options.max_steps=100,200",
    "info_metrics": "it changes nothing that is learned",
    "actor_observation": "its values are lists of names: use a sweep for each",
    "critic_observation": "its values are lists of names: use a sweep for each",
}
"""Fields that are set for the whole sweep, and why."""

MOST_COMBINATIONS = 1024
"""Combinations that are looked at for what goes together."""


def read_space(
    given: Space | Mapping[str, Any] | Sequence[Any], config: PPOConfig, params: EnvParams = None
) -> Space:
    """Reads what a sweep varies, and checks every end and every choice of it.

    Args:
        given: values by name: a text, `LOW..HIGH` or `A,B,C`, see `sweeps/README.md`, or a list of
            choices; or texts `NAME=VALUES`, or pairs of both. Names are fields of `PPOConfig`,
            `env_options.NAME` and `env_params.NAME`; those in a mapping inside of the mapping stand
            behind a dot.
        config: of the sweep.
        params: parameters of the environment; None: those of the one that `config` names.

    Returns:
        The space.

    Raises:
        ConfigError: an unknown name, a value that is none or that `PPOConfig` refuses, or values
            that work in no combination.
    """
    if isinstance(given, Space):
        given = given.plain()
    dimensions: dict[str, Dimension] = {}
    numbers = None
    for name, values in pairs_of(given):
        _check_name(name)
        if name in dimensions:
            raise ConfigError(f"{name} is varied twice: keep one of them")
        if name.startswith(ENV_PARAMS) and numbers is None:
            numbers = _numbers_of(config, params)
        kind = _kind_of(name, numbers or {})
        dimensions[name] = read_dimension(name, values, kind)
    if not dimensions:
        raise ConfigError("nothing is varied: use learning_rate=log:1e-4..1e-2")
    space = Space(tuple(dimensions.values()))
    _check_combinations(space, config)
    _check_environment(space, config)
    return space


# -- settings -------------------------------------------------------------------------------------


def with_setting(config: PPOConfig, setting: Setting) -> PPOConfig:
    """Returns a configuration with the values of a setting, but for `env_params`.

    What has no effect beside them is left at its default: gae_lambda where `advantage` is varied
    and is not "gae".

    Args:
        config: of the sweep.
        setting: values by name.

    Raises:
        ConfigError: `PPOConfig` refuses the combination.
    """
    return PPOConfig(**_combined(config, setting)[0])


def env_params_in(setting: Setting) -> dict[str, int | float]:
    """Returns the parameters of the environment in a setting, by their names there.

    Args:
        setting: values by name.
    """
    return {
        name.removeprefix(ENV_PARAMS): value
        for name, value in setting.items()
        if name.startswith(ENV_PARAMS)
    }


def trial_of(number: int, setting: Setting, config: PPOConfig) -> Trial:
    """Makes a trial of a setting.

    Args:
        number: of the trial.
        setting: values by name, of which those that have no effect in this combination are left
            out.
        config: of the sweep.

    Returns:
        The trial; with the reason where `PPOConfig` refuses the combination.
    """
    fields, idle = _combined(config, setting)
    kept = {name: value for name, value in setting.items() if name not in idle}
    try:
        return Trial(number, kept, PPOConfig(**fields))
    except ConfigError as error:
        return Trial(number, kept, config, str(error))


def _combined(config: PPOConfig, setting: Setting) -> tuple[dict[str, Any], set[str]]:
    """Returns all fields of a configuration with a setting, and which are idle and so left alone.

    Args:
        config: of the sweep.
        setting: values by name.
    """
    fields = {name: getattr(config, name) for name in DEFAULTS}
    fields |= {name: value for name, value in setting.items() if name in DEFAULTS}
    own = {n.removeprefix(ENV_OPTIONS): x for n, x in setting.items() if n.startswith(ENV_OPTIONS)}
    if own:
        fields["env_options"] = {**parse_options(config.env_options), **own}

    # what has no effect may be what gives others theirs
    idle: set[str] = set()
    while True:
        probe = types.SimpleNamespace(**fields)
        found = {field.name for field, _ in without_effect(probe, PPOConfig)} - idle
        if not found:
            return fields, idle
        idle |= found
        fields |= {name: DEFAULTS[name] for name in found}


def refused_in(space: Space, config: PPOConfig) -> str | None:
    """Finds a combination that cannot be trained.

    Args:
        space: what is varied.
        config: of the sweep.

    Returns:
        Why the first such one of all ends and choices, and of some settings between them, cannot;
        None: each of them can.
    """
    trials = (trial_of(0, setting, config) for setting in _combinations(space))
    return next((trial.why for trial in trials if trial.why is not None), None)


# -- reading --------------------------------------------------------------------------------------


def pairs_of(given: Mapping[str, Any] | Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Yields names, each with what was given for it.

    Args:
        given: see `read_space`.

    Raises:
        ConfigError: it is neither a mapping nor texts `NAME=VALUES`.
    """
    if isinstance(given, Mapping):
        for name, values in given.items():
            if isinstance(name, str) and isinstance(values, Mapping):
                yield from pairs_of({f"{name}.{inner}": x for inner, x in values.items()})
            else:
                yield name if isinstance(name, str) else shown(name), values
        return
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ConfigError(
            f"space={shown(given)} must be values by name: use {{'num_envs': [8, 16, 32]}}"
        )
    for entry in given:
        if isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str):
            yield entry
            continue
        name, equals, values = entry.partition("=") if isinstance(entry, str) else ("", "", "")
        if not equals:
            raise ConfigError(
                f"{shown(entry)} must be NAME=VALUES: use learning_rate=log:1e-4..1e-2"
            )
        yield name.strip(), values


def of_environment(pairs: Sequence[tuple[str, Any]]) -> bool:
    """Says whether a space can be read only with its environment.

    Args:
        pairs: see `pairs_of`.
    """
    return any(name.startswith((ENV_OPTIONS, ENV_PARAMS)) for name, _ in pairs)


def _check_name(name: str) -> None:
    """Refuses a name that nothing has that could be varied."""
    if name in NOT_VARIED:
        raise ConfigError(f"{name} cannot be varied: {NOT_VARIED[name]}")
    for start in (ENV_OPTIONS, ENV_PARAMS):
        if name.startswith(start) and len(name) > len(start):
            return
    if name not in DEFAULTS:
        known = sorted({*DEFAULTS} - {*NOT_VARIED})
        hint = meaning_of(name, known, lambda n: n if n in DEFAULTS else f"the option {n}")
        raise ConfigError(f"{shown(name)} cannot be varied: {hint or did_you_mean(name, known)}")


def _kind_of(name: str, numbers: Mapping[str, int | float]) -> Any:
    """Returns the type of a name's values; object where it has none.

    Args:
        name: a field, `env_options.NAME` or `env_params.NAME`.
        numbers: in the parameters of the environment, by name.
    """
    if name.startswith(ENV_PARAMS):
        inner = name.removeprefix(ENV_PARAMS)
        if inner not in numbers:
            hint = did_you_mean(inner, numbers) if numbers else "the environment has none"
            raise ConfigError(f"{shown(name)} is no number of the environment's parameters: {hint}")
        return type(numbers[inner])
    return types_of(PPOConfig).get(name, object)


# -- what goes together ---------------------------------------------------------------------------


def _check_combinations(space: Space, config: PPOConfig) -> None:
    """Checks that what is varied goes with the rest, and has an effect, in some combination.

    Args:
        space: every value of which is right by itself.
        config: of the sweep.

    Raises:
        ConfigError: no combination can be trained; a dimension has no effect in any; or, where all
            combinations can be looked at, a choice works in none. The first reason is given.
    """
    idle = {*space.names}
    missing: set[tuple[str, int]] = set()
    if math.prod(len(d.corners) for d in space.dimensions) <= MOST_COMBINATIONS:
        missing = {(d.name, i) for d in space.dimensions for i in range(len(d.choices))}
    refused: dict[Any, str] = {}  # the first reason, of all and of each choice
    possible = False
    for setting in _combinations(space):
        trial = trial_of(0, setting, config)
        idle -= trial.setting.keys()
        here = {(d.name, d.choices.index(setting[d.name])) for d in space.dimensions if d.choices}
        if trial.why is None:
            possible = True
            missing -= here
        else:
            for place in (None, *here):
                refused.setdefault(place, trial.why)
        if possible and not missing and not idle:
            return

    # what stands first in the space is named first
    for name in space.names:
        if name in idle:
            fields = {**config.to_dict(), **next(_combinations(space))}
            found = without_effect(types.SimpleNamespace(**fields), PPOConfig)
            words = next(effect.words for field, effect in found if field.name == name)
            raise ConfigError(
                f"{name} has no effect in any combination: use it with {words}, or leave it out"
            )
    if not possible:
        raise ConfigError(f"no combination of {', '.join(space.names)} works: {refused[None]}")
    for dimension in space.dimensions:
        for i, value in enumerate(dimension.choices):
            if (dimension.name, i) in missing:
                raise ConfigError(
                    f"{dimension.name}={value!r} works in no combination: "
                    f"{refused[dimension.name, i]}"
                )


def _combinations(space: Space) -> Iterator[Setting]:
    """Yields ends and choices in all combinations, or many, then settings drawn from the space."""
    rng = random.Random(0)
    corners = [dimension.corners for dimension in space.dimensions]
    if math.prod(map(len, corners)) <= MOST_COMBINATIONS:
        rows = itertools.product(*corners)
    else:
        rows = ([rng.choice(values) for values in corners] for _ in range(MOST_COMBINATIONS))
    for row in rows:
        yield dict(zip(space.names, row, strict=True))
    if any(not dimension.choices for dimension in space.dimensions):
        for _ in range(MOST_COMBINATIONS // 4):
            yield space.at([rng.random() for _ in corners])


def _check_environment(space: Space, config: PPOConfig) -> None:
    """Makes the environment with every end and choice of its options.

    Raises:
        ConfigError: it cannot be made so, or a number of it is varied that an option gives too.
    """
    options = {*parse_options(config.env_options)}
    options |= {x.removeprefix(ENV_OPTIONS) for x in space.names if x.startswith(ENV_OPTIONS)}
    numbers = (x.removeprefix(ENV_PARAMS) for x in space.names if x.startswith(ENV_PARAMS))
    check_said_once(options, numbers)
    for dimension in space.dimensions:
        if dimension.name.startswith(ENV_OPTIONS):
            from purejaxppo.envs.registry import find_env

            for value in dimension.corners:
                made = with_setting(config, {dimension.name: value})
                find_env(made.env, **parse_options(made.env_options))


def _numbers_of(config: PPOConfig, params: EnvParams) -> dict[str, int | float]:
    """Returns the numbers in the parameters of an environment, by name.

    Args:
        config: names it.
        params: its parameters; None: its own.
    """
    from purejaxppo.envs.registry import find_env
    from purejaxppo.run_folder.env_params import numbers_in

    if params is None:
        params = find_env(config.env, **parse_options(config.env_options))[1]
    return numbers_in(params)
