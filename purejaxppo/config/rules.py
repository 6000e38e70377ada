"""The rules that fields keep, and the words in which they say that one is broken.

A field of a configuration is declared by `option`, with its bound and when it has an effect beside
it. Each message names the value, the constraint and a value that would work.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from purejaxppo.config.coerce import coerce
from purejaxppo.errors import ConfigError, did_you_mean


class Bound(NamedTuple):
    """What a value must be.

    Attributes:
        holds: `(value) -> bool`; None is never asked about.
        words: what it must be, behind "must be".
        works: a value to offer where the field's default is None.
    """

    holds: Callable[[Any], bool]
    words: str
    works: Any = None


class Effect(NamedTuple):
    """When a field that differs from its default changes anything.

    Attributes:
        applies: `(configuration) -> bool`.
        words: what makes it so, behind "use it with".
    """

    applies: Callable[[Any], bool]
    words: str


AT_LEAST_ONE = Bound(lambda v: v >= 1, "at least 1", 1)
POSITIVE = Bound(lambda v: v > 0, "greater than 0")
NOT_NEGATIVE = Bound(lambda v: v >= 0, "0 or greater")
FRACTION = Bound(lambda v: 0 <= v <= 1, "between 0 and 1")
WIDTHS = Bound(lambda v: bool(v) and min(v) >= 1, "one or more positive widths")


def option(default: Any, bound: Bound | None = None, when: Sequence[Effect] = ()) -> Any:
    """Declares a field of a configuration.

    Args:
        default: its value unless it is given.
        bound: what a value must be.
        when: what must hold for a value other than the default to have an effect.

    Returns:
        A dataclass field.
    """
    return dataclasses.field(default=default, metadata={"bound": bound, "when": when})


@functools.cache
def types_of(kind: type) -> dict[str, Any]:
    """Returns the declared types of a dataclass's fields, by name."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def coerce_fields(config: Any, kind: type) -> None:
    """Brings the fields of a frozen dataclass to their declared types.

    Args:
        config: an instance of `kind`, changed in place.
        kind: whose fields.

    Raises:
        ConfigError: a value is of another type.
    """
    for name, declared in types_of(kind).items():
        object.__setattr__(config, name, coerce(name, declared, getattr(config, name)))


def check_choices(config: Any, kind: type) -> None:
    """Raises ConfigError for the first field whose value is none of those it can take."""
    for name, declared in types_of(kind).items():
        value, choices = getattr(config, name), typing.get_args(declared)
        if typing.get_origin(declared) is typing.Literal and value not in choices:
            raise ConfigError(
                f"{name}={value!r} is not a choice: {did_you_mean(str(value), choices)}"
            )


def check_bounds(config: Any, kind: type) -> None:
    """Raises ConfigError for the first field whose value is out of its bound."""
    for field in dataclasses.fields(kind):
        value, bound = getattr(config, field.name), field.metadata.get("bound")
        if bound is not None and value is not None and not bound.holds(value):
            works = bound.works if field.default is None else field.default
            raise ConfigError(f"{field.name}={value} must be {bound.words}: use {works}")


def check_effects(config: Any, kind: type) -> None:
    """Raises ConfigError for the first field that is set and has no effect."""
    for field in dataclasses.fields(kind):
        value = getattr(config, field.name)
        if value == field.default:
            continue
        for effect in field.metadata.get("when", ()):
            if not effect.applies(config):
                raise ConfigError(
                    f"{field.name}={value!r} has no effect here: use it with {effect.words}, or "
                    f"leave it at {field.default!r}"
                )
