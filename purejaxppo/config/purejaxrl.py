"""Configuration keys: this package's fields, and the upper-case keys of PureJaxRL.

A mapping with its keys means what they mean there: the value is clipped as the policy is, and an
environment of brax comes with the backend and the network of its script.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from purejaxppo.config.coerce import coerce
from purejaxppo.config.libraries import LIBRARIES, field_of, meaning_of
from purejaxppo.errors import ConfigError, did_you_mean, shown

T = TypeVar("T")

THEIRS = LIBRARIES["PureJaxRL"]
DERIVED = {"NUM_UPDATES": "num_updates", "MINIBATCH_SIZE": "minibatch_size"}
"""Keys that its scripts write into their dictionary, and the properties that are the same here."""

OF_FIT = {"SEED": "seed", "NUM_SEEDS": "seeds"}
"""Keys of its scripts that are no part of a configuration, by the argument of `fit`."""


def _anneal(on: Any) -> dict[str, Any]:
    return {"learning_rate_final_scale": 0.0 if coerce("ANNEAL_LR", bool, on, True) else 1.0}


def _normalize(on: Any) -> dict[str, Any]:
    on = coerce("NORMALIZE_ENV", bool, on, True)
    return {"normalize_observations": on, "normalize_rewards": on}


def _debug(on: Any) -> dict[str, Any]:
    if coerce("DEBUG", bool, on, True):
        warnings.warn(
            "DEBUG prints nothing here: the compiled program makes no host calls. Progress is "
            "shown by purejaxppo.fit and `purejaxppo train`; returns are in the metrics.",
            stacklevel=5,
        )
    return {}


def _env(name: Any) -> dict[str, Any]:
    """Reads a name as the script does that has such names: gymnax's, brax's or NAVIX's."""
    if isinstance(name, str) and name.startswith("Navix-"):
        return {"env": f"navix/{name}"}
    # brax's names are words, such as hopper; no other library has such
    if isinstance(name, str) and name.isidentifier() and name.islower():
        return {"env": f"brax/{name}"}
    return {"env": name}


CONVERTED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "ENV_NAME": _env,
    "ANNEAL_LR": _anneal,
    "NORMALIZE_ENV": _normalize,
    "DEBUG": _debug,
    "CLIP_EPS": lambda eps: {"clip_eps": eps},
}
"""Fields by key, where the key is not another word for one of them."""

UPPER_CASE: dict[str, str | Callable[[Any], dict[str, Any]]] = {
    key: field_of(text) for key, text in THEIRS.items() if field_of(text) and key not in OF_FIT
} | CONVERTED
"""The keys of PureJaxRL's configurations that are fields, and what each means here."""


