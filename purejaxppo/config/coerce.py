"""Values of a configuration as their declared types."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from purejaxppo.errors import ConfigError

_LARGEST = sys.float_info.max


def coerce(name: str, declared: Any, value: Any) -> Any:
    """`value` as its declared type: 5e5 as int, 1 as float, a list as tuple, "none" as None."""
    declared = str(declared)
    if "None" in declared and (value is None or str(value) == "none"):
        return None
    kind = declared.removesuffix(" | None")
    if kind in ("int", "float"):
        return _number(name, kind, value)
    if kind == "tuple[int, ...]" and isinstance(value, Sequence):
        return tuple(_number(f"{name} entry", "int", v) for v in value)
    if kind == "tuple[str, ...]":
        return _options(name, value)
    if kind == "bool" and isinstance(value, bool):
        return value
    if isinstance(value, str) and kind not in ("bool", "tuple[int, ...]"):
        return value
    shown = "text" if kind.startswith("Literal") else kind
    raise ConfigError(f"{name}={value!r} must be of type {shown}")


def _options(name: str, value: Any) -> tuple[str, ...]:
    """`name=value` texts, from a mapping or from such texts."""
    if isinstance(value, Mapping):
        return tuple(f"{key}={_written(v)}" for key, v in value.items())
    if isinstance(value, Sequence) and all(isinstance(v, str) for v in value):
        texts = (value,) if isinstance(value, str) else tuple(value)
        parse_options(texts)
        return texts
    raise ConfigError(f"{name}={value!r} must be a mapping, such as {{'max_steps': 500}}")


def _written(value: Any) -> str:
    """As Python writes it; a text without quotes where it cannot be taken for anything else."""
    if isinstance(value, str):
        try:
            ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return repr(value)


def _number(name: str, kind: str, value: Any) -> int | float:
    item = getattr(value, "item", None)  # NumPy and jax scalars
    if item is not None and getattr(value, "ndim", 1) == 0:
        value = item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{name}={value!r} must be a number ({kind})")
    if not -_LARGEST <= value <= _LARGEST:  # NaN included
        raise ConfigError(f"{name}={value} must be finite")
    if kind == "int" and value != int(value):
        raise ConfigError(f"{name}={value} must be a whole number: use {round(value)}")
    return int(value) if kind == "int" else float(value)


def parse_options(texts: Iterable[str]) -> dict[str, Any]:
    """Options from `name=value` texts, values as Python writes them or else as text.

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
