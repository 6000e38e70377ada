"""Action masks that an environment gives in its `info`, moved to where policies read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.envs.wrappers.base import Wrapper
from purejaxppo.errors import ConfigError
from purejaxppo.spaces import MASKS, Box, action_spaces, fields, mask_of, zeros


class MaskInObservation(Wrapper):
    """Moves `info`'s action mask into the observation: {"observation": ..., "action_mask": ...}."""

    def __init__(self, env: Any, name: str, mask: Any):
        super().__init__(env)
        self.name, self.mask = name, mask

    def reset_env(self, key: jax.Array, params: Any) -> tuple[Any, Any]:
        """A new episode: (obs, state)."""
        obs, state, info = self.env.reset_env(key, params)
        return self._both(obs, info), state

    def step_env(self, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
        """One step: (obs, state, reward, terminated, info)."""
        obs, state, reward, terminated, info = self.env.step_env(key, state, action, params)
        return self._both(obs, info), state, reward, terminated, info

    def observation_space(self, params: Any) -> dict[str, Any]:
        """Both spaces by name."""
        return {"observation": self.env.observation_space(params), "action_mask": self.mask}

    def _both(self, obs: Any, info: Mapping[str, Any]) -> dict[str, Any]:
        mask = jax.tree.map(lambda x: jnp.asarray(x, bool), info[self.name])
        return {"observation": obs, "action_mask": mask}


def mask_in_observation(env: Any, env_params: Any) -> Any:
    """The environment, with an action mask that `info` holds in the observation instead.

    Such a mask must be known from the first observation on: `reset_env` returns
    `(obs, state, info)`.

    Raises:
        ConfigError: `step_env` gives a mask and `reset_env` none.
    """
    with jax.ensure_compile_time_eval():
        action = action_spaces(env.action_space(env_params))

    def once(key):
        obs, state, *infos = env.reset_env(key, env_params)
        *_, info = env.step_env(key, state, zeros(action), env_params)
        masks = ({n: m for n, m in fields(x).items() if n in MASKS} for x in (*infos, info))
        return obs, *masks

    obs, *infos, info = jax.eval_shape(once, jax.random.key(0))
    if mask_of(obs) is not None or not info:
        return env
    name = next(iter(info))
    if not infos or name not in infos[0]:
        raise ConfigError(
            f"step_env's info holds {name!r}, but nothing says what is allowed in an episode's "
            "first step: return (obs, state, info) from reset_env too"
        )
    return MaskInObservation(env, name, jax.tree.map(_bits, info[name]))


def _bits(x: Any) -> Box:
    return Box(np.zeros(x.shape), np.ones(x.shape), x.shape, np.dtype(bool))
