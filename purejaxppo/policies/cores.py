"""Cores: recurrent networks between torso and heads, which are the memory of a policy.

Each reads sequences [B, L, F] from the carry that they began with, and forgets at every
`episode_start`. A single step is a sequence of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo.assertions import chex
from purejaxppo.policies.layers import orthogonal
from purejaxppo.policies.torsos import GAIN
from purejaxppo.types import Carry


class GRU(nn.Module):
    """A gated recurrent unit.

    r, z = sigmoid(W x + b + U h), n = tanh(W_n x + b_n + r (U_n h)), h' = z h + (1 - z) n. What
    depends on the input alone is computed for all steps at once.

    Reference: Cho et al., arXiv:1406.1078; r inside as in cuDNN.

    Attributes:
        size: H, numbers in memory.
    """

    size: int

    @nn.compact
    def __call__(self, carry: Array, x: Array, episode_start: Array) -> tuple[Array, Array]:
        """Reads sequences.

        Args:
            carry: [B, H], memory before the first step.
            x: [B, L, F].
            episode_start: [B, L] bool.

        Returns:
            The carry after the last step, and what comes out [B, L, H].
        """
        _check_shapes(self.size, carry, x, episode_start)
        # the inputs' part of all gates, for all steps in one product
        driven = nn.Dense(3 * self.size, kernel_init=orthogonal(1.0), name="input")(x)
        recurrent = self.param("recurrent", orthogonal(1.0, 3), (self.size, 3 * self.size))
        keep = self.param("keep", _log_times, (self.size,))

        def step(h: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            driven, start = inputs
            # zero, not multiplied by zero: what was before may be NaN
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

    Attributes:
        size: H, numbers in each of c and h.
    """

    size: int

    @nn.compact
    def __call__(self, carry: Carry, x: Array, episode_start: Array) -> tuple[Carry, Array]:
        """Reads sequences.

        Args:
            carry: (c, h), each [B, H], memory before the first step.
            x: [B, L, F].
            episode_start: [B, L] bool.

        Returns:
            (c, h) after the last step, and h after each [B, L, H].
        """
        _check_shapes(self.size, carry, x, episode_start)
        # the inputs' part of all gates, for all steps in one product
        driven = nn.Dense(4 * self.size, kernel_init=orthogonal(1.0), name="input")(x)
        recurrent = self.param("recurrent", orthogonal(1.0, 4), (self.size, 4 * self.size))
        keep = self.param("keep", _log_times, (self.size,))

        def step(carry: Carry, inputs: tuple[Array, Array]) -> tuple[Carry, Array]:
            driven, start = inputs
            # zero, not multiplied by zero: what was before may be NaN
            c, h = (jnp.where(start[:, None], 0.0, x) for x in carry)
            i, f, o, g = jnp.split(driven + h @ recurrent, 4, -1)
            # one bias in both gates: what is kept for long is written slowly
            write = jax.nn.sigmoid(i - keep[None]) * jnp.tanh(g)
            c = jax.nn.sigmoid(f + keep[None]) * c + write
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (c, h), h

        return _over_time(step, carry, driven, episode_start)


def _check_shapes(size: int, carry: Carry, x: Array, episode_start: Array) -> None:
    """Checks while tracing what would broadcast otherwise: carry, sequences and starts."""
    chex.assert_rank([x, episode_start], [3, 2])
    chex.assert_equal_shape_prefix([x, episode_start], 2)
    chex.assert_tree_shape_prefix(carry, (x.shape[0], size))


def _over_time(
    step: Callable[..., tuple[Carry, Array]], carry: Carry, driven: Array, episode_start: Array
) -> tuple[Carry, Array]:
    """Scans over the second axis."""
    carry, h = jax.lax.scan(step, carry, (driven.swapaxes(0, 1), episode_start.swapaxes(0, 1)))
    return carry, h.swapaxes(0, 1)


