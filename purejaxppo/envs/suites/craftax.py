"""Craftax: open worlds, symbolic or in pixels, Classic or in full; resets are expensive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module

import jax
import numpy as np
from craftax.craftax_env import make_craftax_env_from_name
from jax import Array

from purejaxppo.envs.suites.adapter import RawEnv
from purejaxppo.envs.wrappers.base import StepReturn, Wrapper
from purejaxppo.types import Action, Environment, EnvParams, EnvState

NEVER = 2**30


class Craftax(Wrapper):
    """A Craftax environment without its auto-reset, its time limit kept apart from deaths.

    Its parameters are Craftax's own: `max_timesteps` is the limit, reported as a death.
    """

    def step_env(
        self, key: Array, state: EnvState, action: Action, params: EnvParams
    ) -> StepReturn:
        """Steps once: (obs, state, reward, terminated, info)."""
        # with a limit that is never reached, Craftax's own end is a death
        return self.env.step_env(key, state, action, params.replace(max_timesteps=NEVER))

    def is_truncated(self, state: EnvState, params: EnvParams) -> Array:
        """Says whether the time limit is reached."""
        return state.timestep >= params.max_timesteps

    def frames(self, states: Sequence[EnvState], params: EnvParams) -> Iterator[np.ndarray]:
        """Returns pictures of states, [H, W, 3] uint8; the first ones ever take Craftax a minute.

        Args:
            states: of the environment.
            params: its parameters.
        """
        # each of Craftax's two games has a renderer of its own
        package = type(self.env).__module__.rpartition(".envs.")[0]
        renderer = import_module(f"{package}.renderer")
        draw = jax.jit(renderer.make_craftax_pixel_renderer(16))
        return (np.asarray(draw(state)).astype(np.uint8) for state in states)


def names() -> list[str]:
    """Returns the four environments."""
    kinds = ("Symbolic", "Pixels", "Classic-Symbolic", "Classic-Pixels")
    return [f"Craftax-{kind}-v1" for kind in kinds]


def make_env(name: str, *, max_steps: int | None = None) -> tuple[Environment, EnvParams]:
    """Makes one environment and its parameters.

    Args:
        name: such as `Craftax-Symbolic-v1`.
        max_steps: the time limit; None: that of Craftax, 100,000, in Classic 10,000.
    """
    raw: RawEnv = make_craftax_env_from_name(name, auto_reset=False)
    env = Craftax(raw)
    if max_steps is not None:
        env.default_params = env.default_params.replace(max_timesteps=max_steps)
    return env, env.default_params
