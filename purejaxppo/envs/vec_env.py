"""How N environments are stepped as one.

Auto-reset, final observations and episode statistics are done here, so that no environment's own
wrapper can lose the last observation of an episode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from purejaxppo.envs.declared import action_spaces, check_actions, observation_spaces
from purejaxppo.envs.traced_once import TracedOnce
from purejaxppo.envs.wrappers.action_mask import mask_in_observation
from purejaxppo.envs.wrappers.episodes import EpisodeStatistics, counts
from purejaxppo.errors import ConfigError
from purejaxppo.spaces import EnvSpec, fields, to_bounds, zeros
from purejaxppo.types import (
    Array,
    Environment,
    EnvParams,
    EnvState,
    EnvStep,
    Obs,
    PyTree,
    VecEnv,
)


class InspectedEnv(NamedTuple):
    """One environment, made ready to be stepped N at a time.

    Attributes:
        env: the environment, its action mask in the observation, its episodes counted.
        spec: what it sees and does.
        state: its state after a step, in shapes and dtypes.
    """

    env: Any
    spec: EnvSpec
    state: EnvState


def inspect_env(env: Environment, env_params: EnvParams) -> InspectedEnv:
    """Compares what an environment returns with what it declares, and makes it ready.

    Its `reset_env` and `step_env` are traced here, once each; programs that are made of it later
    use what was traced.

    Args:
        env: one environment.
        env_params: parameters that fix the spaces; those of each call may differ in value.

    Returns:
        The environment with its spaces.

    Raises:
        ConfigError: a space is not supported, or the environment's values contradict it.
    """
    if not isinstance(env, TracedOnce):
        env = cast(Any, TracedOnce(env, constant_params=True))
    env = mask_in_observation(env, env_params)
    spec = check_spec(env, env_params)
    shapes = _shapes(env, env_params, spec.action)
    # episodes are counted inside of reward wrappers where the user did so, else outside of all
    if not (counts(env) and {"episode_return", "episode_length"} <= fields(shapes.info).keys()):
        env = cast(Any, EpisodeStatistics(env))
        shapes = _shapes(env, env_params, spec.action)
    return InspectedEnv(env, spec, shapes.state)


def make_vec_env(
    env: Environment, env_params: EnvParams, num_envs: int, reset_batch: int | None = None
) -> VecEnv:
    """Steps N copies of an environment as one, each reset as soon as its episode ends.

    Args:
        env: one environment.
        env_params: parameters that fix the spaces; those of each call may differ in value.
        num_envs: N.
        reset_batch: K, see `vectorize`.

    Returns:
        N environments as one.

    Raises:
        ConfigError: a space is not supported, or the environment's values contradict it.
    """
    return vectorize(inspect_env(env, env_params), num_envs, reset_batch)


def vectorize(inspected: InspectedEnv, num_envs: int, reset_batch: int | None = None) -> VecEnv:
    """Steps N copies of an inspected environment as one, each reset as soon as its episode ends.

    Every episode begins from a state of its own, drawn with a key of its own; `reset_batch` changes
    when it is drawn, not what.

    Args:
        inspected: one environment.
        num_envs: N.
        reset_batch: K; None: N fresh states are drawn for every step, and most thrown away. Else as
            many as are needed, K at a time: for environments whose reset is expensive.

    Returns:
        N environments as one.
    """
    env, spec, state_types = inspected

    def reset_one(key, params):
        obs, state, *_ = env.reset_env(key, params)  # gymnasium's habit: an info too
        # the types that a step gives (some resets give Python numbers), so that loops can carry it
        return jax.tree.map(lambda x, s: jnp.asarray(x, s.dtype), state, state_types), obs

    def step_one(key, state, action, params):
        action = to_bounds(spec.action, action)
        obs, state, reward, terminated, info = env.step_env(key, state, action, params)
        terminated = jnp.asarray(terminated, bool)
        truncated = jnp.asarray(env.is_truncated(state, params), bool) & ~terminated
        reward = jnp.asarray(reward, jnp.float32)
        counted = info["episode_return"], info["episode_length"]
        return state, EnvStep(obs, obs, reward, terminated, truncated, *counted)

    def reset(key, params):
        return jax.vmap(reset_one, (0, None))(jax.random.split(key, num_envs), params)

    def draw(key, params):
        key_step, key_reset = jax.random.split(key)
        keys = jax.random.split(key_step, num_envs)
        if reset_batch is None:
            return keys, reset(key_reset, params)
        return keys, jax.random.split(key_reset, num_envs)

    def step(draws, state, action, params):
        keys, fresh = draws
        state, after = jax.vmap(step_one, (0, 0, 0, None))(keys, state, action, params)
        done, stepped = after.terminated | after.truncated, (state, after.final_obs)
        if reset_batch is None:
            state, obs = jax.tree.map(lambda a, b: _where(done, a, b), fresh, stepped)
        else:
            one = lambda key: reset_one(key, params)  # noqa: E731
            state, obs = reset_in_batches(one, fresh, done, stepped, reset_batch)
        return state, after.replace(obs=obs)

    return VecEnv(reset, draw, step, spec)


def reset_in_batches(
    reset: Callable[[Array], PyTree], keys: Array, done: Array, current: PyTree, batch: int
) -> PyTree:
    """Gives the environments that ended fresh episodes, K at a time until all are served.

    Args:
        reset: one key to one fresh episode, a pytree.
        keys: [N], each used if its environment ended.
        done: [N] bool.
        current: the episodes as they are, leading axis [N].
        batch: K.

    Returns:
        The episodes, those that ended replaced.
    """
    num_envs, num_done = len(done), done.sum()
    ended = jnp.flatnonzero(done, size=-(-num_envs // batch) * batch, fill_value=num_envs)

    def serve(loop):
        served, current = loop
        who = jax.lax.dynamic_slice(ended, (served,), (batch,))
        fresh = jax.vmap(reset)(keys[who])  # beyond the last one that ended: drawn, and dropped
        current = jax.tree.map(lambda x, f: x.at[who].set(f, mode="drop"), current, fresh)
        return served + batch, current

    return jax.lax.while_loop(lambda loop: loop[0] < num_done, serve, (0, current))[1]


def _where(done: Array, a: Array, b: Array) -> Array:
    """Applies `jnp.where` over the leading axis."""
    return jax.vmap(jnp.where)(done, a, b)


def check_spec(env: Environment, env_params: EnvParams) -> EnvSpec:
    """Compares the spaces that an environment declares with the values that it returns.

    Args:
        env: one environment.
        env_params: parameters that fix the spaces.

    Returns:
        Its spaces.

    Raises:
        ConfigError: an unsupported space, unbounded actions, or an observation, reward or flag of
            another shape or dtype than declared.
    """
    with jax.ensure_compile_time_eval():  # bounds are numbers, also while a program is traced
        declared = env.observation_space(env_params)
        action = action_spaces(env.action_space(env_params))
    check_actions(action)
    shapes = _shapes(env, env_params, action)
    with jax.ensure_compile_time_eval():
        observation = observation_spaces(declared, shapes.reset_obs)
    for where, obs in (("reset_env", shapes.reset_obs), ("step_env", shapes.step_obs)):
        got, said = _describe(obs), _describe(observation)
        if got != said or jax.tree.structure(obs) != jax.tree.structure(observation):
            raise ConfigError(
                f"{where} returns an observation {got}, its space says {said}: "
                "fix the one or the other"
            )
    for name in ("reward", "terminated", "is_truncated"):
        x = getattr(shapes, name)
        if x.shape != ():
            raise ConfigError(
                f"{name} is {_describe(x)}: it must be a scalar, such as x[0] or x.any()"
            )
    return EnvSpec(observation, action)


def _describe(tree: Any) -> str:
    """Dtypes and shapes of arrays, or of spaces, as they stand."""
    return str(jax.tree.map(lambda x: f"{x.dtype.name}{list(x.shape)}", tree))


class _Shapes(NamedTuple):
    """What a reset and a step return, in shapes and dtypes."""

    reset_obs: Obs
    state: EnvState  # after a step
    step_obs: Obs
    reward: Array
    terminated: Array
    is_truncated: Array
    info: PyTree


def _shapes(env: Environment, env_params: EnvParams, action: Any) -> _Shapes:
    """Finds what a reset and a step return by tracing them: nothing is run."""

    def once(key):
        obs, state, *_ = env.reset_env(key, env_params)
        after, state, *paid, info = env.step_env(key, state, zeros(action), env_params)
        scalars = map(jnp.asarray, (*paid, env.is_truncated(state, env_params)))
        reward, terminated, truncated = scalars
        return _Shapes(obs, state, after, reward, terminated, truncated, info)

    return jax.eval_shape(once, jax.random.key(0))
