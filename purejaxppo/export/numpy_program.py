"""A list of primitives of JAX as calls of NumPy, those that `numpy_policy` makes.

The primitives are those for one observation. The calls are for N of them: every result has a
leading axis more, [N], or [1] where it is the same for all. What moves elements is one call,
`take`: what JAX does to their places is found beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from string import ascii_letters
from typing import Any, NamedTuple, NoReturn, TypeAlias

import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, JaxprEqn, Var
from numpy.lib.stride_tricks import sliding_window_view

from purejaxppo.errors import ConfigError


class Fixed(NamedTuple):
    """An array that is known and is not one of N: it has no leading axis more."""

    x: np.ndarray


Operand: TypeAlias = str | np.ndarray
"""The name of a result, or an array that is known."""

Call: TypeAlias = Callable[..., str]
"""`(function, *operands, options=())`, writes a call down and returns the name of its result."""


class Program:
    """A list of calls of NumPy, one after the other, and the arrays that they begin with."""

    def __init__(self):
        self.calls: list[tuple[str, str, list[str], list[object]]] = []
        self.constants: dict[str, np.ndarray] = {}
        self._names: dict[Any, str] = {}

    def name(self, x: Operand | Fixed) -> str:
        """Returns the name of a result, or of an array; equal arrays are kept once.

        Args:
            x: the name of a result, or an array that is known.
        """
        if isinstance(x, str):
            return x
        x = x.x if isinstance(x, Fixed) else x[None]
        name = self._names.setdefault((x.dtype, x.shape, x.tobytes()), f"c{len(self._names)}")
        self.constants[name] = x
        return name

    def call(
        self, function: str, *operands: Operand | Fixed, options: Sequence[object] = ()
    ) -> str:
        """Writes a call down.

        Args:
            function: its name in `numpy_policy.CALLS`.
            *operands: names of results, or arrays that are known.
            options: plain values that follow the operands.

        Returns:
            The name of its result.
        """
        name = f"v{len(self.calls)}"
        self.calls.append((name, function, list(map(self.name, operands)), list(options)))
        return name


def as_numpy(flat: ClosedJaxpr, names: Sequence[str]) -> tuple[Program, list[str]]:
    """Turns a list of primitives into calls of NumPy.

    Args:
        flat: what `flatten` returns, for one observation, of known sizes.
        names: of its inputs.

    Returns:
        The calls, and the names of its outputs.

    Raises:
        ConfigError: there are no calls for one of the primitives.
    """
    program, jaxpr = Program(), flat.jaxpr
    constants = map(np.asarray, flat.consts)
    values: dict[Any, Operand] = dict(zip(jaxpr.constvars, constants, strict=True))
    # inputs come as whatever the user has: they are cast first
    for var, name in zip(jaxpr.invars, names, strict=True):
        dtype = _shaped(var).dtype
        values[var] = program.call("astype", name, options=[dtype.name])

    def read(atom: Any) -> Operand:
        return values[atom] if isinstance(atom, Var) else np.asarray(atom.val, atom.aval.dtype)

    for eqn in jaxpr.eqns:
        rule = RULES.get(eqn.primitive.name)
        if rule is None or _out(eqn).dtype.kind not in "biuf":  # bfloat16 is unknown to NumPy
            _refuse(eqn)
        outputs = rule(program.call, eqn, *map(read, eqn.invars))
        outputs = outputs if isinstance(outputs, list) else [outputs]
        values.update(zip(eqn.outvars, outputs, strict=True))
    return program, [program.name(read(atom)) for atom in jaxpr.outvars]


def _refuse(eqn: JaxprEqn) -> NoReturn:
    """Raises ConfigError: there is no call for an equation."""
    raise ConfigError(
        f"format='npz' cannot say {eqn.primitive.name} of {eqn.outvars[0].aval}, which this policy "
        "needs: use format='stablehlo'"
    )


EACH = "Z"
"""The letter of the leading axis in sums of products."""


# -- rules: `(call, equation, *operands)` to a result, or a list of them ------------------------


def _shaped(var: Any) -> ShapedArray:
    """Returns shape and dtype of a variable: nothing else is in a flat list of primitives."""
    aval = var.aval
    assert isinstance(aval, ShapedArray)
    return aval


def _in(eqn: JaxprEqn) -> ShapedArray:
    """Returns shape and dtype of what goes in first."""
    return _shaped(eqn.invars[0])


def _out(eqn: JaxprEqn) -> ShapedArray:
    """Returns shape and dtype of what comes out."""
    return _shaped(eqn.outvars[0])


def _shape(eqn: JaxprEqn) -> tuple[int, ...]:
    return _out(eqn).shape


def _dtype(eqn: JaxprEqn) -> str:
    return _out(eqn).dtype.name


def _axes(eqn: JaxprEqn) -> list[int]:
    return [axis + 1 for axis in eqn.params["axes"]]


def _param(name: str) -> Callable[[JaxprEqn], Any]:
    return lambda eqn: eqn.params[name]


def _as(function: str, *options: Callable[[JaxprEqn], Any]) -> Callable[..., str]:
    """Returns the rule that is one call, its options taken from the equation."""
    return lambda call, eqn, *xs: call(function, *xs, options=[option(eqn) for option in options])


def _divide(call: Call, eqn: JaxprEqn, x: Operand, y: Operand) -> str:
    if _out(eqn).dtype.kind != "f":  # of integers, JAX gives integers
        _refuse(eqn)
    return call("divide", *_aligned(call, eqn, (x, y)))


def _elementwise(function: str) -> Callable[..., str]:
    """Returns the rule that is one call of what broadcasts its operands."""
    return lambda call, eqn, *xs: call(function, *_aligned(call, eqn, xs))


def _aligned(call: Call, eqn: JaxprEqn, xs: Sequence[Operand]) -> list[Operand]:
    """Returns operands of equal rank: [N] numbers would be taken for the last axis of arrays."""
    ndim = _out(eqn).ndim
    return [
        x
        if _shaped(var).ndim == ndim or not isinstance(x, str)
        else call("reshape", x, options=[[1] * ndim])
        for x, var in zip(xs, eqn.invars, strict=True)
    ]


def _round(call: Call, eqn: JaxprEqn, x: Operand) -> str:
    if eqn.params["rounding_method"] != lax.RoundingMethod.TO_NEAREST_EVEN:
        _refuse(eqn)
    return call("rint", x)


def _select(call: Call, eqn: JaxprEqn, which: Operand, *cases: Any) -> str:
    if _in(eqn).dtype != bool:
        _refuse(eqn)
    condition, *values = _aligned(call, eqn, (which, *cases))
    return call("where", condition, *reversed(values))


def _logistic(call: Call, eqn: JaxprEqn, x: Operand) -> str:
    one = np.ones((), _out(eqn).dtype)
    return call("reciprocal", call("add", one, call("exp", call("negative", x))))


def _argmax(call: Call, eqn: JaxprEqn, x: Operand) -> str:
    place = call("argmax", x, options=[axis + 1 for axis in eqn.params["axes"]])
    return call("astype", place, options=[_dtype(eqn)])


def _broadcast(call: Call, eqn: JaxprEqn, x: Operand) -> str:
    shape = np.ones(_out(eqn).ndim, int)
    shape[list(eqn.params["broadcast_dimensions"])] = _in(eqn).shape
    x = call("reshape", x, options=[shape.tolist()])
    return call("broadcast_to", x, options=[_shape(eqn)])


def _stack(call: Call, eqn: JaxprEqn, *parts: Any) -> str:
    axis, shape = eqn.params["axis"], list(_shape(eqn))
    shape[axis] = 1
    parts = tuple(call("reshape", part, options=[shape]) for part in parts)
    return call("concatenate", *parts, options=[axis + 1])


def _dot(call: Call, eqn: JaxprEqn, x: Operand, y: Operand) -> str:
    (summed_x, summed_y), (batch_x, batch_y) = eqn.params["dimension_numbers"]
    # einsum: a letter for each axis of x, and for those of y that x does not share
    letters = iter(ascii_letters.replace(EACH, ""))
    avals = [_shaped(var) for var in eqn.invars]
    of_x, of_y = ([next(letters) for _ in aval.shape] for aval in avals)
    for i, j in zip((*summed_x, *batch_x), (*summed_y, *batch_y), strict=True):
        of_y[j] = of_x[i]
    batch = [of_x[i] for i in batch_x]
    # JAX puts batch axes first, then what is left of x and of y
    free = [a for a in of_x + of_y if (a in of_x) != (a in of_y)]
    x_letters, y_letters, letters = map("".join, (of_x, of_y, batch + free))
    # weights are the same for all: without a letter for each, BLAS multiplies by them
    both = isinstance(x, np.ndarray) and isinstance(y, np.ndarray)
    left, each_x = (Fixed(x), "") if isinstance(x, np.ndarray) and not both else (x, EACH)
    right, each_y = (Fixed(y), "") if isinstance(y, np.ndarray) else (y, EACH)
    letters = f"{each_x}{x_letters},{each_y}{y_letters}->{EACH}{letters}"
    return call("einsum", left, right, options=[letters])


def _convolution(call: Call, eqn: JaxprEqn, x: Operand, kernel: Operand) -> str:
    params = eqn.params
    groups = params["feature_group_count"], params["batch_group_count"]
    factors = (*params["lhs_dilation"], *params["rhs_dilation"], *groups)
    if any(factor != 1 for factor in factors) or isinstance(kernel, str):
        _refuse(eqn)
    # windows are found by moving the places of the elements, -1 in the margins
    lhs, rhs, out = params["dimension_numbers"]
    kernel, places = kernel.transpose(rhs), _places(_in(eqn)).transpose(lhs)
    places = np.pad(places, [(0, 0), (0, 0), *params["padding"]], constant_values=-1)
    places = sliding_window_view(places, kernel.shape[2:], tuple(range(2, places.ndim)))
    places = places[:, :, *(slice(None, None, stride) for stride in params["window_strides"])]
    # what is left is a sum of products over channels and places in the window
    steps, inside = "uvw"[: kernel.ndim - 2], "xyz"[: kernel.ndim - 2]
    order = np.array(["b", "o", *steps])[np.argsort(out)]
    letters = f"{EACH}bi{steps}{inside},oi{inside}->{EACH}{''.join(order)}"
    return call("einsum", call("take", x, Fixed(places)), Fixed(kernel), options=[letters])


def _rearrange(call: Call, eqn: JaxprEqn, x: Operand, *indices: Operand) -> list[str]:
    if any(isinstance(index, str) for index in indices):
        _refuse(eqn)
    moved = eqn.primitive.bind(_places(_in(eqn)), *indices, **eqn.params)
    moved = moved if eqn.primitive.multiple_results else [moved]
    return [call("take", x, Fixed(np.asarray(places))) for places in moved]


def _scatter_add(call: Call, eqn: JaxprEqn, x: Operand, indices: Operand, updates: Operand) -> str:
    if isinstance(indices, str) or not eqn.params["unique_indices"]:
        _refuse(eqn)
    nowhere, places = (
        np.full(_shape(eqn), -1, np.int32),
        _places(_shaped(eqn.invars[2])),
    )
    names = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")
    moved = lax.scatter(nowhere, indices, places, **{name: eqn.params[name] for name in names})
    return call("add", x, call("take", updates, Fixed(np.asarray(moved))))


def _places(aval: ShapedArray) -> np.ndarray:
    """Returns the place of each element of an array, counted through."""
    return np.arange(math.prod(aval.shape), dtype=np.int32).reshape(aval.shape)


RULES: dict[str, Callable[..., str | list[str]]] = {
    "argmax": _argmax,
    "broadcast_in_dim": _broadcast,
    "concatenate": _as("concatenate", lambda eqn: eqn.params["dimension"] + 1),
    "conv_general_dilated": _convolution,
    "convert_element_type": _as("astype", _dtype),
    "div": _divide,
    "dot_general": _dot,
    "integer_pow": _as("power", _param("y")),
    "logistic": _logistic,
    "reshape": _as("reshape", _shape),
    "round": _round,
    "rsqrt": lambda call, eqn, x: call("reciprocal", call("sqrt", x)),
    "scatter-add": _scatter_add,
    "select_n": _select,
    "squeeze": _as("reshape", _shape),
    "stack": _stack,
    "transpose": _as("transpose", lambda eqn: [0, *(i + 1 for i in eqn.params["permutation"])]),
}
RULES |= dict.fromkeys(("dynamic_slice", "gather", "rev", "slice", "split"), _rearrange)
REDUCTIONS = {
    "and": "logical_and", "max": "maximum", "min": "minimum", "or": "logical_or", "sum": "add",
}  # fmt: skip
RULES |= {
    f"reduce_{name}": _as("reduce", lambda _, function=function: function, _axes, _dtype)
    for name, function in REDUCTIONS.items()
}
UFUNCS = {
    "abs": "abs", "add": "add", "and": "bitwise_and", "cos": "cos", "eq": "equal", "exp": "exp",
    "expm1": "expm1", "floor": "floor", "ge": "greater_equal", "gt": "greater",
    "is_finite": "isfinite", "le": "less_equal", "log": "log", "log1p": "log1p", "lt": "less",
    "max": "maximum", "min": "minimum", "mul": "multiply", "ne": "not_equal", "neg": "negative",
    "not": "invert", "or": "bitwise_or", "pow": "power", "sign": "sign", "sin": "sin",
    "sqrt": "sqrt", "square": "square", "sub": "subtract", "tanh": "tanh",
}  # fmt: skip
RULES |= {name: _elementwise(function) for name, function in UFUNCS.items()}
