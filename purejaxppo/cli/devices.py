"""JAX as the command line starts it; what it has against that becomes one line."""

from __future__ import annotations

import os
import sys
from typing import Literal

from purejaxppo.cli.signals import end
from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError

GIVEN = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")
"""Variables that choose what JAX computes on."""


def start_jax(
    seeds: int | None = None,
    devices: int | Literal["all"] | None = None,
    config: PPOConfig | None = None,
) -> None:
    """Finds the devices that JAX computes on.

    Args:
        seeds: agents that will be trained side by side, which processor cores are shared out among;
            None: none are.
        devices: how many of them are asked for.
        config: what will be trained, if that is known.

    Raises:
        ConfigError: those that a variable names cannot be used.
    """
    import jax

    from purejaxppo.parallel import use_cores

    try:
        if seeds is not None:
            use_cores(seeds, devices, config)
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter of cuda where there is no GPU
        given = [f"{name}={os.environ[name]!r}" for name in GIVEN if os.environ.get(name)]
        why = str(error).partition(" (")[0] or "there is no such device"
        work = "unset it, or use cpu" if given else "use JAX_PLATFORMS=cpu"
        raise ConfigError(
            f"{' '.join(given) or 'JAX'} cannot be used here ({why}): {work}"
        ) from error


def join(
    coordinator: str | None, num_processes: int | Literal["auto"] | None, process_id: int | None
) -> bool:
    """Joins other processes that train together with this one, if any are named.

    Args:
        coordinator: HOST:PORT of the first.
        num_processes: how many there are; "auto": JAX finds all three by itself.
        process_id: which of them this is.

    Returns:
        Whether this is the first of all, which writes and prints.

    Raises:
        ConfigError: they do not belong together, or the others cannot be joined.
    """
    if (coordinator, num_processes, process_id) == (None, None, None):
        return True
    if num_processes == "auto" and (coordinator is not None or process_id is not None):
        raise ConfigError(
            "num_processes='auto' leaves it to JAX to find the others: leave out coordinator and "
            "process_id"
        )
    # what libraries of C++ print is not for our output, and their warnings are for their makers
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stdout.flush()
    sys.stdout = open(os.dup(1), "w", encoding=sys.stdout.encoding)  # noqa: SIM115
    os.dup2(2, 1)
    from purejaxppo.processes import is_first, join_processes

    number = None if num_processes == "auto" else num_processes
    join_processes(coordinator, number, process_id, lost=end)
    return is_first()
