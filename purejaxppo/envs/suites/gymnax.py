"""gymnax's built-in environments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.envs.suites.adapter import downloading, paint
from purejaxppo.envs.wrappers.base import ObservationWrapper
from purejaxppo.errors import ConfigError

_DOWNLOADS = ("MNISTBandit-bsuite",)
_VISUALIZED = ("Catch-bsuite", "FourRooms-misc", "MetaMaze-misc", "PointRobot-misc")


class Gymnax(ObservationWrapper):
    """A gymnax environment whose observations have the dtype that its space declares."""

    def observe(self, obs: Any, params: Any) -> jax.Array:
        """The observation in that dtype."""
        return jnp.asarray(obs, np.dtype(self.env.observation_space(params).dtype))

    def frames(self, states: Sequence[Any], params: Any) -> Iterator[np.ndarray]:
        """Pictures of states, [H, W, 3] uint8.

        Raises:
            ConfigError: gymnax does not draw this one.
        """
        from gymnax.visualize import vis_gym

        name = self.env.name
        if name in vis_gym.SUPPORTED_GYM_ENVS:
            return _classic(name, states, params)
        if name in _VISUALIZED:
            return _visualized(self.env, states, params)
        if name == "Pong-misc" or name.endswith("-MinAtar"):
            observe = jax.jit(lambda state: self.env.get_obs(state, params))
            return (paint(observe(state)) for state in states)
        raise ConfigError(f"{name} is not drawn by gymnax: film another, such as CartPole-v1")


def _classic(name: str, states: Sequence[Any], params: Any) -> Iterator[np.ndarray]:
    """Classic control, drawn by Gymnasium."""
    import gymnasium
    from gymnax.visualize import vis_gym

    env: Any = gymnasium.make(name, render_mode="rgb_array").unwrapped
    env.reset()
    vis_gym.set_gym_params(env, name, params)
    for state in states:
        env.state = vis_gym.get_gym_state(state, name)
        env.last_u = getattr(state, "last_u", None)  # Pendulum's torque
        yield env.render()
    env.close()


def _visualized(env: Any, states: Sequence[Any], params: Any) -> Iterator[np.ndarray]:
    """Others, drawn by gymnax with matplotlib."""
    import matplotlib.pyplot as plt
    from gymnax.visualize import Visualizer

    drawing: Any = Visualizer(env, params, states)
    drawing.init()
    for i in range(len(states)):
        drawing.update(i)
        drawing.ax.set_title("")
        drawing.fig.canvas.draw()
        yield np.array(drawing.fig.canvas.buffer_rgba())[..., :3]
    plt.close(drawing.fig)


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
