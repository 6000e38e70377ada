"""The sizes of a run, found without running or compiling anything."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
from jax.sharding import Mesh

from purejaxppo.components import Components
from purejaxppo.parallel import make_mesh
from purejaxppo.ppo.minibatches import activation_bytes, as_batch
from purejaxppo.ppo.rollout import collect
from purejaxppo.runs.fit import check_seeds
from purejaxppo.sharding import check_spread
from purejaxppo.train import learner_of, minibatches_of
from purejaxppo.tuning import nbytes


class Plan(NamedTuple):
    """The sizes of a run.

    Attributes:
        updates: rollouts, each followed by its epochs.
        timesteps: environment steps per seed, exactly.
        chunk: transitions per pass through the network in a gradient step.
        parameters: scalars in the policy, per seed.
        bytes_per_seed: estimate of the memory for state, rollout, batch and gradient.
        mesh: the devices that seeds and environments are spread over.
    """

    updates: int
    timesteps: int
    chunk: int
    parameters: int
    bytes_per_seed: int
    mesh: Mesh


def plan_of(
    components: Components, seeds: int = 1, devices: int | Literal["all"] | None = None
) -> Plan:
    """Finds the sizes of a run from the shapes of its parts.

    Args:
        components: of the run.
        seeds: agents trained side by side.
        devices: how many are asked for, see `make_mesh`.

    Returns:
        The plan.

    Raises:
        ConfigError: several seeds of environments that run on the host; there are not so many
            devices, or what each would have is not whole.
    """
    check_seeds(components, seeds)
    mesh = make_mesh(seeds, devices)
    check_spread(components, mesh)
    config, policy = components.config, components.policy
    vec_env, learner = components.vectorize(config.num_envs), learner_of(components)

    # the shapes of an update's stages, nothing of which is run
    state = jax.eval_shape(learner.init, jax.random.key(0))

    def roll(state, key):
        return collect(policy, vec_env, config.num_steps, state, components.env_params, key)[1]

    def rows(rollout):
        value = rollout.value
        return as_batch(rollout, rollout.obs, value, value, components.sequence_length)

    rollout = jax.eval_shape(roll, state, jax.random.key(0))
    batch = jax.eval_shape(rows, rollout)
    chunk = minibatches_of(components, state.params, batch).rows_per_pass

    # the rollout is held as collected and as the batch; one chunk has its activations
    activations = chunk * activation_bytes(
        policy, state.params, (batch.carry, batch.obs, batch.episode_start)
    )
    total = nbytes(state) + 2 * nbytes(rollout) + activations
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    per_row = batch.advantage.size // len(batch.advantage)
    return Plan(config.num_updates, config.timesteps, chunk * per_row, parameters, total, mesh)
