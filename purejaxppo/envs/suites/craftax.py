"""Craftax: open worlds, symbolic or in pixels, Classic or in full. Their resets are dear."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

import jax
import numpy as np
from craftax.craftax_env import make_craftax_env_from_name

from purejaxppo.envs.wrappers.base import Wrapper

NEVER = 2**30


class Craftax(Wrapper):
    """The environment without its auto-reset, its time limit kept apart from deaths.

    Its parameters are Craftax's own: `max_timesteps` is the limit.
    """

    def step_env(self, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
        """One step: (obs, state, reward, terminated, info)."""
        return self.env.step_env(key, state, action, params.replace(max_timesteps=NEVER))

    def is_truncated(self, state: Any, params: Any) -> Any:
        """Whether the time limit is reached."""
        return state.timestep >= params.max_timesteps

    def frames(self, states: Sequence[Any], params: Any) -> Iterator[np.ndarray]:
        """Pictures of states, [H, W, 3] uint8; the first ones ever take Craftax a minute."""
        package = type(self.env).__module__.rpartition(".envs.")[0]
        renderer = import_module(f"{package}.renderer")
        draw = jax.jit(renderer.make_craftax_pixel_renderer(16))
        return (np.asarray(draw(state)).astype(np.uint8) for state in states)


def names() -> list[str]:
    """The four environments."""
    kinds = ("Symbolic", "Pixels", "Classic-Symbolic", "Classic-Pixels")
    return [f"Craftax-{kind}-v1" for kind in kinds]


def make_env(name: str, *, max_steps: int | None = None) -> tuple[Any, Any]:
    """One environment and its parameters."""
    env = Craftax(make_craftax_env_from_name(name, auto_reset=False))
    params = env.default_params
    return env, params if max_steps is None else params.replace(max_timesteps=max_steps)
