"""Environments: what one must offer, and how N of them are stepped as one.

Auto-reset, final observations and episode statistics are done here, so that no environment's own
wrapper can lose the last observation of an episode.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from purejaxppo.envs.spaces import (
    Box,
    EnvSpec,
    MultiBinary,
    action_spaces,
    observation_spaces,
    zeros,
)
from purejaxppo.envs.wrappers import mask_in_observation
from purejaxppo.ppo.records import Array, EnvStep, VecEnv
from purejaxppo.validation import ConfigError


class Environment(Protocol):
    """One environment, with the interface of gymnax 1.x.

    Every method is pure and works on a single environment; `params` is a pytree of the
    environment's constants, which may be traced.
    """

    @property
    def default_params(self) -> Any:
        """Parameters for those who pass none."""
        ...

    def reset_env(self, key: Array, params: Any) -> tuple[Any, Any]:
        """A new episode: (obs, state). The key is consumed."""
        ...

    def step_env(self, key: Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
        """One step without auto-reset or time limit: (obs, state, reward, terminated, info)."""
        ...

    def is_truncated(self, state: Any, params: Any) -> Array:
        """Whether the time limit is reached in `state`."""
        ...

    def observation_space(self, params: Any) -> Any:
        """What the observations are like."""
        ...

    def action_space(self, params: Any) -> Any:
        """What the actions are like."""
        ...


class EpisodeState(struct.PyTreeNode):
    """One environment's state and the episode that it is in."""

    env_state: Any
    episode_return: Array  # () float32, undiscounted, so far
    episode_length: Array  # () int32, steps so far


def make_vec_env(env: Environment, env_params: Any, num_envs: int) -> VecEnv:
    """N copies of an environment stepped as one, each reset as soon as its episode ends.

    Args:
        env: one environment.
        env_params: parameters that fix the spaces; those of each call may differ in value.
        num_envs: N.

    Raises:
        ConfigError: a space is not supported, or the environment's values contradict it.
    """
    env = mask_in_observation(env, env_params)
    spec = check_spec(env, env_params)
    state_shape = _shapes(env, env_params, spec.action)[1]

    def reset_one(key, params):
        obs, env_state, *_ = env.reset_env(key, params)  # gymnasium's habit: an info too
        # the types that a step gives (some resets give Python numbers), so that loops can carry it
        env_state = jax.tree.map(lambda x, s: jnp.asarray(x, s.dtype), env_state, state_shape)
        return EpisodeState(env_state, jnp.float32(0), jnp.int32(0)), obs

    def step_one(draw, state, action, params):
        key, fresh = draw
        action = to_bounds(spec.action, action)
        final_obs, env_state, reward, terminated, _ = env.step_env(
            key, state.env_state, action, params
        )
        reward = jnp.asarray(reward, jnp.float32)
        terminated = jnp.asarray(terminated, bool)
        truncated = jnp.asarray(env.is_truncated(env_state, params), bool) & ~terminated
        episode_return = state.episode_return + reward
        episode_length = state.episode_length + 1
        stepped = EpisodeState(env_state, episode_return, episode_length), final_obs

        done = terminated | truncated
        state, obs = jax.tree.map(lambda a, b: jnp.where(done, a, b), fresh, stepped)
        return state, EnvStep(
            obs, final_obs, reward, terminated, truncated, episode_return, episode_length
        )

    def reset(key, params):
        return jax.vmap(reset_one, (0, None))(jax.random.split(key, num_envs), params)

    def draw(key, params):
        key_step, key_reset = jax.random.split(key)
        return jax.random.split(key_step, num_envs), reset(key_reset, params)

    def step(draws, state, action, params):
        return jax.vmap(step_one, (0, 0, 0, None))(draws, state, action, params)

    return VecEnv(reset, draw, step, spec)


def to_bounds(spaces: Any, action: Any) -> Any:
    """The action as the environment takes it: within the bounds of each Box, in its dtype.

    Args:
        spaces: action spaces, a pytree (`EnvSpec.action`).
        action: the same pytree of arrays, with any leading axes.
    """

    def bounded(space, action):
        if isinstance(space, Box):
            low, high = (jnp.broadcast_to(b, action.shape) for b in (space.low, space.high))
            action = jnp.clip(action, low, high)
            whole = jnp.issubdtype(space.dtype, jnp.integer)
            action = jnp.round(action) if whole else action
        return action.astype(space.dtype) if isinstance(space, Box | MultiBinary) else action

    return jax.tree.map(bounded, spaces, action)


def check_spec(env: Environment, env_params: Any) -> EnvSpec:
    """The environment's spaces, once its own values have been held against them.

    Raises:
        ConfigError: an unsupported space, unbounded actions, or an observation, reward or flag of
            another shape or dtype than declared.
    """
    with jax.ensure_compile_time_eval():  # bounds are numbers, also while a program is traced
        declared = env.observation_space(env_params)
        action = action_spaces(env.action_space(env_params))
    for space in jax.tree.leaves(action):
        if isinstance(space, Box) and not (np.isfinite(space.low) & np.isfinite(space.high)).all():
            raise ConfigError(
                f"action bounds {space.low.tolist()} .. {space.high.tolist()} must be finite: "
                "declare the bounds that the environment clips to, such as -1 .. 1"
            )
    reset_obs, _, step_obs, *scalars = _shapes(env, env_params, action)
    with jax.ensure_compile_time_eval():
        observation = observation_spaces(declared, reset_obs)
    for where, obs in (("reset_env", reset_obs), ("step_env", step_obs)):
        got, said = _describe(obs), _describe(observation)
        if got != said or jax.tree.structure(obs) != jax.tree.structure(observation):
            raise ConfigError(
                f"{where} returns an observation {got}, its space says {said}: "
                "mend the one or the other"
            )
    for name, x in zip(("reward", "terminated", "is_truncated"), scalars, strict=True):
        if x.shape != ():
            raise ConfigError(
                f"{name} is {_describe(x)}: it must be a scalar, such as x[0] or x.any()"
            )
    return EnvSpec(observation, action)


def _describe(tree: Any) -> str:
    """Dtypes and shapes of arrays, or of spaces, as they stand."""
    return str(jax.tree.map(lambda x: f"{x.dtype.name}{list(x.shape)}", tree))


def _shapes(env: Environment, env_params: Any, action: Any) -> tuple[Any, ...]:
    """Shapes of (reset obs, state, step obs, reward, terminated, truncated), nothing is run."""

    def once(key):
        obs, state, *_ = env.reset_env(key, env_params)
        after, state, reward, terminated, _ = env.step_env(key, state, zeros(action), env_params)
        flags = terminated, env.is_truncated(state, env_params)
        return obs, state, after, *map(jnp.asarray, (reward, *flags))

    return jax.eval_shape(once, jax.random.key(0))
