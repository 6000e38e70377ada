"""Spaces: what observations and actions are like, alone or in dictionaries, tuples and records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from purejaxppo.errors import ConfigError

MASKS = ("action_mask", "legal_action_mask")
"""Names under which an observation (or `info`) says which actions are allowed."""

PIXELS = 36
"""A uint8 grid of at least this height and width (the least for the Nature CNN) is an image."""


@dataclasses.dataclass(frozen=True)
class Discrete:
    """The integers 0 .. n - 1."""

    n: int

    shape = ()
    dtype = np.dtype(np.int32)


@dataclasses.dataclass(frozen=True)
class MultiDiscrete:
    """One integer from each of several ranges 0 .. n - 1."""

    nvec: tuple[int, ...]

    dtype = np.dtype(np.int32)

    @property
    def shape(self) -> tuple[int, ...]:
        """Holds (number of ranges,)."""
        return (len(self.nvec),)


@dataclasses.dataclass(frozen=True)
class MultiBinary:
    """An array of zeros and ones."""

    shape: tuple[int, ...]

    dtype = np.dtype(np.int8)


@dataclasses.dataclass(frozen=True, eq=False)
class Box:
    """Arrays between two bounds."""

    low: np.ndarray  # broadcast to `shape`
    high: np.ndarray
    shape: tuple[int, ...]
    dtype: np.dtype

    def __repr__(self) -> str:
        """Writes the space in one line, however large it is."""
        bounds = f"{self.low.min()} .. {self.high.max()}" if self.low.size else "nothing"
        return f"Box({self.dtype.name}{list(self.shape)}, {bounds})"

    @property
    def is_grid(self) -> bool:
        """Says whether it is [height, width, channels], at least 3 x 3."""
        return len(self.shape) == 3 and min(self.shape[:2]) >= 3

    @property
    def is_image(self) -> bool:
        """Says whether it is a grid of bytes, large enough to be pixels."""
        return self.is_grid and self.dtype == np.uint8 and min(self.shape[:2]) >= PIXELS


Space = Discrete | MultiDiscrete | MultiBinary | Box
"""A space of single arrays."""

SpaceTree: TypeAlias = Any
"""A `Space`, or dictionaries, tuples and records of them, structured as the values are."""

DeclaredSpace: TypeAlias = Any
"""What an environment declares: a space of ours, of gymnax, of gymnasium, or a tree of them."""

Arrays: TypeAlias = Any
"""A pytree of arrays that are in the spaces of a `SpaceTree`, one at each leaf."""


class EnvSpec(NamedTuple):
    """What one environment sees and does.

    Attributes:
        observation: a `Space` for each array of an observation, structured as observations are.
        action: a `Space` for each part of an action, structured as actions are.
    """

    observation: SpaceTree
    action: SpaceTree


# -- from the spaces that environments declare to ours ------------------------------------------


def space_of(space: DeclaredSpace, what: str) -> Space:
    """Returns our form of a single space.

    Args:
        space: of gymnax, gymnasium or their like, known by its attributes.
        what: it describes, for messages: "action", "observation" or a part of one.

    Raises:
        ConfigError: the space is of no kind that is known.
    """
    # gymnasium's Discrete(3, start=1) would reach networks and masks as indices that are one off
    if np.any(getattr(space, "start", 0)):
        raise ConfigError(f"{what} space {space!r} must start at 0: shift it in the environment")
    shape = tuple(getattr(space, "shape", ()) or ())
    if hasattr(space, "nvec"):
        if np.ndim(space.nvec) != 1:
            raise ConfigError(f"{what} space {space!r} must be a vector: flatten it")
        return MultiDiscrete(tuple(int(n) for n in space.nvec))
    # gymnasium's MultiBinary and Discrete both have n: only one of them has axes
    if isinstance(space, MultiBinary) or (hasattr(space, "n") and shape):
        return MultiBinary(shape)
    if hasattr(space, "n"):
        return Discrete(int(space.n))
    if hasattr(space, "low") and hasattr(space, "high"):
        low, high = (np.broadcast_to(np.asarray(b), shape) for b in (space.low, space.high))
        return Box(low, high, shape, np.dtype(space.dtype))
    raise ConfigError(
        f"{what} space {space!r} is not supported: use Discrete, MultiDiscrete, MultiBinary, Box, "
        "or a dictionary or tuple of them"
    )


def parts_of(space: DeclaredSpace) -> Mapping[str, DeclaredSpace] | tuple | list | None:
    """Returns the spaces inside a dictionary, tuple or record of spaces; None for a single one.

    Args:
        space: as declared: a container itself, or gymnax's or gymnasium's `Dict` or `Tuple`.
    """
    if type(space).__name__ != "OneOf":  # gymnasium's: one of its parts, not all of them
        space = getattr(space, "spaces", space)
    return space if isinstance(space, Mapping | tuple | list) else None


def action_spaces(space: DeclaredSpace, what: str = "action") -> SpaceTree:
    """Returns a pytree of our spaces, structured as the environment's: dictionaries and tuples.

    Args:
        space: of the actions, as declared.
        what: it describes, for messages.

    Raises:
        ConfigError: a space in it is of no kind that is known.
    """
    parts = parts_of(space)
    if parts is None:
        return space_of(space, what)
    if isinstance(parts, Mapping):
        return {name: action_spaces(s, f"{what} {name}") for name, s in parts.items()}
    inner = [action_spaces(s, f"{what} {i}") for i, s in enumerate(parts)]
    return type(parts)(*inner) if hasattr(parts, "_fields") else tuple(inner)


def observation_spaces(space: DeclaredSpace, obs: Arrays) -> SpaceTree:
    """Returns a pytree of our spaces, structured as the observations are.

    Observations may be records (named tuples, dataclasses) where the space is a dictionary.

    Args:
        space: as the environment declares it; its parts are found by their names.
        obs: an observation, or its shapes.

    Raises:
        ConfigError: something is observed that was not declared, or the other way round.
    """
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


# -- values of spaces -----------------------------------------------------------------------------


def one_hot(space: Discrete | MultiDiscrete, x: Array) -> Array:
    """Returns integers as vectors with ones at what they are, side by side.

    Args:
        space: of the integers.
        x: [...] for Discrete, [..., D] for MultiDiscrete.

    Returns:
        [..., number of choices] float32.
    """
    if isinstance(space, Discrete):
        return jax.nn.one_hot(x, space.n, dtype=jnp.float32)
    parts = [jax.nn.one_hot(x[..., i], n, dtype=jnp.float32) for i, n in enumerate(space.nvec)]
    return jnp.concatenate(parts, -1)


def check_actions(spaces: SpaceTree) -> None:
    """Checks that every Box of actions is bounded.

    Args:
        spaces: of the actions.

    Raises:
        ConfigError: one is not.
    """
    for space in jax.tree.leaves(spaces):
        if isinstance(space, Box) and not (np.isfinite(space.low) & np.isfinite(space.high)).all():
            raise ConfigError(
                f"action bounds {space.low.tolist()} .. {space.high.tolist()} must be finite: "
                "declare the bounds that the environment clips to, such as -1 .. 1"
            )


def to_bounds(spaces: SpaceTree, action: Arrays) -> Arrays:
    """Returns the action as the environment takes it: within the bounds of each Box, in its dtype.

    Args:
        spaces: action spaces (`EnvSpec.action`).
        action: the same pytree of arrays, with any leading axes.
    """

    def bounded(space: Space, action: Array) -> Array:
        if isinstance(space, Box):
            low, high = (jnp.broadcast_to(b, action.shape) for b in (space.low, space.high))
            action = jnp.clip(action, low, high)
            # a cast alone would cut the fraction off, and favour whole numbers towards 0
            whole = jnp.issubdtype(space.dtype, jnp.integer)
            action = jnp.round(action) if whole else action
        return action.astype(space.dtype) if isinstance(space, Box | MultiBinary) else action

    return jax.tree.map(bounded, spaces, action)


def zeros(spaces: SpaceTree, lead: tuple[int, ...] = ()) -> Arrays:
    """Returns zeros for each space of a pytree.

    Args:
        spaces: of what is made.
        lead: leading axes.
    """
    return jax.tree.map(lambda space: jnp.zeros((*lead, *space.shape), space.dtype), spaces)


def is_measured(space: Space) -> bool:
    """Says whether running statistics mean something: of numbers, not of names, bits or grids.

    Args:
        space: of one array of an observation.
    """
    return isinstance(space, Box) and not space.is_grid and space.dtype != np.bool_


# -- parts of observations, or of their spaces, by name -------------------------------------------


def mask_of(obs: Arrays | SpaceTree) -> Arrays | SpaceTree | None:
    """Returns what an observation holds under one of the names in MASKS, else None.

    Args:
        obs: an observation, or its space.
    """
    found = fields(obs)
    return next((found[name] for name in MASKS if name in found), None)


def without_mask(obs: Arrays | SpaceTree) -> Arrays | SpaceTree:
    """Returns an observation without what `mask_of` finds, as a dictionary if it had a mask.

    Args:
        obs: an observation, or its space.
    """
    found = fields(obs)
    if not found.keys() & set(MASKS):
        return obs
    return {name: part for name, part in found.items() if name not in MASKS}


def fields(tree: Any) -> dict[str, Any]:
    """Returns the named parts of a dictionary or record; none of anything else.

    Args:
        tree: of which a dataclass counts as a record unless it is one of our spaces; its static
            fields (`pytree_node=False`) are left out.
    """
    if isinstance(tree, Mapping):
        return dict(tree)
    if hasattr(tree, "_fields"):
        return tree._asdict()
    if dataclasses.is_dataclass(tree) and not isinstance(tree, Space):
        arrays = (f for f in dataclasses.fields(tree) if f.metadata.get("pytree_node", True))
        return {f.name: getattr(tree, f.name) for f in arrays}
    return {}
