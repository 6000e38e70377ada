"""What a run will be, found without running or compiling anything."""

from __future__ import annotations

from typing import NamedTuple

import jax

from purejaxppo.config import PPOConfig
from purejaxppo.ppo.rollout import collect, nbytes
from purejaxppo.ppo.update import chunk_size
from purejaxppo.train import make_learner, make_setup


class Plan(NamedTuple):
    """What a run will be.

    Attributes:
        updates: rollouts, each followed by its epochs.
        timesteps: environment steps per seed, exactly.
        parameters: scalars in the policy, per seed.
        bytes_per_seed: estimate of the memory for state, rollout, batch and gradient.
    """

    updates: int
    timesteps: int
    parameters: int
    bytes_per_seed: int


def make_plan(config: PPOConfig) -> Plan:
    """Sizes of a run, from the shapes of its parts."""
    _, env_params, vec_env, policy = make_setup(config)
    state = jax.eval_shape(make_learner(config).init, jax.random.key(0))

    def roll(state, key):
        return collect(policy, vec_env, config.num_steps, state, env_params, key)[1]

    def residuals(params, carry, obs, episode_start):
        """What the backward pass of one environment row keeps."""
        return jax.vjp(lambda p: policy.apply(p, carry, obs, episode_start), params)[1]

    rollout = jax.eval_shape(roll, state, jax.random.key(0))
    kept = jax.eval_shape(residuals, state.params, state.carry, state.obs, state.episode_start)
    per_transition = max(0, nbytes(kept) - nbytes(state.params)) / config.num_envs
    # the rollout is held as collected and as the batch; one chunk has its activations
    total = nbytes(state) + 2 * nbytes(rollout) + per_transition * chunk_size(config)
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    return Plan(config.num_updates, config.total_timesteps, parameters, round(total))
