"""Wrappers that change what an action does, or what it pays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo.config.coerce import coerce
from purejaxppo.envs.declared import spaces_of
from purejaxppo.envs.info import arrays_of
from purejaxppo.envs.wrappers.base import (
    Remembered,
    RememberingWrapper,
    ResetReturn,
    RewardWrapper,
    StepReturn,
    Wrapper,
    check_count,
)
from purejaxppo.errors import ConfigError
from purejaxppo.spaces import zeros
from purejaxppo.types import Action, Environment, EnvParams, EnvState, PyTree


class StickyActions(RememberingWrapper):
    """Repeats the previous action with a probability (Machado et al. 2018, arXiv:1709.06009).

    The first action of an episode is always taken. A mask that has changed since is not asked.

    Args:
        env: one environment.
        probability: of a repetition; 0.25 is the customary one.

    Raises:
        ConfigError: the probability is not within 0 .. 1.
    """

    def __init__(self, env: Environment, probability: float = 0.25):
        super().__init__(env)
        if not 0 <= probability <= 1:
            raise ConfigError(f"probability={probability} must be within 0 .. 1, such as 0.25")
        self.probability = probability
        with jax.ensure_compile_time_eval():  # bounds are numbers, also while a program is traced
            self._actions = spaces_of(env.action_space(env.default_params))

    def reset_env(self, key: Array, params: EnvParams) -> ResetReturn:
        """Begins an episode: (obs, state), and an info if the environment gives one."""
        obs, state, *info = self.env.reset_env(key, params)
        return obs, Remembered(state, (zeros(self._actions), jnp.bool_(False))), *info

    def step_env(
        self, key: Array, state: Remembered, action: Action, params: EnvParams
    ) -> StepReturn:
        """Steps once: (obs, state, reward, terminated, info)."""
        key_sticks, key = jax.random.split(key)
        previous, acted = state.memory
        # one draw for the whole action: its parts belong together
        sticks = acted & jax.random.bernoulli(key_sticks, self.probability)
        action = jax.tree.map(lambda p, a: jnp.where(sticks, p, a), previous, action)
        # what was done, not what was asked for, is what sticks next
        obs, env_state, *rest = self.env.step_env(key, state.env_state, action, params)
        return obs, Remembered(env_state, (action, jnp.bool_(True))), *rest


class ActionRepeat(Wrapper):
    """Takes every action several times and adds up the rewards; an episode's end cuts it short.

    A mask that changes on the way is not asked.

    Args:
        env: one environment.
        times: steps of the environment in one step.

    Raises:
        ConfigError: times is not a whole number from 1.
    """

    def __init__(self, env: Environment, times: int):
        super().__init__(env)
        self.times = check_count("times", times, 1, 4)

    def step_env(
        self, key: Array, state: EnvState, action: Action, params: EnvParams
    ) -> StepReturn:
        """Steps several times, and returns the last: (obs, state, reward, terminated, info)."""
        keys = jax.random.split(key, self.times)

        def step(key: Array, state: EnvState) -> StepReturn:
            obs, state, reward, terminated, info = self.env.step_env(key, state, action, params)
            # what a loop can carry: some environments return Python numbers, and texts
            reward, terminated = jnp.asarray(reward, jnp.float32), jnp.asarray(terminated, bool)
            return obs, state, reward, terminated, arrays_of("step_env's info", info)

        def again(last: StepReturn, key: Array) -> tuple[PyTree, None]:
            _, state, paid, terminated, _ = last
            over = terminated | jnp.asarray(self.env.is_truncated(state, params), bool)
            obs, state, reward, terminated, info = step(key, state)
            new = obs, state, paid + reward, terminated, info
            # after an end nothing more happens: what was computed is thrown away
            return jax.tree.map(lambda a, b: jnp.where(over, a, b), last, new), None

        return jax.lax.scan(again, step(keys[0], state), keys[1:])[0]


class ClipReward(RewardWrapper):
    """Clips rewards to a range, -1 .. 1 by default.

    Args:
        env: one environment.
        low: the least reward.
        high: the greatest.

    Raises:
        ConfigError: the range is empty.
    """

    def __init__(self, env: Environment, low: float = -1.0, high: float = 1.0):
        super().__init__(env)
        if not low < high:
            raise ConfigError(f"low={low} must be below high={high}: use -1 and 1")
        self.low, self.high = low, high

    def pay(self, reward: Array) -> Array:
        """Returns the reward within the range, () float32."""
        return jnp.clip(jnp.asarray(reward, jnp.float32), self.low, self.high)


class ScaleReward(RewardWrapper):
    """Multiplies rewards by a constant.

    Args:
        env: one environment.
        scale: the constant, finite.

    Raises:
        ConfigError: it is not finite.
    """

    def __init__(self, env: Environment, scale: float):
        super().__init__(env)
        self.scale = coerce("scale", float, scale, 0.1)

    def pay(self, reward: Array) -> Array:
        """Returns the reward times the constant, () float32."""
        return jnp.asarray(reward, jnp.float32) * self.scale
