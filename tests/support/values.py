"""Values that nobody expects: for whatever takes a value from a user."""

import array
import datetime
import decimal
import enum
import fractions
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as from_numpy

from purejaxppo.errors import shown


class Word(enum.StrEnum):
    CLIP = "clip"


class Broken:
    """What cannot even be written."""

    def __repr__(self):
        raise RuntimeError("no text")


EDGES = [
    *(sign * value for sign in (1, -1) for value in (
        0, 1, 2, 3, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63, 10**17 + 1, 3 * 10**12, 10**400,
        10**5000, 0.0, 1e-50, 1e-40, 2.0**-126, 0.5, 1.5, 3.4e38, 3.5e38, 1e39, 1e308,
        float("inf"),
    )),
    float("nan"),
]  # fmt: skip
"""Numbers at the ends of what is counted and computed with."""

OBJECTS = [
    None, True, False, object(), object, print, Ellipsis, NotImplemented, Word.CLIP, Broken(),
    range(3), b"", b"8", bytearray(b"8"), memoryview(b"8"), array.array("i", [8]), 1j,
    decimal.Decimal("0.5"), fractions.Fraction(1, 2), datetime.date(2000, 1, 1),
    datetime.timedelta(1), pathlib.Path("x"), set(), frozenset({64}), {64: 64}, {"a": 1}, [], (),
    [64, 64], (64,), [[64]], ["a=1"], "a=1", "none", "None", "clip", "8", "0.5", "\udc80", "", " ",
    np.bool_(True), np.str_("clip"), np.int8(4), np.uint64(2**63), np.float16(0.5),
    np.float64("nan"), np.longdouble(0.5), np.complex64(1), np.datetime64("2000-01-01"),
    np.array(4), np.array([64, 64]), np.array([]), np.ones((2, 2)), np.ones(2000), np.array("a"),
    np.array(["a=1"]), np.array([None, 1], object), np.array(object()), np.ma.masked,
    np.ma.array([1, 2], mask=[True, False]), np.zeros(2, [("x", int)]), np.array([0.5, np.nan]),
    jnp.int32(4), jnp.float32(0.5), jnp.bfloat16(0.5), jnp.array([64, 64]), jnp.bool_(True),
    jnp.array([0.5, jnp.inf]), jax.random.key(0), jax.ShapeDtypeStruct((), jnp.float32),
    np.dtype(int),
]  # fmt: skip
"""Objects of Python, NumPy and jax, most of which mean nothing."""


class Hidden:
    """A value that Hypothesis need not write: it may have no text."""

    def __init__(self, value):
        self.value = value

    def __repr__(self):
        return shown(self.value)


def hidden(strategy):
    """Strategy: the same values, each behind `value`."""
    return strategy.map(Hidden)


def one_of(items):
    """Strategy: one of some values, which need not have a text."""
    return st.integers(0, len(items) - 1).map(lambda i: items[i])


def values():
    """Strategy: whatever a user could pass for a value, right or wrong."""
    scalars = st.one_of(
        one_of(EDGES),
        one_of(OBJECTS),
        st.integers(),
        st.floats(),
        st.booleans(),
        st.text(max_size=8),
        st.text(st.characters(categories=["Cs", "Cc", "Nd", "Zs"]), max_size=4),
        st.binary(max_size=4),
        st.complex_numbers(),
        st.dates(),
        from_numpy.from_dtype(np.dtype("f4")),
        from_numpy.arrays(
            st.sampled_from(["i4", "f4", "f8", "?", "U2", "u1", "c8", "O"]),
            from_numpy.array_shapes(min_dims=0, max_dims=2, max_side=3),
        ),
    )

    def nested(inner):
        keys = st.one_of(st.text(max_size=3), st.integers(), st.sampled_from(["a", "max_steps"]))
        lists = st.lists(inner, max_size=3)
        return st.one_of(lists, lists.map(tuple), st.dictionaries(keys, inner, max_size=2))

    return st.recursive(scalars, nested, max_leaves=5)
