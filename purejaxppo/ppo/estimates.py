"""Advantages and targets as an update reads them: of its rollout, and again before its epochs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from purejaxppo.errors import ConfigError
from purejaxppo.hyperparams import Hyperparams
from purejaxppo.ppo.collectives import standardize
from purejaxppo.ppo.minibatches import as_rows, as_steps, in_passes
from purejaxppo.ppo.normalize import normalize
from purejaxppo.types import (
    Array,
    Batch,
    Carry,
    Critic,
    Estimate,
    Estimator,
    Normalizers,
    Obs,
    Params,
    Policy,
    Rollout,
)


@jax.named_scope("advantages")
def estimate_of(
    estimator: Estimator,
    config: Any,
    hyper: Hyperparams,
    rollout: Rollout,
    axis_name: str | None = None,
) -> Estimate:
    """Computes advantages and targets, and checks that they are [T, N]; else they would broadcast.

    Args:
        estimator: of advantages, which may be a custom one.
        config: the `PPOConfig`.
        hyper: scalars in force.
        rollout: [T, N], with the rewards that are learned from.
        axis_name: mesh axis over which environments are spread, or None.

    Returns:
        Both, the advantages with those of a bonus, standardised if that is done over whole batches.

    Raises:
        ConfigError: they are of another shape.
    """
    estimate = estimator(rollout, hyper, config)
    for name, x in zip(Estimate._fields, estimate, strict=True):
        if jnp.shape(x) != rollout.value.shape:
            raise ConfigError(
                f"the estimator's {name} has shape {list(jnp.shape(x))} for a rollout of "
                f"{list(rollout.value.shape)}: return one for each step and environment"
            )
    advantage, target = estimate
    if rollout.bonus is not None:
        advantage += rollout.bonus
    if config.advantage_normalization == "batch":
        advantage = standardize(advantage, axis_name)
    return Estimate(advantage, target)


def estimate_again(
    params: Params,
    policy: Policy,
    critic: Critic,
    norms: Normalizers,
    rollout: Rollout,
    batch: Batch,
    length: int | None,
    size: int,
    estimate: Callable[[Rollout], Estimate],
) -> Estimate:
    """Computes the advantages of a rollout as if other parameters had evaluated it.

    Args:
        params: the policy's parameters.
        policy: actor and critic.
        critic: what the policy's value stands for.
        norms: running statistics, of observations those of the rollout.
        rollout: [T, N], with the rewards that are learned from.
        batch: [B] rows of the same.
        length: L, where rows are sequences; else None.
        size: rows that go through the network at once, a divisor of B.
        estimate: advantages and targets [T, N] of a rollout.

    Returns:
        Advantages and targets, of rows.

    Reference: arXiv:2006.05990, section 3.5 and appendix B.1.
    """
    final_obs = as_rows(rollout.final_obs, length)
    found = reevaluate(policy, critic, params, norms, batch, final_obs, size)
    value, next_value, ratio = (as_steps(x, rollout.value.shape[1]) for x in found)
    again = rollout.replace(value=value, next_value=next_value, ratio=ratio)
    return as_rows(estimate(again), length)


@jax.named_scope("reevaluate")
def reevaluate(
    policy: Policy,
    critic: Critic,
    params: Params,
    norms: Normalizers,
    batch: Batch,
    final_obs: Obs,
    size: int,
) -> tuple[Array, Array, Array]:
    """Evaluates the steps of a rollout again, as if other parameters had taken them.

    A sequence goes on from the memory that the rollout had at its start, step by step as there.
    What of the results is not read is not computed: without ratios, the actor's layers.

    Args:
        policy: actor and critic.
        critic: what the policy's value stands for.
        params: the policy's parameters.
        norms: running statistics, of observations those of the rollout.
        batch: [B] rows of the rollout.
        final_obs: [B, *O], the observations that its actions led to, as the environment gave them.
        size: rows that go through the network at once, a divisor of B.

    Returns:
        V of the observations, V of those that the actions led to, and the ratios of the actions'
        probabilities to those of the rollout, [B] each.
    """

    def step(carry: Carry, inputs: tuple) -> tuple[Carry, tuple[Array, Array, Array]]:
        obs, final_obs, action, log_prob, episode_start = inputs
        carry, dist, output = policy.apply(params, carry, obs, episode_start)
        seen, going_on = normalize(norms.obs, final_obs), jnp.zeros_like(episode_start)
        final_output = policy.apply(params, carry, seen, going_on)[2]
        value, next_value = (critic.value(x, norms.value) for x in (output, final_output))
        return carry, (value, next_value, jnp.exp(dist.log_prob(action) - log_prob))

    def sequences(inputs: tuple[Carry, tuple]) -> tuple[Array, Array, Array]:
        carry, steps = inputs
        if batch.log_prob.ndim == 1:
            return step(carry, steps)[1]
        first_axes_changed = jax.tree.map(lambda x: x.swapaxes(0, 1), steps)
        _, results = jax.lax.scan(step, carry, first_axes_changed)
        return jax.tree.map(lambda x: x.swapaxes(0, 1), results)

    steps = (batch.obs, final_obs, batch.action, batch.log_prob, batch.episode_start)
    return in_passes(sequences, (batch.carry, steps), size)
