"""Proximal Policy Optimization in JAX: a whole training run as one compiled program.

What is here, in an order to read it in:

- *What is trained*: `PPOConfig` holds every choice and size, `Hyperparams` the numbers that may
  vary without a new compilation.
- *Training*: `make_train` makes the whole run a function of a key, which gives a `TrainOutput`;
  `make_learner` its two parts, a `Learner`, over a `LearnerState`; `Metrics` are what an update
  says of itself, and `final_returns` what is left of them.
- *Training from the host*: `fit` adds folders, checkpoints, evaluations and callbacks, and gives a
  `FitResult`. What goes wrong around it is a `RunWarning`.
- *Many settings*: `sweep` trains a `Space` of them as few programs, and gives a `SweepResult`;
  `make_population` makes population-based training a function of a key, which gives a
  `PopulationOutput`.
- *Callbacks*: a `Callback` hears of a run and can stop it, as `StopWithoutImprovement` does;
  `CSVLogger`, `TensorBoard` and `WandB` write down what they hear.
- *Acting*: `load_policy` reads a run folder, and `as_policy` takes what was just trained: a
  `TrainedPolicy`, which acts in NumPy and in JAX. `evaluate_policy` plays whole episodes with it in
  Gymnasium's environments, and gives `Scores`.
- *Acting in a program of your own*: `load_agents`; `make_act`, and `make_actor` with a memory, an
  `Actor`; `make_evaluate` plays whole episodes.
- *Elsewhere*: `export_policy` and `render` write a file that acts elsewhere, and a film.
- *Environments*: `make_env` by name; `Environment` is what yours has, `HostEnvironment` one that
  runs in Python; `check_env` tells what is wrong with it. `EnvSpec` is what it shows and takes,
  `EnvStep` what a step of many gives. `DrawnParams` are parameters that each of many draws for
  itself, `randomizer` makes what draws those of brax and MuJoCo Playground. All of them:
  `purejaxppo.envs`, with `purejaxppo.envs.wrappers`.
- *Policies*: a `Policy` of yours, and the `Distribution` that it returns. Networks, memories and
  distributions: `purejaxppo.policies`.
- *The method*: `OBJECTIVES`, `ADVANTAGES` and `OPTIMIZERS` are the choices there are; an
  `Objective`, a function from a `Rollout` to an `Estimate`, and an `Optimizer` may be yours; a
  `Batch` is what a gradient step reads. Its equations: `purejaxppo.ppo`.
- *Devices*: `use_cores`, `vmap_over_devices`, `compiler_options`, `compiled_for`; `make_mesh` and
  `shard_environments`, for one agent on several; `join_processes`, for those of several hosts.
- *Errors*: `ConfigError` for what cannot be trained, `HostError` for an environment that failed.

How `fit` works inside: `purejaxppo.runs`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from purejaxppo.act import Actor, make_act, make_actor
    from purejaxppo.check import check_env
    from purejaxppo.config.schema import PPOConfig
    from purejaxppo.envs.host import HostEnvironment
    from purejaxppo.envs.params import DrawnParams, randomizer
    from purejaxppo.envs.registry import make_env
    from purejaxppo.errors import ConfigError, HostError, RunWarning
    from purejaxppo.export.export_policy import export_policy
    from purejaxppo.hyperparams import Hyperparams
    from purejaxppo.parallel import make_mesh, use_cores, vmap_over_devices
    from purejaxppo.ppo.advantages import ADVANTAGES
    from purejaxppo.ppo.objectives import OBJECTIVES, Objective
    from purejaxppo.ppo.optimizer import OPTIMIZERS, Optimizer
    from purejaxppo.processes import join_processes
    from purejaxppo.rendering.render import render
    from purejaxppo.run_folder.rows import final_returns
    from purejaxppo.runs.agents import as_policy, load_agents, load_policy
    from purejaxppo.runs.callbacks import Callback, StopWithoutImprovement
    from purejaxppo.runs.evaluate import make_evaluate
    from purejaxppo.runs.evaluate_policy import Scores, evaluate_policy
    from purejaxppo.runs.fit import FitResult, fit
    from purejaxppo.runs.loggers import CSVLogger, TensorBoard, WandB
    from purejaxppo.sharding import shard_environments
    from purejaxppo.spaces import EnvSpec
    from purejaxppo.sweeps.dimensions import Space
    from purejaxppo.sweeps.schedulers.pbt import PopulationOutput, make_population
    from purejaxppo.sweeps.sweep import SweepResult, sweep
    from purejaxppo.train import make_learner, make_train
    from purejaxppo.trained_policy import TrainedPolicy
    from purejaxppo.tuning import compiled_for, compiler_options
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
    "OPTIMIZERS",
    "Actor",
    "Batch",
    "CSVLogger",
    "Callback",
    "ConfigError",
    "Distribution",
    "DrawnParams",
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
    "PopulationOutput",
    "Rollout",
    "RunWarning",
    "Scores",
    "Space",
    "StopWithoutImprovement",
    "SweepResult",
    "TensorBoard",
    "TrainOutput",
    "TrainedPolicy",
    "WandB",
    "as_policy",
    "check_env",
    "compiled_for",
    "compiler_options",
    "evaluate_policy",
    "export_policy",
    "final_returns",
    "fit",
    "join_processes",
    "load_agents",
    "load_policy",
    "make_act",
    "make_actor",
    "make_env",
    "make_evaluate",
    "make_learner",
    "make_mesh",
    "make_population",
    "make_train",
    "randomizer",
    "render",
    "shard_environments",
    "sweep",
    "use_cores",
    "vmap_over_devices",
]
__version__ = "0.1.0"

_MODULES = {
    "act": ["Actor", "make_act", "make_actor"],
    "check": ["check_env"],
    "config.schema": ["PPOConfig"],
    "envs.host": ["HostEnvironment"],
    "envs.params": ["DrawnParams", "randomizer"],
    "envs.registry": ["make_env"],
    "errors": ["ConfigError", "HostError", "RunWarning"],
    "export.export_policy": ["export_policy"],
    "hyperparams": ["Hyperparams"],
    "parallel": ["make_mesh", "use_cores", "vmap_over_devices"],
    "ppo.advantages": ["ADVANTAGES"],
    "ppo.objectives": ["OBJECTIVES", "Objective"],
    "ppo.optimizer": ["OPTIMIZERS", "Optimizer"],
    "rendering.render": ["render"],
    "runs.agents": ["as_policy", "load_agents", "load_policy"],
    "runs.callbacks": ["Callback", "StopWithoutImprovement"],
    "runs.evaluate": ["make_evaluate"],
    "runs.evaluate_policy": ["Scores", "evaluate_policy"],
    "runs.fit": ["FitResult", "fit"],
    "runs.loggers": ["CSVLogger", "TensorBoard", "WandB"],
    "run_folder.rows": ["final_returns"],
    "processes": ["join_processes"],
    "sharding": ["shard_environments"],
    "spaces": ["EnvSpec"],
    "sweeps.schedulers.pbt": ["PopulationOutput", "make_population"],
    "sweeps.dimensions": ["Space"],
    "sweeps.sweep": ["SweepResult", "sweep"],
    "train": ["make_learner", "make_train"],
    "trained_policy": ["TrainedPolicy"],
    "tuning": ["compiled_for", "compiler_options"],
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
