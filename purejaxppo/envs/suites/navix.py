"""NAVIX: MiniGrid in JAX."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import navix
import numpy as np
from navix import observations
from navix.rendering.cache import RenderingCache

from purejaxppo.envs.suites.adapter import Adapter, box
from purejaxppo.spaces import Discrete

_DRAWN = (observations.rgb, observations.rgb_first_person)
_HIGHEST_ID = 10  # the player's, as in MiniGrid; the spaces declare less, or 255


class Navix(Adapter):
    """A NAVIX environment; its `step` would reset by itself, and lose an action over it."""

    def __init__(self, env: Any):
        self._draws = env.observation_fn in _DRAWN
        first = jax.eval_shape(env.reset, jax.random.key(0)).observation
        observation = box(0, 255 if self._draws else _HIGHEST_ID, first.shape, np.uint8)
        super().__init__(env, observation, Discrete(len(env.action_set)))

    def reset_env(self, key: jax.Array, params: Any) -> tuple[Any, Any]:
        """A new episode: (obs, state)."""
        return self._out(self.env.reset(key))

    def step_env(self, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
        """One step: (obs, state, reward, terminated, info)."""
        obs, state = self._out(self.env._step(state, action))
        return obs, state, state.reward, state.is_termination(), {}

    def is_truncated(self, state: Any, params: Any) -> jax.Array:
        """Whether NAVIX says that the time limit is reached."""
        return state.is_truncation()

    def frames(self, states: Sequence[Any], params: Any) -> Iterator[np.ndarray]:
        """Pictures of states, [H, W, 3] uint8."""

        @jax.jit
        def draw(state):
            return observations.rgb(state.replace(cache=RenderingCache.init(state.grid)))

        return (np.asarray(draw(timestep.state)) for timestep in states)

    def _out(self, timestep: Any) -> tuple[Any, Any]:
        if not self._draws:  # pictures that nobody looks at would be carried along
            timestep = timestep.replace(state=timestep.state.replace(cache=None))
        return jnp.asarray(timestep.observation, jnp.uint8), timestep


def names() -> list[str]:
    """The environments that NAVIX registers."""
    return sorted(navix.registry())


def make_env(name: str, **options: Any) -> tuple[Any, Any]:
    """One environment; `max_steps` is NAVIX's own option, 100 unless given."""
    env = Navix(navix.make(name, **options))
    return env, env.default_params
