"""NAVIX: MiniGrid in JAX."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import navix
import numpy as np
from jax import Array
from navix import observations
from navix.rendering.cache import RenderingCache

from purejaxppo.envs.interface import arguments_of
from purejaxppo.envs.suites.adapter import Adapter, RawEnv, box, with_limit
from purejaxppo.envs.wrappers.base import ResetReturn, StepReturn
from purejaxppo.spaces import Discrete
from purejaxppo.types import Action, Environment, EnvParams, EnvState

_DRAWN = (observations.rgb, observations.rgb_first_person)
_HIGHEST_ID = 10  # the player's, as in MiniGrid; the spaces declare less, or 255


class Navix(Adapter):
    """A NAVIX environment; its `step` would reset by itself, and lose an action over it.

    Args:
        env: NAVIX's.
    """

    def __init__(self, env: RawEnv):
        self._draws = env.observation_fn in _DRAWN
        first = jax.eval_shape(env.reset, jax.random.key(0)).observation
        observation = box(0, 255 if self._draws else _HIGHEST_ID, first.shape, np.uint8)
        super().__init__(env, observation, Discrete(len(env.action_set)))

    def reset_env(self, key: Array, params: EnvParams) -> ResetReturn:
        """Begins an episode: (obs, state)."""
        return self._out(self.env.reset(key))

    def step_env(
        self, key: Array, state: EnvState, action: Action, params: EnvParams
    ) -> StepReturn:
        """Steps once: (obs, state, reward, terminated, info)."""
        obs, state = self._out(self.env._step(state, action))
        return obs, state, state.reward, state.is_termination(), state.info

    def is_truncated(self, state: EnvState, params: EnvParams) -> Array:
        """Says whether, for NAVIX, the time limit is reached."""
        return state.is_truncation()

    def frames(self, states: Sequence[EnvState], params: EnvParams) -> Iterator[np.ndarray]:
        """Returns pictures of states, [H, W, 3] uint8."""

        @jax.jit
        def draw(state: EnvState) -> Array:
            # `_out` has dropped the cache
            return observations.rgb(state.replace(cache=RenderingCache.init(state.grid)))

        return (np.asarray(draw(timestep.state)) for timestep in states)

    def _out(self, timestep: EnvState) -> ResetReturn:
        """Returns what is observed, and the state: without pictures, which loops would carry."""
        if not self._draws:
            timestep = timestep.replace(state=timestep.state.replace(cache=None))
        return jnp.asarray(timestep.observation, jnp.uint8), timestep


def names() -> list[str]:
    """Returns the environments that NAVIX registers."""
    return sorted(navix.registry())


def options_of(name: str) -> list[str]:
    """Returns what every environment of NAVIX is made with."""
    return arguments_of(navix.environments.Environment.create)


def make_env(
    name: str, *, max_steps: int | None = None, **options: Any
) -> tuple[Environment, EnvParams]:
    """Makes one environment and its parameters, of which there are none.

    Args:
        name: as NAVIX registers it, such as `Navix-Empty-8x8-v0`.
        max_steps: the time limit; None: NAVIX's own, of 100.
        **options: as in `navix.make`.
    """
    env = Navix(navix.make(name, **with_limit(options, max_steps, "max_steps")))
    return env, env.default_params
