"""Brax: rigid bodies under the physics of four backends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from brax import envs

from purejaxppo.envs.suites.adapter import Adapter, anything, box
from purejaxppo.envs.wrappers.episodes import TimeLimit

STEPS = 1000  # the customary length of an episode; brax itself leaves it to a wrapper


class Brax(Adapter):
    """A raw brax environment, without its wrappers, which replay one cached first state."""

    def __init__(self, env: Any):
        first = jax.eval_shape(env.reset, jax.random.key(0))
        super().__init__(env, anything(first.obs), box(-1.0, 1.0, (env.action_size,)))

    def reset_env(self, key: jax.Array, params: Any) -> tuple[Any, Any]:
        """A new episode: (obs, state)."""
        state = self.env.reset(key)
        return state.obs, state

    def step_env(self, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
        """One step: (obs, state, reward, terminated, info)."""
        state = self.env.step(state, action)
        return state.obs, state, state.reward, state.done > 0.5, {}

    def page(self, states: Sequence[Any], fps: float) -> str:
        """An HTML page that plays states; its viewer is fetched from the net when it is opened."""
        from brax.io import html

        system = self.env.sys.tree_replace({"opt.timestep": 1 / fps})  # how long each is shown
        return html.render(system, [state.pipeline_state for state in states], colab=False)


def names() -> list[str]:
    """The environments that brax registers."""
    return list(envs._envs)


def make_env(name: str, *, max_steps: int = STEPS, **options: Any) -> tuple[Any, Any]:
    """One environment; options such as `backend="spring"` go to brax."""
    env = TimeLimit(Brax(envs.get_environment(name, **options)), max_steps)
    return env, env.default_params
