"""Layers of the networks, in place of flax's where those are slow, or unsafe under vmap."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from purejaxppo.assertions import chex
from purejaxppo.errors import ConfigError
from purejaxppo.types import PyTree


class Kernel(NamedTuple):
    """An initial kernel that is asked for.

    Attributes:
        shape: all axes but the last count as rows.
        scale: of its orthonormal rows or columns, whichever are fewer.
        blocks: so many matrices side by side, each orthonormal by itself.
    """

    shape: tuple[int, ...]
    scale: float
    blocks: int

    @property
    def sides(self) -> tuple[int, int]:
        """Returns the rows and columns of a block."""
        return math.prod(self.shape[:-1]), self.shape[-1] // self.blocks


# what makes a kernel: at once, unless a network asks for all of its kernels together
_maker: ContextVar[Callable[[Kernel], Array] | None] = ContextVar("maker", default=None)


def orthogonal(scale: float, blocks: int = 1) -> Callable[..., Array]:
    """Returns an initialiser: `scale` times orthonormal rows or columns, whichever are fewer.

    They are Haar-distributed, as the Q of a QR decomposition is, and need no LAPACK call: on a CPU
    those can deadlock when vmapped.

    Args:
        scale: the gain; 2**0.5 for hidden layers, 0.01 for the policy, 1 for the value.
        blocks: so many matrices side by side, each of them orthonormal.

    Returns:
        `(key, shape, dtype) -> array`; all axes of the shape but the last count as rows. The key is
        consumed.

    Reference: gains from arXiv:2006.05990, appendix B.
    """

    def init(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
        kernel = Kernel(tuple(shape), scale, blocks)
        make = _maker.get()
        made = orthogonal_kernels(key, (kernel,))[0] if make is None else make(kernel)
        return made.astype(dtype)

    return init


def init_together(init: Callable[[Array], PyTree], key: Array) -> PyTree:
    """Initialises a network, with all of its orthogonal kernels made at once.

    A loop for every layer would be most of what there is to compile, and to launch.

    Args:
        init: `(key) -> parameters`, which calls each initialiser once.
        key: consumed.

    Returns:
        The parameters.
    """
    key, key_kernels = jax.random.split(key)
    asked: list[Kernel] = []

    def note(kernel: Kernel) -> Array:
        asked.append(kernel)
        return jnp.zeros(kernel.shape, jnp.float32)

    # first what is asked for, in shapes alone; then the same again, with the kernels. A function
    # that JAX has traced before would not be called
    _with_maker(note, lambda: jax.eval_shape(lambda key: init(key), key))
    made = iter(orthogonal_kernels(key_kernels, tuple(asked)))
    return _with_maker(lambda kernel: next(made), partial(init, key))


def _with_maker(make: Callable[[Kernel], Array], function: Callable[[], PyTree]) -> PyTree:
    """Calls a function in which kernels are made by another."""
    token = _maker.set(make)
    try:
        return function()
    finally:
        _maker.reset(token)


@partial(jax.jit, static_argnums=1)  # flax asks for the shape of every kernel at every call
def orthogonal_kernels(key: Array, asked: tuple[Kernel, ...]) -> list[Array]:
    """Makes orthogonal kernels, those of similar size in one loop.

    Args:
        key: consumed.
        asked: what is to be made.

    Returns:
        The kernels, float32.
    """
    # matrices with fewer rows than columns, in groups whose sides are similar
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    places = []
    for kernel in asked:
        few, many = sorted(kernel.sides)
        group = groups.setdefault((_rounded(few), _rounded(many)), [])
        places.append(((_rounded(few), _rounded(many)), len(group)))
        group += [(few, many)] * kernel.blocks

    # one draw for all: every other one would be a program of its own
    sizes = [(len(group), *map(max, zip(*group, strict=True))) for group in groups.values()]
    ends = np.cumsum([math.prod(size) for size in sizes]).tolist()
    gaussian = jnp.split(jax.random.normal(key, (ends[-1],), jnp.float32), ends[:-1])
    made = {
        name: _orthonormal(numbers.reshape(size), group)
        for (name, group), size, numbers in zip(groups.items(), sizes, gaussian, strict=True)
    }

    def cut(kernel: Kernel, name: tuple[int, int], first: int) -> Array:
        rows, columns = kernel.sides
        few, many = sorted(kernel.sides)
        blocks = kernel.scale * made[name][first : first + kernel.blocks, :few, :many]
        blocks = blocks if rows <= columns else blocks.swapaxes(1, 2)
        return blocks.swapaxes(0, 1).reshape(kernel.shape)

    return [cut(kernel, *place) for kernel, place in zip(asked, places, strict=True)]


SMALL_SIDE = 64
"""Of the matrices that are made orthonormal together: those with smaller sides are all similar."""


def _rounded(side: int) -> int:
    """Returns the least power of 2, from SMALL_SIDE on, that a side fits into."""
    return max(SMALL_SIDE, 1 << (side - 1).bit_length())


def _orthonormal(gaussian: Array, sides: Sequence[tuple[int, int]]) -> Array:
    """Makes the rows of Gaussian matrices orthonormal, as the orthogonal factor of each.

    A Gaussian matrix is distributed alike in every basis of its rows and of its columns, and so is
    its orthogonal polar factor, to which Newton-Schulz iterations converge: it is Haar-distributed.

    Args:
        gaussian: [K, few, many].
        sides: (rows, columns) of each; what is beyond them is zero, and stays zero.

    Returns:
        [K, few, many].

    Reference: Higham, "Functions of Matrices", SIAM 2008, section 8.3 (the iteration); Chikuse,
        "Statistics on Special Manifolds", Springer 2003, chapter 2 (its distribution).
    """
    few, many = (np.asarray(side, np.int32)[:, None, None] for side in zip(*sides, strict=True))
    row, column = (jax.lax.broadcasted_iota(jnp.int32, gaussian.shape, axis) for axis in (1, 2))
    real = (row < few) & (column < many)
    x = jnp.where(real, gaussian, 0.0)
    x *= jax.lax.rsqrt(jnp.square(x).sum((1, 2), keepdims=True))  # no singular value above 1

    def step(loop: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, _, count = loop
        with jax.default_matmul_precision("highest"):
            new = 1.5 * x - 0.5 * (x @ x.swapaxes(1, 2)) @ x
        return new, jnp.abs(new - x).max(), count + 1

    # the least singular value grows by 1.5 until it is near 1, and then doubles its digits
    start = (x, jnp.float32(1.0), jnp.int32(0))
    return jax.lax.while_loop(lambda loop: (loop[1] > 1e-6) & (loop[2] < 100), step, start)[0]


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


def bias_apart(*arrays: Any, dtype: DTypeLike | None = None, inexact: bool = True) -> list[Any]:
    """Brings what a layer multiplies to its dtype, and leaves its bias as it is.

    As `nn.Dense(..., promote_dtype=bias_apart)`, whose result is float32 then, and is rounded to
    the dtype by whoever reads it. The gradient of a bias is a sum over all rows: of bfloat16, most
    of it would be lost.

    Args:
        *arrays: what goes in, the kernel, and the bias.
        dtype: of the products.
        inexact: not read: the dtype is one of floats.

    Returns:
        The three of them.
    """
    del inexact
    x, kernel, bias = arrays
    return [x.astype(dtype), kernel.astype(dtype), bias]


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
