"""What the adapters of suites have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.envs.wrappers.base import Wrapper
from purejaxppo.errors import ConfigError
from purejaxppo.spaces import Box
from purejaxppo.types import Array


class TracedOnce(Wrapper):
    """An environment whose steps and resets are traced once, however often they are asked for.

    Spaces, plans and programs each trace them; some suites take seconds every time.
    """

    def __init__(self, env: Any):
        super().__init__(env)
        self.reset_env, self.step_env = jax.jit(env.reset_env), jax.jit(env.step_env)

    def __reduce__(self) -> tuple[type, tuple[Any]]:
        """Copied and pickled without what was compiled."""
        return TracedOnce, (self.env,)


@contextlib.contextmanager
def downloading(name: str, downloads: bool) -> Iterator[None]:
    """Says so where an environment cannot be made because its data are not there.

    Args:
        name: of the environment.
        downloads: whether it needs data; the errors of others are left alone.

    Raises:
        ConfigError: in place of whatever was raised.
    """
    try:
        yield
    except Exception as error:
        if not downloads:
            raise
        raise ConfigError(
            f"{name} downloads its data when it is made, and that failed ({error}): "
            "use it with a network, or another environment"
        ) from error


class Adapter:
    """A suite's environment: spaces that are fixed, no parameters, and no limit of its own."""

    default_params: Any = ()

    def __init__(self, env: Any, observation: Any, action: Any):
        self.env = env
        self._observation, self._action = observation, action

    def observation_space(self, params: Any) -> Any:
        """What the observations are like."""
        return self._observation

    def action_space(self, params: Any) -> Any:
        """What the actions are like."""
        return self._action

    def is_truncated(self, state: Any, params: Any) -> Array:
        """Never: the suite's own clock, if it has one, is replaced by `TimeLimit`."""
        return jnp.bool_(False)


def box(low: Any, high: Any, shape: tuple[int, ...], dtype: Any = np.float32) -> Box:
    """A Box with the same bounds everywhere, or with those of arrays."""
    dtype = np.dtype(dtype)
    low, high = (np.broadcast_to(np.asarray(bound), shape) for bound in (low, high))
    return Box(low, high, tuple(shape), dtype)


def anything(x: Any) -> Box:
    """The Box of all arrays of the shape and dtype of `x`."""
    dtype = np.dtype(x.dtype)
    if dtype == np.bool_:
        return box(False, True, x.shape, dtype)
    if np.issubdtype(dtype, np.integer):
        return box(np.iinfo(dtype).min, np.iinfo(dtype).max, x.shape, dtype)
    return box(-np.inf, np.inf, x.shape, dtype)


def paint(channels: Any) -> np.ndarray:
    """A picture of what is where: a colour for each channel, the last on top.

    Args:
        channels: [H, W, C], not zero where something is.

    Returns:
        [H, W, 3] uint8.
    """
    import matplotlib

    present = np.asarray(channels) != 0
    number = present.shape[-1]
    colours = matplotlib.colormaps["turbo"](np.linspace(0.1, 0.9, number))[:, :3]
    palette = np.concatenate([np.zeros((1, 3)), colours])  # black where nothing is
    top = (present * np.arange(1, number + 1)).max(-1)
    return np.round(palette[top] * 255).astype(np.uint8)
