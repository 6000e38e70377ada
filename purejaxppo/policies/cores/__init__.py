"""Cores: networks between torso and heads, which are the memory of a policy.

Each reads sequences [B, L, F] from the carry that they began with, and forgets at every
`episode_start`. A single step is a sequence of one.

Within, whatever does not wait for the step before is computed for all steps at once.

Matrices are multiplied in the dtype of a core, and products summed in float32. The carry is float32
whatever that is, and so are the gates: with a gate near 1, as memory lasts for long, bfloat16 would
keep all or forget in a few steps.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax.numpy as jnp

from purejaxppo.config.schema import PPOConfig
from purejaxppo.policies.cores.gtrxl import GTrXL
from purejaxppo.policies.cores.linear import LinearRecurrence
from purejaxppo.policies.cores.mingru import MinGRU
from purejaxppo.policies.cores.recurrent import GRU, LSTM

__all__ = ["CORES", "GRU", "LSTM", "GTrXL", "LinearRecurrence", "MinGRU", "core_of"]

CORES: dict[str, type[Any]] = {
    "gru": GRU,
    "lstm": LSTM,
    "linear": LinearRecurrence,
    "gtrxl": GTrXL,
    "mingru": MinGRU,
}
"""Cores by the name in `PPOConfig.core`, made with their size and dtype.

Each is a linen module `(carry, x [B, L, F], episode_start [B, L]) -> (carry, [B, L, H])`, whose
`initial_carry(batch_shape)` is its memory at an episode's start.
"""


def core_of(config: PPOConfig) -> partial[Any] | None:
    """Returns what makes the core that a configuration describes, given its name; None: no memory.

    Args:
        config: its `core`, `core_size` and `compute_dtype`, and of other fields whose names begin
            with `core_` those that the core has.
    """
    if config.core == "none":
        return None
    core = CORES[config.core]
    own = {f"core_{field.name}": field.name for field in dataclasses.fields(core)}
    options = {own[name]: getattr(config, name) for name in own if hasattr(config, name)}
    return partial(core, dtype=jnp.dtype(config.compute_dtype), **options)
