"""What all cores are made of: a layer of the inputs, and sequences with time first."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo.assertions import chex
from purejaxppo.policies.layers import orthogonal
from purejaxppo.policies.torsos import Dense
from purejaxppo.types import Carry

From = partial(Dense, kernel_init=orthogonal(1.0))
"""What the input has a part in, with our initial weights of a core; its result is float32."""


def check_shapes(shape: tuple[int, ...], carry: Carry, x: Array, episode_start: Array) -> None:
    """Checks while tracing what would broadcast otherwise: carry, sequences and starts.

    Args:
        shape: that arrays of the carry have behind their first axis.
        carry: arrays [B, *shape].
        x: [B, L, F].
        episode_start: [B, L].

    Raises:
        AssertionError: a shape is another.
    """
    chex.assert_rank([x, episode_start], [3, 2])
    chex.assert_equal_shape_prefix([x, episode_start], 2)
    chex.assert_tree_shape_prefix(carry, (x.shape[0], *shape))


def swap(x: Array) -> Array:
    """Returns an array with its first two axes, batch and time, changed for each other.

    Args:
        x: [B, L, ...] or [L, B, ...].
    """
    return x.swapaxes(0, 1)


def log_times(key: Array, shape: tuple[int, ...]) -> Array:
    """Draws gate biases with which memory lasts for 1 to 100 steps, uniform in the logarithm.

    sigmoid(log T) = 1 - 1 / (T + 1): what is kept of h or c in a step.

    Args:
        key: consumed.
        shape: of the biases.

    Returns:
        log T, float32.

    Reference: Tallec and Ollivier, arXiv:1804.11188, section 2.
    """
    return jax.random.uniform(key, shape, jnp.float32, maxval=math.log(100.0))
