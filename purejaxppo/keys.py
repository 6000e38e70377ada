"""Random keys, many from many, in programs that are quick to compile."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def split_each(keys: Array, count: int) -> Array:
    """Splits every key of an array into so many.

    As `jax.random.split` of each gives them, but computed along one axis: over several short ones,
    XLA on a CPU writes every step of the inner loops out, and compiles for as long as for the rest
    of a small program together.

    Args:
        keys: [...], each consumed.
        count: n.

    Returns:
        [..., n].
    """
    each = jnp.broadcast_to(keys[..., None], (*keys.shape, count))
    place = jnp.broadcast_to(jnp.arange(count, dtype=jnp.uint32), each.shape)
    # the n-th of the keys that one is split into is the key with n folded in
    return jax.vmap(jax.random.fold_in)(each.reshape(-1), place.reshape(-1)).reshape(each.shape)
