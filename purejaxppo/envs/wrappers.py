"""Wrappers: environments with something about them changed. Pure, and free to be combined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.envs.spaces import (
    MASKS,
    Box,
    action_spaces,
    fields,
    mask_of,
    parts_of,
    space_of,
    zeros,
)
from purejaxppo.validation import ConfigError


class Wrapper:
    """An environment as it is; subclasses change what they must."""

    def __init__(self, env: Any):
        self.env = env

    def __getattr__(self, name: str) -> Any:
        if name == "env":  # while being copied or unpickled, before there is one
            raise AttributeError(name)
        return getattr(self.env, name)


class HideIndices(Wrapper):
    """Leaves some entries out of a vector observation.

    `HideIndices(env, [1, 3])` hides the velocities of CartPole-v1, so that they must be remembered
    from one position to the next.
    """

    def __init__(self, env: Any, indices: Sequence[int]):
        super().__init__(env)
        self.indices = tuple(indices)

    def reset_env(self, key: jax.Array, params: Any) -> tuple[Any, Any]:
        """A new episode: (obs, state)."""
        obs, *rest = self.env.reset_env(key, params)
        return self._seen(obs), *rest

    def step_env(self, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
        """One step: (obs, state, reward, terminated, info)."""
        obs, *rest = self.env.step_env(key, state, action, params)
        return self._seen(obs), *rest

    def observation_space(self, params: Any) -> Box:
        """The entries that are left."""
        space = self.env.observation_space(params)
        if parts_of(space) is None:
            space = space_of(space, "observation")
        if not isinstance(space, Box):
            raise ConfigError(f"HideIndices needs a vector observation, not {space}")
        low, high = self._seen(space.low), self._seen(space.high)
        return Box(low, high, low.shape, np.dtype(space.dtype))

    def _seen(self, x: Any) -> Any:
        """The entries of a vector that are left.

        Raises:
            ConfigError: not a vector, or entries that it does not have.
        """
        shape = getattr(x, "shape", None)
        if shape is None or len(shape) != 1:
            raise ConfigError(f"HideIndices needs a vector observation, not {type(x).__name__}")
        everything = set(range(shape[0]))
        if not set(self.indices) < everything:
            raise ConfigError(
                f"indices {self.indices} must be some, not all, of 0 .. {shape[0] - 1}: use (0,)"
            )
        return x[np.array(sorted(everything - set(self.indices)))]


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
