"""GRU and LSTM: each step waits for the one before, for one product and the gates.

All else is computed for all steps at once: products with inputs, and in the backward pass all
gradients but that of the carry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from purejaxppo import tuning
from purejaxppo.policies.cores.sequences import From, check_shapes, log_times, swap
from purejaxppo.policies.layers import orthogonal
from purejaxppo.types import Carry

Cell: TypeAlias = Callable[[Carry, Array, Array], Carry]
"""One step of a recurrence, number by number: `(carry, driven, turned) -> carry`.

`driven` is what the input has a part in, `turned` the matrix product of what came out of the step
before; the last array of a carry is what comes out.
"""


class GRU(nn.Module):
    """A gated recurrent unit.

    r, z = sigmoid(W x + b + U h), n = tanh(W_n x + b_n + r (U_n h)), h' = z h + (1 - z) n. What
    depends on the input alone is computed for all steps at once.

    Reference: Cho et al., arXiv:1406.1078; r inside as in cuDNN.

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
        x, episode_start = swap(x), swap(episode_start)
        driven = From(3 * self.size, dtype=self.dtype, name="input")(x)
        recurrent = self.param("recurrent", orthogonal(1.0, 3), (self.size, 3 * self.size))
        keep = self.param("keep", log_times, (self.size,))
        # the bias of z, which is a part of the input's
        none = jnp.zeros_like(keep)
        driven += jnp.concatenate([none, keep, none])[None, None]
        carry, h = recur(_gru, recurrent, carry, driven.astype(self.dtype), episode_start)
        return carry, swap(h)


def _gru(h: Array, driven: Array, turned: Array) -> Array:
    """Computes a step of a `GRU`."""
    r_x, z_x, n_x = jnp.split(driven, 3, -1)
    r_h, z_h, n_h = jnp.split(turned, 3, -1)
    z = jax.nn.sigmoid(z_x + z_h)
    n = jnp.tanh(n_x + jax.nn.sigmoid(r_x + r_h) * n_h)
    return n + z * (h - n)


class LSTM(nn.Module):
    """A long short-term memory.

    i, f, o = sigmoid(W x + b + U h), g = tanh(W_g x + b_g + U_g h), c' = f c + i g,
    h' = o tanh(c').

    Reference: Hochreiter and Schmidhuber 1997; forget gate of Gers et al. 2000.

    Attributes:
        size: H, numbers in each of c and h.
        dtype: of matrix products.
    """

    size: int
    dtype: DTypeLike = jnp.float32

    @nn.nowrap
    def initial_carry(self, batch_shape: tuple[int, ...]) -> Carry:
        """Returns the memory at an episode's start: two arrays of zeros [*batch_shape, H]."""
        zeros = jnp.zeros((*batch_shape, self.size), jnp.float32)
        return zeros, zeros

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
        check_shapes((self.size,), carry, x, episode_start)
        x, episode_start = swap(x), swap(episode_start)
        driven = From(4 * self.size, dtype=self.dtype, name="input")(x)
        recurrent = self.param("recurrent", orthogonal(1.0, 4), (self.size, 4 * self.size))
        keep = self.param("keep", log_times, (self.size,))
        # one bias in both gates, i and f: what is kept for long is written slowly
        none = jnp.zeros_like(keep)
        driven += jnp.concatenate([-keep, keep, none, none])[None, None]
        carry, h = recur(_lstm, recurrent, carry, driven.astype(self.dtype), episode_start)
        return carry, swap(h)


def _lstm(carry: Carry, driven: Array, turned: Array) -> Carry:
    """Computes a step of an `LSTM`."""
    i, f, o, g = jnp.split(driven + turned, 4, -1)
    c = jax.nn.sigmoid(f) * carry[0] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return c, jax.nn.sigmoid(o) * jnp.tanh(c)


