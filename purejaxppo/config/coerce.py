"""Brings the values of a configuration to their declared types."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from purejaxppo.errors import ConfigError

_LARGEST = sys.float_info.max


def coerce(name: str, declared: Any, value: Any) -> Any:
    """Brings a value to its declared type: 5e5 to int, 1 to float, a list to a tuple.

    Args:
        name: of the field, for messages.
        declared: its type: int, float, bool, str, a Literal, a tuple of int or str, or one of them
            or None.
        value: what was given; "none" stands for None.

    Returns:
        The value, of that type.

    Raises:
        ConfigError: it is of another type.
    """
    kinds = [kind for kind in get_args(declared) if kind is not NoneType]
    if len(kinds) < len(get_args(declared)):  # or None
        if value is None or str(value) == "none":
            return None
        (declared,) = kinds

    if declared in (int, float):
        return _number(name, declared, value)
    if declared is bool and isinstance(value, bool):
        return value
    if declared == tuple[int, ...] and isinstance(value, Sequence):
        return tuple(_number(f"{name} entry", int, v) for v in value)
    if declared == tuple[str, ...]:
        return _options(name, value)
    if (declared is str or get_origin(declared) is Literal) and isinstance(value, str):
        return value
    shown = "text" if get_origin(declared) is Literal else declared
    shown = shown.__name__ if isinstance(shown, type) and not get_args(shown) else shown
    raise ConfigError(f"{name}={value!r} must be of type {shown}")


def _options(name: str, value: Any) -> tuple[str, ...]:
    """Reads `name=value` texts, from a mapping or from such texts."""
    if isinstance(value, Mapping):
        return tuple(f"{key}={_written(v)}" for key, v in value.items())
    if isinstance(value, Sequence) and all(isinstance(v, str) for v in value):
        texts = (value,) if isinstance(value, str) else tuple(value)
        parse_options(texts)
        return texts
    raise ConfigError(f"{name}={value!r} must be a mapping, such as {{'max_steps': 500}}")


def _written(value: Any) -> str:
    """Writes a value as Python does; a text without quotes where nothing else reads like it."""
    if isinstance(value, str):
        try:
            ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return repr(value)


def _number(name: str, kind: type[int | float], value: Any) -> int | float:
    """Reads a finite number, whole for int."""
    item = getattr(value, "item", None)  # NumPy and jax scalars
    if item is not None and getattr(value, "ndim", 1) == 0:
        value = item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{name}={value!r} must be a number ({kind.__name__})")
    if not -_LARGEST <= value <= _LARGEST:  # NaN included
        raise ConfigError(f"{name}={value} must be finite")
    if kind is int and value != int(value):
        raise ConfigError(f"{name}={value} must be a whole number: use {round(value)}")
    return kind(value)


def parse_options(texts: Iterable[str]) -> dict[str, Any]:
    """Reads options from `name=value` texts, values as Python writes them or else as text.

    Args:
        texts: such as "max_steps=500".

    Returns:
        Values by name.

    Raises:
        ConfigError: a text without a name, or a name that is given twice.
    """
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name.isidentifier()):
            raise ConfigError(f"option {text!r} must be name=value, such as max_steps=500")
        if name in options:
            raise ConfigError(f"option {name!r} is given twice: keep one of {list(texts)}")
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options
