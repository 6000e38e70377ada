"""Spaces: what observations and actions are like, alone or in dictionaries, tuples and records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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
        """(number of ranges,)."""
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
        """In one line, however large."""
        bounds = f"{self.low.min()} .. {self.high.max()}" if self.low.size else "nothing"
        return f"Box({self.dtype.name}{list(self.shape)}, {bounds})"

    @property
    def is_grid(self) -> bool:
        """[height, width, channels], at least 3 x 3."""
        return len(self.shape) == 3 and min(self.shape[:2]) >= 3

    @property
    def is_image(self) -> bool:
        """A grid of bytes, large enough to be pixels."""
        return self.is_grid and self.dtype == np.uint8 and min(self.shape[:2]) >= PIXELS


Space = Discrete | MultiDiscrete | MultiBinary | Box


def one_hot(space: Discrete | MultiDiscrete, x: Any) -> Any:
    """Integers [...] or [..., D] in float32, ones at what they are: [..., number of choices]."""
    if isinstance(space, Discrete):
        return jax.nn.one_hot(x, space.n)
    parts = [jax.nn.one_hot(x[..., i], n) for i, n in enumerate(space.nvec)]
    return jnp.concatenate(parts, -1)


class EnvSpec(NamedTuple):
    """What one environment sees and does: pytrees with a `Space` at each leaf."""

    observation: Any
    action: Any


def space_of(space: Any, what: str) -> Space:
    """Our form of a space of gymnax, gymnasium or their like.

    Raises:
        ConfigError: the space is of no kind that is known.
    """
    if np.any(getattr(space, "start", 0)):
        raise ConfigError(f"{what} space {space!r} must start at 0: shift it in the environment")
    shape = tuple(getattr(space, "shape", ()) or ())
    if hasattr(space, "nvec"):
        if np.ndim(space.nvec) != 1:
            raise ConfigError(f"{what} space {space!r} must be a vector: flatten it")
        return MultiDiscrete(tuple(int(n) for n in space.nvec))
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


def parts_of(space: Any) -> Any | None:
    """The spaces inside a dictionary, tuple or record of spaces; None for a single one."""
    if type(space).__name__ != "OneOf":  # gymnasium's: one of its parts, not all of them
        space = getattr(space, "spaces", space)
    return space if isinstance(space, Mapping | tuple | list) else None


def action_spaces(space: Any, what: str = "action") -> Any:
    """A pytree of our spaces, structured as the environment's own: dictionaries and tuples."""
    parts = parts_of(space)
    if parts is None:
        return space_of(space, what)
    if isinstance(parts, Mapping):
        return {name: action_spaces(s, f"{what} {name}") for name, s in parts.items()}
    inner = [action_spaces(s, f"{what} {i}") for i, s in enumerate(parts)]
    return type(parts)(*inner) if hasattr(parts, "_fields") else tuple(inner)


def observation_spaces(space: Any, obs: Any) -> Any:
    """A pytree of our spaces, structured as the observations are: dictionaries, tuples, records.

    Args:
        space: as the environment declares it; its parts are found by their names.
        obs: an observation, or its shapes.

    Raises:
        ConfigError: something is observed that was not declared, or the other way round.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(obs)
    spaces = [space_of(_at(space, path), _named("observation", path)) for path, _ in leaves]
    declared = _count(space)
    if declared != len(spaces):
        raise ConfigError(
            f"the observation has {len(spaces)} arrays, its space {space!r} declares {declared}: "
            "declare what is observed"
        )
    return structure.unflatten(spaces)


def check_actions(spaces: Any) -> None:
    """Raises ConfigError if a Box of actions is unbounded."""
    for space in jax.tree.leaves(spaces):
        if isinstance(space, Box) and not (np.isfinite(space.low) & np.isfinite(space.high)).all():
            raise ConfigError(
                f"action bounds {space.low.tolist()} .. {space.high.tolist()} must be finite: "
                "declare the bounds that the environment clips to, such as -1 .. 1"
            )


def to_bounds(spaces: Any, action: Any) -> Any:
    """The action as the environment takes it: within the bounds of each Box, in its dtype.

    Args:
        spaces: action spaces, a pytree (`EnvSpec.action`).
        action: the same pytree of arrays, with any leading axes.
    """

    def bounded(space, action):
        if isinstance(space, Box):
            low, high = (jnp.broadcast_to(b, action.shape) for b in (space.low, space.high))
            action = jnp.clip(action, low, high)
            whole = jnp.issubdtype(space.dtype, jnp.integer)
            action = jnp.round(action) if whole else action
        return action.astype(space.dtype) if isinstance(space, Box | MultiBinary) else action

    return jax.tree.map(bounded, spaces, action)


def zeros(spaces: Any, lead: tuple[int, ...] = ()) -> Any:
    """Zeros for each space of a pytree, with these leading axes."""
    return jax.tree.map(lambda space: jnp.zeros((*lead, *space.shape), space.dtype), spaces)


def mask_of(obs: Any) -> Any | None:
    """What an observation (or its space) holds under one of the names in MASKS, else None."""
    found = fields(obs)
    return next((found[name] for name in MASKS if name in found), None)


def without_mask(obs: Any) -> Any:
    """The observation (or its space) without what `mask_of` finds, as a dictionary if it had it."""
    found = fields(obs)
    if not found.keys() & set(MASKS):
        return obs
    return {name: part for name, part in found.items() if name not in MASKS}


def fields(tree: Any) -> dict[str, Any]:
    """The named parts of a dictionary or record; none of anything else."""
    if isinstance(tree, Mapping):
        return dict(tree)
    if hasattr(tree, "_fields"):
        return tree._asdict()
    if dataclasses.is_dataclass(tree) and not isinstance(tree, Space):
        arrays = (f for f in dataclasses.fields(tree) if f.metadata.get("pytree_node", True))
        return {f.name: getattr(tree, f.name) for f in arrays}
    return {}


def is_measured(space: Space) -> bool:
    """Whether running statistics of it mean something: of numbers, not of names, bits or grids."""
    return isinstance(space, Box) and not space.is_grid and space.dtype != np.bool_


def _at(space: Any, path: tuple) -> Any:
    for i, key in enumerate(path):
        name = next(getattr(key, a) for a in ("key", "name", "idx") if hasattr(key, a))
        parts = parts_of(space) or ()
        named: dict[Any, Any] = fields(parts) or dict(enumerate(parts))
        if name not in named:
            raise ConfigError(
                f"{_named('observation', path[: i + 1])} is not in the space {space!r}: declare it"
            )
        space = named[name]
    return space


def _named(what: str, path: tuple) -> str:
    return what + jax.tree_util.keystr(path)


def _count(space: Any) -> int:
    parts = parts_of(space)
    if parts is None:
        return 1
    return sum(map(_count, fields(parts).values() or parts))
