"""Cores: memory between torso and heads.

Each reads sequences [B, L, F] from the carry that they began with, and forgets at every
`episode_start`. A single step is a sequence of one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo.policies.layers import orthogonal
from purejaxppo.policies.torsos import GAIN


class GRU(nn.Module):
    """A gated recurrent unit.

    r, z = sigmoid(W x + b + U h), n = tanh(W_n x + b_n + r (U_n h)), h' = z h + (1 - z) n. What
    depends on the input alone is computed for all steps at once.

    Reference: Cho et al., arXiv:1406.1078; r inside as in cuDNN.
    """

    size: int

    @nn.compact
    def __call__(self, carry: Array, x: Array, episode_start: Array) -> tuple[Array, Array]:
        """([B, H] carry, [B, L, F], [B, L] bool) to (carry after the last step, [B, L, H])."""
        driven = nn.Dense(3 * self.size, kernel_init=orthogonal(1.0), name="input")(x)
        recurrent = self.param("recurrent", _blocks(3), (self.size, 3 * self.size))
        keep = self.param("keep", _log_times, (self.size,))

        def step(h, inputs):
            driven, start = inputs
            h = jnp.where(start[:, None], 0.0, h)
            r_x, z_x, n_x = jnp.split(driven, 3, -1)
            r_h, z_h, n_h = jnp.split(h @ recurrent, 3, -1)
            z = jax.nn.sigmoid(z_x + z_h + keep[None])
            n = jnp.tanh(n_x + jax.nn.sigmoid(r_x + r_h) * n_h)
            h = z * h + (1.0 - z) * n
            return h, h

        return _over_time(step, carry, driven, episode_start)


class LSTM(nn.Module):
    """A long short-term memory.

    i, f, o = sigmoid(W x + b + U h), g = tanh(W_g x + b_g + U_g h), c' = f c + i g,
    h' = o tanh(c').

    Reference: Hochreiter and Schmidhuber 1997; forget gate of Gers et al. 2000.
    """

    size: int

    @nn.compact
    def __call__(self, carry: Any, x: Array, episode_start: Array) -> tuple[Any, Array]:
        """((c, h) [B, H], [B, L, F], [B, L] bool) to ((c, h) after the last step, [B, L, H])."""
        driven = nn.Dense(4 * self.size, kernel_init=orthogonal(1.0), name="input")(x)
        recurrent = self.param("recurrent", _blocks(4), (self.size, 4 * self.size))
        keep = self.param("keep", _log_times, (self.size,))

        def step(carry, inputs):
            driven, start = inputs
            c, h = (jnp.where(start[:, None], 0.0, x) for x in carry)
            i, f, o, g = jnp.split(driven + h @ recurrent, 4, -1)
            write = jax.nn.sigmoid(i - keep[None]) * jnp.tanh(g)
            c = jax.nn.sigmoid(f + keep[None]) * c + write
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (c, h), h

        return _over_time(step, carry, driven, episode_start)


def _over_time(step: Callable, carry: Any, driven: Array, episode_start: Array) -> Any:
    """Scans over the second axis."""
    carry, h = jax.lax.scan(step, carry, (driven.swapaxes(0, 1), episode_start.swapaxes(0, 1)))
    return carry, h.swapaxes(0, 1)


def _blocks(count: int) -> Callable[..., Array]:
    """Orthogonal matrices side by side."""

    def init(key: Array, shape: tuple[int, ...]) -> Array:
        square = (shape[0], shape[0])
        blocks = [orthogonal(1.0)(k, square) for k in jax.random.split(key, count)]
        return jnp.concatenate(blocks, -1)

    return init


def _log_times(key: Array, shape: tuple[int, ...]) -> Array:
    """Gate biases with which memory lasts for 1 to 100 steps, uniform in the logarithm.

    sigmoid(log T) = 1 - 1 / (T + 1): what is kept of h or c in a step.

    Reference: Tallec and Ollivier, arXiv:1804.11188, section 2.
    """
    return jax.random.uniform(key, shape, maxval=jnp.log(100.0))


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
        # held above 0, where the root has no slope
        fresh = jnp.where(start, 1.0, jnp.sqrt(jnp.maximum(-jnp.expm1(2.0 * log_a), 1e-12)))
        b = fresh * jax.nn.sigmoid(write) * value
        b = b.at[:, 0].add(jnp.where(start[:, 0], 0.0, a[:, 0] * carry))

        def after(first, second):
            cut = second[0] == 0.0  # whatever was before, NaN included
            kept = jnp.where(cut, 0.0, first[0]), jnp.where(cut, 0.0, first[1])
            return kept[0] * second[0], second[0] * kept[1] + second[1]

        _, h = jax.lax.associative_scan(after, (a, b), axis=1)
        out = nn.Dense(self.size, kernel_init=orthogonal(GAIN), name="out")
        return h[:, -1], nn.tanh(out(jnp.concatenate([h, x], -1)))


def _decays(key: Array, shape: tuple[int, ...]) -> Array:
    """Such that a^8 is uniform in 0.9 .. 0.999, as in the paper."""
    a = jax.random.uniform(key, shape, minval=0.9, maxval=0.999) ** (1 / 8)
    return jnp.log(a) - jnp.log1p(-a)


CORES: dict[str, Callable[..., nn.Module]] = {
    "gru": GRU,
    "lstm": LSTM,
    "linear": LinearRecurrence,
}
"""Memory by the name in `PPOConfig.core`, made with its size."""


def initial_carry(name: str, size: int, batch_shape: tuple[int, ...]) -> Any:
    """Memory at an episode's start: zeros."""
    zeros = jnp.zeros((*batch_shape, size))
    return (zeros, zeros) if name == "lstm" else zeros
