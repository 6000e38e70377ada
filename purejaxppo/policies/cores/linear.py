"""Linear recurrences: no step waits for a product with the one before."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from purejaxppo import tuning
from purejaxppo.policies.cores.sequences import From, check_shapes, swap
from purejaxppo.policies.torsos import Dense


class LinearRecurrence(nn.Module):
    """A gated linear recurrence, without a product between one step and the next.

    h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t x_t), where a_t = a^(8 r_t), a learned, and the gates
    r_t and i_t are sigmoids of the input; a_t is 0 where an episode starts. What comes out is a
    dense layer of h_t and the input, for h_t alone is linear in the past.

    Reference: the RG-LRU of De et al., arXiv:2402.19427, eq. 1 to 6.

    Attributes:
        size: H, numbers in memory.
        dtype: of matrix products.
    """

    size: int
    dtype: DTypeLike = jnp.float32

    @nn.nowrap
    def initial_carry(self, batch_shape: tuple[int, ...]) -> Array:
        """Returns the memory at an episode's start: zeros [*batch_shape, H]."""
        return jnp.zeros((*batch_shape, self.size), jnp.float32)

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
        check_shapes((self.size,), carry, x, episode_start)
        inputs, x, starts = x, swap(x), swap(episode_start)[..., None]
        # all that depends on the inputs alone: what to write, and the gates
        value = From(self.size, dtype=self.dtype, name="value")(x)
        forget = From(self.size, dtype=self.dtype, name="forget")(x)
        write = From(self.size, dtype=self.dtype, name="write")(x)
        decay = self.param("decay", _decays, (self.size,))
        log_a = 8.0 * jax.nn.sigmoid(forget) * jax.nn.log_sigmoid(decay)[None, None]
        # h_t = a_t h_{t-1} + b_t, with nothing from before where an episode starts
        a = jnp.where(starts, 0.0, jnp.exp(log_a))
        # kept above 0, where the root has no slope
        fresh = jnp.where(starts, 1.0, jnp.sqrt(jnp.maximum(-jnp.expm1(2.0 * log_a), 1e-12)))
        b = fresh * jax.nn.sigmoid(write) * value
        # the carry enters as an input of the first step
        b = b.at[0].add(jnp.where(starts[0], 0.0, a[0] * carry))
        h = decaying_sum(a, b)
        out, last = Dense(self.size, dtype=self.dtype, name="out"), h[-1]
        x = out(jnp.concatenate([swap(h), inputs], -1))
        return last, nn.tanh(x.astype(self.dtype))


def _decaying_sum(a: Array, b: Array) -> Array:
    """Computes h_t = a_t h_{t-1} + b_t from h_{-1} = 0, of [L, ...]."""
    return _compose(a, b)


def _decaying_sum_forward(a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    """Computes `_decaying_sum`, and keeps it for its derivative."""
    h = _decaying_sum(a, b)
    return h, (a, h)


def _decaying_sum_backward(kept: tuple[Array, Array], d_h: Array) -> tuple[Array, Array]:
    """Returns the gradients by a and b; the latter is such a sum too, from the last step back."""
    a, h = kept
    none = jnp.zeros_like(a[:1])
    d_b = _compose(jnp.concatenate([a[1:], none]), d_h, reverse=True)
    return jnp.concatenate([none, h[:-1]]) * d_b, d_b


decaying_sum = jax.custom_vjp(_decaying_sum)
decaying_sum.defvjp(_decaying_sum_forward, _decaying_sum_backward)


def _compose(a: Array, b: Array, reverse: bool = False) -> Array:
    """Applies h -> a_t h + b_t one after the other, to 0; where a_t is 0, nothing is from before.

    Args:
        a: [L, ...].
        b: [L, ...].
        reverse: from the last step to the first.

    Returns:
        h after each step, [L, ...].
    """

    def after(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        cut = second[0] == 0.0  # whatever was before, NaN included
        kept = jnp.where(cut, 0.0, first[0]), jnp.where(cut, 0.0, first[1])
        return kept[0] * second[0], second[0] * kept[1] + second[1]

    if tuning.all_steps_at_once():
        return jax.lax.associative_scan(after, (a, b), reverse=reverse)[1]

    def step(h: Array, steps: tuple[Array, Array]) -> tuple[Array, Array]:
        h = after((jnp.ones_like(h), h), steps)[1]
        return h, h

    return jax.lax.scan(step, jnp.zeros_like(b[0]), (a, b), reverse=reverse)[1]


def _decays(key: Array, shape: tuple[int, ...]) -> Array:
    """Draws a, as a logit, such that a^8 is uniform in 0.9 .. 0.999, as in the paper."""
    a = jax.random.uniform(key, shape, jnp.float32, 0.9, 0.999) ** (1 / 8)
    return jnp.log(a) - jnp.log1p(-a)
