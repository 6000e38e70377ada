"""Names that are varied, each with its values, as a cube: a number from 0 to 1 for each of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from purejaxppo.errors import ConfigError
from purejaxppo.hyperparams import BOUNDS
from purejaxppo.sweeps.trials import Setting

ENV_OPTIONS, ENV_PARAMS = "env_options.", "env_params."
"""What names begin with that are no fields of a configuration."""

MOST_GRID = 100_000
"""Settings of a grid at most."""


class Dimension(NamedTuple):
    """One name, and the values that it may have: all of a range, or one of some.

    Attributes:
        name: a field of `PPOConfig`, `env_options.NAME`, or `env_params.NAME`.
        low: end of the range; of choices that were a range, its end still.
        high: its other end, which belongs to it.
        log: equal ratios are equally probable, not equal differences.
        integer: whole numbers alone.
        choices: the values that there are, equally probable; () for all of the range.
    """

    name: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    integer: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def traced(self) -> bool:
        """Returns whether values may differ within one compiled program."""
        switched_off = None in self.choices
        return self.name.startswith(ENV_PARAMS) or (self.name in BOUNDS and not switched_off)

    @property
    def corners(self) -> tuple[Any, ...]:
        """Returns the values that stand for all: every choice, or both ends."""
        return self.choices or (self.low, self.high)

    def at(self, u: float) -> Any:
        """Returns the value at a place of the unit interval, uniform on the dimension's scale.

        Args:
            u: from 0 up to 1, which is not reached.
        """
        if self.choices:
            return self.choices[min(int(u * len(self.choices)), len(self.choices) - 1)]
        low, high = self.low, self.high + self.integer  # a whole number has the cell above it
        x = low * (high / low) ** u if self.log else low + u * (high - low)
        x = math.floor(x) if self.integer else x
        return min(max(x, self.low), self.high)  # rounding must not leave the range

    def unit(self, value: Any) -> float:
        """Returns the place in the unit interval that gives a value: the middle of its places.

        Args:
            value: one that the dimension may have.
        """
        if self.choices:
            return (self.choices.index(value) + 0.5) / len(self.choices)
        low, high = self.low, self.high + self.integer

        def place(x: float) -> float:
            return math.log(x / low, high / low) if self.log else (x - low) / (high - low)

        return (place(value) + place(value + 1)) / 2 if self.integer else place(value)

    def plain(self) -> str | list[Any]:
        """Returns what `read_space` reads the dimension from, in values that JSON and TOML hold."""
        span = ("log:" if self.log else "") + ("int:" if self.integer else "")
        span += f"{self.low!r}..{self.high!r}"
        if self.choices and self == spaced(self._replace(choices=()), len(self.choices)):
            return f"{span}:{len(self.choices)}"
        plain = ["none" if x is None else [*x] if isinstance(x, tuple) else x for x in self.choices]
        return plain or span


def spaced(span: Dimension, points: int) -> Dimension:
    """Returns a dimension of so many values, evenly spaced on its scale with both ends.

    Args:
        span: a range.
        points: how many, 2 or more.

    Returns:
        Choices; fewer where whole numbers fall together.
    """
    steps = [i / (points - 1) for i in range(points)]
    low, high = span.low, span.high
    values = [low * (high / low) ** t if span.log else low + t * (high - low) for t in steps]
    values = [low, *values[1:-1], high]  # not rounded
    values = [round(x) for x in values] if span.integer else values
    return span._replace(choices=tuple(dict.fromkeys(values)))


class Space(NamedTuple):
    """All that a sweep varies.

    Attributes:
        dimensions: one or more, of different names.
    """

    dimensions: tuple[Dimension, ...]

    @property
    def names(self) -> list[str]:
        """Returns the names, in the order in which they were given."""
        return [dimension.name for dimension in self.dimensions]

    def at(self, us: Sequence[float]) -> Setting:
        """Returns the setting at a point of the unit cube.

        Args:
            us: a number from 0 up to 1 for each dimension.
        """
        return {d.name: d.at(u) for d, u in zip(self.dimensions, us, strict=True)}

    def grid(self) -> list[Setting]:
        """Returns every combination of choices, the last dimension varying fastest.

        Raises:
            ConfigError: a dimension is a range without a number of values; or there are too many.
        """
        for dimension in self.dimensions:
            if not dimension.choices:
                span = dimension.plain()
                raise ConfigError(
                    f"{dimension.name}={span} is a range, and a grid needs values: use {span}:5 "
                    "for 5 of them, or sampler='random'"
                )
        count = math.prod(len(d.choices) for d in self.dimensions)
        if count > MOST_GRID:
            raise ConfigError(
                f"a grid of {count:,} settings is too large: vary fewer values, or use "
                "sampler='random' or 'sobol'"
            )
        rows = itertools.product(*(d.choices for d in self.dimensions))
        return [dict(zip(self.names, row, strict=True)) for row in rows]

    def plain(self) -> dict[str, str | list[Any]]:
        """Returns what `read_space` reads the space from, in values that JSON and TOML hold."""
        return {dimension.name: dimension.plain() for dimension in self.dimensions}
