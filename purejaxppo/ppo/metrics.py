"""Scalars that describe an update."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from purejaxppo.ppo.collectives import Moments, joined, moments
from purejaxppo.types import Array, Rollout


def episode_sums(rollout: Rollout) -> dict[str, Any]:
    """Adds up number, returns, lengths and infos of the episodes that ended in a rollout.

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
        "info_sum": {name: jnp.sum(jnp.where(done, x, 0.0)) for name, x in rollout.info.items()},
    }


def explained_variance(both: Moments) -> Array:
    """Computes 1 - Var(target - value) / Var(target): 1 is perfect, 0 no better than a constant.

    Args:
        both: [2], of what the critic's values lack, target - value, and of what they should be.

    Returns:
        The fraction, ().
    """
    error, target = both.variance
    return 1.0 - error / jnp.maximum(target, 1e-8)


def update_sums(rollout: Rollout, target: Array) -> dict[str, Any]:
    """Returns what one device tells of an update, to be added up by `summed`.

    Args:
        rollout: [T, N].
        target: [T, N], what the critic should say.

    Returns:
        By name: sums over episodes, and moments of the critic's errors and targets.
    """
    both = jnp.stack([target - rollout.value, target])  # reduced together: fewer operations
    return episode_sums(rollout) | {"explained": moments(both, (1, 2))}


def summed(sums: dict[str, Any]) -> dict[str, Any]:
    """Adds up what devices tell of an update.

    Args:
        sums: as `update_sums` gives them, and others beside them, with a leading axis of devices.

    Returns:
        Scalars by the names of `Metrics`.
    """
    counts = {name: x for name, x in sums.items() if name != "explained"}
    added = jax.tree.map(lambda x: x.sum(0, x.dtype), counts)
    return added | {"explained_variance": explained_variance(joined(sums["explained"]))}
