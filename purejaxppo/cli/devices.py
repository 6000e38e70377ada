"""JAX as the command line starts it; what it has against that becomes one line."""

from __future__ import annotations

import os
from typing import Literal

from purejaxppo.errors import ConfigError

GIVEN = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")
"""Variables that choose what JAX computes on."""


def start_jax(seeds: int | None = None, devices: int | Literal["all"] | None = None) -> None:
    """Finds the devices that JAX computes on.

    Args:
        seeds: agents that will be trained side by side, which processor cores are shared out among;
            None: none are.
        devices: how many of them are asked for.

    Raises:
        ConfigError: those that a variable names cannot be used.
    """
    import jax

    from purejaxppo.parallel import use_cores

    if seeds is not None:
        use_cores(seeds, devices)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter of cuda where there is no GPU
        given = [f"{name}={os.environ[name]!r}" for name in GIVEN if os.environ.get(name)]
        why = str(error).partition(" (")[0] or "there is no such device"
        work = "unset it, or use cpu" if given else "use JAX_PLATFORMS=cpu"
        raise ConfigError(
            f"{' '.join(given) or 'JAX'} cannot be used here ({why}): {work}"
        ) from error
