"""What numbers must be, for configurations and for hyperparameters alike.

Without jax, so that a configuration can be made before jax is imported.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from purejaxppo.errors import ConfigError, shown


class Bound(NamedTuple):
    """What a value must be.

    Attributes:
        holds: `(value) -> bool`; None is never asked about.
        words: what it must be, behind "must be".
    """

    holds: Callable[[Any], bool]
    words: str


POSITIVE = Bound(lambda v: v > 0, "greater than 0")
NOT_NEGATIVE = Bound(lambda v: v >= 0, "0 or greater")
FRACTION = Bound(lambda v: 0 <= v <= 1, "between 0 and 1")
DECAY = Bound(lambda v: 0 <= v < 1 - 2.0**-25, "0 or greater, and below 1 (in float32)")

MOST_SEEDS = 2**16
"""Seeds of a run at most: more fit on no device. What is read from a folder is compared with it."""

# what the compiled program computes with is float32: numbers closer to 0 count as 0 there
SMALLEST = 2.0**-126
LARGEST = (2 - 2.0**-23) * 2.0**127


def check_value(name: str, value: Any, bounds: Iterable[Bound], works: Any) -> None:
    """Checks a value.

    Args:
        name: what it is called in the message.
        value: the value.
        bounds: all that it must keep.
        works: a value that does.

    Raises:
        ConfigError: it breaks one.
    """
    for bound in bounds:
        if not bound.holds(value):
            raise ConfigError(f"{name}={shown(value)} must be {bound.words}: use {works}")


def check_float32(name: str, value: float, works: Any) -> None:
    """Checks that a number is still itself where float32 is computed with.

    Args:
        name: what it is called in the message.
        value: a number.
        works: one that could be used.

    Raises:
        ConfigError: it is not finite there, or would count as 0 though it is not.
    """
    if value in (math.inf, -math.inf) or value != value:
        raise ConfigError(f"{name}={value} must be finite: use {works}")
    if not -LARGEST <= value <= LARGEST:
        raise ConfigError(f"{name}={shown(value)} must be within +-3.4e38 (float32): use {works}")
    if value != 0 and abs(value) < SMALLEST:
        raise ConfigError(
            f"{name}={value} must not be closer to 0 than 1.2e-38 (float32): use {works}"
        )


def is_traced(value: Any) -> bool:
    """Says whether a value is known only where a compiled program runs, as inside `jax.vmap`."""
    jax = sys.modules.get("jax")  # without it there are none
    return jax is not None and isinstance(value, jax.core.Tracer)