def _log_times(key: Array, shape: tuple[int, ...]) -> Array:
    """Draws gate biases with which memory lasts for 1 to 100 steps, uniform in the logarithm.

    sigmoid(log T) = 1 - 1 / (T + 1): what is kept of h or c in a step.

    Reference: Tallec and Ollivier, arXiv:1804.11188, section 2.
    """
    return jax.random.uniform(key, shape, jnp.float32, maxval=math.log(100.0))


class LinearRecurrence(nn.Module):
    """A gated linear recurrence, all steps of a sequence at once by an associative scan.

    h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t x_t), where a_t = a^(8 r_t), a learned, and the gates
    r_t and i_t are sigmoids of the input; a_t is 0 where an episode starts. What comes out is a
    dense layer of h_t and the input, for h_t alone is linear in the past.

    Reference: the RG-LRU of De et al., arXiv:2402.19427, eq. 1 to 6.

    Attributes:
        size: H, numbers in memory.
    """

    size: int

    @nn.compact
    def __call__(self, carry: Array, x: Array, episode_start: Array) -> tuple[Array, Array]:
        """Reads sequences.

        Args:
            carry: [B, H], memory before the first step.
            x: [B, L, F].
            episode_start: [B, L] bool.

        Returns:
            The carry after the last step, and what comes out [B, L, H].
        """
        _check_shapes(self.size, carry, x, episode_start)
        # all that depends on the inputs alone: what to write, and the gates
        value = nn.Dense(self.size, kernel_init=orthogonal(1.0), name="value")(x)
        forget = nn.Dense(self.size, kernel_init=orthogonal(1.0), name="forget")(x)
        write = nn.Dense(self.size, kernel_init=orthogonal(1.0), name="write")(x)
        decay = self.param("decay", _decays, (self.size,))
        log_a = 8.0 * jax.nn.sigmoid(forget) * jax.nn.log_sigmoid(decay)[None, None]
        # h_t = a_t h_{t-1} + b_t, with nothing from before where an episode starts
        start = episode_start[..., None]
        a = jnp.where(start, 0.0, jnp.exp(log_a))
        # kept above 0, where the root has no slope
        fresh = jnp.where(start, 1.0, jnp.sqrt(jnp.maximum(-jnp.expm1(2.0 * log_a), 1e-12)))
        b = fresh * jax.nn.sigmoid(write) * value
        # the carry enters as an input of the first step
        b = b.at[:, 0].add(jnp.where(start[:, 0], 0.0, a[:, 0] * carry))

        def after(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
            """Composes two steps h -> a h + b into one."""
            cut = second[0] == 0.0  # whatever was before, NaN included
            kept = jnp.where(cut, 0.0, first[0]), jnp.where(cut, 0.0, first[1])
            return kept[0] * second[0], second[0] * kept[1] + second[1]

        _, h = jax.lax.associative_scan(after, (a, b), axis=1)
        out = nn.Dense(self.size, kernel_init=orthogonal(GAIN), name="out")
        return h[:, -1], nn.tanh(out(jnp.concatenate([h, x], -1)))


def _decays(key: Array, shape: tuple[int, ...]) -> Array:
    """Draws a, as a logit, such that a^8 is uniform in 0.9 .. 0.999, as in the paper."""
    a = jax.random.uniform(key, shape, jnp.float32, 0.9, 0.999) ** (1 / 8)
    return jnp.log(a) - jnp.log1p(-a)


CORES: dict[str, Callable[..., nn.Module]] = {
    "gru": GRU,
    "lstm": LSTM,
    "linear": LinearRecurrence,
}
"""Cores by the name in `PPOConfig.core`, made with their size."""


def initial_carry(name: str, size: int, batch_shape: tuple[int, ...]) -> Carry:
    """Returns the memory at an episode's start: zeros.

    Args:
        name: of the core.
        size: H.
        batch_shape: leading axes.

    Returns:
        [*batch_shape, H], or two of them for an LSTM.
    """
    zeros = jnp.zeros((*batch_shape, size), jnp.float32)
    return (zeros, zeros) if name == "lstm" else zeros
