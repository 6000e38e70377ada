"""Shuffling without a sort: keyed permutations computed index by index."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo import tuning

ROUNDS = 24  # in each, an index stays or moves by the toss of a coin


@jax.named_scope("shuffle")
def minibatch_indices(key: Array, batch_size: int, num_epochs: int, num_minibatches: int) -> Array:
    """Draws a fresh permutation per epoch, cut into minibatches.

    Args:
        key: consumed.
        batch_size: B.
        num_epochs: E.
        num_minibatches: M.

    Returns:
        [E * M, B / M] int32: rows of the batch for each gradient step in turn.
    """
    order = permutations(key, num_epochs, batch_size)
    return order.reshape(num_epochs * num_minibatches, batch_size // num_minibatches)


def permutations(key: Array, count: int, n: int) -> Array:
    """Draws independent pseudo-random permutations of 0 .. n - 1.

    The swap-or-not shuffle: in round i, with a random k_i, the indices x and k_i - x (mod n) change
    places if a hash of the larger of the two says so. Each index finds its place alone, so that
    there is nothing to sort.

    Args:
        key: consumed.
        count: how many.
        n: of how many indices, below 2^31.

    Returns:
        [count, n] int32.

    Reference: Hoang, Morris and Rogaway, "An enciphering scheme based on a card shuffle",
    CRYPTO 2012, arXiv:1208.1176.
    """
    # along one axis: the loops over several short ones take long to compile
    bits = jax.random.bits(key, (ROUNDS * 2 * count,), jnp.uint32).reshape(ROUNDS, 2, count, 1)
    # the remainder favours small numbers by n / 2^32, which no run could show
    pivots = (bits[:, 0] % jnp.uint32(n)).astype(jnp.int32)

    def swap_or_not(x, inputs):
        pivot, salt = inputs
        partner = pivot - x
        partner = jnp.where(partner < 0, partner + n, partner)
        swap = _coin(jnp.maximum(x, partner).astype(jnp.uint32) ^ salt)
        return jnp.where(swap, partner, x), None

    start = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), (count, n))
    rounds, unroll = (pivots, bits[:, 1]), tuning.unroll("shuffle")
    return jax.lax.scan(swap_or_not, start, rounds, unroll=unroll)[0]


def _coin(x: Array) -> Array:
    """Tosses a coin: the highest bit of a 32-bit hash (MurmurHash3's finalizer, public domain)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x >> 31 == 1
