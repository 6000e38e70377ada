"""Environments by name. A suite is imported when one of its environments is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from purejaxppo.envs.base import Environment
from purejaxppo.validation import ConfigError

SUITES = {"": "purejaxppo.envs.gymnax"}
"""Adapter module of each suite, by the name's prefix: "" for plain names, `brax` for `brax/ant`."""


def make_env(name: str) -> tuple[Environment, Any]:
    """An environment and its default parameters.

    Args:
        name: a plain name (gymnax) or `suite/name`.

    Raises:
        ConfigError: no such environment; the nearest names are given.
    """
    suite, _, rest = name.rpartition("/")
    if suite not in SUITES:
        raise ConfigError(
            f"unknown environment {name!r}: there is no suite {suite!r}; `purejaxppo envs` lists "
            "what there is, such as CartPole-v1"
        )
    return import_module(SUITES[suite]).make_env(rest)


def names() -> list[str]:
    """Every environment that can be made."""
    found = []
    for suite, module in SUITES.items():
        prefix = f"{suite}/" if suite else ""
        found += [prefix + name for name in import_module(module).names()]
    return found
