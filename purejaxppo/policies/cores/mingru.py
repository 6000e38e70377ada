"""minGRU: a stack of gated linear recurrences whose gates read the input alone."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from purejaxppo.policies.cores.linear import decaying_sum
from purejaxppo.policies.cores.sequences import From, check_shapes, log_times, swap
from purejaxppo.policies.layers import orthogonal


class MinGRU(nn.Module):
    """A stack of minimal gated recurrent units, each a highway beside its memory.

    Of x_t, in every layer:

        z_t = sigmoid(W_z x_t), h_t = (1 - z_t) h_{t-1} + z_t g(W_h x_t)
        y_t = s_t h_t + (1 - s_t) x_t, s_t = sigmoid(W_s x_t)

    where g(v) is v + 1/2 above 0 and sigmoid(v) below, and y_t is what the next layer reads. No
    gate reads h: all steps of a sequence are computed at once. Each layer has biases too, and one
    more in z_t with which memory begins to last for 1 to 100 steps, as that of a `GRU`.

    Reference: Feng et al., arXiv:2410.01201, section 3.1 and appendix B (g); highway as in
        Srivastava et al., arXiv:1505.00387, eq. 3, stacked so in PufferLib.

    Attributes:
        size: H, numbers in the memory of a layer.
        layers: of the stack.
        dtype: of matrix products.
    """

    size: int
    layers: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.nowrap
    def initial_carry(self, batch_shape: tuple[int, ...]) -> Array:
        """Returns the memory at an episode's start: zeros [*batch_shape, layers, H]."""
        return jnp.zeros((*batch_shape, self.layers, self.size), jnp.float32)

    @nn.compact
    def __call__(self, carry: Array, x: Array, episode_start: Array) -> tuple[Array, Array]:
        """Reads sequences.

        Args:
            carry: [B, layers, H], memory before the first step.
            x: [B, L, F].
            episode_start: [B, L] bool.

        Returns:
            The carry after the last step, and what comes out [B, L, H].
        """
        check_shapes((self.layers, self.size), carry, x, episode_start)
        x, starts = swap(x), swap(episode_start)[..., None]
        x = From(self.size, dtype=self.dtype, name="input")(x)
        after = []
        for i in range(self.layers):
            # all that depends on the layer's input alone: what to write, and both gates
            layer = From(
                3 * self.size, kernel_init=orthogonal(1.0, 3), dtype=self.dtype, name=f"layer_{i}"
            )
            value, write, through = jnp.split(layer(x), 3, -1)
            write -= self.param(f"keep_{i}", log_times, (self.size,))[None, None]
            value = jnp.where(value >= 0.0, value + 0.5, jax.nn.sigmoid(value))
            # h_t = a_t h_{t-1} + b_t, with nothing from before where an episode starts; the carry
            # enters as an input of the first step
            a = jnp.where(starts, 0.0, jax.nn.sigmoid(-write))
            b = jax.nn.sigmoid(write) * value
            b = b.at[0].add(jnp.where(starts[0], 0.0, a[0] * carry[:, i]))
            h = decaying_sum(a, b)
            after.append(h[-1])
            x += jax.nn.sigmoid(through) * (h - x)
        return jnp.stack(after, 1), swap(x)
