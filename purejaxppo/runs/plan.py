"""What a run will be, found without running or compiling anything."""

from __future__ import annotations

from typing import NamedTuple

import jax

from purejaxppo.components import make_setup
from purejaxppo.config.schema import PPOConfig
from purejaxppo.ppo.rollout import as_batch, collect, nbytes
from purejaxppo.ppo.update import activation_bytes, chunk_rows
from purejaxppo.runs.fit import check_seeds
from purejaxppo.train import make_learner


class Plan(NamedTuple):
    """What a run will be.

    Attributes:
        updates: rollouts, each followed by its epochs.
        timesteps: environment steps per seed, exactly.
        chunk: transitions per pass through the network in a gradient step.
        parameters: scalars in the policy, per seed.
        bytes_per_seed: estimate of the memory for state, rollout, batch and gradient.
    """

    updates: int
    timesteps: int
    chunk: int
    parameters: int
    bytes_per_seed: int


def make_plan(config: PPOConfig, seeds: int = 1) -> Plan:
    """Sizes of a run, from the shapes of its parts.

    Raises:
        ConfigError: see `fit`.
    """
    learner = make_learner(config)
    check_seeds(learner, seeds)
    config, env_params, vec_env, policy = make_setup(config)
    state = jax.eval_shape(learner.init, jax.random.key(0))

    def roll(state, key):
        return collect(policy, vec_env, config.num_steps, state, env_params, key)[1]

    def rows(rollout):
        value = rollout.value
        return as_batch(rollout, rollout.obs, value, value, config.sequence_length)

    rollout = jax.eval_shape(roll, state, jax.random.key(0))
    batch = jax.eval_shape(rows, rollout)
    chunk = chunk_rows(policy, config, state.params, batch)
    # the rollout is held as collected and as the batch; one chunk has its activations
    activations = chunk * activation_bytes(policy, state.params, batch)
    total = nbytes(state) + 2 * nbytes(rollout) + activations
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    per_row = batch.advantage.size // len(batch.advantage)
    return Plan(config.num_updates, config.total_timesteps, chunk * per_row, parameters, total)
