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
    first, around = _from_first(x, axis, axis_name)
    mean, variance = _moments(around, axis, axis_name)
    return first + mean, variance


def standardize(x: Array, axis_name: str | None = None) -> Array:
    """Computes (x - mean) / (std + 1e-8) over all of `x`: 0 for constant or single values.

    Args:
        x: samples, any shape.
        axis_name: mesh axis over which they are spread, or None.

    Returns:
        As `x`.
    """
    _, around = _from_first(x, None, axis_name)
    mean, variance = _moments(around, None, axis_name)
    return (around - mean) / (jnp.sqrt(variance) + 1e-8)


def _from_first(x: Array, axis, axis_name: str | None) -> tuple[Array, Array]:
    """Returns the first sample, and all samples less that one.

    A constant is then exactly 0, and what varies little around a large number keeps its digits.
    """
    axes = tuple(range(x.ndim)) if axis is None else axis
    first = x
    for i in (axes,) if isinstance(axes, int) else axes:
        first = jax.lax.slice_in_dim(first, 0, 1, axis=i)
    first = across(first, axis_name)
    return jnp.squeeze(first, axes), x - first


def _moments(around: Array, axis, axis_name: str | None) -> tuple[Array, Array]:
    """Computes mean and population variance, with the rounding that large samples bring."""
    mean = across(jnp.mean(around, axis), axis_name)
    centred = around - (mean if axis is None else jnp.expand_dims(mean, axis))
    return mean, across(jnp.mean(jnp.square(centred), axis), axis_name)
