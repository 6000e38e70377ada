"""Averages over a batch that may be spread over devices: the one place that knows a mesh."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def across(tree, axis_name: str | None):
    """Takes means over the mesh axis where there is one (pmean), else the tree itself."""
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def total(tree, axis_name: str | None):
    """Takes sums over the mesh axis where there is one (psum), else the tree itself."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def moments(x: Array, axis=None, axis_name: str | None = None) -> tuple[Array, Array]:
    """Computes mean and population variance of `x` over `axis` and over the mesh axis.

    Args:
        x: samples, any shape.
        axis: axis or axes to reduce; None: all.
        axis_name: mesh axis, or None.

    Returns:
        mean and variance, of the axes that are left.
    """
    mean = across(jnp.mean(x, axis), axis_name)
    centred = x - (mean if axis is None else jnp.expand_dims(mean, axis))
    return mean, across(jnp.mean(jnp.square(centred), axis), axis_name)


def standardize(x: Array, axis_name: str | None = None) -> Array:
    """Computes (x - mean) / (std + 1e-8) over all of `x`: 0 for constant or single values.

    Args:
        x: samples, any shape.
        axis_name: mesh axis over which they are spread, or None.

    Returns:
        As `x`.
    """
    x = x - across(x.reshape(-1)[0], axis_name)  # so that constants are 0, not rounding errors
    mean, variance = moments(x, None, axis_name)
    return (x - mean) / (jnp.sqrt(variance) + 1e-8)
