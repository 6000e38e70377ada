"""Proximal Policy Optimization in JAX: a whole training run as one compiled program."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from purejaxppo.config import Hyperparams, PPOConfig
    from purejaxppo.envs.registry import make as make_env
    from purejaxppo.ppo.advantages import ADVANTAGES
    from purejaxppo.ppo.objectives import OBJECTIVES
    from purejaxppo.ppo.records import Learner, LearnerState, Metrics, Policy, TrainOutput
    from purejaxppo.train import make_act, make_learner, make_train
    from purejaxppo.validation import ConfigError

_WHERE = {
    "ADVANTAGES": "ppo.advantages",
    "ConfigError": "validation",
    "Hyperparams": "config",
    "Learner": "ppo.records",
    "LearnerState": "ppo.records",
    "Metrics": "ppo.records",
    "OBJECTIVES": "ppo.objectives",
    "PPOConfig": "config",
    "Policy": "ppo.records",
    "TrainOutput": "ppo.records",
    "make_act": "train",
    "make_env": "envs.registry",
    "make_learner": "train",
    "make_train": "train",
}

__all__ = [*_WHERE]
__version__ = "0.1.0"


def __getattr__(name: str):
    """Imports a public name when it is first used: the command line starts without jax."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    source = "make" if name == "make_env" else name
    value = getattr(import_module(f"{__name__}.{_WHERE[name]}"), source)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
