"""Scalars that describe an update."""

from __future__ import annotations

import jax.numpy as jnp

from purejaxppo.ppo.collectives import moments, total
from purejaxppo.types import Array, Rollout


def episode_sums(rollout: Rollout, done: Array, axis_name: str | None) -> dict[str, Array]:
    """Number, returns and lengths of the episodes that ended in the rollout, added up."""
    sums = {
        "episodes": jnp.sum(done, dtype=jnp.int32),
        "return_sum": jnp.sum(jnp.where(done, rollout.episode_return, 0.0)),
        "length_sum": jnp.sum(jnp.where(done, rollout.episode_length, 0)),
    }
    return total(sums, axis_name)


def explained_variance(value: Array, target: Array, axis_name: str | None = None) -> Array:
    """1 - Var(target - value) / Var(target), (): 1 is perfect, 0 no better than a constant."""
    _, unexplained = moments(target - value, None, axis_name)
    _, total = moments(target, None, axis_name)
    return 1.0 - unexplained / jnp.maximum(total, 1e-8)
