"""Scalars that describe an update."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from purejaxppo.ppo.collectives import moments, total
from purejaxppo.types import Array, Rollout


def episode_sums(rollout: Rollout, done: Array, axis_name: str | None) -> dict[str, Any]:
    """Adds up number, returns, lengths and infos of the episodes that ended in a rollout.

    Args:
        rollout: [T, N].
        done: [T, N] bool, an episode ended.
        axis_name: mesh axis over which environments are spread, or None.

    Returns:
        Scalars by the names of `Metrics`.
    """
    sums = {
        "episodes": jnp.sum(done, dtype=jnp.int32),
        "return_sum": jnp.sum(jnp.where(done, rollout.episode_return, 0.0)),
        # not in int32, which 65,536 episodes of 50,000 steps would overflow
        "length_sum": jnp.sum(jnp.where(done, rollout.episode_length, 0), dtype=jnp.float32),
        "info_sum": {name: jnp.sum(jnp.where(done, x, 0.0)) for name, x in rollout.info.items()},
    }
    return total(sums, axis_name)


def explained_variance(value: Array, target: Array, axis_name: str | None = None) -> Array:
    """Computes 1 - Var(target - value) / Var(target): 1 is perfect, 0 no better than a constant.

    Args:
        value: [T, N], of the critic.
        target: [T, N], what it should be.
        axis_name: mesh axis over which they are spread, or None.

    Returns:
        The fraction, ().
    """
    _, unexplained = moments(target - value, None, axis_name)
    _, total = moments(target, None, axis_name)
    return 1.0 - unexplained / jnp.maximum(total, 1e-8)
