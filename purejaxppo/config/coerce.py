"""Reads what a configuration is made of, and brings values to their declared types."""

from __future__ import annotations

import ast
import math
import tomllib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from purejaxppo.bounds import check_float32, is_traced
from purejaxppo.errors import ConfigError, shown
from purejaxppo.hyperparams import BOUNDS

EXAMPLE = {"max_steps": 500}
"""Options of an environment, for messages."""

NAMED = ("env_options", "env_params")
"""What is written as texts `name=value`, where a name may be that of a part: part.name."""

EXAMPLES = {int: 1, float: 1.0, str: "name", tuple[int, ...]: (64, 64)}
"""Values of a type, for messages."""


def coerce(name: str, declared: Any, value: Any, works: Any = None) -> Any:
    """Brings a value to its declared type: 5e5 to int, 1 to float, a list to a tuple.

    Args:
        name: of the field, for messages.
        declared: its type: int, float, bool, str, a Literal, a tuple of int or str; or one of them
            or None, perhaps with a Literal of words that stand for a value.
        value: what was given, of Python, NumPy or jax; "none" stands for None where a text would
            not do.
        works: a value that could be used, for messages; None: any of that type.

    Returns:
        The value, of that type.

    Raises:
        ConfigError: it is of another type, or traced.
    """
    value = _plain(name, value)
    kinds = [kind for kind in get_args(declared) if kind is not NoneType]
    if len(kinds) < len(get_args(declared)):  # or None
        words = [word for kind in kinds[1:] for word in get_args(kind)]
        declared = kinds[0]
        if value is None or (declared is not str and isinstance(value, str) and value == "none"):
            return None
        if isinstance(value, str) and value in words:
            return value
    elif works in (None, ()):
        works = EXAMPLES.get(declared)

    # numbers, and what is written as name=value
    if declared in (int, float):
        return _number(name, declared, value, works)
    if name in NAMED:
        return _options(name, value)

    # anything else is of its type, or cannot be used
    if declared is bool and isinstance(value, bool):
        return value
    if (declared is str or get_origin(declared) is Literal) and isinstance(value, str):
        return str.__str__(value)  # NumPy's and enumerated texts as plain ones
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        entries = [_plain(name, entry) for entry in value]
        if declared == tuple[int, ...]:
            return tuple(_number(f"{name} entry", int, entry, works[0]) for entry in entries)
        if declared == tuple[str, ...] and all(isinstance(entry, str) for entry in entries):
            return tuple(str.__str__(entry) for entry in entries)
    if declared == tuple[str, ...]:
        works = (value if isinstance(value, str) else EXAMPLES[str],)
    kind = "text" if get_origin(declared) is Literal else declared
    kind = kind.__name__ if isinstance(kind, type) and not get_args(kind) else kind
    works = "True or False" if declared is bool else repr(works)
    raise ConfigError(f"{name}={shown(value)} must be of type {kind}: use {works}")


def _plain(name: str, value: Any) -> Any:
    """Turns scalars and short vectors of NumPy and jax into Python's, and leaves the rest.

    Raises:
        ConfigError: it is traced: known only where a compiled program runs.
    """
    if is_traced(value) and name in BOUNDS:
        raise ConfigError(
            f"{name} is traced (by jax.vmap, jax.jit or jax.grad), which a configuration cannot "
            "be: pass it to the compiled program, "
            f"make_train(config)(key, config.hyperparams().replace({name}=...))"
        )
    if is_traced(value):
        raise ConfigError(
            f"{name} is traced, but fixes the program: use a value from outside of jax.vmap and "
            "jax.jit"
        )
    small = getattr(value, "ndim", 2) <= 1 and getattr(value, "size", 0) <= 1000
    if small and hasattr(value, "dtype") and hasattr(value, "tolist"):
        return value.tolist()
    return value


