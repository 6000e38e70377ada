"""Scalars that describe an update."""

from __future__ import annotations

import jax.numpy as jnp

from purejaxppo.ppo.collectives import Moments
from purejaxppo.types import Array, Rollout


def episode_sums(rollout: Rollout) -> dict[str, Array]:
    """Adds up number, returns and lengths of the episodes that ended in a rollout.

    Args:
        rollout: [T, N].

    Returns:
        Scalars by the names of `Metrics`.
    """
    done = rollout.terminated | rollout.truncated
    return {
        "episodes": jnp.sum(done, dtype=jnp.int32),
        "return_sum": jnp.sum(jnp.where(done, rollout.episode_return, 0.0)),
        # not in int32, which 65,536 episodes of 50,000 steps would overflow
        "length_sum": jnp.sum(jnp.where(done, rollout.episode_length, 0), dtype=jnp.float32),
    }


def explained_variance(error: Moments, target: Moments) -> Array:
    """Computes 1 - Var(target - value) / Var(target): 1 is perfect, 0 no better than a constant.

    Args:
        error: of what the critic's values lack, target - value.
        target: of what they should be.

    Returns:
        The fraction, ().
    """
    return 1.0 - error.variance / jnp.maximum(target.variance, 1e-8)
