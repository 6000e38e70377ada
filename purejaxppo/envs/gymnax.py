"""gymnax's built-in environments."""

from __future__ import annotations

from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.envs.adapter import downloading
from purejaxppo.envs.wrappers.base import ObservationWrapper

_DOWNLOADS = ("MNISTBandit-bsuite",)


class Gymnax(ObservationWrapper):
    """A gymnax environment whose observations have the dtype that its space declares."""

    def observe(self, obs: Any, params: Any) -> jax.Array:
        """The observation in that dtype."""
        return jnp.asarray(obs, np.dtype(self.env.observation_space(params).dtype))


def names() -> list[str]:
    """The environments that gymnax registers."""
    return list(gymnax.registered_envs)


def make_env(name: str) -> tuple[Any, Any]:
    """One environment and its default parameters.

    Raises:
        ConfigError: its data cannot be downloaded.
    """
    with downloading(name, name in _DOWNLOADS):
        env, params = gymnax.make(name)
    return Gymnax(env), params