def _number(name: str, kind: type[int | float], value: Any, works: Any) -> int | float:
    """Reads a finite number, whole for int."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        kinds = f"a number ({kind.__name__})"
        raise ConfigError(f"{name}={shown(value)} must be {kinds}: use {works}")
    if kind is float:
        check_float32(name, value, works)
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name}={value} must be finite: use {works}")
    if value != int(value):
        near = round(value) if value > 0.5 else works
        raise ConfigError(f"{name}={value} must be a whole number: use {near}")
    return int(value)


def _options(name: str, value: Any) -> tuple[str, ...]:
    """Reads what an environment is given, from a mapping or from `name=value` texts."""
    if isinstance(value, Mapping):
        texts = tuple(_written(name, key, v) for key, v in value.items())
    elif isinstance(value, str):
        texts = (str.__str__(value),)
    elif isinstance(value, Sequence) and all(isinstance(v, str) for v in value):
        texts = tuple(str.__str__(v) for v in value)
    else:
        raise ConfigError(f"{name}={shown(value)} must be a mapping: use {EXAMPLE}")
    parse_options(texts, name)
    return texts


def _written(name: str, key: Any, value: Any) -> str:
    """Writes an option; a text without quotes where nothing else reads like it.

    Raises:
        ConfigError: its name is none, or it is not read back as what it is, like NaN and objects.
    """
    if not (isinstance(key, str) and _is_name(name, key)):
        raise ConfigError(f"{name} key {shown(key)} must be a name: use {EXAMPLE}")
    value = _plain(f"{name} {key}", value)
    if isinstance(value, str) and _read(value) == value:
        return f"{str.__str__(key)}={str.__str__(value)}"
    try:
        text = repr(value)
        read = _read(text)
        if type(read) is type(value) and read == value:
            return f"{str.__str__(key)}={text}"
    except (ValueError, RecursionError):  # integers too long for Python, lists without an end
        pass
    raise ConfigError(
        f"{name} {key}={shown(value)} must be a value that Python writes and reads, such as a "
        f"number or a text: use {EXAMPLE}"
    )


def _is_name(name: str, key: str) -> bool:
    """Says whether a key names an option, or a parameter, perhaps one inside of a part."""
    words = key.split(".")
    return (
        all(map(str.isidentifier, words)) if name == "env_options" else bool(key) and "=" not in key
    )


def parse_options(texts: Iterable[str], name: str = "env_options") -> dict[str, Any]:
    """Reads options from `name=value` texts, values as Python writes them or else as text.

    Args:
        texts: such as "max_steps=500".
        name: what they are called in messages, a name in `NAMED`.

    Returns:
        Values by name.

    Raises:
        ConfigError: a text without a name, or a name that is given twice.
    """
    options: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (equals and _is_name(name, key)):
            raise ConfigError(
                f"{name} entry {shown(text)} must be name=value, such as max_steps=500"
            )
        if not is_text(text):
            raise ConfigError(f"{name} entry {shown(text)} must be text: use max_steps=500")
        if key in options:
            raise ConfigError(
                f"{name} entry {shown(key)} is given twice: keep one of "
                f"{shown([t for t in texts if t.startswith(key + '=')])}"
            )
        options[key] = _read(value)
    return options


def is_text(value: str) -> bool:
    """Says whether a text can be written to a file: bytes that are no text cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read(text: str) -> Any:
    """Reads a value as Python writes it; whatever else it is, is text."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of what looks like a mistake in a program
            return ast.literal_eval(text)
    # no literal; one that Python cannot make, such as {[]: 1}; or one nested too deeply
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def read_toml(path: str | Path) -> dict[str, Any]:
    """Reads a TOML file.

    Args:
        path: the file.

    Returns:
        Values by key, as TOML has them.

    Raises:
        ConfigError: it cannot be read, or is no TOML.
    """
    if not isinstance(path, str | Path):
        raise ConfigError(f"path={shown(path)} must be the name of a file: use 'config.toml'")
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    # no UTF-8; no TOML; integers too long or tables too deep for Python
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{str(path)!r} is no TOML file: {shown(str(error))}") from error


def check_said_once(options: Iterable[str], numbers: Iterable[str]) -> None:
    """Refuses a number of an environment that is an option of its making too.

    Args:
        options: names in env_options.
        numbers: names in env_params, which would take their places.

    Raises:
        ConfigError: a name is in both.
    """
    twice = sorted({*options} & {*numbers})
    if twice:
        raise ConfigError(
            f"{twice[0]} is in env_options and in env_params, which takes its place: keep one"
        )
