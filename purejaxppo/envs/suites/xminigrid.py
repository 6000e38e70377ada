# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""XLand-MiniGrid: the MiniGrid tasks of the suite."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import xminigrid
from jax import Array
from xminigrid.core.constants import NUM_COLORS, NUM_TILES

from purejaxppo.envs.suites.adapter import Adapter, RawEnv, box, with_limit
from purejaxppo.envs.wrappers.base import ResetReturn, StepReturn
from purejaxppo.spaces import Discrete
from purejaxppo.types import Action, Environment, EnvParams, EnvState


class XMiniGrid(Adapter):
    """An XLand-MiniGrid environment: tiles and colours of what is in view.

    Args:
        env: XLand-MiniGrid's.
        params: its parameters.
    """

    def __init__(self, env: RawEnv, params: EnvParams):
        high = max(NUM_TILES, NUM_COLORS) - 1
        observation = box(0, high, env.observation_shape(params), np.uint8)
        super().__init__(env, observation, Discrete(env.num_actions(params)))
        self.default_params = params

    def reset_env(self, key: Array, params: EnvParams) -> ResetReturn:
        """Begins an episode: (obs, state)."""
        timestep = self.env.reset(params, key)
        return _seen(timestep), timestep

    def step_env(
        self, key: Array, state: EnvState, action: Action, params: EnvParams
    ) -> StepReturn:
        """Steps once: (obs, state, reward, terminated, info)."""
        timestep = self.env.step(params, state, action)
        # the last step of an episode has discount 0 where the task ended it, else 1
        terminated = timestep.last() & (timestep.discount == 0)
        return _seen(timestep), timestep, timestep.reward, terminated, {}

    def is_truncated(self, state: EnvState, params: EnvParams) -> Array:
        """Says whether, for the suite, the time limit is reached."""
        return state.last() & (state.discount == 1)

    def frames(self, states: Sequence[EnvState], params: EnvParams) -> Iterator[np.ndarray]:
        """Returns pictures of states, [H, W, 3] uint8."""
        return (self.env.render(params, timestep) for timestep in states)


def _seen(timestep: EnvState) -> Array:
    return jnp.asarray(timestep.observation, jnp.uint8)


def names() -> list[str]:
    """Returns the MiniGrid tasks; XLand's own need a ruleset, which is downloaded."""
    return [n for n in xminigrid.registered_environments() if n.startswith("MiniGrid-")]


def options_of(name: str) -> list[str]:
    """Returns the parameters of an environment."""
    _, params = xminigrid.make(name)
    return [field.name for field in dataclasses.fields(params)]


def make_env(
    name: str, *, max_steps: int | None = None, **options: Any
) -> tuple[Environment, EnvParams]:
    """Makes one environment and its parameters.

    Args:
        name: as the suite registers it, such as `MiniGrid-Empty-5x5`.
        max_steps: the time limit; None: that of the suite.
        **options: of its parameters, such as `view_size=5`.
    """
    env, params = xminigrid.make(name, **with_limit(options, max_steps, "max_steps"))
    return XMiniGrid(env, params), params
