"""Brax: rigid bodies under the physics of four backends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from brax import envs
from jax import Array

from purejaxppo.envs.interface import arguments_of
from purejaxppo.envs.suites.adapter import Adapter, RawEnv, anything, box, limited, scaled
from purejaxppo.envs.wrappers.base import ResetReturn, StepReturn
from purejaxppo.types import Action, Environment, EnvParams, EnvState

STEPS = 1000  # the customary length of an episode; brax itself leaves it to a wrapper


class Brax(Adapter):
    """A raw brax environment, without its wrappers, which replay one cached first state."""

    PHYSICS = "sys"

    def __init__(self, env: RawEnv):
        first = jax.eval_shape(env.reset, jax.random.key(0))
        super().__init__(env, anything(first.obs), box(-1.0, 1.0, (env.action_size,)))

    def reset_env(self, key: Array, params: EnvParams) -> ResetReturn:
        """Begins an episode: (obs, state)."""
        state = self.simulator(params).reset(key)
        return state.obs, state

    def step_env(
        self, key: Array, state: EnvState, action: Action, params: EnvParams
    ) -> StepReturn:
        """Steps once: (obs, state, reward, terminated, info)."""
        state = self.simulator(params).step(state, action)
        # a number; wrappers, which are left out, would make it 1 at a time limit too
        return state.obs, state, state.reward, state.done > 0.5, state.metrics

    def page(self, states: Sequence[EnvState], fps: float) -> str:
        """Returns an HTML page that plays states; opened, it fetches its viewer from the net.

        Args:
            states: of one episode.
            fps: states shown in a second.
        """
        from brax.io import html

        system = self.env.sys.tree_replace({"opt.timestep": 1 / fps})  # how long each is shown
        return html.render(system, [state.pipeline_state for state in states], colab=False)


def names() -> list[str]:
    """Returns the environments that brax registers."""
    return list(envs._envs)


def options_of(name: str) -> list[str]:
    """Returns what an environment of brax is made with."""
    return arguments_of(envs._envs[name])


def make_env(
    name: str, *, max_steps: int = STEPS, reward_scaling: float = 1.0, **options: Any
) -> tuple[Environment, EnvParams]:
    """Makes one environment and its parameters, of which there are none.

    Args:
        name: as brax registers it, such as `ant`.
        max_steps: the time limit.
        reward_scaling: what rewards are multiplied by; the returns that are reported are not.
        **options: as in `brax.envs.get_environment`, such as `backend="spring"`.
    """
    env, params = limited(Brax(envs.get_environment(name, **options)), max_steps)
    return scaled(env, reward_scaling), params
