# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""XLand-MiniGrid: its MiniGrid tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xminigrid
from xminigrid.core.constants import NUM_COLORS, NUM_TILES

from purejaxppo.envs.suites.adapter import Adapter, box
from purejaxppo.spaces import Discrete


class XMiniGrid(Adapter):
    """An XLand-MiniGrid environment: tiles and colours of what is in view."""

    def __init__(self, env: Any, params: Any):
        high = max(NUM_TILES, NUM_COLORS) - 1
        observation = box(0, high, env.observation_shape(params), np.uint8)
        super().__init__(env, observation, Discrete(env.num_actions(params)))
        self.default_params = params

    def reset_env(self, key: jax.Array, params: Any) -> tuple[Any, Any]:
        """A new episode: (obs, state)."""
        timestep = self.env.reset(params, key)
        return _seen(timestep), timestep

    def step_env(self, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
        """One step: (obs, state, reward, terminated, info)."""
        timestep = self.env.step(params, state, action)
        terminated = timestep.last() & (timestep.discount == 0)
        return _seen(timestep), timestep, timestep.reward, terminated, {}

    def is_truncated(self, state: Any, params: Any) -> jax.Array:
        """Whether the suite says that the time limit is reached."""
        return state.last() & (state.discount == 1)

    def frames(self, states: Sequence[Any], params: Any) -> Iterator[np.ndarray]:
        """Pictures of states, [H, W, 3] uint8."""
        return (self.env.render(params, timestep) for timestep in states)


def _seen(timestep: Any) -> Any:
    return jnp.asarray(timestep.observation, jnp.uint8)


def names() -> list[str]:
    """The MiniGrid tasks; XLand's own need a ruleset, which is downloaded."""
    return [n for n in xminigrid.registered_environments() if n.startswith("MiniGrid-")]


def make_env(name: str, **options: Any) -> tuple[Any, Any]:
    """One environment; options such as `view_size=5` and `max_steps=100` go to its parameters."""
    env, params = xminigrid.make(name, **options)
    return XMiniGrid(env, params), params
