"""Random keys, many from many, in programs that are quick to compile."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def split_each(keys: Array, *counts: int) -> Array:
    """Splits every key of an array into so many, and each of those again.

    As `jax.random.split` of each gives them, but computed along one axis: over several short ones,
    XLA on a CPU writes every step of the inner loops out, and compiles for as long as for the rest
    of a small program together. Several counts are a loop, in which the hash is compiled once; keys
    that are split last of all cost as many hashes as there are counts.

    Args:
        keys: [...], each consumed.
        *counts: n, m, ...

    Returns:
        [..., n, m, ...].
    """
    shape = (*keys.shape, *counts)
    each = jnp.broadcast_to(jnp.expand_dims(keys, range(keys.ndim, len(shape))), shape).reshape(-1)
    places = [
        jax.lax.broadcasted_iota(jnp.uint32, shape, axis).reshape(-1)
        for axis in range(keys.ndim, len(shape))
    ]
    # the n-th of the keys that one is split into is the key with n folded in
    fold = jax.vmap(jax.random.fold_in)
    each, _ = jax.lax.scan(lambda each, place: (fold(each, place), None), each, jnp.stack(places))
    return each.reshape(shape)
