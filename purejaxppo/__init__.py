"""Proximal Policy Optimization in JAX: a whole training run as one compiled program."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from purejaxppo.act import Actor, make_act, make_actor
    from purejaxppo.check import check_env
    from purejaxppo.config.schema import PPOConfig
    from purejaxppo.envs.host import HostEnvironment
    from purejaxppo.envs.registry import make_env
    from purejaxppo.errors import ConfigError, HostError, RunWarning
    from purejaxppo.export.export_policy import export_policy
    from purejaxppo.hyperparams import Hyperparams
    from purejaxppo.parallel import make_mesh, use_cores, vmap_over_devices
    from purejaxppo.ppo.advantages import ADVANTAGES
    from purejaxppo.ppo.objectives import OBJECTIVES, Objective
    from purejaxppo.ppo.optimizer import Optimizer
    from purejaxppo.rendering.render import render
    from purejaxppo.run_folder.rows import final_returns
    from purejaxppo.runs.agents import load_agents, load_policy
    from purejaxppo.runs.evaluate import make_evaluate
    from purejaxppo.runs.fit import FitResult, fit
    from purejaxppo.sharding import shard_environments
    from purejaxppo.spaces import EnvSpec
    from purejaxppo.train import make_learner, make_train
    from purejaxppo.tuning import compiler_options
    from purejaxppo.types import (
        Batch,
        Distribution,
        Environment,
        EnvStep,
        Estimate,
        Learner,
        LearnerState,
        Metrics,
        Policy,
        Rollout,
        TrainOutput,
    )

__all__ = [
    "ADVANTAGES",
    "OBJECTIVES",
    "Actor",
    "Batch",
    "ConfigError",
    "Distribution",
    "EnvSpec",
    "EnvStep",
    "Environment",
    "Estimate",
    "FitResult",
    "HostEnvironment",
    "HostError",
    "Hyperparams",
    "Learner",
    "LearnerState",
    "Metrics",
    "Objective",
    "Optimizer",
    "PPOConfig",
    "Policy",
    "Rollout",
    "RunWarning",
    "TrainOutput",
    "check_env",
    "compiler_options",
    "export_policy",
    "final_returns",
    "fit",
    "load_agents",
    "load_policy",
    "make_act",
    "make_actor",
    "make_env",
    "make_evaluate",
    "make_learner",
    "make_mesh",
    "make_train",
    "render",
    "shard_environments",
    "use_cores",
    "vmap_over_devices",
]
__version__ = "0.1.0"

_MODULES = {
    "act": ["Actor", "make_act", "make_actor"],
    "check": ["check_env"],
    "config.schema": ["PPOConfig"],
    "envs.host": ["HostEnvironment"],
    "envs.registry": ["make_env"],
    "errors": ["ConfigError", "HostError", "RunWarning"],
    "export.export_policy": ["export_policy"],
    "hyperparams": ["Hyperparams"],
    "parallel": ["make_mesh", "use_cores", "vmap_over_devices"],
    "ppo.advantages": ["ADVANTAGES"],
    "ppo.objectives": ["OBJECTIVES", "Objective"],
    "ppo.optimizer": ["Optimizer"],
    "rendering.render": ["render"],
    "runs.agents": ["load_agents", "load_policy"],
    "runs.evaluate": ["make_evaluate"],
    "runs.fit": ["FitResult", "fit"],
    "run_folder.rows": ["final_returns"],
    "sharding": ["shard_environments"],
    "spaces": ["EnvSpec"],
    "train": ["make_learner", "make_train"],
    "tuning": ["compiler_options"],
    "types": [
        "Batch", "Distribution", "EnvStep", "Environment", "Estimate", "Learner", "LearnerState",
        "Metrics", "Policy", "Rollout", "TrainOutput",
    ],
}  # fmt: skip
"""Where each public name is defined."""


def __getattr__(name: str):
    """Imports a public name when it is first used: the command line starts without jax."""
    for module, names in _MODULES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
