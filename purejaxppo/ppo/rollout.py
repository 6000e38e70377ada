"""Collecting experience: policy and environments stepped together for T steps."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from purejaxppo import tuning
from purejaxppo.assertions import chex
from purejaxppo.keys import split_each
from purejaxppo.ppo.minibatches import activation_bytes, in_passes
from purejaxppo.ppo.normalize import normalize
from purejaxppo.tuning import nbytes
from purejaxppo.types import (
    Array,
    Carry,
    Critic,
    EnvParams,
    LearnerState,
    Normalizers,
    Obs,
    Params,
    Policy,
    PyTree,
    Rollout,
    VecEnv,
)


@jax.named_scope("rollout")
def collect(
    policy: Policy,
    critic: Critic,
    vec_env: VecEnv,
    num_steps: int,
    state: LearnerState,
    env_params: EnvParams,
    key: Array,
    parts: int = 1,
    keep_final_obs: bool = False,
    length: int | None = None,
) -> tuple[LearnerState, Rollout]:
    """Steps N environments T times under the policy of `state`.

    Args:
        policy: actor and critic.
        critic: what the policy's value stands for.
        vec_env: N environments.
        num_steps: T.
        state: where the run stands.
        env_params: parameters of the environments.
        key: consumed.
        parts: a divisor of T * N, see `values_of`.
        keep_final_obs: the rollout has the observations that its actions led to.
        length: L, a divisor of T: a large memory is kept of every L-th step; None: of the first.

    Returns:
        The state with its environments moved on, and the rollout [T, N].
    """
    # what one step leaves to chance, for all steps at once unless that would be large: a few small
    # draws cost most of a short step
    norms = state.normalizers
    valued = policy, critic, state.params, norms
    for_actions, keys = split_each(key, 2, num_steps)

    def draw(key):
        return vec_env.draw(key, env_params, state.env_state)

    in_bulk = nbytes(jax.eval_shape(draw, keys)) <= tuning.drawn_at_once()

    def step(loop, inputs):
        env_state, obs, episode_start, carry = loop
        key_action, draws = inputs
        draws = draws if in_bulk else draw(draws)
        # act
        seen = normalize(norms.obs, obs)
        next_carry, dist, output = policy.apply(state.params, carry, seen, episode_start)
        value = critic.value(output, norms.value)
        action = dist.sample(key_action)
        log_prob = dist.log_prob(action)
        chex.assert_equal_shape([value, log_prob, episode_start])  # else they would broadcast

        # step, and keep what the update will read
        env_state, after = vec_env.step(draws, env_state, action, env_params)
        transition = dict(
            obs=obs,
            action=action,
            log_prob=log_prob,
            dist=dist,
            value=() if policy.critic_apart else value,
            reward=after.reward,
            terminated=after.terminated,
            truncated=after.truncated,
            carry=() if policy.large_carry else carry,
            episode_return=after.episode_return,
            episode_length=after.episode_length,
            info=after.info,
        )
        # what the action led to is kept too, unless its value can only be told here
        led_to = after.final_obs
        if policy.large_carry:
            here = jax.tree.map(_one_step, (next_carry, led_to))
            transition["next_value"] = final_values(*valued, *here)[0]
            led_to = led_to if keep_final_obs else ()
        done = after.terminated | after.truncated
        return (env_state, after.obs, done, next_carry), (transition, led_to)

    # T steps; where an episode ended, the memory is forgotten at the next one (episode_start)
    def steps(loop, inputs):
        return jax.lax.scan(step, loop, inputs, unroll=tuning.unroll("rollout"))

    start = (state.env_state, state.obs, state.episode_start, state.carry)
    inputs = (for_actions, draw(keys) if in_bulk else keys)
    if policy.large_carry:
        end, (transitions, final_obs) = _by_sequence(steps, start, inputs, length or num_steps)
    else:
        end, (transitions, final_obs) = steps(start, inputs)
    env_state, obs, _, carry = end
    env_state = vec_env.agree(env_state)
    done = transitions["terminated"] | transitions["truncated"]
    transitions["episode_start"] = jnp.concatenate([state.episode_start[None], done[:-1]])

    # values, many at once: of what each action led to, with the memory after it; and of what was
    # seen, unless the actor's layers have given them on the way
    if not policy.large_carry:
        remembered = jax.tree.map(
            lambda before, last: jnp.concatenate([before[1:], last[None]]),
            transitions["carry"],
            carry,
        )
        transitions["next_value"] = final_values(*valued, remembered, final_obs, parts)
    if policy.critic_apart:
        seen = transitions["carry"], transitions["obs"]
        transitions["value"] = values_of(*valued, *seen, parts)
    if keep_final_obs:
        transitions["final_obs"] = final_obs
    state = state.replace(env_state=env_state, obs=obs, episode_start=done[-1], carry=carry)
    return state, Rollout(**transitions)


def _by_sequence(
    steps: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]],
    start: PyTree,
    inputs: PyTree,
    length: int,
) -> tuple[PyTree, PyTree]:
    """Takes T steps in sequences of L, and keeps the memory before each of these.

    Args:
        steps: `(loop, inputs [L, ...]) -> (loop, kept [L, ...])`; the memory is the last of a loop,
            and what is kept are transitions and what their actions led to.
        start: the loop before the first step.
        inputs: [T, ...].
        length: L.

    Returns:
        The loop after the last step, and what is kept [T, ...], the memory [T / L, ...].
    """

    def sequence(loop, inputs):
        end, kept = steps(loop, inputs)
        return end, (kept, loop[-1])

    inputs = jax.tree.map(lambda x: x.reshape(len(x) // length, length, *x.shape[1:]), inputs)
    end, (kept, carry) = jax.lax.scan(sequence, start, inputs)
    transitions, final_obs = jax.tree.map(lambda x: jax.lax.collapse(x, 0, 2), kept)
    return end, (transitions | {"carry": carry}, final_obs)


def _one_step(x: Array) -> Array:
    """Returns what is of one step [N, ...] as of a rollout of one, [1, N, ...]."""
    return x[None]


def final_values(
    policy: Policy,
    critic: Critic,
    params: Params,
    norms: Normalizers,
    carry: Carry,
    final_obs: Obs,
    parts: int = 1,
) -> Array:
    """Computes V of the observations that the actions led to.

    Args:
        policy: actor and critic.
        critic: what the policy's value stands for.
        params: the policy's parameters.
        norms: running statistics.
        carry: [T, N, ...], memory after each step.
        final_obs: [T, N, *O], before any reset.
        parts: a divisor of T * N, see `values_of`.

    Returns:
        [T, N]. At a truncation and at the end of the rollout this is what the episode would have
        gone on to; elsewhere it equals the value of the next row.
    """
    return values_of(policy, critic, params, norms, carry, final_obs, parts)


@jax.named_scope("values")
def values_of(
    policy: Policy,
    critic: Critic,
    params: Params,
    norms: Normalizers,
    carry: Carry,
    obs: Obs,
    parts: int = 1,
) -> Array:
    """Computes V of observations within their episodes, many at once, without the actor.

    Args:
        policy: actor and critic.
        critic: what the policy's value stands for.
        params: the policy's parameters.
        norms: running statistics.
        carry: [T, N, ...], memory before each observation.
        obs: [T, N, *O].
        parts: a divisor of T * N: in so many passes it takes no more memory than a gradient step,
            if there are as many minibatches. A CPU's cache decides for itself.

    Returns:
        [T, N].
    """
    shape = jax.tree.leaves(obs)[0].shape[:2]
    carry, obs = jax.tree.map(lambda x: jax.lax.collapse(x, 0, 2), (carry, obs))
    inputs = (carry, obs, jnp.zeros(shape[0] * shape[1], bool))

    def values(inputs):
        carry, obs, going_on = inputs
        output = policy.apply(params, carry, normalize(norms.obs, obs), going_on)[2]
        return critic.value(output, norms.value)

    rows = shape[0] * shape[1]
    size = tuning.chunk_size(rows, activation_bytes(policy, params, inputs), parts)
    return in_passes(values, inputs, size).reshape(shape)
