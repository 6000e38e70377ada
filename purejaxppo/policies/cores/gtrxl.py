"""Gated Transformer-XL: attention over a window of past steps, with relative positions.

Letters in shapes: W past steps in the window, L steps of a sequence, S = W + L of both, H size.
"""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from purejaxppo.assertions import chex
from purejaxppo.policies.cores.sequences import From, check_shapes
from purejaxppo.policies.layers import orthogonal


class GTrXL(nn.Module):
    """A gated Transformer-XL: each step reads itself and up to W steps before it in its episode.

    Of x, what a layer reads of all these steps, and E, its part of the steps that are computed:

        y = gate(E, relu(attention(norm(x)))), out = gate(y, relu(W_2 relu(W_1 norm(y))))

    where norm is a layer norm and gate a GRU across layers, which begins near the identity. The
    carry is what each layer has read of the last W steps, and how many of them are of this episode:
    their keys and values are computed anew, with the parameters in force. Gradients flow between
    the steps of a sequence; the carry that one begins with is data.

    Reference: Parisotto et al., arXiv:1910.06764, section 3.2 and eq. 4 to 6; relative positions
        of Dai et al., arXiv:1901.02860, section 3.3.

    Attributes:
        size: H, numbers in each layer's input; a multiple of `heads`.
        layers: of attention.
        heads: of each.
        window: W, past steps that a step sees.
        dtype: of matrix products, and what comes out of them; norms, softmax, gates and carry are
            float32.
    """

    large_carry: ClassVar[bool] = True  # see `Policy`

    size: int
    layers: int = 2
    heads: int = 4
    window: int = 64
    dtype: DTypeLike = jnp.float32

    @nn.nowrap
    def initial_carry(self, batch_shape: tuple[int, ...]) -> dict[str, Array]:
        """Returns the memory at an episode's start: an empty window."""
        shape = (*batch_shape, self.layers, self.window, self.size)
        return {"count": jnp.zeros(batch_shape, jnp.int32), "window": jnp.zeros(shape, jnp.float32)}

    @nn.compact
    def __call__(
        self, carry: dict[str, Array], x: Array, episode_start: Array
    ) -> tuple[dict[str, Array], Array]:
        """Reads sequences.

        Args:
            carry: `window` [B, layers, W, H], what each layer has read of the steps before the
                first, the latest last; and `count` [B] int32, how many of them are there.
            x: [B, L, F].
            episode_start: [B, L] bool.

        Returns:
            The carry after the last step, and what comes out [B, L, H].
        """
        check_shapes((), carry, x, episode_start)
        window = carry["window"]
        chex.assert_shape(window, (None, self.layers, self.window, self.size))
        before = _steps_before(carry["count"], episode_start)
        seen = _seen(before, self.window)
        x = From(self.size, dtype=self.dtype, name="input")(x)

        # each layer reads the window that it has and the steps of the sequence
        read = []
        for i in range(self.layers):
            read.append(jnp.concatenate([window[:, i], x], 1))
            x = GatedBlock(self.size, self.heads, self.dtype, name=f"layer_{i}")(read[-1], seen)

        # the last W steps, without those of other episodes
        count = jnp.minimum(before[:, -1] + 1, self.window)
        there = jnp.arange(self.window)[None] >= self.window - count[:, None]
        window = jnp.stack([steps[:, -self.window :] for steps in read], 1)
        window = jnp.where(there[:, None, :, None], window, 0.0)
        return {"count": count, "window": window}, x


class GatedBlock(nn.Module):
    """A layer of `GTrXL`: attention and two dense layers, each behind a norm and before a gate.

    Attributes:
        size: H.
        heads: a divisor of H.
        dtype: of matrix products.
    """

    size: int
    heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, steps: Array, seen: Array) -> Array:
        """Reads steps [B, S, H], seen by the last L of them [B, L, S] bool; gives [B, L, H]."""
        x = steps[:, -seen.shape[1] :]
        # a weight of 0 does not hide NaN: steps that are not finite are taken out, and spoil those
        # that see them alone
        finite = jnp.isfinite(steps).all(-1)
        spoilt = (seen & ~finite[:, None]).any(-1)
        normed = nn.LayerNorm(name="norm")(jnp.where(finite[..., None], steps, 0.0))
        y = Attention(self.size, self.heads, self.dtype, name="attention")(normed, seen)
        y = jnp.where(spoilt[..., None], jnp.nan, y)
        y = Gate(self.size, self.dtype, name="gate")(x, nn.relu(y))
        z = nn.LayerNorm(name="dense_norm")(y)
        z = nn.relu(From(4 * self.size, dtype=self.dtype, name="wide")(z))
        z = nn.relu(From(self.size, dtype=self.dtype, name="narrow")(z))
        return Gate(self.size, self.dtype, name="dense_gate")(y, z)


