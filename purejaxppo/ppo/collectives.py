"""Averages over a batch that may be spread over devices: the one place that knows a mesh.

Each function that speaks to other devices does so once, whatever it is given: on a mesh it is the
number of exchanges that takes time, not their size.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from purejaxppo.types import PyTree


def own_key(key: Array, axis_name: str | None) -> Array:
    """Makes a key for each device of one that all have; the key itself where there is no mesh axis.

    Args:
        key: consumed.
        axis_name: mesh axis, or None.
    """
    return key if axis_name is None else jax.random.fold_in(key, jax.lax.axis_index(axis_name))


def across(tree: PyTree, axis_name: str | None) -> PyTree:
    """Takes means over the mesh axis where there is one, else the tree itself.

    Args:
        tree: float arrays.
        axis_name: mesh axis, or None.

    Returns:
        As `tree`, equal on every device.
    """
    if axis_name is None:
        return tree
    with jax.numpy_dtype_promotion("standard"):
        vector, unravel = ravel_pytree(tree)
    return unravel(jax.lax.pmean(vector, axis_name))


def gather(tree: PyTree, axis_name: str | None) -> PyTree:
    """Collects what every device has; it is one where there is no mesh axis.

    Args:
        tree: numbers of any dtypes.
        axis_name: mesh axis, or None.

    Returns:
        As `tree`, with a leading axis of devices.
    """
    if axis_name is None:
        return jax.tree.map(lambda x: x[None], tree)
    # bits, of which numbers of all dtypes are made alike
    bits, unravel = ravel_pytree(jax.tree.map(_bits, tree))
    rows = jax.vmap(unravel)(jax.lax.all_gather(bits, axis_name))
    return jax.tree.map(lambda x, row: _numbers(row, x.dtype, x.shape), tree, rows)


def _bits(x: Array) -> Array:
    return jax.lax.bitcast_convert_type(x, jnp.int32)


def _numbers(bits: Array, dtype: jnp.dtype, shape: tuple[int, ...]) -> Array:
    return jax.lax.bitcast_convert_type(bits, dtype).reshape(-1, *shape)


class Moments(NamedTuple):
    """Mean and spread of samples, of which devices may have different numbers.

    Attributes:
        samples: () float32, how many.
        first: one of them, which the others are measured from: a constant is then exactly itself,
            and what varies little around a large number keeps its digits.
        offset: mean of the samples less `first`.
        variance: of the population.
    """

    samples: Array
    first: Array
    offset: Array
    variance: Array

    @property
    def mean(self) -> Array:
        """Computes the mean of the samples."""
        return self.first + self.offset


def moments(x: Array, axis: int | tuple[int, ...] | None = None) -> Moments:
    """Computes mean and population variance of samples, on this device alone.

    Args:
        x: samples, any shape.
        axis: axis or axes to reduce; None: all.

    Returns:
        Both, of the axes that are left.
    """
    axes = tuple(range(x.ndim)) if axis is None else axis
    axes = (axes,) if isinstance(axes, int) else axes
    first = x
    for i in axes:
        first = jax.lax.slice_in_dim(first, 0, 1, axis=i)
    around = x - first
    mean = jnp.mean(around, axes, keepdims=True)
    variance = jnp.mean(jnp.square(around - mean), axes)
    samples = jnp.float32(x.size // max(variance.size, 1))
    return Moments(samples, jnp.squeeze(first, axes), jnp.squeeze(mean, axes), variance)


def joined(parts: Moments) -> Moments:
    """Joins the moments of several devices to those of all their samples.

    Args:
        parts: with a leading axis of devices, see `gather`.

    Returns:
        Without that axis.

    Reference: Chan, Golub and LeVeque 1979, eq. 2.1.
    """
    if len(parts.samples) == 1:
        return jax.tree.map(lambda x: x[0], parts)
    lead = (slice(None), *[None] * (parts.first.ndim - 1))
    total = parts.samples.sum()
    share = (parts.samples / total)[lead]
    first = parts.first[:1]
    offsets = (parts.first - first) + parts.offset
    offset = jnp.sum(share * offsets, 0, keepdims=True)
    spread = parts.variance + jnp.square(offsets - offset)
    return Moments(total, first[0], offset[0], jnp.sum(share * spread, 0))


def standardize(
    x: Array, axis_name: str | None = None, axis: int | tuple[int, ...] | None = None
) -> Array:
    """Computes (x - mean) / (std + 1e-8): 0 for constant or single values.

    Args:
        x: samples, any shape.
        axis_name: mesh axis over which they are spread, or None.
        axis: axis or axes that mean and standard deviation are of; None: all.

    Returns:
        As `x`.
    """
    all_of = joined(gather(moments(x, axis), axis_name))
    axes = tuple(range(x.ndim)) if axis is None else axis
    first, offset, variance = (jnp.expand_dims(y, axes) for y in all_of[1:])
    return ((x - first) - offset) / (jnp.sqrt(variance) + 1e-8)
