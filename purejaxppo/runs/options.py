"""Options of a run beside its configuration; without jax, for a command line that starts fast."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Literal

from purejaxppo.bounds import MOST_SEEDS, Bound
from purejaxppo.config.rules import AT_LEAST_ONE, COUNT, INDEX, SEED, STEPS, check_fields, option
from purejaxppo.errors import ConfigError
from purejaxppo.run_folder.paths import given_path

Weights = Literal["final", "best"]
"""Parameters at the end of a run, or the best by evaluation."""

Format = Literal["stablehlo", "onnx", "npz"]
"""What an exported policy is for: any JAX, ONNX, or NumPy alone."""

SEEDS = Bound(lambda v: v <= MOST_SEEDS, f"at most {MOST_SEEDS}")
DEVICES = Bound(lambda v: v == "all" or 1 <= v < 2**31, "1 or more, or 'all'")

# viewers slow down what has delays below 20 ms
FPS = Bound(lambda v: 1 <= v <= 50, "within 1 .. 50")


class Options:
    """A dataclass whose fields are declared by `option`, and checked when it is made."""

    def __post_init__(self) -> None:
        """Brings values to their declared types, then checks every rule.

        Raises:
            ConfigError: a value of another type, or one that is out of its bounds.
        """
        for name, value in vars(self).items():
            if isinstance(value, PurePath):
                object.__setattr__(self, name, str(value))
        check_fields(self, type(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOptions(Options):
    """Seeds, where results go, and what happens between updates."""

    seeds: int = option(1, AT_LEAST_ONE, SEEDS, group="seeds and run folder")
    """Agents trained side by side."""
    seed: int = option(0, *SEED)
    """Of the random key that every agent's is split from."""
    devices: int | Literal["all"] | None = option(None, DEVICES)
    """Devices, or cores of a CPU; None: where seeds are shared out. More share num_envs too."""
    run_dir: str | None = None
    """Folder for the results; on the command line None is runs/<env>-<date>-<n>."""
    resume: bool = False
    """Go on with the run in run_dir (None: the newest) from its last checkpoint."""
    checkpoint_every: int | None = option(None, *STEPS)
    """Steps of each agent between checkpoints, rounded up to whole updates; None: once a minute."""
    keep_checkpoints: int = option(3, *COUNT)
    """How many of the last checkpoints stay."""
    eval_every: int | None = option(None, *STEPS, group="evaluation")
    """Steps of each agent between evaluations, rounded up to whole updates; None: never."""
    eval_episodes: int = option(16, *COUNT)
    """Episodes of an evaluation, which begin alike every time and for every agent."""
    eval_sampled: bool = False
    """Evaluate sampled actions rather than the most probable ones."""
    target_return: float | None = None
    """Stop once the evaluations of all agents reach this mean return."""
    init_from: str | None = None
    """Run folder whose agents the run begins with; going on with a run, its checkpoint wins."""
    init_weights: Weights = "final"
    """Parameters at the end of that run, or the best by evaluation."""
    init_agent: int | None = option(None, *INDEX)
    """Which of its agents all seeds begin with; None: each with the one of its number."""
    init_optimizer: bool = False
    """Take over the optimizer's moments too, from that run's last checkpoint."""

    def __post_init__(self) -> None:
        """Checks each option by itself, then what they have to do with each other.

        Raises:
            ConfigError: a value of another type, one that is out of its bounds, or an option that
                has no effect without another.
        """
        if isinstance(self.run_dir, str | PurePath):
            object.__setattr__(self, "run_dir", str(given_path(self.run_dir)))
        super().__post_init__()
        # an option that does nothing is a mistake of whoever has set it
        self._check_idle("eval_every", "eval_episodes", "eval_sampled", "target_return")
        self._check_idle("init_from", "init_weights", "init_agent", "init_optimizer")
        if self.init_optimizer and self.init_weights == "best":
            raise ConfigError(
                "init_optimizer=True: moments are kept with the final parameters alone: use "
                "init_weights='final'"
            )

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
        ConfigError: a value of another type, one that is out of its bounds, or an option that has
            no effect without another.
    """
    options = FitOptions(**values)
    # the command line finds a folder by itself, Python does not
    options._check_idle("run_dir", "resume", "checkpoint_every", "keep_checkpoints")
    return options


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentOptions(Options):
    """What is made of one trained agent."""

    agent: int = option(0, *INDEX)
    """Which of the run's seeds, counted from 0."""
    weights: Weights = "final"
    """Parameters at the end of the run, or the best by evaluation."""
    overwrite: bool = False
    """Write over a file that exists."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilmOptions(AgentOptions):
    """Film a trained policy."""

    out: str | None = None
    """The file; default: policy.gif (policy.html for brax) in the run folder."""
    seed: int = option(0, *SEED)
    """Of the random key that the episode is drawn from."""
    max_steps: int = option(500, *COUNT)
    """Steps at most."""
    fps: int = option(30, FPS)
    """Frames per second."""