def _over_time(
    cell: Cell, recurrent: Array, carry: Carry, driven: Array, starts: Array
) -> tuple[Carry, Array]:
    """Takes a cell through sequences, step after step, forgetting where an episode starts.

    The derivative is that of `jax.lax.scan`, in another order: gradients of `recurrent` and of
    `driven` are computed for all steps at once, behind the loop.

    Args:
        cell: G blocks of H numbers are turned into a carry.
        recurrent: [H, G * H].
        carry: arrays [B, H], before the first step.
        driven: [L, B, G * H], in whose dtype matrices are multiplied.
        starts: [L, B] bool.

    Returns:
        The carry after the last step, and what comes out [L, B, H].
    """
    recurrent = recurrent.astype(driven.dtype)

    def step(carry: Carry, inputs: tuple[Array, Array]) -> tuple[Carry, Array]:
        driven, start = inputs
        carry = _forget(start, carry)
        carry = cell(carry, driven, _product(_shown(carry), recurrent))
        return carry, _shown(carry)

    return jax.lax.scan(step, carry, (driven, starts), unroll=tuning.unroll("memory"))


def _recur_forward(
    cell: Cell, recurrent: Array, carry: Carry, driven: Array, starts: Array
) -> tuple[tuple[Carry, Array], tuple]:
    """Computes `_over_time`, and keeps the derivative of each step's cell."""
    recurrent = recurrent.astype(driven.dtype)

    def step(carry: Carry, inputs: tuple[Array, Array]) -> tuple[Carry, tuple]:
        driven, start = inputs
        carry = _forget(start, carry)
        carry, pull = jax.vjp(cell, carry, driven, _product(_shown(carry), recurrent))
        return carry, (_shown(carry), pull)

    last, (out, pulls) = jax.lax.scan(step, carry, (driven, starts), unroll=tuning.unroll("memory"))
    return (last, out), (recurrent, _shown(carry), starts, out, pulls)


def _recur_backward(
    cell: Cell, kept: tuple, gradients: tuple[Carry, Array]
) -> tuple[Array, Carry, Array, None]:
    """Returns the gradients by matrix, carry and `driven`."""
    del cell  # its derivative is kept
    recurrent, first, starts, out, pulls = kept
    d_last, d_out = gradients

    def step(d_carry: Carry, inputs: tuple) -> tuple[Carry, Carry]:
        pull, start, d_out = inputs
        d_after = _add(d_carry, d_out)
        d_before, _, d_turned = pull(d_after)
        return _forget(start, _add(d_before, _product(d_turned, recurrent.T))), d_after

    # the gradient of the carry alone, from the last step to the first
    d_first, d_after = jax.lax.scan(
        step, d_last, (pulls, starts, d_out), reverse=True, unroll=tuning.unroll("memory")
    )
    # all others, of all steps at once
    _, d_driven, d_turned = jax.vmap(lambda pull, d_after: pull(d_after))(pulls, d_after)
    before = _forget(starts, jnp.concatenate([first[None], out[:-1]]))
    before, d_turned = before.astype(recurrent.dtype), d_turned.astype(recurrent.dtype)
    d_recurrent = jnp.einsum("lbh,lbg->hg", before, d_turned, preferred_element_type=jnp.float32)
    return d_recurrent, d_first, d_driven, None


recur = jax.custom_vjp(_over_time, nondiff_argnums=(0,))
recur.defvjp(_recur_forward, _recur_backward)


def _product(x: Array, matrix: Array) -> Array:
    """Returns x @ matrix, multiplied in the dtype of the matrix and summed in float32."""
    return jnp.matmul(x.astype(matrix.dtype), matrix, preferred_element_type=jnp.float32)


def _forget(start: Array, carry: Carry) -> Carry:
    """Returns a carry, or its gradient, as zeros where an episode starts, [...] bool."""
    # not multiplied by zero: what was before may be NaN
    return jax.tree.map(lambda x: jnp.where(start[..., None], 0.0, x), carry)


def _shown(carry: Carry) -> Array:
    """Returns what comes out with a carry: its last array."""
    return jax.tree.leaves(carry)[-1]


def _add(carry: Carry, x: Array) -> Carry:
    """Returns a carry with `x` added to what comes out."""
    *others, shown = jax.tree.leaves(carry)
    return jax.tree.unflatten(jax.tree.structure(carry), [*others, shown + x])
