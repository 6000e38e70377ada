"""What wrappers are made of."""

from __future__ import annotations

from typing import Any

import jax
from flax import struct
from jax import Array

from purejaxppo.errors import ConfigError
from purejaxppo.spaces import Box, parts_of, space_of


class Wrapper:
    """An environment as it is; subclasses change what they must.

    Raises:
        ConfigError: the environment is not one that is written in JAX.
    """

    def __init__(self, env: Any):
        if not hasattr(env, "step_env"):
            raise ConfigError(
                f"{type(self).__name__} changes environments that are written in JAX, not "
                f"{getattr(env, 'name', env)}: one on the host is changed by gymnasium's wrappers, "
                "in what makes it"
            )
        self.env = env

    def __getattr__(self, name: str) -> Any:
        if name == "env" or name.startswith("__"):  # how it is copied or pickled is its own affair
            raise AttributeError(name)
        return getattr(self.env, name)

    def inner_state(self, state: Any) -> Any:
        """The state of the environment inside, for those who draw it."""
        return state


class Remembered(struct.PyTreeNode):
    """The state of a wrapped environment, and what a wrapper keeps beside it."""

    env_state: Any
    memory: Any


class RememberingWrapper(Wrapper):
    """An environment whose state is `Remembered`: subclasses keep something in `memory`."""

    def is_truncated(self, state: Remembered, params: Any) -> Array:
        """Whether the environment's own limit is reached."""
        return self.env.is_truncated(state.env_state, params)

    def inner_state(self, state: Remembered) -> Any:
        """The state of the environment inside."""
        return state.env_state


class ObservationWrapper(Wrapper):
    """Shows something else: subclasses define `observe`, and `observation_space` if it changes."""

    def observe(self, obs: Any, params: Any) -> Any:
        """What is shown in place of an observation."""
        raise NotImplementedError

    def reset_env(self, key: Array, params: Any) -> tuple[Any, ...]:
        """A new episode: (obs, state), and an info if the environment gives one."""
        obs, *rest = self.env.reset_env(key, params)
        return self.observe(obs, params), *rest

    def step_env(self, key: Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
        """One step: (obs, state, reward, terminated, info)."""
        obs, *rest = self.env.step_env(key, state, action, params)
        return self.observe(obs, params), *rest


class RewardWrapper(Wrapper):
    """Pays something else: subclasses define `pay`.

    Returns are those of the rewards as they come out; wrap in `EpisodeStatistics` first to have
    those of the environment.
    """

    def pay(self, reward: Array) -> Array:
        """What is paid in place of a reward."""
        raise NotImplementedError

    def step_env(self, key: Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
        """One step: (obs, state, reward, terminated, info)."""
        obs, state, reward, *rest = self.env.step_env(key, state, action, params)
        return obs, state, self.pay(reward), *rest


def check_count(name: str, value: Any, least: int, works: int) -> None:
    """Raises ConfigError unless a number is whole, and large enough."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(
            f"{name}={value} must be a whole number, at least {least}, such as {works}"
        )


def box_of(env: Any, params: Any, who: str) -> Box:
    """The space of a single array of numbers, which `who` needs.

    Raises:
        ConfigError: the observations are of another kind.
    """
    with jax.ensure_compile_time_eval():  # bounds are numbers, also while a program is traced
        space = env.observation_space(params)
        if parts_of(space) is None:
            space = space_of(space, "observation")
    if not isinstance(space, Box):
        raise ConfigError(
            f"{who} needs observations of numbers, a Box, not {space}: wrap in FlattenObservation "
            "first"
        )
    return space