def known_fields(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Translates every key of a mapping to a field of `cls`; the mapping is not changed.

    Args:
        cls: a dataclass.
        values: by its fields, or by the keys of PureJaxRL.

    Returns:
        Values by field.

    Raises:
        ConfigError: an unknown key, or a field that is given twice.
    """
    names = [field.name for field in dataclasses.fields(cls)]
    result: dict[str, Any] = {}
    for key, value in values.items():
        new = _fields_of(key, value, names)
        twice = sorted(new.keys() & result.keys())
        if twice:
            raise ConfigError(f"{twice[0]} is given twice (once as {key!r}): keep one of them")
        result.update(new)
    # a single gradient step clips nothing, there as here
    single = _is(1, result.get("num_epochs")) and _is(1, result.get("num_minibatches"))
    if "CLIP_EPS" in values and single:
        del result["clip_eps"]
    return {**_implied(values, result), **result}


def _fields_of(key: Any, value: Any, names: list[str]) -> dict[str, Any]:
    """Returns the fields that a key stands for; none where it is a part of none."""
    if key in names:
        return {key: value}
    meaning = UPPER_CASE.get(key)
    if meaning is not None:
        return {meaning: value} if isinstance(meaning, str) else meaning(value)
    if key in DERIVED:
        return {}  # `check_derived` compares them
    if key in OF_FIT:
        argument = OF_FIT[key]
        warnings.warn(
            f"{key} is no part of a configuration: fit(config, {argument}=...) takes it, and "
            "make_train(config) the random key",
            stacklevel=4,
        )
        return {}

    # a name of another library, or one that was meant otherwise
    text = key if isinstance(key, str) else ""
    hint = meaning_of(text, names, lambda n: n if n in names else f"fit's {n}")
    if hint is None and isinstance(value, Mapping) and value.keys() <= {*names}:
        raise ConfigError(
            f"{shown(key)} is a table, and no field: use the lines below [{key}] alone, or for a "
            "preset PPOConfig.preset('CartPole-v1')"
        )
    hint = hint or did_you_mean(text, UPPER_CASE if text.isupper() else names)
    raise ConfigError(f"unknown option {shown(key)}: {hint}")


def _implied(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the keys of PureJaxRL say beside their own field.

    Its networks read everything flattened, and those for brax are wider; its value is clipped as
    far as its policy is. A name with a suite is ours, and says no more.
    """
    implied: dict[str, Any] = {}
    name = values.get("ENV_NAME", "/")
    if isinstance(name, str) and "/" not in name and ":" not in name:
        implied["torso"] = "mlp"
        if given["env"].startswith("brax/"):
            implied |= {"env_options": ("backend=positional",), "hidden_sizes": (256, 256)}
    loss = given.get("value_loss", "none" if _is(0, given.get("value_coef")) else "clipped")
    if "CLIP_EPS" in values and "clip_eps" in given and loss == "clipped":
        implied |= {"value_loss": "clipped", "value_clip_eps": given["clip_eps"]}
    return implied


def _is(number: int, value: Any) -> bool:
    """Says whether a value, which nothing has checked so far, is a number."""
    return isinstance(value, int | float) and value == number


def check_derived(config: Any, values: Mapping[str, Any]) -> None:
    """Checks that what PureJaxRL's scripts have computed is what follows from the sizes here.

    Args:
        config: made of the mapping.
        values: the mapping.

    Raises:
        ConfigError: it is something else, so that one of the sizes is not the one that was meant.
    """
    for key, name in DERIVED.items():
        follows = getattr(config, name)
        if key in values and coerce(key, int, values[key], follows) != follows:
            sizes = f"num_envs={config.num_envs}, num_steps={config.num_steps}"
            other = "num_minibatches" if name == "minibatch_size" else "total_timesteps"
            raise ConfigError(
                f"{key}={shown(values[key])} must be what follows from {sizes} and "
                f"{other}={getattr(config, other)}: use {follows}, or leave it out"
            )


def with_seeds(config: Any, **arguments: int) -> tuple[Any, dict[str, int]]:
    """Moves SEED and NUM_SEEDS from a mapping to the arguments of `fit` that they are.

    Args:
        config: a mapping, or whatever else was given.
        **arguments: seed and seeds, as `fit` was given them.

    Returns:
        The mapping without them, and the arguments.

    Raises:
        ConfigError: one is given twice.
    """
    keys = OF_FIT.keys() & config.keys() if isinstance(config, Mapping) else set()
    for key in sorted(keys):
        name, default = OF_FIT[key], {"seed": 0, "seeds": 1}[OF_FIT[key]]
        value = coerce(key, int, config[key], default)
        if arguments[name] not in (default, value):
            raise ConfigError(f"{name} is given twice (once as {key!r}): keep one of them")
        arguments[name] = value
    rest = {k: v for k, v in config.items() if k not in keys} if keys else config
    return rest, arguments


def by_field(cls: type[T]) -> type[T]:
    """Makes a dataclass refuse what is none of its fields with a hint, wherever it is made.

    Args:
        cls: a dataclass whose fields are given by name, or by the keys of PureJaxRL.

    Returns:
        The same class.
    """
    init = cls.__init__

    @functools.wraps(init)
    def checked(self: T, /, *values: Any, **by_name: Any) -> None:
        if values:
            name = cls.__name__
            raise ConfigError(
                f"{name}({shown(values[0])}) must name its fields: use {name}(env='CartPole-v1')"
            )
        init(self, **known_fields(cls, by_name))
        check_derived(self, by_name)

    cls.__init__ = checked  # pyright: ignore[reportAttributeAccessIssue]
    return cls
