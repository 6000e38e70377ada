"""What the info of an environment on the host holds, found by playing."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.envs.host import Host, HostEnvironment
from purejaxppo.envs.info import columns, is_scalar
from purejaxppo.spaces import (
    EnvSpec,
    MultiDiscrete,
    Space,
    by_choice,
    mask_of,
    part_at,
    to_bounds,
    zeros,
)
from purejaxppo.types import Action, Obs

LONGEST_LOOK = 10_000  # steps


def kinds_told(env: HostEnvironment, wanted: Sequence[str] = ()) -> dict[str, str]:
    """Says what the info of an environment on the host holds, by playing an episode of one.

    Some say only at the end how it went.

    Args:
        env: what to make.
        wanted: once these are there, no more is played.

    Returns:
        By name what it is, nothing for a number.

    Raises:
        ConfigError: it cannot be made.
        HostError: it failed; its own message.
    """
    host, found = Host(env, 1), {}
    with contextlib.closing(host):
        where, obs = host.reset(0)
        for _ in range(LONGEST_LOOK):
            where, after = host.step(where, _allowed(env.spec, obs))
            obs = after.obs
            found |= kinds_on_host(host.info, 1)
            seen = wanted and all(found.get(name) == "" for name in wanted)
            if seen or after.terminated.any() or after.truncated.any():
                break
    return found


def _allowed(spec: EnvSpec, obs: Obs) -> Action:
    """Returns an action [1, *A] within its bounds; of choices the first that a mask allows."""
    mask = mask_of(obs)

    def choose(path: Any, space: Space) -> np.ndarray:
        part = part_at(mask, path)
        if part is not None and isinstance(space, MultiDiscrete):
            part = by_choice(space, jnp.asarray(part), False)
        if part is not None:
            return np.argmax(part, -1).astype(np.int32)
        return np.asarray(to_bounds(space, jnp.asarray(zeros(space))))[None]

    return jax.tree_util.tree_map_with_path(choose, spec.action)


def kinds_on_host(infos: Any, num_envs: int) -> dict[str, str]:
    """Says what the info of environments on the host holds.

    Args:
        infos: see `columns`.
        num_envs: N.

    Returns:
        By name what it is, nothing for a number.
    """

    def kind(column: np.ndarray, who: np.ndarray) -> str:
        if column.shape != (num_envs,):
            return f"{column.dtype.name}{list(column.shape[1:])}"
        first = column[who][0] if who.any() else None
        return "" if is_scalar(first) else f"a {type(first).__name__}"

    every = np.ones(num_envs, bool)
    return {name: kind(x, who) for name, x, who in columns(infos, every) if who.any()}
