"""The classes that wrappers are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
from flax import struct
from jax import Array

from purejaxppo.config.coerce import coerce
from purejaxppo.envs.declared import parts_of, space_of
from purejaxppo.envs.interface import check_overrides, without_statistics
from purejaxppo.errors import ConfigError
from purejaxppo.spaces import Box, DeclaredSpace, mask_of
from purejaxppo.types import Action, Environment, EnvParams, EnvState, Obs, PyTree

ResetReturn: TypeAlias = tuple[Any, ...]
"""(obs, state), and an info if the environment gives one."""

StepReturn: TypeAlias = tuple[Any, ...]
"""(obs, state, reward, terminated, info)."""


class Wrapper:
    """An environment as it is; subclasses change what they must.

    Args:
        env: one environment, whose methods and attributes are those of the wrapper too.

    Raises:
        ConfigError: the environment is not one that is written in JAX, or is wrapped in something
            that overrides what training never calls.
    """

    # what `__getattr__` passes on unless a subclass defines it, said to type checkers
    default_params: EnvParams
    reset_env: Callable[..., ResetReturn]
    step_env: Callable[..., StepReturn]
    is_truncated: Callable[..., Array]
    observation_space: Callable[..., DeclaredSpace]
    action_space: Callable[..., DeclaredSpace]

    def __init__(self, env: Environment):
        if isinstance(env, type):
            raise ConfigError(
                f"{type(self).__name__} changes an environment, not its class: use {env.__name__}()"
            )
        if not hasattr(env, "step_env"):
            raise ConfigError(
                f"{type(self).__name__} changes environments that are written in JAX, not "
                f"{getattr(env, 'name', env)}: one on the host is changed by gymnasium's wrappers, "
                "in what makes it"
            )
        self.env: Any = without_statistics(env)  # which may have more than the interface
        check_overrides(self.env)

    def __getattr__(self, name: str) -> Any:
        if name == "env" or name.startswith("__"):  # how it is copied or pickled is its own affair
            raise AttributeError(name)
        return getattr(self.env, name)

    def inner_state(self, state: EnvState) -> EnvState:
        """Returns the state of the environment inside, for those who draw it.

        Args:
            state: of the wrapper.
        """
        return state


class Remembered(struct.PyTreeNode):
    """The state of a wrapped environment, and what a wrapper keeps beside it."""

    env_state: EnvState
    memory: PyTree


class RememberingWrapper(Wrapper):
    """An environment whose state is `Remembered`: subclasses keep something in `memory`."""

    def is_truncated(self, state: Remembered, params: EnvParams) -> Array:
        """Says whether the environment's own limit is reached."""
        return self.env.is_truncated(state.env_state, params)

    def inner_state(self, state: Remembered) -> EnvState:
        """Returns the state of the environment inside."""
        return state.env_state


class ObservationWrapper(Wrapper):
    """Shows something else: subclasses define `observe`, and `observation_space` if it changes."""

    def observe(self, obs: Obs, params: EnvParams) -> Obs:
        """Returns what is shown in place of an observation.

        Args:
            obs: of one environment, [*O].
            params: of the environment.
        """
        raise NotImplementedError

    def reset_env(self, key: Array, params: EnvParams) -> ResetReturn:
        """Begins an episode: (obs, state), and an info if the environment gives one."""
        obs, *rest = self.env.reset_env(key, params)
        return self.observe(obs, params), *rest

    def step_env(
        self, key: Array, state: EnvState, action: Action, params: EnvParams
    ) -> StepReturn:
        """Steps once: (obs, state, reward, terminated, info)."""
        obs, *rest = self.env.step_env(key, state, action, params)
        return self.observe(obs, params), *rest


class RewardWrapper(Wrapper):
    """Pays something else: subclasses define `pay`.

    Returns are those of the rewards as they come out; wrap in `EpisodeStatistics` first to have
    those of the environment.
    """

    def pay(self, reward: Array) -> Array:
        """Returns what is paid in place of a reward.

        Args:
            reward: (), of one step.
        """
        raise NotImplementedError

    def step_env(
        self, key: Array, state: EnvState, action: Action, params: EnvParams
    ) -> StepReturn:
        """Steps once: (obs, state, reward, terminated, info)."""
        obs, state, reward, *rest = self.env.step_env(key, state, action, params)
        return obs, state, self.pay(reward), *rest


def check_count(name: str, value: Any, least: int, works: int) -> int:
    """Returns a number as Python's, if it is whole and large enough; it may be NumPy's or JAX's.

    Args:
        name: of the argument.
        value: that was given.
        least: that it may be.
        works: a value that would do, for the message.

    Raises:
        ConfigError: it is not.
    """
    count = coerce(name, int, value, works)
    if count < least:
        raise ConfigError(f"{name}={count} must be at least {least}, such as {works}")
    return count


def box_of(env: Environment, params: EnvParams, who: str) -> Box:
    """Returns the space of an observation that is a single array of numbers.

    Args:
        env: one environment.
        params: its parameters.
        who: needs such observations, for the message.

    Raises:
        ConfigError: the observations are of another kind.
    """
    with jax.ensure_compile_time_eval():  # bounds are numbers, also while a program is traced
        space = env.observation_space(params)
        if parts_of(space) is None:
            space = space_of(space, "observation")
    if not isinstance(space, Box):
        how = "wrap in FlattenObservation first"
        if mask_of(space) is not None:
            how = "it cannot be used where an action mask is shown"
        raise ConfigError(f"{who} needs observations of numbers, a Box, not {space}: {how}")
    return space
