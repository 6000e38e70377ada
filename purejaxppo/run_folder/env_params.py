"""Parameters of environments as plain values, which a run keeps and is loaded with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.config.coerce import coerce
from purejaxppo.envs.suites.adapter import field_name
from purejaxppo.errors import ConfigError, did_you_mean, shown
from purejaxppo.types import EnvParams

MOST_NUMBERS = 1000
"""What larger parameters are made of does not belong into `run.json`."""


def plain_params(params: EnvParams, defaults: EnvParams) -> dict[str, Any] | None:
    """Returns parameters as values that JSON can hold, by their path.

    Args:
        params: of an environment.
        defaults: its own, into which `with_params` will put the values.

    Returns:
        Python's numbers as they are; arrays as {"dtype": name, "values": nested lists}; None if
        that is not all that makes them other than the defaults, or if there are too many.
    """
    if jax.tree.structure(params) != jax.tree.structure(defaults):
        return None
    values, left = {}, MOST_NUMBERS
    pairs = zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(defaults), strict=True)
    for (where, leaf), default in pairs:
        left -= np.size(leaf)
        if left < 0 or not _is_plain(leaf) or np.shape(leaf) != np.shape(default):
            return None
        values[jax.tree_util.keystr(where)] = _encoded(leaf)
    return values


def with_params(values: Mapping[str, Any], defaults: EnvParams) -> EnvParams:
    """Puts values in the place of an environment's own.

    Args:
        values: as `plain_params` gives them.
        defaults: of the same structure.

    Returns:
        The parameters.

    Raises:
        ConfigError: they are of another structure, or none.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(defaults)
    names = [jax.tree_util.keystr(where) for where, _ in leaves]
    if set(names) != values.keys():
        raise ConfigError(f"env_params has {sorted(values)}, not {sorted(names)}")
    decoded = []
    for name, (_, default) in zip(names, leaves, strict=True):
        try:
            leaf = _decoded(values[name])
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise ConfigError(f"env_params{name} is {values[name]!r}, no number") from error
        if np.shape(leaf) != np.shape(default):
            raise ConfigError(f"env_params{name} has the shape {np.shape(leaf)}")
        decoded.append(leaf)
    return jax.tree_util.tree_unflatten(structure, decoded)


def numbers_in(params: EnvParams) -> dict[str, int | float]:
    """Returns the single numbers that parameters hold, by name: those that can be set or varied.

    Args:
        params: of an environment.

    Returns:
        Python's numbers; one inside of a part is named part.name.
    """
    found = {}
    for where, leaf in jax.tree_util.tree_leaves_with_path(params):
        if _is_plain(leaf) and np.ndim(leaf) == 0 and np.asarray(leaf).dtype.kind != "b":
            found[field_name(where)] = np.asarray(leaf).item()
    return found


def changed_numbers(params: EnvParams, defaults: EnvParams) -> dict[str, int | float]:
    """Returns the single numbers in which parameters differ from an environment's own.

    Args:
        params: of an environment.
        defaults: its own.
    """
    before = numbers_in(defaults)
    return {name: x for name, x in numbers_in(params).items() if before.get(name, x) != x}


def with_numbers(numbers: Mapping[str, Any], defaults: EnvParams) -> EnvParams:
    """Puts single numbers in the place of those that parameters hold.

    Args:
        numbers: by name, see `numbers_in`; Python's.
        defaults: parameters of an environment.

    Returns:
        Parameters of the same structure and dtypes.

    Raises:
        ConfigError: there is no such number, or a value is none.
    """
    known, changed = numbers_in(defaults), {}
    for name, number in numbers.items():
        if name not in known:
            hint = did_you_mean(name, known) if known else "the environment has no parameters"
            raise ConfigError(f"env_params has {shown(name)}, which is no number there: {hint}")
        changed[name] = coerce(f"env_params {name}", type(known[name]), number, known[name])

    def replaced(where: Any, leaf: Any) -> Any:
        value = changed.get(field_name(where))
        if value is None or isinstance(leaf, int | float):
            return leaf if value is None else value
        return jnp.asarray(value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(replaced, defaults)


def numbers_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the numbers alone, to be compared: 7, 7.0 and an array of it are the same.

    Args:
        values: as `plain_params` gives them.
    """
    return {
        k: x["values"] if isinstance(x, dict) and "values" in x else x for k, x in values.items()
    }


def _is_plain(leaf: Any) -> bool:
    if isinstance(leaf, bool | int | float):
        return isinstance(leaf, float) or abs(leaf) < 2**63
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return False
    known = isinstance(leaf, jax.Array | np.ndarray | np.generic)
    return known and any(
        jnp.issubdtype(leaf.dtype, kind) for kind in (bool, jnp.integer, jnp.floating)
    )


def _encoded(leaf: Any) -> Any:
    """Writes numbers so that JSON holds them: those that are not finite as texts."""
    if isinstance(leaf, bool | int | float):
        return _written(leaf)
    array = np.asarray(leaf)
    return {"dtype": array.dtype.name, "values": _written(array.tolist())}


def _written(value: Any) -> Any:
    if isinstance(value, list):
        return [_written(x) for x in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        return jnp.asarray(np.array(_read(value["values"]), jnp.dtype(value["dtype"])))
    return _read(value)


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return [_read(x) for x in value]
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return float(value)
    raise TypeError("no number")
