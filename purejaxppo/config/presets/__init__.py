"""Tuned configurations: one TOML file per name, one table per algorithm."""

from __future__ import annotations

import tomllib
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from purejaxppo.errors import ConfigError, did_you_mean, shown

# what makes PPO another algorithm

A2C: dict[str, Any] = dict(
    objective="policy_gradient", advantage="n_step", n_step=5, num_envs=16, num_steps=5,
    num_epochs=1, num_minibatches=1, learning_rate=7e-4, advantage_normalization="none",
    entropy_coef=0.01,
)  # fmt: skip
REINFORCE: dict[str, Any] = dict(
    objective="policy_gradient", advantage="monte_carlo", num_envs=8, num_steps=125,
    num_epochs=1, num_minibatches=1, learning_rate=3e-3, advantage_normalization="none",
)  # fmt: skip


def names() -> list[str]:
    """Lists the presets that exist; those of a suite's environments are in a folder of its name."""
    found = _stems(resources.files(__name__))
    for folder in resources.files(__name__).iterdir():
        if folder.is_dir():
            found += [f"{folder.name}/{stem}" for stem in _stems(folder)]
    return sorted(found)


def _stems(folder: Traversable) -> list[str]:
    files = (f.name for f in folder.iterdir())
    return [name.removesuffix(".toml") for name in files if name.endswith(".toml")]


def tables(name: str) -> dict[str, dict[str, Any]]:
    """Reads a preset's fields by algorithm.

    Args:
        name: of the preset.

    Returns:
        For each algorithm, the fields that differ from its own.

    Raises:
        ConfigError: no such preset; the nearest names are given.
    """
    if not isinstance(name, str) or name not in names():
        hint = did_you_mean(name if isinstance(name, str) else "", names())
        raise ConfigError(f"unknown preset {shown(name)}: {hint}")
    return tomllib.loads(resources.files(__name__).joinpath(f"{name}.toml").read_text("utf-8"))


def load(name: str, algorithm: str) -> dict[str, Any]:
    """Reads the fields of one preset that differ from the algorithm's own.

    Args:
        name: of the preset.
        algorithm: one of its tables.

    Returns:
        Values by field.

    Raises:
        ConfigError: no such preset, or none for this algorithm.
    """
    found = tables(name)
    if algorithm not in found:
        raise ConfigError(
            f"preset {name!r} has no table for algorithm {algorithm!r}: use {' or '.join(found)}"
        )
    return found[algorithm]
