"""Layers of the networks, in place of flax's where those are slow, or unsafe under vmap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from purejaxppo.assertions import chex
from purejaxppo.errors import ConfigError
from purejaxppo.types import PyTree


def orthogonal(scale: float) -> Callable[..., Array]:
    """Returns an initialiser: `scale` times orthonormal rows or columns, whichever are fewer.

    A Gaussian matrix made orthonormal row by row (Gram-Schmidt, each row cleaned twice) is
    Haar-distributed like the Q of a QR decomposition, and needs no LAPACK call: on a CPU those
    can deadlock when vmapped.

    Args:
        scale: the gain; 2**0.5 for hidden layers, 0.01 for the policy, 1 for the value.

    Returns:
        `(key, shape, dtype) -> array`; all axes of the shape but the last count as rows. The key is
        consumed.

    Reference: Mezzadri, arXiv:math-ph/0609050; gains from arXiv:2006.05990, appendix B.
    """

    def init(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
        # the fewer vectors are made orthonormal, whichever way the kernel lies
        rows, columns = int(np.prod(shape[:-1])), shape[-1]
        few, many = sorted((rows, columns))
        gaussian = jax.random.normal(key, (few, many), jnp.float32)

        def add_row(q: Array, i: Array) -> tuple[Array, None]:
            row = gaussian[i]
            for _ in range(2):
                row -= (q @ row) @ q  # rows that are not filled yet are zero
            return q.at[i].set(row / jnp.linalg.norm(row)), None

        q, _ = jax.lax.scan(add_row, jnp.zeros_like(gaussian), jnp.arange(few, dtype=jnp.int32))
        q = q if rows <= columns else q.T
        return (scale * q).reshape(shape).astype(dtype)

    return init


def narrow_dot(x: Array, kernel: Array, dimensions: tuple, **options: Any) -> Array:
    """Returns x @ kernel, with a kernel gradient that is fast for few outputs.

    As `nn.Dense(..., dot_general=narrow_dot)`. XLA's code for x.T @ dy with a narrow dy is many
    times slower on a CPU than that for dy.T @ x; the barrier keeps it from turning one into the
    other.

    Args:
        x: [..., F].
        kernel: [F, outputs].
        dimensions: not read: those of a dense layer.
        **options: as in `jax.lax.dot_general`.

    Returns:
        [..., outputs].
    """
    del dimensions
    kernel = jax.lax.optimization_barrier(kernel.T)
    return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (1,)), ((), ())), **options)


_NHWC = ("NHWC", "HWIO", "NHWC")


def convolve(
    x: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: str | Sequence[Sequence[int]],
    **options: Any,
) -> Array:
    """Returns a convolution, whose gradients are fast inside a loop.

    As `nn.Conv(..., conv_general_dilated=convolve)`. The gradients that JAX derives name their axes
    in another order, which XLA on a CPU corrects only outside of loops: within one, where
    training is, it falls back to code that is 7 to 20 times slower. Here the axes are put in order
    before.

    Args:
        x: [B, height, width, channels].
        kernel: [h, w, channels, features].
        strides: two numbers.
        padding: `SAME`, `VALID`, or (low, high) of both axes.
        **options: what else `nn.Conv` passes, which must be its default.

    Returns:
        [B, height, width, features].

    Raises:
        NotImplementedError: an option has another value.
    """
    chex.assert_rank([x, kernel], 4)
    # flax passes all of its options on: the gradients below are those of the default ones
    plain = {"lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "feature_group_count": 1}
    for name, value in options.items():
        if name != "dimension_numbers" and value != plain.get(name):
            raise NotImplementedError(f"{name}={value}: use nn.Conv as it is")
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    return _convolve(x, kernel, tuple(strides), tuple(map(tuple, padding)))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, strides: tuple, padding: tuple) -> Array:
    """Returns the convolution, whose derivative is defined below."""
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_NHWC)


def _forward(
    x: Array, kernel: Array, strides: tuple, padding: tuple
) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel, strides, padding), (x, kernel)


def _backward(strides: tuple, padding: tuple, residuals: tuple, dy: Array) -> tuple[Array, Array]:
    """Returns the gradients by x and kernel, as convolutions with their axes in order."""
    x, kernel = residuals
    once = (1, 1)
    # dK: images and features change places, x is convolved with dy spread out by the strides
    images, filters = x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3)
    d_kernel = jax.lax.conv_general_dilated(
        images, filters, once, padding, rhs_dilation=strides, dimension_numbers=_NHWC
    )
    h, w = kernel.shape[:2]
    d_kernel = d_kernel[:, :h, :w].transpose(1, 2, 0, 3)
    # dx: dy, spread out by the strides, with the kernel turned around
    sizes = zip((h, w), strides, padding, x.shape[1:3], dy.shape[1:3], strict=True)
    margins = []
    for size, stride, (low, _), width, steps in sizes:
        before = size - 1 - low
        margins.append((before, width + size - 1 - before - ((steps - 1) * stride + 1)))
    turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    dx = jax.lax.conv_general_dilated(
        dy, turned, once, margins, lhs_dilation=strides, dimension_numbers=_NHWC
    )
    return dx, d_kernel


_convolve.defvjp(_forward, _backward)


def outputs_of(returned: Any) -> tuple[PyTree, Array]:
    """Returns what a custom network has returned, if it is what it should be.

    Args:
        returned: by the network.

    Returns:
        The parameters of the distributions, and values.

    Raises:
        ConfigError: it is no pair.
    """
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise ConfigError("the network must return (parameters, value), and nothing else")
    return returned
