"""gymnax: classic control, bsuite, MinAtar and more; the environments without a prefix."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from purejaxppo.config.coerce import coerce
from purejaxppo.envs.interface import arguments_of, no_option
from purejaxppo.envs.suites.adapter import (
    RawEnv,
    box,
    downloading,
    imported_when_used,
    paint,
    with_limit,
)
from purejaxppo.envs.wrappers.base import ObservationWrapper
from purejaxppo.envs.wrappers.steps import StickyActions
from purejaxppo.errors import ConfigError, shown
from purejaxppo.spaces import DeclaredSpace
from purejaxppo.types import Environment, EnvParams, EnvState, Obs

with imported_when_used("matplotlib.pyplot", "seaborn"):  # for pictures alone, and slow
    import gymnax

_DOWNLOADS = ("MNISTBandit-bsuite",)
_MINATAR = "-MinAtar"
_VISUALIZED = ("Catch-bsuite", "FourRooms-misc", "MetaMaze-misc", "PointRobot-misc")


class Gymnax(ObservationWrapper):
    """A gymnax environment whose observations have the dtype that its space declares."""

    def observe(self, obs: Obs, params: EnvParams) -> Array:
        """Returns the observation in that dtype."""
        return jnp.asarray(obs, np.dtype(self.observation_space(params).dtype))

    def observation_space(self, params: EnvParams) -> DeclaredSpace:
        """Describes the observations; those of MinAtar are bits, which gymnax makes float32."""
        space = self.env.observation_space(params)
        return box(0, 1, space.shape, bool) if self.env.name.endswith(_MINATAR) else space

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
        if name == "Pong-misc" or name.endswith(_MINATAR):
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


def make_env(
    name: str, *, max_steps: int | None = None, sticky_actions: float = 0.0, **options: Any
) -> tuple[Environment, EnvParams]:
    """Makes one environment and its parameters.

    Args:
        name: as gymnax registers it, such as `CartPole-v1`.
        max_steps: the time limit; None: that of its parameters.
        sticky_actions: the probability that an action is the one before again; 0.1 in the games of
            MinAtar as their own package plays them (Young and Tian 2019, arXiv:1903.03176).
        **options: parameters in place of its own, such as `gravity=5.0`, each of the type that it
            has; or what its constructor takes, such as `size=10` for `DeepSea-bsuite`.

    Raises:
        ConfigError: it has no such parameter, or one of another type; or its data cannot be
            downloaded.
    """
    with downloading(name, name in _DOWNLOADS):
        raw, params = gymnax.make(name)
    known = [field.name for field in dataclasses.fields(params)]
    own = {key: value for key, value in options.items() if key not in known}
    for key in own:
        if key not in arguments_of(type(raw)):
            known += ["max_steps", "sticky_actions", *arguments_of(type(raw))]
            raise ConfigError(no_option(name, key, known))
    if own:
        raw, params = gymnax.make(name, **own)

    # parameters are the environment's defaults from here on, for whatever is put around it
    changes = {key: value for key, value in options.items() if key not in own}
    changes = with_limit(changes, max_steps, "max_steps_in_episode")
    env = Gymnax(raw)
    env.default_params = params.replace(
        **{key: _as_typed(key, value, getattr(params, key)) for key, value in changes.items()}
    )
    sticky = coerce("sticky_actions", float, sticky_actions, 0.1)
    return StickyActions(env, sticky) if sticky else env, env.default_params


def _as_typed(name: str, value: Any, default: Any) -> Any:
    """Returns a parameter of the type that its default has.

    Raises:
        ConfigError: it is of another type, or shape.
    """
    if isinstance(default, bool | int | float):
        return coerce(name, type(default), value, default)
    try:
        array = np.asarray(value, default.dtype)
    except (TypeError, ValueError, OverflowError):
        array = None
    if array is None or array.shape != default.shape:
        works = np.asarray(default).tolist()
        raise ConfigError(f"{name}={shown(value)} must be {default.size} numbers: use {works}")
    return jnp.asarray(array)
