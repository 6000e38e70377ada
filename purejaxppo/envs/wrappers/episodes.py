"""Wrappers that count: how long an episode may be, and what it came to."""

from __future__ import annotations

import jax.numpy as jnp
from flax import struct
from jax import Array

from purejaxppo.envs.wrappers.base import (
    Remembered,
    RememberingWrapper,
    ResetReturn,
    StepReturn,
    Wrapper,
    check_count,
)
from purejaxppo.spaces import fields
from purejaxppo.types import Action, Environment, EnvParams, EnvState


class TimeLimit(RememberingWrapper):
    """Cuts episodes off after a number of steps: truncated, not terminated.

    Args:
        env: one environment, whose own limit stays in force.
        max_steps: steps in an episode at most.

    Raises:
        ConfigError: max_steps is not a whole number from 1.
    """

    def __init__(self, env: Environment, max_steps: int):
        super().__init__(env)
        self.max_steps = check_count("max_steps", max_steps, 1, 1000)

    def reset_env(self, key: Array, params: EnvParams) -> ResetReturn:
        """Begins an episode: (obs, state), and an info if the environment gives one."""
        obs, state, *info = self.env.reset_env(key, params)
        return obs, Remembered(state, jnp.int32(0)), *info

    def step_env(
        self, key: Array, state: Remembered, action: Action, params: EnvParams
    ) -> StepReturn:
        """Steps once: (obs, state, reward, terminated, info)."""
        obs, env_state, *rest = self.env.step_env(key, state.env_state, action, params)
        return obs, Remembered(env_state, state.memory + 1), *rest

    def is_truncated(self, state: Remembered, params: EnvParams) -> Array:
        """Says whether this limit, or the environment's own, is reached."""
        own = jnp.asarray(self.env.is_truncated(state.env_state, params), bool)
        return own | (state.memory >= self.max_steps)


def counts(env: object) -> bool:
    """Says whether an environment is wrapped in `EpisodeStatistics`, at any depth.

    Args:
        env: one environment, wrapped or not.
    """
    return isinstance(env, EpisodeStatistics) or (isinstance(env, Wrapper) and counts(env.env))


def add(total: Array, rounding: Array, x: Array) -> tuple[Array, Array]:
    """Adds a number to a sum that is kept as float32 and what it lacks by rounding.

    A plain sum of a million rewards of 0.1 is 1% too large.

    Args:
        total: the sum so far, rounded.
        rounding: what it lacks.
        x: what is added.

    Returns:
        The sum, and what it lacks.

    Reference: Knuth, The Art of Computer Programming, vol. 2, section 4.2.2, theorem B.
    """
    # what the addition loses is found exactly, whichever of the two is larger
    after = total + x
    taken = after - total
    rounding += (total - (after - taken)) + (x - taken)
    # the sum takes in what has gathered beside it, and keeps the rest apart
    whole = after + rounding
    return whole, rounding - (whole - after)


class EpisodeState(struct.PyTreeNode):
    """One environment's state and the episode that it is in."""

    env_state: EnvState
    episode_return: Array  # () float32, undiscounted, so far
    rounding: Array  # () float32, what the return lacks by rounding
    episode_length: Array  # () int32, steps so far


class EpisodeStatistics(Wrapper):
    """Adds `episode_return` and `episode_length`, this step included, to `info`.

    Training reports these; where a reward wrapper goes around this one, it reports the returns of
    the environment's own rewards.
    """

    def reset_env(self, key: Array, params: EnvParams) -> ResetReturn:
        """Begins an episode: (obs, state), and an info if the environment gives one."""
        obs, env_state, *info = self.env.reset_env(key, params)
        zero = jnp.float32(0)
        return obs, EpisodeState(env_state, zero, zero, jnp.int32(0)), *info

    def step_env(
        self, key: Array, state: EpisodeState, action: Action, params: EnvParams
    ) -> StepReturn:
        """Steps once: (obs, state, reward, terminated, info)."""
        obs, env_state, reward, terminated, info = self.env.step_env(
            key, state.env_state, action, params
        )
        # some environments pay whole numbers or Python's, which would not add up in the state
        reward = jnp.asarray(reward, jnp.float32)
        so_far, rounding = add(state.episode_return, state.rounding, reward)
        counted = {"episode_return": so_far, "episode_length": state.episode_length + 1}
        state = EpisodeState(env_state, rounding=rounding, **counted)
        return obs, state, reward, terminated, {**fields(info), **counted}

    def is_truncated(self, state: EpisodeState, params: EnvParams) -> Array:
        """Says whether the environment's own limit is reached."""
        return self.env.is_truncated(state.env_state, params)

    def inner_state(self, state: EpisodeState) -> EnvState:
        """Returns the state of the environment inside."""
        return state.env_state