class Attention(nn.Module):
    """Attention of several heads, with relative positions.

    Of query q_i and key k_j, R_n what is learned of a sinusoid of distance n, and u and v biases:
    weights are the softmax over the j that i sees of ((q_i + u) k_j + (q_i + v) R_{i-j}) / sqrt(D).

    Reference: Dai et al., arXiv:1901.02860, section 3.3.

    Attributes:
        size: H.
        heads: a divisor of H; each has D = H / heads numbers.
        dtype: of matrix products.
    """

    size: int
    heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, seen: Array) -> Array:
        """Reads steps [B, S, H], seen by the last L of them [B, L, S] bool; gives [B, L, H]."""
        length, steps, depth = *seen.shape[1:], self.size // self.heads
        query, key, value, place = (
            self.param(name, orthogonal(1.0), (self.size, self.size)).reshape(
                self.size, self.heads, depth
            )
            for name in ("query", "key", "value", "place")
        )
        zeros = nn.initializers.zeros
        u = self.param("content_bias", zeros, (self.heads, depth), jnp.float32)[None, None]
        v = self.param("place_bias", zeros, (self.heads, depth), jnp.float32)[None, None]
        # few queries are turned into the space of what they read, rather than all of that into
        # theirs: the same products in another order
        few = length * (self.size + self.heads * steps) < steps * (self.size + length)

        q = self._product("blf,fhd->blhd", x[:, -length:], query)
        if few:
            turned = self._product("blhd,fhd->blhf", q + u, key)
            scores = self._product("blhf,bsf->bhls", turned, x)
        else:
            scores = self._product("blhd,bshd->bhls", q + u, self._product("bsf,fhd->bshd", x, key))
        places = self._product(
            "nf,fhd->nhd", jnp.asarray(_sinusoids(steps - length, self.size)), place
        )
        scores += _by_step(self._product("blhd,nhd->bhln", q + v, places))
        weights = nn.softmax(jnp.where(seen[:, None], scores * depth**-0.5, -jnp.inf))
        if few:
            mean = self._product("bhls,bsf->blhf", weights, x)
            y = self._product("blhf,fhd->blhd", mean, value)
        else:
            y = self._product("bhls,bshd->blhd", weights, self._product("bsf,fhd->bshd", x, value))
        y = y.reshape(*y.shape[:2], self.size)
        out = From(self.size, dtype=self.dtype, use_bias=False, name="out")
        return out(y).astype(jnp.float32)

    def _product(self, letters: str, x: Array, y: Array) -> Array:
        """Returns sums of products as float32, multiplied and rounded in the dtype."""
        x, y = x.astype(self.dtype), y.astype(self.dtype)
        return jnp.einsum(letters, x, y).astype(jnp.float32)


class Gate(nn.Module):
    """A GRU across layers: (1 - z) x + z h, of what went into a layer and what it made of it.

    r = sigmoid(W_r y + U_r x), z = sigmoid(W_z y + U_z x - b), h = tanh(W_h y + U_h (r x)); b is
    learned, and 2 at first, so that x passes through.

    Reference: Parisotto et al., arXiv:1910.06764, section 3.2 ("gated-recurrent-unit-type gating").

    Attributes:
        size: H.
        dtype: of matrix products.
    """

    size: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, y: Array) -> Array:
        """Reads [B, L, H], twice; gives [B, L, H]."""

        def of(name: str, blocks: int, x: Array) -> Array:
            layer = From(
                blocks * self.size, kernel_init=orthogonal(1.0, blocks), dtype=self.dtype,
                use_bias=False, name=name,
            )  # fmt: skip
            return layer(x).astype(jnp.float32)

        two = nn.initializers.constant(2.0)
        bias = self.param("bias", two, (self.size,), jnp.float32)[None, None]
        r_y, z_y, h_y = jnp.split(of("made", 3, y), 3, -1)
        r_x, z_x = jnp.split(of("given", 2, x), 2, -1)
        h = jnp.tanh(h_y + of("reset", 1, jax.nn.sigmoid(r_y + r_x) * x))
        return x + jax.nn.sigmoid(z_y + z_x - bias) * (h - x)


def _steps_before(count: Array, starts: Array) -> Array:
    """Counts the steps of its own episode before each step.

    Args:
        count: [B] int32, of those before the first.
        starts: [B, L] bool.

    Returns:
        [B, L] int32.
    """
    time = jnp.arange(starts.shape[1], dtype=jnp.int32)[None]
    # the last start up to each step, if there is one
    first = jnp.where(starts, time, -1)
    first = jax.lax.associative_scan(jnp.maximum, first, axis=1)
    return time - jnp.where(first < 0, -count[:, None], first)


def _seen(before: Array, window: int) -> Array:
    """Says which steps each step sees: itself, and those before it in its episode and the window.

    Args:
        before: [B, L] int32, steps of its episode before each step.
        window: W.

    Returns:
        [B, L, S] bool.
    """
    length = before.shape[1]
    # of distances from each step of the sequence back to each of the window and the sequence
    distance = jnp.arange(length)[:, None] + window - jnp.arange(window + length)[None]
    return (distance >= 0)[None] & (distance[None] <= jnp.minimum(before, window)[..., None])


def _sinusoids(window: int, size: int) -> np.ndarray:
    """Returns sines, then cosines, of the distances W, ..., 1, 0: [W + 1, H].

    Reference: Vaswani et al., arXiv:1706.03762, section 3.5, in the order of arXiv:1901.02860.
    """
    half = -(-size // 2)
    rates = 10_000.0 ** (-2.0 * np.arange(half) / size)
    angles = np.arange(window, -1, -1)[:, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], -1)[:, :size].astype(np.float32)


def _by_step(x: Array) -> Array:
    """Arranges what is known by distance as what is known by step; 0 where that is too far.

    Args:
        x: [B, heads, L, W + 1], of distances W, ..., 1, 0.

    Returns:
        [B, heads, L, S].
    """
    batch, heads, length, distances = x.shape
    steps = distances - 1 + length
    # a row that is one number longer than what it becomes moves by one step from each to the next
    x = jnp.pad(x, [(0, 0), (0, 0), (0, 0), (0, length)])
    x = x.reshape(batch, heads, length * (steps + 1))[..., : length * steps]
    return x.reshape(batch, heads, length, steps)
