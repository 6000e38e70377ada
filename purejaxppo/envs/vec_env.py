"""How N environments are stepped as one.

Auto-reset, final observations and episode statistics are done here, so that no environment's own
wrapper can lose the last observation of an episode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from purejaxppo.envs.info import picked
from purejaxppo.envs.inspection import InspectedEnv, inspect_env, with_types
from purejaxppo.envs.params import rows
from purejaxppo.keys import split_each
from purejaxppo.spaces import only, to_bounds
from purejaxppo.types import Array, Environment, EnvParams, EnvStep, PyTree, VecEnv


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


def vectorize(
    inspected: InspectedEnv,
    num_envs: int,
    reset_batch: int | None = None,
    info_metrics: Sequence[str] = (),
    params_axis: Any = None,
) -> VecEnv:
    """Steps N copies of an inspected environment as one, each reset as soon as its episode ends.

    Every episode begins from a state of its own, drawn with a key of its own; `reset_batch` changes
    when it is drawn, not what.

    Args:
        inspected: one environment.
        num_envs: N.
        reset_batch: K; None: N fresh states are drawn for every step, and most thrown away. Else as
            many as are needed, K at a time: for environments whose reset is expensive.
        info_metrics: names of numbers in the info, which every step returns too.
        params_axis: of environments in the parameters, as `jax.vmap` takes it; None: all
            environments have the same.

    Returns:
        N environments as one.
    """
    env, spec, state_types = inspected.env, inspected.spec, inspected.state

    def reset_one(key, params):
        obs, state, *_ = env.reset_env(key, params)  # gymnasium's habit: an info too
        return with_types(state, state_types), only(obs, inspected.entries)

    def step_one(key, state, action, params):
        action = to_bounds(spec.action, action)
        obs, state, reward, terminated, info = env.step_env(key, state, action, params)
        obs = only(obs, inspected.entries)
        terminated = jnp.asarray(terminated, bool)
        truncated = jnp.asarray(env.is_truncated(state, params), bool) & ~terminated
        reward = jnp.asarray(reward, jnp.float32)
        told = info["episode_return"], info["episode_length"], picked(info, info_metrics)
        return state, EnvStep(obs, obs, reward, terminated, truncated, *told)

    def reset_all(keys, params):
        return jax.vmap(reset_one, (0, params_axis))(keys, params)

    def reset(key, params):
        return reset_all(jax.random.split(key, num_envs), params)

    def draw(key, params, env_state=None):
        # of one step, or of many: then all their environments stand along one axis
        keys = split_each(key, 2, num_envs)
        for_steps, for_resets = keys[..., 0, :], keys[..., 1, :]
        if reset_batch is not None:
            return for_steps, for_resets
        lead = for_resets.shape
        if params_axis is not None:  # those of one environment are the same in all steps
            many = jax.vmap(reset_all, (0, None))(for_resets.reshape(-1, num_envs), params)
            return for_steps, jax.tree.map(lambda x: x.reshape(*lead, *x.shape[2:]), many)
        fresh = reset_all(for_resets.reshape(-1), params)
        return for_steps, jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), fresh)

    def step(draws, state, action, params):
        keys, fresh = draws
        state, after = jax.vmap(step_one, (0, 0, 0, params_axis))(keys, state, action, params)
        done, stepped = after.terminated | after.truncated, (state, after.final_obs)
        if reset_batch is None:
            state, obs = jax.tree.map(lambda a, b: _where(done, a, b), fresh, stepped)
        else:
            some = lambda who: reset_all(fresh[who], rows(params, params_axis, who))  # noqa: E731
            state, obs = reset_in_batches(some, done, stepped, reset_batch)
        return state, after.replace(obs=obs)

    return VecEnv(reset, draw, step, spec)


def reset_in_batches(
    reset: Callable[[Array], PyTree], done: Array, current: PyTree, batch: int
) -> PyTree:
    """Gives the environments that ended fresh episodes, K at a time until all are served.

    Args:
        reset: numbers of environments [K] to fresh episodes of theirs, a pytree with the leading
            axis [K]; a number of N stands for none.
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
        fresh = reset(who)  # beyond the last one that ended: drawn, and dropped
        current = jax.tree.map(lambda x, f: x.at[who].set(f, mode="drop"), current, fresh)
        return served + batch, current

    return jax.lax.while_loop(lambda loop: loop[0] < num_done, serve, (0, current))[1]


def _where(done: Array, a: Array, b: Array) -> Array:
    """Applies `jnp.where` over the leading axis."""
    return jax.vmap(jnp.where)(done, a, b)
