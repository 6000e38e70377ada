"""Tuned configurations: one TOML file per name, one table per algorithm.

A file with a table `environments` is the preset of each environment that stands there, with what
differs for it.
"""

from __future__ import annotations

import functools
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

ENVIRONMENTS = "environments"
"""The table that lists the environments of a file, where it has several."""


def names() -> list[str]:
    """Lists the presets that exist; those of a suite's environments are in a folder of its name."""
    return sorted(name for folder in ("", *_folders()) for name in _files(folder))


def has(name: str, algorithm: str) -> bool:
    """Says whether there is a preset of a name for an algorithm, without a look at all others.

    Args:
        name: perhaps of a preset.
        algorithm: perhaps one of its tables.
    """
    return name in _files(name.rpartition("/")[0]) and algorithm in tables(name)


def _folders() -> list[str]:
    return [entry.name for entry in resources.files(__name__).iterdir() if entry.is_dir()]


def _files(folder: str) -> dict[str, Traversable]:
    """Finds the file of each preset in a folder, which has its name or lists its environment."""
    place, found = resources.files(__name__), {}
    if folder and folder not in _folders():
        return found
    for file in (place.joinpath(folder) if folder else place).iterdir():
        stem = file.name.removesuffix(".toml")
        if stem != file.name and not folder:
            found[stem] = file
        elif stem != file.name:
            found |= {f"{folder}/{n}": file for n in _read(file).get(ENVIRONMENTS, (stem,))}
    return found


@functools.cache
def _read(file: Traversable) -> dict[str, dict[str, Any]]:
    return tomllib.loads(file.read_text("utf-8"))


def tables(name: str) -> dict[str, dict[str, Any]]:
    """Reads a preset's fields by algorithm.

    Args:
        name: of the preset.

    Returns:
        For each algorithm, the fields that differ from its own.

    Raises:
        ConfigError: no such preset; the nearest names are given.
    """
    text = name if isinstance(name, str) else ""
    files = _files(text.rpartition("/")[0])
    if text not in files:
        # where no name is near, those of suites are too many to be listed
        near = did_you_mean(text, names())
        hint = near if near.startswith("did") else did_you_mean(text, _files(""))
        raise ConfigError(f"unknown preset {shown(name)}: {hint}")
    found = dict(_read(files[name]))
    if ENVIRONMENTS not in found:
        return found
    own = found.pop(ENVIRONMENTS)[name.rpartition("/")[2]]
    return {algorithm: {"env": name, **shared, **own} for algorithm, shared in found.items()}


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
