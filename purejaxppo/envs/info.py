"""The numbers in what environments say of a step, their `info`: by name, and at episodes' ends.

What is inside of another part is named `part/inner`, at any depth.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.envs.interface import check_arrays, is_array, is_number, kind_of
from purejaxppo.errors import ConfigError, HostError, shown
from purejaxppo.spaces import MASKS, fields
from purejaxppo.types import Array, PyTree

COUNTED = ("episode_return", "episode_length")
"""What training counts itself, in columns of these names."""


def check_info_metrics(wanted: Sequence[str], found: Mapping[str, str]) -> None:
    """Checks that an environment's info has the numbers that are to be logged.

    Args:
        wanted: names of numbers.
        found: what the info holds: for each name what it is, nothing for a number.

    Raises:
        ConfigError: one is not there, or is no number; those that are there are named.
    """
    numbers = [name for name, kind in found.items() if not kind]
    use = f"its numbers are {', '.join(numbers)}" if numbers else "it has no numbers, log none"
    for name in wanted:
        if name not in numbers:
            kind = found.get(name)
            words = f"is {kind}, not a number," if kind else "is not"
            raise ConfigError(
                f"info_metrics entry {shown(name)} {words} in the environment's info: {use}"
            )


# -- environments in JAX --------------------------------------------------------------------------


def arrays_of(what: str, info: Any) -> dict[str, PyTree]:
    """Returns what an info holds of arrays, by name; nobody reads texts and objects in it.

    Args:
        what: it is called in messages.
        info: as an environment returns it.

    Raises:
        ConfigError: it has no names, or a mask that is no array.
    """
    found = fields(info)
    if not found and _leaves(info):
        raise ConfigError(f"{what} is {kind_of(info)}: return a dictionary, such as {{}}")
    kept = {}
    for name, part in found.items():
        if name in MASKS:
            check_arrays(f"{what}[{name!r}]", part)
        if isinstance(name, str) and all(map(is_array, _leaves(part))):
            kept[name] = part
        elif isinstance(name, str) and isinstance(part, Mapping):
            kept[name] = arrays_of(what, part)
    return kept


def _leaves(tree: PyTree) -> list[Any]:
    """Returns the leaves of a pytree; of what is none, itself."""
    try:
        return jax.tree.leaves(tree)
    except (TypeError, ValueError):
        return [tree]


def entries(info: PyTree) -> dict[str, Any]:
    """Returns what an info holds by name.

    Args:
        info: a dictionary or record, of arrays and of others like it.
    """
    found = {}
    for name, part in fields(info).items():
        inner = entries(part)
        found |= {f"{name}/{n}": x for n, x in inner.items()} if inner else {str(name): part}
    return found


def kinds_in(info: PyTree) -> dict[str, str]:
    """Says what an info holds, beside what training counts itself.

    Args:
        info: in shapes and dtypes.

    Returns:
        By name what it is, nothing for a number.
    """

    def kind(x: Any) -> str:
        if not hasattr(x, "dtype"):  # a list or a tuple
            return f"a {type(x).__name__}"
        return "" if x.shape == () and is_number(x.dtype) else f"{x.dtype.name}{list(x.shape)}"

    return {name: kind(x) for name, x in entries(info).items() if name not in COUNTED}


def picked(info: PyTree, names: Collection[str]) -> dict[str, Array]:
    """Returns numbers of an info by name, () float32.

    Args:
        info: of one step.
        names: of numbers in it.
    """
    found = entries(info) if names else {}
    return {name: jnp.asarray(found[name], jnp.float32) for name in names}


# -- environments on the host ---------------------------------------------------------------------


def columns(infos: Any, given: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yields what the info of N environments on the host holds.

    Args:
        infos: a dictionary as vector environments return it: of columns [N], of others like it,
            and beside `name` perhaps `_name`, which says of each environment whether it gave one.
        given: [N] bool, of whom they speak.

    Yields:
        Name, column, and which environments have an entry in it, [N] bool.
    """
    for name, part in infos.items() if isinstance(infos, Mapping) else ():
        if str(name).startswith("_") and str(name)[1:] in infos:
            continue
        own = given & np.asarray(infos.get(f"_{name}", True), bool)
        if isinstance(part, Mapping):
            yield from ((f"{name}/{n}", x, who) for n, x, who in columns(part, own))
        else:
            yield str(name), np.asarray(part), own


def is_scalar(x: Any) -> bool:
    """Says whether what an environment on the host tells is a number.

    Args:
        x: an entry of a column.
    """
    return np.ndim(x) == 0 and np.asarray(x).dtype.kind in "biuf"


def at_ends(infos: Any, names: Collection[str], done: np.ndarray) -> dict[str, np.ndarray]:
    """Returns numbers of the last steps of episodes by name, [N] float32; 0 of all other steps.

    Args:
        infos: see `columns`.
        names: of numbers in it.
        done: [N] bool, whose episode has ended.

    Raises:
        HostError: the info of a last step lacks one, or it is no number.
    """
    values = {name: np.zeros(len(done), np.float32) for name in names}
    if not names or not done.any():
        return values
    found = {name: (x, who) for name, x, who in columns(infos, np.ones(len(done), bool))}
    for name, value in values.items():
        column, who = found.get(name, (done, ~done))
        if column.shape != done.shape or not all(map(is_scalar, column[done])):
            who = ~done
        if not who[done].all():
            there = ", ".join(found) or "nothing"
            raise HostError(
                f"info_metrics: the info of an episode's last step has no number {name!r}, but "
                f"{there}: give it in every step, or leave it out"
            )
        with np.errstate(over="ignore"):
            value[done] = column[done].astype(np.float64)
    return values
