"""A function of JAX as one list of simple primitives, which other formats can express.

Calls are inlined, loops unrolled, constants computed; margins and pools are put in simpler words.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from purejaxppo.types import PyTree

INNER = {
    "jit": "jaxpr", "closed_call": "call_jaxpr", "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr",
}  # fmt: skip
"""Under which parameter a call holds what it calls."""

IDENTITIES = ("copy", "optimization_barrier", "stop_gradient")
POOLS = {"reduce_window_max": (lax.max, -np.inf), "reduce_window_sum": (lax.add, 0.0)}


def flatten(function: Callable[..., PyTree], *args: PyTree) -> ClosedJaxpr:
    """Turns a function into one list of simple primitives.

    Args:
        function: of pytrees of arrays.
        *args: their shapes and dtypes; sizes may be symbolic.

    Returns:
        The list, from leaves to leaves; nothing in it is known beforehand, or of no use.
    """
    # traced twice: the second time through `evaluate`, which looks into calls and loops
    nested = jax.make_jaxpr(function)(*args)
    flat = jax.make_jaxpr(lambda *leaves: evaluate(nested.jaxpr, nested.consts, *leaves))(
        *nested.in_avals
    )
    return flat.replace(jaxpr=flat.jaxpr.replace(eqns=_needed(flat.jaxpr)))


def evaluate(jaxpr: Jaxpr, consts: Sequence[Any], *args: Any) -> list[Any]:
    """Applies primitives one by one, and those of what they call.

    Args:
        jaxpr: the primitives.
        consts: values of its constants.
        *args: values of its inputs, which may be traced.

    Returns:
        Values of its outputs.
    """
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for eqn in _needed(jaxpr):
        outputs = _apply(eqn, list(map(read, eqn.invars)))
        values.update(zip(eqn.outvars, outputs, strict=True))
    return list(map(read, jaxpr.outvars))


def _needed(jaxpr: Jaxpr) -> list[JaxprEqn]:
    """Returns the equations that the outputs depend on."""
    live, kept = set(map(id, jaxpr.outvars)), []
    for eqn in reversed(jaxpr.eqns):
        if not live.isdisjoint(map(id, eqn.outvars)):
            kept.append(eqn)
            live.update(map(id, eqn.invars))
    return kept[::-1]


def _apply(eqn: JaxprEqn, inputs: list[Any]) -> Sequence[Any]:
    """Applies one primitive, or what stands for it in simpler ones."""
    name, params = eqn.primitive.name, eqn.params
    if name in INNER:
        inner = params[INNER[name]]
        return evaluate(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), *inputs)
    if name in IDENTITIES:
        return inputs
    if name == "scan":
        return _unroll(inputs, **params)
    # no margin is negative, and nothing goes between elements
    if name == "pad" and all(min(margin) >= 0 == margin[2] for margin in params["padding_config"]):
        x, fill = inputs
        return [_pad(x, fill, params["padding_config"])]
    if name in POOLS and {1} == {*params["base_dilation"], *params["window_dilation"]}:
        join, fill = POOLS[name]
        return [_pool(inputs[0], join, fill, params)]
    # what does not depend on the inputs is computed now, and becomes a constant
    if _is_known(eqn, inputs):
        with jax.ensure_compile_time_eval():
            outputs = eqn.primitive.bind(*inputs, **params)
    else:
        outputs = eqn.primitive.bind(*inputs, **params)
    return outputs if eqn.primitive.multiple_results else [outputs]


def _is_known(eqn: JaxprEqn, inputs: list[Any]) -> bool:
    """Says whether all is known, and the result is no larger than what it is made of."""
    avals: list[Any] = [var.aval for var in eqn.outvars]
    sizes = [size for aval in avals for size in aval.shape]
    if any(isinstance(x, Tracer) for x in inputs) or not all(isinstance(n, int) for n in sizes):
        return False
    return eqn.primitive.name != "broadcast_in_dim" or np.size(inputs[0]) == math.prod(sizes)


def _unroll(
    inputs: list[Any], *, jaxpr: ClosedJaxpr, length: int, reverse: bool, num_consts: int,
    num_carry: int, **_: Any,
) -> list[Any]:  # fmt: skip
    """Applies `lax.scan` step after step."""
    first = num_consts + num_carry
    consts, carry, xs = inputs[:num_consts], inputs[num_consts:first], inputs[first:]
    steps, order = [], slice(None, None, -1 if reverse else 1)
    for i in range(length)[order]:
        now = [lax.index_in_dim(x, i, keepdims=False) for x in xs]
        outputs = evaluate(jaxpr.jaxpr, jaxpr.consts, *consts, *carry, *now)
        carry = outputs[:num_carry]
        steps.append([lax.expand_dims(y, (0,)) for y in outputs[num_carry:]])
    return [*carry, *(lax.concatenate(ys, 0) for ys in zip(*steps[order], strict=True))]


def _pad(x: Any, fill: Any, margins: Any) -> Any:
    """Applies `lax.pad` by concatenation."""
    for axis, (low, high, _) in enumerate(margins):
        before, after = (
            [lax.full((*x.shape[:axis], size, *x.shape[axis + 1 :]), fill, x.dtype)] if size else []
            for size in (low, high)
        )
        x = lax.concatenate([*before, x, *after], axis)
    return x


def _pool(x: Any, join: Callable[[Any, Any], Any], fill: float, params: Any) -> Any:
    """Applies `lax.reduce_window` by joining slices, one for each place in the window."""
    x = _pad(x, fill, [(low, high, 0) for low, high in params["padding"]])
    sizes, strides = params["window_dimensions"], params["window_strides"]
    steps = [size - window + 1 for size, window in zip(x.shape, sizes, strict=True)]
    slices = (
        lax.slice(x, start, [i + n for i, n in zip(start, steps, strict=True)], strides)
        for start in itertools.product(*map(range, sizes))
    )
    return reduce(join, slices)
