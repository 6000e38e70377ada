"""gymnax: classic control, bsuite, MinAtar and more; the environments without a prefix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from purejaxppo.envs.suites.adapter import RawEnv, downloading, paint
from purejaxppo.envs.wrappers.base import ObservationWrapper
from purejaxppo.errors import ConfigError
from purejaxppo.types import Environment, EnvParams, EnvState, Obs

_DOWNLOADS = ("MNISTBandit-bsuite",)
_VISUALIZED = ("Catch-bsuite", "FourRooms-misc", "MetaMaze-misc", "PointRobot-misc")


class Gymnax(ObservationWrapper):
    """A gymnax environment whose observations have the dtype that its space declares."""

    def observe(self, obs: Obs, params: EnvParams) -> Array:
        """Returns the observation in that dtype."""
        return jnp.asarray(obs, np.dtype(self.env.observation_space(params).dtype))

    def frames(self, states: Sequence[EnvState], params: EnvParams) -> Iterator[np.ndarray]:
        """Returns pictures of states, [H, W, 3] uint8.

        Args:
            states: of the environment.
            params: its parameters.

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


def _classic(name: str, states: Sequence[EnvState], params: EnvParams) -> Iterator[np.ndarray]:
    """Has classic control drawn by Gymnasium."""
    import gymnasium
    from gymnax.visualize import vis_gym

    drawing: RawEnv = gymnasium.make(name, render_mode="rgb_array").unwrapped
    drawing.reset()  # Gymnasium does not draw before
    vis_gym.set_gym_params(drawing, name, params)
    for state in states:
        drawing.state = vis_gym.get_gym_state(state, name)
        drawing.last_u = getattr(state, "last_u", None)  # Pendulum's torque
        yield drawing.render()
    drawing.close()


def _visualized(env: RawEnv, states: Sequence[EnvState], params: EnvParams) -> Iterator[np.ndarray]:
    """Has others drawn by gymnax with matplotlib."""
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
    """Returns the environments that gymnax registers."""
    return list(gymnax.registered_envs)


def make_env(name: str) -> tuple[Environment, EnvParams]:
    """Makes one environment and its default parameters.

    Args:
        name: as gymnax registers it, such as `CartPole-v1`.

    Raises:
        ConfigError: its data cannot be downloaded.
    """
    with downloading(name, name in _DOWNLOADS):
        env, params = gymnax.make(name)
    return Gymnax(env), params
