# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""MuJoCo Playground: the DeepMind control suite on MJX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from mujoco_playground import dm_control_suite, registry

from purejaxppo.envs.suites.adapter import Adapter, anything, box
from purejaxppo.envs.wrappers.episodes import TimeLimit


class Playground(Adapter):
    """A raw environment. Where it shows a dictionary, its `state`: the rest is privileged."""

    def __init__(self, env: Any):
        first = jax.eval_shape(env.reset, jax.random.key(0))
        super().__init__(env, anything(_seen(first)), box(-1.0, 1.0, (env.action_size,)))

    def reset_env(self, key: jax.Array, params: Any) -> tuple[Any, Any]:
        """A new episode: (obs, state)."""
        state = self.env.reset(key)
        return _seen(state), state

    def step_env(self, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
        """One step: (obs, state, reward, terminated, info)."""
        state = self.env.step(state, action)
        return _seen(state), state, state.reward, state.done > 0.5, {}

    def frames(self, states: Sequence[Any], params: Any) -> Sequence[np.ndarray]:
        """Pictures of states, [H, W, 3] uint8, drawn by MuJoCo."""
        return self.env.render(list(states), height=300, width=400)


def _seen(state: Any) -> Any:
    return state.obs["state"] if isinstance(state.obs, Mapping) else state.obs


def names() -> list[str]:
    """The DeepMind control suite; the other environments download their models when made."""
    return list(dm_control_suite.ALL_ENVS)


def make_env(
    name: str, *, max_steps: int | None = None, impl: str = "jax", **options: Any
) -> tuple[Any, Any]:
    """One environment; `impl` is MJX's (jax, or warp on a GPU), other options override its config.

    The time limit is that of its configuration (`episode_length`) unless given.
    """
    config = registry.get_default_config(name)
    limit = int(config.episode_length) if max_steps is None else max_steps
    env = registry.load(name, config=config, config_overrides={"impl": impl, **options})
    env = TimeLimit(Playground(env), limit)
    return env, env.default_params
