"""Gymnasium: any of its environments, MuJoCo's among them, on the host."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, VectorEnv

from purejaxppo.envs.host import HostEnvironment
from purejaxppo.types import EnvParams

DRAWN = {"render_mode": "rgb_array"}  # options of environments that are to be filmed


def names() -> list[str]:
    """Returns the environments that Gymnasium registers."""
    return list(gymnasium.registry)


def make_env(
    name: str, *, processes: bool = False, max_steps: int | None = None, **options: Any
) -> tuple[HostEnvironment, EnvParams]:
    """Makes one environment, N at a time.

    Args:
        name: as in `gymnasium.make`, also `module:id`.
        processes: each environment in a process of its own, for those whose steps take long.
        max_steps: a time limit in place of the environment's own.
        **options: as in `gymnasium.make`.
    """
    settings: dict[str, object] = {"autoreset_mode": AutoresetMode.DISABLED}
    if processes:
        settings["context"] = "spawn"  # a fork would inherit the threads of JAX
    if max_steps is not None:
        options["max_episode_steps"] = max_steps

    def make(num_envs: int) -> VectorEnv:
        mode = "async" if processes else "sync"
        return gymnasium.make_vec(name, num_envs, mode, vector_kwargs=dict(settings), **options)

    env = HostEnvironment(make, f"gymnasium/{name}")
    return env, env.default_params
