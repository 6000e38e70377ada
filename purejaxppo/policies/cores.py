"""Cores: memory between torso and heads.

Each reads sequences [B, L, F] from the carry that they began with, and forgets at every
`episode_start`. A single step is a sequence of one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from purejaxppo.policies.layers import orthogonal
from purejaxppo.policies.torsos import GAIN

Array = jax.Array


class Recurrent(nn.Module):
    """A cell of flax, stepped through time."""

    size: int
    cell: type[nn.GRUCell] | type[nn.OptimizedLSTMCell]

    @nn.compact
    def __call__(self, carry: Any, x: Array, episode_start: Array) -> tuple[Any, Array]:
        """([B, H] carry, [B, L, F], [B, L] bool) to (carry after the last step, [B, L, H])."""

        def step(cell, carry, inputs):
            x, start = inputs
            return cell(jax.tree.map(lambda h: jnp.where(start[:, None], 0.0, h), carry), x)

        cell = self.cell(
            self.size, kernel_init=orthogonal(1.0), recurrent_kernel_init=orthogonal(1.0)
        )
        over_time = nn.scan(
            step, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1
        )
        return over_time(cell, carry, (x, episode_start))


class LinearRecurrence(nn.Module):
    """A gated linear recurrence, all steps of a sequence at once by an associative scan.

    h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t x_t), where a_t = a^(8 r_t), a learned, and the gates
    r_t and i_t are sigmoids of the input; a_t is 0 where an episode starts. What comes out is a
    dense layer of h_t and the input, for h_t alone is linear in the past.

    Reference: the RG-LRU of De et al., arXiv:2402.19427, eq. 1 to 6.
    """

    size: int

    @nn.compact
    def __call__(self, carry: Array, x: Array, episode_start: Array) -> tuple[Array, Array]:
        """([B, H] carry, [B, L, F], [B, L] bool) to (carry after the last step, [B, L, H])."""
        value = nn.Dense(self.size, kernel_init=orthogonal(1.0), name="value")(x)
        forget = nn.Dense(self.size, kernel_init=orthogonal(1.0), name="forget")(x)
        write = nn.Dense(self.size, kernel_init=orthogonal(1.0), name="write")(x)
        decay = self.param("decay", _decays, (self.size,))
        log_a = 8.0 * jax.nn.sigmoid(forget) * jax.nn.log_sigmoid(decay)[None, None]
        start = episode_start[..., None]
        a = jnp.where(start, 0.0, jnp.exp(log_a))
        fresh = jnp.where(start, 1.0, jnp.sqrt(-jnp.expm1(2.0 * log_a)))
        b = fresh * jax.nn.sigmoid(write) * value
        b = b.at[:, 0].add(a[:, 0] * carry)

        def after(first, second):
            return first[0] * second[0], second[0] * first[1] + second[1]

        _, h = jax.lax.associative_scan(after, (a, b), axis=1)
        out = nn.Dense(self.size, kernel_init=orthogonal(GAIN), name="out")
        return h[:, -1], nn.tanh(out(jnp.concatenate([h, x], -1)))


def _decays(key: Array, shape: tuple[int, ...]) -> Array:
    """Such that a^8 is uniform in 0.9 .. 0.999, as in the paper."""
    a = jax.random.uniform(key, shape, minval=0.9, maxval=0.999) ** (1 / 8)
    return jnp.log(a) - jnp.log1p(-a)


CORES: dict[str, Callable[..., nn.Module]] = {
    "gru": partial(Recurrent, cell=nn.GRUCell),
    "lstm": partial(Recurrent, cell=nn.OptimizedLSTMCell),
    "linear": LinearRecurrence,
}
"""Memory by the name in `PPOConfig.core`, made with its size."""


def initial_carry(name: str, size: int, batch_shape: tuple[int, ...]) -> Any:
    """Memory at an episode's start: zeros."""
    zeros = jnp.zeros((*batch_shape, size))
    return (zeros, zeros) if name == "lstm" else zeros
