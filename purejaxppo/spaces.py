"""Spaces: what observations and actions are like, alone or in dictionaries, tuples and records."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

MASKS = ("action_mask", "legal_action_mask")
"""Names under which an observation (or `info`) says which actions are allowed."""

PIXELS = 36
"""A uint8 grid of at least this height and width (the least for the Nature CNN) is an image."""


@dataclasses.dataclass(frozen=True)
class Discrete:
    """The integers 0 .. n - 1; outside of the program they are counted from `start`."""

    n: int
    start: int = dataclasses.field(default=0, repr=False)

    shape = ()
    dtype = np.dtype(np.int32)


@dataclasses.dataclass(frozen=True)
class MultiDiscrete:
    """One integer from each of several ranges 0 .. n - 1; outside, each is counted from `start`."""

    nvec: tuple[int, ...]
    start: int | tuple[int, ...] = dataclasses.field(default=0, repr=False)

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


def to_bounds(spaces: SpaceTree, action: Arrays) -> Arrays:
    """Returns the action as the environment takes it: within the bounds of each Box, in its dtype.

    Args:
        spaces: action spaces (`EnvSpec.action`).
        action: the same pytree of arrays, with any leading axes.
    """

    def bounded(space: Space, action: Array) -> Array:
        if isinstance(space, Box):
            real = jnp.issubdtype(space.dtype, np.floating)
            bounds = (space.low, space.high) if real else whole_bounds(space)
            low, high = (jnp.broadcast_to(b, action.shape) for b in bounds)
            action = jnp.clip(action if real else _whole(action, low.dtype), low, high)
        return action.astype(space.dtype) if isinstance(space, Box | MultiBinary) else action

    return jax.tree.map(bounded, spaces, action)


def from_zero(spaces: SpaceTree, outside: Arrays) -> Arrays:
    """Returns values as the program counts them: integers from 0, wherever they start outside.

    Args:
        spaces: of the values.
        outside: arrays as the environment gives them, with any leading axes.
    """
    return _moved(spaces, outside, operator.sub)


def from_start(spaces: SpaceTree, inside: Arrays) -> Arrays:
    """Returns values as the environment counts them: the inverse of `from_zero`.

    Args:
        spaces: of the values.
        inside: arrays of integers from 0, with any leading axes.
    """
    return _moved(spaces, inside, operator.add)


def _moved(spaces: SpaceTree, values: Arrays, how: Callable[[Any, Any], Any]) -> Arrays:
    """Returns values with the starts of their spaces added or subtracted."""

    def moved(space: Space, x: Any) -> Any:
        if not starts(space):
            return x
        start = np.asarray(space.start, np.int32)
        return how(x, start.reshape((1,) * (x.ndim - start.ndim) + start.shape))

    return jax.tree.map(moved, spaces, values)


def starts(space: Space) -> TypeGuard[Discrete | MultiDiscrete]:
    """Says whether the integers of a space are counted from another number than 0.

    Args:
        space: of any kind.
    """
    return isinstance(space, Discrete | MultiDiscrete) and bool(np.any(space.start))


def whole_bounds(space: Box) -> tuple[np.ndarray, np.ndarray]:
    """Returns the least and greatest whole numbers of a box, in its dtype; of bits, in uint8.

    Args:
        space: of whole numbers or bits.
    """
    dtype = np.dtype(np.uint8) if space.dtype == np.bool_ else space.dtype
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max

    def reached(bound: np.ndarray, whole: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        # 0.5 .. 2.5 are the whole numbers 1 and 2
        if np.issubdtype(bound.dtype, np.floating):
            bound = whole(bound.astype(np.float64))
        with np.errstate(invalid="ignore"):  # of what is beyond the dtype, and not taken
            inside = bound.astype(dtype)
        return np.where(bound >= most, most, np.where(bound <= least, least, inside)).astype(dtype)

    return reached(space.low, np.ceil), reached(space.high, np.floor)


def _whole(action: Array, dtype: np.dtype) -> Array:
    """Returns the whole numbers of a dtype that are nearest to an action."""
    if not jnp.issubdtype(action.dtype, jnp.floating):
        return action
    # float32 may not have the dtype's greatest number: what is cast must not be beyond it
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    top = np.float32(most)
    top = top if int(top) <= most else np.nextafter(top, np.float32(0))
    # a cast alone would cut the fraction off, and favour whole numbers towards 0
    action = jnp.round(action)
    inside = jnp.clip(action, np.float32(least), top).astype(dtype)
    return jnp.where(action > top, dtype.type(most), inside)


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


def by_choice(space: MultiDiscrete, x: Array, fill: float | bool) -> Array:
    """Returns values that stand side by side as rows, one for each of the K ranges.

    Args:
        space: of the choices.
        x: [..., sum of nvec]; or [..., K, widest], which is returned as it is.
        fill: what rows shorter than the widest are filled up with.

    Returns:
        [..., K, widest].
    """
    if x.shape[-1] != sum(space.nvec):
        return x
    # cut into the ranges, and each made as wide as the widest
    widest = max(space.nvec)
    lead = [(0, 0)] * (x.ndim - 1)
    parts = jnp.split(x, np.cumsum(space.nvec)[:-1].tolist(), -1)
    rows = [
        jnp.pad(part, [*lead, (0, widest - part.shape[-1])], constant_values=fill) for part in parts
    ]
    return jnp.stack(rows, -2)


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


def entries(obs: Arrays | SpaceTree) -> list[tuple[str, Any]]:
    """Returns the arrays of an observation, or their spaces, by name: those inside as `part/name`.

    Args:
        obs: an observation, or its space; a mask is left out.

    Returns:
        In the order of the pytree's leaves.
    """
    leaves = jax.tree_util.tree_leaves_with_path(without_mask(obs))
    return [(_name_of(path), leaf) for path, leaf in leaves]


def is_within(name: str, names: Collection[str]) -> bool:
    """Says whether an array of an observation is one of the entries with these names, or in one.

    Args:
        name: of the array.
        names: of entries; none stand for the whole observation.
    """
    return not names or any(f"{name}/".startswith(f"{entry}/") for entry in names)


def only(obs: Arrays | SpaceTree, names: Sequence[str]) -> Arrays | SpaceTree:
    """Returns an observation with some of its entries, and its mask; None in place of the others.

    Args:
        obs: an observation, or its space.
        names: of the entries; none stand for the whole observation.
    """
    if not names:
        return obs
    kept = (*names, *MASKS)
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x if is_within(_name_of(path), kept) else None, obs
    )


def part_at(tree: Any, path: Sequence[Any]) -> Any:
    """Returns what stands in a place of a tree, or None where there is nothing.

    Args:
        tree: dictionaries, records and sequences.
        path: to the place, as JAX's functions for paths give it: the keys of dictionaries, records
            and sequences are found in as many ways.
    """
    for key in path:
        name = key_of(key)
        named: dict[Any, Any] = fields(tree)
        if not named and isinstance(tree, tuple | list):
            named = dict(enumerate(tree))
        tree = named.get(name)
    return tree


def key_of(key: Any) -> Any:
    """Returns the key, name or index that an entry of a path of JAX holds.

    Args:
        key: an entry of such a path.
    """
    return next(getattr(key, a) for a in ("key", "name", "idx") if hasattr(key, a))


def _name_of(path: Sequence[Any]) -> str:
    """Returns the name of a place in an observation."""
    return "/".join(str(key_of(key)) for key in path)


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
