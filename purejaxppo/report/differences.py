"""In what runs differ, by their configurations alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, get_args

from purejaxppo.config.schema import Algorithm, PPOConfig
from purejaxppo.run_folder.schemas import ActingFile

FIELDS = [field.name for field in dataclasses.fields(PPOConfig)]


def defaults_of(config: PPOConfig, algorithm: Algorithm) -> PPOConfig:
    """Returns an algorithm's defaults, on the environment of a configuration.

    Args:
        config: names the environment.
        algorithm: whose defaults.
    """
    return getattr(PPOConfig, algorithm)(env=config.env)


def changes(config: PPOConfig, base: PPOConfig) -> dict[str, Any]:
    """Returns the fields in which a configuration differs from another one, with its values.

    Args:
        config: whose values are returned.
        base: what it is compared with.
    """
    ours, theirs = config.to_dict(), base.to_dict()
    return {name: value for name, value in ours.items() if value != theirs[name]}


def algorithm_of(config: PPOConfig, about: ActingFile) -> Algorithm:
    """Returns the algorithm that a run was begun as; else the one whose defaults are closest.

    Args:
        config: what is trained.
        about: what it was begun with.
    """
    known = get_args(Algorithm)
    if "algorithm" in about:
        return about["algorithm"]
    return min(known, key=lambda x: len(changes(config, defaults_of(config, x))))


def fields_apart(configs: Sequence[PPOConfig]) -> list[str]:
    """Returns the names of the fields that have not the same value everywhere.

    Args:
        configs: of runs that are compared.
    """
    return [name for name in FIELDS if len({getattr(c, name) for c in configs}) > 1]
