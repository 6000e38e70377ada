"""gymnax's built-in environments."""

from __future__ import annotations

from typing import Any

import gymnax
import jax
import numpy as np

from purejaxppo.envs.wrappers.base import Wrapper
from purejaxppo.validation import ConfigError, nearest

_DOWNLOADS = ("MNISTBandit-bsuite",)


class _Declared(Wrapper):
    """A gymnax environment whose observations have the dtype that its space declares."""

    def _cast(self, obs: Any, params: Any) -> Any:
        return jax.numpy.asarray(obs, np.dtype(self.env.observation_space(params).dtype))

    def reset_env(self, key: jax.Array, params: Any) -> tuple[Any, Any]:
        obs, state = self.env.reset_env(key, params)
        return self._cast(obs, params), state

    def step_env(self, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
        obs, *rest = self.env.step_env(key, state, action, params)
        return self._cast(obs, params), *rest


def names() -> list[str]:
    """The environments that gymnax registers."""
    return list(gymnax.registered_envs)


def make_env(name: str) -> tuple[Any, Any]:
    """One environment and its default parameters.

    Raises:
        ConfigError: no such environment, or its data cannot be downloaded.
    """
    if name not in names():
        raise ConfigError(f"unknown environment {name!r}: {nearest(name, names())}")
    try:
        env, params = gymnax.make(name)
    except Exception as error:
        if name not in _DOWNLOADS:
            raise
        raise ConfigError(
            f"{name} downloads its data when it is made, and that failed ({error}): "
            "use it with a network, or another environment"
        ) from error
    return _Declared(env), params
