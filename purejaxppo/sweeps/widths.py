"""How many trials a program trains side by side, and on which devices."""

from __future__ import annotations

import math
from typing import Literal

import jax

from purejaxppo.components import Components
from purejaxppo.runs.plan import seeds_that_fit
from purejaxppo.sweeps.options import SweepOptions

Devices = int | Literal["all"] | None


def devices_for(agents: int, devices: Devices) -> Devices:
    """Returns the devices that so many agents are shared out to, equally many to each.

    An agent is not spread over several, which would draw otherwise than it does by itself.

    Args:
        agents: that train side by side.
        devices: what is asked for; None: as many as there are.
    """
    if devices is None:
        return None
    return math.gcd(agents, jax.device_count() if devices == "all" else devices)


def width_that_fits(
    components: Components, count: int, options: SweepOptions, episodes: int = 0
) -> int:
    """Finds how many trials a program has: all of them, or equal parts that fit into memory.

    Args:
        components: of one shape.
        count: trials of that shape.
        options: of the sweep; `batch` of them sets the most.
        episodes: of the evaluation at the end; 0: there is none.

    Returns:
        At least 1, whether that fits or not. More than there are trials, where devices would have
        unequal shares of them.
    """
    if options.batch is not None:
        return -(-count // -(-count // options.batch))
    there = options.devices if isinstance(options.devices, int) else jax.device_count()

    def shared(trials: int) -> int:
        return trials if trials <= there else -(-trials // there) * there

    def fit(trials: int) -> int:
        agents = trials * options.seeds
        devices = devices_for(agents, options.devices)
        return seeds_that_fit(components, agents, devices, episodes) // options.seeds

    parts = -(-count // max(1, fit(shared(count))))
    while True:
        width = shared(-(-count // parts))
        if width == 1 or fit(width) >= width:
            return width
        parts += 1  # equal parts that are fewer than devices may go to fewer of them
