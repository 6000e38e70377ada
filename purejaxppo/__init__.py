"""Proximal Policy Optimization in JAX: a whole training run as one compiled program."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from purejaxppo.act import Actor, make_act, make_actor
    from purejaxppo.check import check_env
    from purejaxppo.config.rules import ConfigError, HostError
    from purejaxppo.config.schema import Hyperparams, PPOConfig
    from purejaxppo.envs.host import HostEnvironment
    from purejaxppo.envs.registry import make_env
    from purejaxppo.export.export_policy import export_policy
    from purejaxppo.parallel import use_cores, vmap_over_devices
    from purejaxppo.ppo.advantages import ADVANTAGES, Estimate
    from purejaxppo.ppo.objectives import OBJECTIVES, Objective
    from purejaxppo.rendering.render import render
    from purejaxppo.runs.agents import load_agents, load_policy
    from purejaxppo.runs.evaluate import make_evaluate
    from purejaxppo.runs.fit import FitResult, fit
    from purejaxppo.train import make_learner, make_train
    from purejaxppo.tuning import compiler_options
    from purejaxppo.types import Learner, LearnerState, Metrics, Policy, TrainOutput

__all__ = [
    "ADVANTAGES",
    "OBJECTIVES",
    "Actor",
    "ConfigError",
    "Estimate",
    "FitResult",
    "HostEnvironment",
    "HostError",
    "Hyperparams",
    "Learner",
    "LearnerState",
    "Metrics",
    "Objective",
    "PPOConfig",
    "Policy",
    "TrainOutput",
    "check_env",
    "compiler_options",
    "export_policy",
    "fit",
    "load_agents",
    "load_policy",
    "make_act",
    "make_actor",
    "make_env",
    "make_evaluate",
    "make_learner",
    "make_train",
    "render",
    "use_cores",
    "vmap_over_devices",
]
__version__ = "0.1.0"

_ROOMS = {
    "act": ["Actor", "make_act", "make_actor"],
    "check": ["check_env"],
    "config.rules": ["ConfigError", "HostError"],
    "config.schema": ["Hyperparams", "PPOConfig"],
    "envs.host": ["HostEnvironment"],
    "envs.registry": ["make_env"],
    "export.export_policy": ["export_policy"],
    "parallel": ["use_cores", "vmap_over_devices"],
    "ppo.advantages": ["ADVANTAGES", "Estimate"],
    "ppo.objectives": ["OBJECTIVES", "Objective"],
    "rendering.render": ["render"],
    "runs.agents": ["load_agents", "load_policy"],
    "runs.evaluate": ["make_evaluate"],
    "runs.fit": ["FitResult", "fit"],
    "train": ["make_learner", "make_train"],
    "tuning": ["compiler_options"],
    "types": ["Learner", "LearnerState", "Metrics", "Policy", "TrainOutput"],
}


def __getattr__(name: str):
    """Imports a public name when it is first used: the command line starts without jax."""
    for room, names in _ROOMS.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{room}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
