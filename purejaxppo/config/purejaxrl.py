"""Configuration keys: this package's fields, and the upper-case keys of PureJaxRL."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from purejaxppo.config.coerce import coerce
from purejaxppo.errors import ConfigError, did_you_mean, shown

T = TypeVar("T")


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


UPPER_CASE: dict[str, str | Callable[[Any], dict[str, Any]]] = {
    "ENV_NAME": "env",
    "TOTAL_TIMESTEPS": "total_timesteps",
    "NUM_ENVS": "num_envs",
    "NUM_STEPS": "num_steps",
    "UPDATE_EPOCHS": "num_epochs",
    "NUM_MINIBATCHES": "num_minibatches",
    "LR": "learning_rate",
    "GAMMA": "gamma",
    "GAE_LAMBDA": "gae_lambda",
    "CLIP_EPS": "clip_eps",
    "ENT_COEF": "entropy_coef",
    "VF_COEF": "value_coef",
    "MAX_GRAD_NORM": "max_grad_norm",
    "ACTIVATION": "activation",
    "ANNEAL_LR": _anneal,
    "NORMALIZE_ENV": _normalize,
    "DEBUG": _debug,
}
"""The keys of PureJaxRL's configurations, and what each means here."""


def known_fields(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Translates every key of a mapping to a field of `cls`; the mapping is not changed.

    Args:
        cls: a dataclass.
        values: by its fields, or by the keys of `UPPER_CASE`.

    Returns:
        Values by field.

    Raises:
        ConfigError: an unknown key, or a field that is given twice.
    """
    names = [field.name for field in dataclasses.fields(cls)]
    result: dict[str, Any] = {}
    for key, value in values.items():
        meaning = key if key in names else UPPER_CASE.get(key)
        if meaning is None:
            text = key if isinstance(key, str) else ""
            hint = did_you_mean(text, UPPER_CASE if text.isupper() else names)
            raise ConfigError(f"unknown option {shown(key)}: {hint}")
        new = {meaning: value} if isinstance(meaning, str) else meaning(value)
        twice = sorted(new.keys() & result.keys())
        if twice:
            raise ConfigError(f"{twice[0]} is given twice (once as {key!r}): keep one of them")
        result.update(new)
    return result


def by_field(cls: type[T]) -> type[T]:
    """Makes a dataclass refuse what is none of its fields with a hint, wherever it is made.

    Args:
        cls: a dataclass whose fields are given by name, or by the keys of `UPPER_CASE`.

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

    cls.__init__ = checked  # pyright: ignore[reportAttributeAccessIssue]
    return cls
