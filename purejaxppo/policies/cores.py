"""Cores: recurrent networks between torso and heads, which are the memory of a policy.

Each reads sequences [B, L, F] from the carry that they began with, and forgets at every
`episode_start`. A single step is a sequence of one.

Within, time comes first, [L, B, F], and whatever does not wait for the step before is computed for
all steps at once: products with inputs, and in the backward pass all gradients but that of the
carry. What is left in the loops is one product and the gates.

Matrices are multiplied in the dtype of a core, and products summed in float32. The carry is float32
whatever that is, and so are the gates: with a gate near 1, as memory lasts for long, bfloat16 would
keep all or forget in a few steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from purejaxppo import tuning
from purejaxppo.assertions import chex
from purejaxppo.policies.layers import orthogonal
from purejaxppo.policies.torsos import Dense
from purejaxppo.types import Carry

Cell: TypeAlias = Callable[[Carry, Array, Array], Carry]
"""One step of a recurrence, number by number: `(carry, driven, turned) -> carry`.

`driven` is what the input has a part in, `turned` the matrix product of what came out of the step
before; the last array of a carry is what comes out.
"""


From = partial(Dense, kernel_init=orthogonal(1.0))
"""What the input has a part in, with our initial weights of a core; its result is float32."""


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
        x, episode_start = _swap(x), _swap(episode_start)
        driven = From(3 * self.size, dtype=self.dtype, name="input")(x)
        recurrent = self.param("recurrent", orthogonal(1.0, 3), (self.size, 3 * self.size))
        keep = self.param("keep", _log_times, (self.size,))
        # the bias of z, which is a part of the input's
        none = jnp.zeros_like(keep)
        driven += jnp.concatenate([none, keep, none])[None, None]
        carry, h = recur(_gru, recurrent, carry, driven.astype(self.dtype), episode_start)
        return carry, _swap(h)


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
        x, episode_start = _swap(x), _swap(episode_start)
        driven = From(4 * self.size, dtype=self.dtype, name="input")(x)
        recurrent = self.param("recurrent", orthogonal(1.0, 4), (self.size, 4 * self.size))
        keep = self.param("keep", _log_times, (self.size,))
        # one bias in both gates, i and f: what is kept for long is written slowly
        none = jnp.zeros_like(keep)
        driven += jnp.concatenate([-keep, keep, none, none])[None, None]
        carry, h = recur(_lstm, recurrent, carry, driven.astype(self.dtype), episode_start)
        return carry, _swap(h)


def _lstm(carry: Carry, driven: Array, turned: Array) -> Carry:
    """Computes a step of an `LSTM`."""
    i, f, o, g = jnp.split(driven + turned, 4, -1)
    c = jax.nn.sigmoid(f) * carry[0] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return c, jax.nn.sigmoid(o) * jnp.tanh(c)


def _check_shapes(size: int, carry: Carry, x: Array, episode_start: Array) -> None:
    """Checks while tracing what would broadcast otherwise: carry, sequences and starts."""
    chex.assert_rank([x, episode_start], [3, 2])
    chex.assert_equal_shape_prefix([x, episode_start], 2)
    chex.assert_tree_shape_prefix(carry, (x.shape[0], size))


def _swap(x: Array) -> Array:
    """Returns an array with its first two axes, batch and time, changed for each other."""
    return x.swapaxes(0, 1)


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


def _log_times(key: Array, shape: tuple[int, ...]) -> Array:
    """Draws gate biases with which memory lasts for 1 to 100 steps, uniform in the logarithm.

    sigmoid(log T) = 1 - 1 / (T + 1): what is kept of h or c in a step.

    Reference: Tallec and Ollivier, arXiv:1804.11188, section 2.
    """
    return jax.random.uniform(key, shape, jnp.float32, maxval=math.log(100.0))


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
        inputs, x, starts = x, _swap(x), _swap(episode_start)[..., None]
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
        x = out(jnp.concatenate([_swap(h), inputs], -1))
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
