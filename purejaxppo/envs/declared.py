"""The spaces that environments declare, brought to ours, and refused where nothing is in them."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.envs.interface import is_number
from purejaxppo.errors import ConfigError
from purejaxppo.spaces import (
    Arrays,
    Box,
    DeclaredSpace,
    Discrete,
    MultiBinary,
    MultiDiscrete,
    Space,
    SpaceTree,
    fields,
    starts,
    whole_bounds,
)


def space_of(space: DeclaredSpace, what: str, shifted: bool = False) -> Space:
    """Returns our form of a single space.

    Args:
        space: of gymnax, gymnasium or their like, known by its attributes.
        what: it describes, for messages: "action", "observation" or a part of one.
        shifted: integers may start at another number than 0, as who steps the environment sees to.

    Raises:
        ConfigError: the space is of no kind that is known, or no value is in it.
    """
    # gymnasium's Discrete(3, start=1) would reach networks and masks as indices that are one off
    if not shifted and np.any(getattr(space, "start", 0)):
        raise ConfigError(f"{what} space {space!r} must start at 0: shift it in the environment")
    if hasattr(space, "nvec") and np.ndim(space.nvec) != 1:
        raise ConfigError(f"{what} space {space!r} must be a vector: flatten it")
    try:
        found = _single(space)
    except (TypeError, ValueError, OverflowError) as error:  # sizes and bounds that are no numbers
        raise ConfigError(f"{what} space {space!r} cannot be read: {error}") from error
    if found is None:
        raise ConfigError(
            f"{what} space {space!r} is not supported: use Discrete, MultiDiscrete, MultiBinary, "
            "Box, or a dictionary or tuple of them"
        )
    _check_values(found, what)
    return found


def _single(space: DeclaredSpace) -> Space | None:
    """Returns our form of a single space, of any size and bounds; None of another kind."""
    if parts_of(space) is not None:
        return None
    shape = tuple(operator.index(size) for size in getattr(space, "shape", ()) or ())
    if hasattr(space, "nvec"):
        start = getattr(space, "start", 0)
        start = tuple(int(n) for n in np.ravel(start)) if np.any(start) else 0
        return MultiDiscrete(tuple(int(n) for n in space.nvec), start)
    # gymnasium's MultiBinary and Discrete both have n: only one of them has axes
    if isinstance(space, MultiBinary) or (hasattr(space, "n") and shape):
        return MultiBinary(shape)
    if hasattr(space, "n"):
        return Discrete(int(space.n), int(getattr(space, "start", 0)))
    if not (hasattr(space, "low") and hasattr(space, "high")):
        return None

    # the dtype is the one that JAX has: float32 for float64
    dtype, low, high = np.dtype(space.dtype), np.asarray(space.low), np.asarray(space.high)
    if min(shape, default=0) >= 0:
        low, high = np.broadcast_to(low, shape), np.broadcast_to(high, shape)
    box = Box(low, high, shape, np.dtype(jax.dtypes.canonicalize_dtype(dtype)))
    if box.dtype == dtype or not is_number(box.dtype):
        return box
    # bounds of int64 would wrap around in int32; the largest float64 is as good as infinite
    if jnp.issubdtype(dtype, np.integer):
        return dataclasses.replace(
            box, **dict(zip(("low", "high"), whole_bounds(box), strict=True))
        )
    with np.errstate(over="ignore"):
        return dataclasses.replace(box, low=low.astype(box.dtype), high=high.astype(box.dtype))


def _check_values(space: Space, what: str) -> None:
    """Checks that a space has values.

    Raises:
        ConfigError: it has none: of size 0, of bounds that no number is within, or not of numbers.
    """
    sizes = [space.n] if isinstance(space, Discrete) else [*space.shape]
    sizes += getattr(space, "nvec", ())
    if min(sizes, default=1) < 1:
        raise ConfigError(
            f"{what} space {space} holds nothing: leave it out, or use sizes of at least 1"
        )
    if not isinstance(space, Box):
        if starts(space) and max(map(abs, np.ravel(space.start).tolist())) > 2**30:
            raise ConfigError(f"{what} space {space} starts beyond 2**30: shift it to 0")
        return
    if not is_number(space.dtype):
        raise ConfigError(f"{what} space {space} holds no numbers: use np.float32")
    low, high = space.low, space.high
    if (low <= high).all() and not jnp.issubdtype(space.dtype, np.floating):
        low, high = whole_bounds(space)
    # NaN is neither below nor above anything
    if not (low <= high).all():
        first = tuple(int(i) for i in np.argwhere(~(low <= high))[0])
        where = f" at {list(first)}" if first else ""
        raise ConfigError(
            f"{what} space {space} has no numbers between low={space.low[first]} and "
            f"high={space.high[first]}{where}: use low=-1 and high=1"
        )


def parts_of(space: DeclaredSpace) -> Mapping[str, DeclaredSpace] | tuple | list | None:
    """Returns the spaces inside a dictionary, tuple or record of spaces; None for a single one.

    Args:
        space: as declared: a container itself, or gymnax's or gymnasium's `Dict` or `Tuple`.
    """
    if type(space).__name__ != "OneOf":  # gymnasium's: one of its parts, not all of them
        space = getattr(space, "spaces", space)
    return space if isinstance(space, Mapping | tuple | list) else None


def spaces_of(space: DeclaredSpace, what: str = "action", shifted: bool = False) -> SpaceTree:
    """Returns a pytree of our spaces, structured as the declared ones: dictionaries and tuples.

    Args:
        space: as declared.
        what: it describes, for messages.
        shifted: integers may start at another number than 0.

    Raises:
        ConfigError: a space in it is of no kind that is known, or has no values.
    """
    parts = parts_of(space)
    if parts is None:
        return space_of(space, what, shifted)
    if isinstance(parts, Mapping):
        return {n: spaces_of(part, f"{what}[{n!r}]", shifted) for n, part in parts.items()}
    inner = [spaces_of(part, f"{what}[{i}]", shifted) for i, part in enumerate(parts)]
    return type(parts)(*inner) if hasattr(parts, "_fields") else tuple(inner)


def observation_spaces(space: DeclaredSpace, obs: Arrays) -> SpaceTree:
    """Returns a pytree of our spaces, structured as the observations are.

    Observations may be records (named tuples, dataclasses) where the space is a dictionary.

    Args:
        space: as the environment declares it; its parts are found by their names.
        obs: an observation, or its shapes.

    Raises:
        ConfigError: a declared space is of no kind that is known, or has no values; something is
            observed that was not declared, or the other way round.
    """
    spaces_of(space, "observation")  # raises where a part is none, by its name
    leaves, structure = jax.tree_util.tree_flatten_with_path(obs)
    spaces = [space_of(_space_at(space, path), _observed(path)) for path, _ in leaves]
    # each array has found its space; spaces that are left over have no array
    declared = _count(space)
    if declared != len(spaces):
        raise ConfigError(
            f"the observation has {len(spaces)} arrays, its space {space!r} declares {declared}: "
            "declare what is observed"
        )
    return structure.unflatten(spaces)


def _space_at(space: DeclaredSpace, path: tuple) -> DeclaredSpace:
    """Follows the path of an array within an observation through the declared spaces."""
    for i, key in enumerate(path):
        # JAX has a class of keys for each of dictionaries, records and sequences
        name = next(getattr(key, a) for a in ("key", "name", "idx") if hasattr(key, a))
        parts = parts_of(space) or ()
        named: dict[Any, DeclaredSpace] = fields(parts) or dict(enumerate(parts))
        if name not in named:
            raise ConfigError(
                f"{_observed(path[: i + 1])} is not in the space {space!r}: declare it"
            )
        space = named[name]
    return space


def _observed(path: tuple) -> str:
    return "observation" + jax.tree_util.keystr(path)


def _count(space: DeclaredSpace) -> int:
    """Counts the single spaces in a declared one."""
    parts = parts_of(space)
    return 1 if parts is None else sum(map(_count, fields(parts).values() or parts))


def check_actions(spaces: SpaceTree) -> None:
    """Checks that there are actions, and that every Box of them is bounded.

    Args:
        spaces: of the actions.

    Raises:
        ConfigError: there are none, or one is not bounded.
    """
    if not jax.tree.leaves(spaces):
        raise ConfigError(f"action space {spaces!r} holds nothing: use Discrete or Box")
    for space in jax.tree.leaves(spaces):
        if isinstance(space, Box) and not (np.isfinite(space.low) & np.isfinite(space.high)).all():
            raise ConfigError(
                f"action bounds {space.low.tolist()} .. {space.high.tolist()} must be finite: "
                "declare the bounds that the environment clips to, such as -1 .. 1"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Form:
    """What the values of one declared action space are made of.

    Attributes:
        dtype: as declared, where JAX may have a narrower one.
        bounds: as declared, of floats that JAX has narrower; else None.
    """

    dtype: np.dtype
    bounds: tuple[np.ndarray, np.ndarray] | None

    def __call__(self, action: Any) -> np.ndarray:
        """Returns actions in this dtype and within these bounds, as an array of their own."""
        action = np.asarray(action).astype(self.dtype)
        # a float32 bound may lie outside of the float64 one that it was rounded from
        return action if self.bounds is None else np.clip(action, *self.bounds)


def forms_of(space: DeclaredSpace, choices: np.typing.DTypeLike | None = None) -> Arrays:
    """Returns a pytree of forms, structured as actions are.

    Args:
        space: of the actions, as declared.
        choices: a dtype for what is chosen from ranges of integers; None: as declared.
    """
    parts = parts_of(space)
    if parts is None:
        ours = space_of(space, "action", shifted=True)
        chosen = isinstance(ours, Discrete | MultiDiscrete)
        declared = getattr(space, "dtype", ours.dtype)  # which who declares n alone leaves out
        dtype = np.dtype(choices if chosen and choices else declared)
        if not isinstance(ours, Box) or dtype == ours.dtype or dtype.kind != "f":
            return Form(dtype, None)
        return Form(dtype, (np.asarray(space.low), np.asarray(space.high)))
    if isinstance(parts, Mapping):
        return {name: forms_of(part, choices) for name, part in parts.items()}
    inner = [forms_of(part, choices) for part in parts]
    return type(parts)(*inner) if hasattr(parts, "_fields") else tuple(inner)
