"""Options of a run beside its configuration; without jax, for a command line that starts fast."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from purejaxppo.config.rules import coerce_fields
from purejaxppo.errors import ConfigError
from purejaxppo.runs.paths import given_path

MOST_SEEDS = 2**16
"""More than fit on any device; what is read from a folder is held against it as well."""

Weights = Literal["final", "best"]
"""Parameters at the end of a run, or the best by evaluation."""

Format = Literal["stablehlo", "onnx", "npz"]
"""What an exported policy is for: any JAX, ONNX, or NumPy alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Seeds, where results go, and what happens between updates."""

    seeds: int = 1
    """Agents trained side by side."""
    seed: int = 0
    """Of the random key that every agent's is split from."""
    run_dir: str | None = None
    """Folder for the results; on the command line None is runs/<env>-<date>-<n>."""
    resume: bool = False
    """Go on with the run in run_dir (None: the newest) from its last checkpoint."""
    checkpoint_every: int | None = None
    """Steps of each agent between checkpoints, rounded up to whole updates; None: once a minute."""
    keep_checkpoints: int = 3
    """How many of the last checkpoints stay."""
    eval_every: int | None = None
    """Steps of each agent between evaluations, rounded up to whole updates; None: never."""
    eval_episodes: int = 16
    """Episodes of an evaluation, which begin alike every time and for every agent."""
    eval_sampled: bool = False
    """Evaluate sampled actions rather than the most probable ones."""
    target_return: float | None = None
    """Stop once the evaluations of all agents reach this mean return."""

    def __post_init__(self) -> None:
        """Brings values to their declared types, then checks every rule.

        Raises:
            ConfigError: a value of another type, a number that is too small, or an option that has
                no effect without another.
        """
        # types: numbers may come from NumPy, the folder as a path
        if self.run_dir is not None:
            object.__setattr__(self, "run_dir", str(given_path(self.run_dir)))
        coerce_fields(self, FitOptions)

        # bounds: a key takes 63 bits
        if self.seed >= 2**63:
            raise ConfigError(f"seed={self.seed} is too large: use a number below 2**63")
        if self.seeds > MOST_SEEDS:
            raise ConfigError(f"seeds={self.seeds} is too large: use at most {MOST_SEEDS}")
        least = {"seeds": 1, "seed": 0, "keep_checkpoints": 1, "eval_episodes": 1}
        for name, bound in {**least, "checkpoint_every": 1, "eval_every": 1}.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ConfigError(f"{name}={value} is too small: use {max(1, bound)}")

        # an option that does nothing is a mistake of whoever has set it
        self._check_idle("eval_every", "eval_episodes", "eval_sampled", "target_return")

    def _check_idle(self, needed: str, *names: str) -> None:
        """Refuses options that do nothing while another is None."""
        for name in names:
            value = getattr(self, name)
            if value != getattr(FitOptions, name) and getattr(self, needed) is None:
                raise ConfigError(f"{name}={value} has no effect without {needed}: set both")


def fit_options(values: Mapping[str, Any]) -> FitOptions:
    """Makes the options of a run that is begun from Python.

    Args:
        values: by name of the field, see `FitOptions`.

    Returns:
        The options, checked.

    Raises:
        ConfigError: a value of another type, a number that is too small, or an option that has no
            effect without another.
    """
    options = FitOptions(**values)
    # the command line finds a folder by itself, Python does not
    options._check_idle("run_dir", "resume", "checkpoint_every", "keep_checkpoints")
    return options
