"""How the values of one dimension are written: `log:1e-4..1e-2`, `8,16,32`, or a list."""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from purejaxppo.bounds import check_float32
from purejaxppo.config.coerce import coerce, parse_options
from purejaxppo.config.rules import check_fields
from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError, shown
from purejaxppo.sweeps.dimensions import ENV_OPTIONS, ENV_PARAMS, Dimension, spaced

DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(PPOConfig)}
"""Fields of a configuration, and the values that they have unless they are given."""

RANGE = re.compile(r"((?:log:|int:)*)(.*?)\.\.(.*?)(?::([^:]*))?")
"""Prefixes, both ends, and the number of values."""


def read_dimension(name: str, given: Any, kind: Any) -> Dimension:
    """Reads the values of one name, and checks each by itself.

    Args:
        name: a field of `PPOConfig`, `env_options.NAME` or `env_params.NAME`.
        given: a text, `LOW..HIGH` with log: or int: before it and perhaps :POINTS behind it, or
            `A,B,C`; or a list of choices.
        kind: the declared type of its values; object where they may be of any.

    Returns:
        The dimension.

    Raises:
        ConfigError: it cannot be read, is a single value, or has one that is out of its bounds.
    """
    plain = _without_none(kind)
    given = given.tolist() if hasattr(given, "tolist") else given  # of NumPy and jax
    dimension = _range(name, given, plain) if isinstance(given, str) else None
    if dimension is None:
        if isinstance(given, str):
            given = [_of_text(text.strip(), plain) for text in given.split(",")]
        elif not isinstance(given, Sequence) or isinstance(given, bytes | bytearray):
            raise ConfigError(f"{name}={shown(given)} must be several values: use {_works(plain)}")
        choices = [check_value(name, value, kind) for value in given]
        return Dimension(name, choices=_different(name, choices, plain))
    for value in dimension.corners:
        check_value(name, value, kind)
    return dimension


def check_value(name: str, value: Any, kind: Any) -> Any:
    """Returns a value of its declared type.

    Args:
        name: what it is a value of.
        value: what was given.
        kind: its type, see `read_dimension`.

    Raises:
        ConfigError: it is of another type, or out of its bounds.
    """
    if name.startswith(ENV_PARAMS):
        return coerce(name, kind, value, 1)
    if name.startswith(ENV_OPTIONS):
        inner = name.removeprefix(ENV_OPTIONS)
        return parse_options(coerce("env_options", tuple[str, ...], {inner: value}))[inner]
    fields = types.SimpleNamespace(**{**DEFAULTS, name: value})
    check_fields(fields, PPOConfig)
    return getattr(fields, name)


def _range(name: str, text: str, kind: Any) -> Dimension | None:
    """Reads a range; None: the text is none.

    Args:
        name: of the dimension.
        text: what was given.
        kind: type of its values, but for None.
    """
    text = text.strip()
    found, prefixed = RANGE.fullmatch(text), text.startswith(("log:", "int:"))
    prefixes, first, last, points = found.groups() if found else ("", "", "", None)
    low, high = _number(first), _number(last)
    if not prefixed and (found is None or (kind is object and None in (low, high))):
        return None  # choices, of which a text may have dots in it
    if kind not in (int, float, object):
        raise ConfigError(f"{name}={shown(text)} must be choices: use {_works(kind)}")
    if low is None or high is None:
        raise ConfigError(f"{name}={shown(text)} must have numbers as ends: use {_works(kind)}")
    for end in (low, high):
        check_float32(name, end, 1)

    # whole numbers are what has whole numbers for values, and what is written so
    log, integer = "log:" in prefixes, kind is int or "int:" in prefixes
    integer |= kind is object and isinstance(low, int) and isinstance(high, int)
    if integer and not (low == int(low) and high == int(high)):
        raise ConfigError(f"{name}={shown(text)} must have whole numbers as ends: use 8..64")
    low, high = (int(low), int(high)) if integer else (float(low), float(high))
    if low == high:
        raise ConfigError(f"{name}={shown(text)} is one value: set {name}={low}, unvaried")
    if low > high:
        raise ConfigError(f"{name}={shown(text)} must have the lower end first: use {high}..{low}")
    if log and low <= 0:
        works = "log:1..64" if integer else "log:1e-4..1e-2"
        raise ConfigError(f"{name}={shown(text)} must be above 0 on a log scale: use {works}")
    span = Dimension(name, low, high, log, integer)
    return span if points is None else _spaced(span, points)


def _spaced(span: Dimension, text: str) -> Dimension:
    """Returns as many values of a range as a text says.

    Raises:
        ConfigError: it is no such number.
    """
    points = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    found = spaced(span, points) if points >= 2 else span
    if not found.choices or len(found.choices) < points:
        few = f" (whole numbers are {len(found.choices)} there)" if found.choices else ""
        raise ConfigError(
            f"{span.name}={span.plain()}:{text} must end in a number of different values, from 2 "
            f"to 99999{few}: use {span.plain()}:{len(found.choices) or 2}"
        )
    return found


def _number(text: str) -> int | float | None:
    """Reads a number as Python writes it; None where there is none."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:  # of integers too long for Python too
            continue
    return None


def _of_text(text: str, kind: Any) -> Any:
    """Reads one choice of a text; what cannot be read is left for the check of its type."""
    if kind in (int, float):
        number = _number(text)
        return text if number is None else number
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind == tuple[int, ...]:
        widths = [_number(width) for width in text.split("x")]
        return text if None in widths else tuple(widths)
    return parse_options([f"x={text}"])["x"] if kind is object else text


def _works(kind: Any) -> str:
    """Returns values that could be used, for messages."""
    if get_origin(kind) is Literal:
        return ",".join(get_args(kind)[:2])
    known = {int: "8..64 or 8,16,32", float: "0.1..0.9 or 0.1,0.5", bool: "true,false"}
    return known.get(kind, "64x64,128x128" if kind == tuple[int, ...] else "8..64 or 8,16,32")


def _without_none(kind: Any) -> Any:
    """Returns the type of which values may also be None, or a type itself."""
    kinds = [k for k in get_args(kind) if k is not types.NoneType]
    return kinds[0] if len(kinds) < len(get_args(kind)) else kind


def _different(name: str, values: Sequence[Any], kind: Any) -> tuple[Any, ...]:
    """Returns choices as they are.

    Raises:
        ConfigError: there is one alone, or one that is given twice.
    """
    if not values:
        raise ConfigError(f"{name}=[] must be several values: use {_works(kind)}")
    if len(values) == 1:
        one = f"{name}={shown(values[0])}"
        raise ConfigError(f"{one} is one value: set it, unvaried, or use {_works(kind)}")
    for i, value in enumerate(values):
        if value in values[:i]:
            raise ConfigError(f"{name} has {shown(value)} twice: keep one of them")
    return tuple(values)
