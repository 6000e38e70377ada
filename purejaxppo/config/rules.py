"""The rules that fields keep, and the words in which they say that one is broken.

A field of a configuration is declared by `option`, with its bound and when it has an effect beside
it. Each message names the value, the constraint and a value that would work.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import typing
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

from purejaxppo.bounds import NOT_NEGATIVE, Bound, check_value
from purejaxppo.config.coerce import coerce, is_text
from purejaxppo.errors import ConfigError, did_you_mean, shown
from purejaxppo.hyperparams import BOUNDS


class Effect(NamedTuple):
    """When a field that differs from its default changes anything.

    Attributes:
        applies: `(configuration) -> bool`.
        words: what makes it so, behind "use it with".
    """

    applies: Callable[[Any], bool]
    words: str


AT_LEAST_ONE = Bound(lambda v: v >= 1, "at least 1")
INDEX = (NOT_NEGATIVE, Bound(lambda v: v < 2**31, "below 2**31 (indices are int32)"))
COUNT = (AT_LEAST_ONE, INDEX[1])
STEPS = (AT_LEAST_ONE, Bound(lambda v: v < 2**62, "below 2**62"))
SEED = (NOT_NEGATIVE, Bound(lambda v: v < 2**32, "below 2**32 (a random key takes 32 bits)"))
WIDTHS = (
    Bound(lambda v: bool(v) and min(v) >= 1, "one or more positive widths"),
    Bound(lambda v: max(v) < 2**31, "widths below 2**31 (indices are int32)"),
)
OTHER_WIDTHS = (
    Bound(lambda v: min(v, default=1) >= 1, "positive widths, or none"),
    Bound(lambda v: max(v, default=1) < 2**31, "widths below 2**31 (indices are int32)"),
)
TEXT = Bound(is_text, "text that can be written to a file")

NAMES = Bound(
    lambda v: len({*v}) == len(v) and all(map(is_text, v)), "different names that are text"
)


def option(
    default: Any, *bounds: Bound, when: Sequence[Effect] = (), group: str | None = None
) -> Any:
    """Declares a field of a configuration.

    Args:
        default: its value unless it is given.
        *bounds: what a value must be, beside what is said of it in `hyperparams.BOUNDS`.
        when: what must hold for a value other than the default to have an effect.
        group: title that it and the fields after it stand under in a help; None: that of the field
            before it.

    Returns:
        A dataclass field.
    """
    metadata = {"bounds": bounds, "when": when, "group": group}
    return dataclasses.field(default=default, metadata=metadata)


@functools.cache
def types_of(kind: type) -> dict[str, Any]:
    """Returns the declared types of a dataclass's fields, by name."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def check_fields(config: Any, kind: type) -> None:
    """Brings the fields of a frozen dataclass to their declared types, and checks each by itself.

    Args:
        config: an instance of `kind`, changed in place.
        kind: whose fields.

    Raises:
        ConfigError: a value is of another type, none of the choices, or out of its bounds.
    """
    fields, types = dataclasses.fields(kind), types_of(kind)
    for field in fields:
        value = coerce(field.name, types[field.name], getattr(config, field.name), field.default)
        object.__setattr__(config, field.name, value)
    for field in fields:
        declared, value = types[field.name], getattr(config, field.name)
        if typing.get_origin(declared) is typing.Literal:
            check_choice(field.name, value, typing.get_args(declared))
    for field in fields:
        value, bounds = getattr(config, field.name), field.metadata.get("bounds", ())
        if value is not None:
            shared = [BOUNDS[field.name]] if field.name in BOUNDS else []
            check_value(field.name, value, [*bounds, *shared], field.default)


def as_count(name: str, value: Any, works: int) -> int:
    """Reads a count that is given by itself.

    Args:
        name: what it is called in messages.
        value: what was given, of any type.
        works: one that could be used.

    Returns:
        It, from 1 to what an int32 counts.

    Raises:
        ConfigError: it is of another type, or out of these bounds.
    """
    count = coerce(name, int, value, works)
    check_value(name, count, COUNT, works)
    return count


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Checks that a value is one of those that there are.

    Args:
        name: what it is called in the message.
        value: what was given, of any type.
        choices: what could have been given.

    Raises:
        ConfigError: it is none of them; the nearest are named.
    """
    if not isinstance(value, str) or value not in choices:
        text = value if isinstance(value, str) else ""
        raise ConfigError(f"{name}={shown(value)} is not a choice: {did_you_mean(text, choices)}")


def check_ascending(config: Any, *names: str) -> None:
    """Checks that fields are in order, each no larger than the next.

    Args:
        config: has an attribute for each of them.
        *names: of the fields, from the lowest.

    Raises:
        ConfigError: one is larger than the next.
    """
    for low, high in itertools.pairwise(names):
        a, b = getattr(config, low), getattr(config, high)
        if a > b:
            raise ConfigError(f"{low}={a} must be at most {high}={b}: use {low}={b}")


def check_effects(config: Any, kind: type) -> None:
    """Raises ConfigError for the first field that is set and has no effect."""
    for field, effect in without_effect(config, kind):
        value = getattr(config, field.name)
        if value != field.default:
            raise ConfigError(
                f"{field.name}={shown(value)} has no effect here: use it with {effect.words}, "
                f"or leave it at {field.default!r}"
            )


def without_effect(config: Any, kind: type) -> Iterator[tuple[dataclasses.Field[Any], Effect]]:
    """Yields the fields of a dataclass that change nothing, each with the effect that it lacks.

    Args:
        config: has an attribute for each field.
        kind: whose fields.
    """
    for field in dataclasses.fields(kind):
        for effect in field.metadata.get("when", ()):
            if not effect.applies(config):
                yield field, effect
