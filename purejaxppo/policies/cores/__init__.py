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

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo import tuning
from purejaxppo.config.schema import PPOConfig
from purejaxppo.policies.cores.gtrxl import GTrXL
from purejaxppo.policies.cores.linear import LinearRecurrence
from purejaxppo.policies.cores.mingru import MinGRU
from purejaxppo.policies.cores.recurrent import GRU, LSTM
from purejaxppo.types import PyTree

__all__ = ["CORES", "GRU", "LSTM", "GTrXL", "LinearRecurrence", "MinGRU", "core_of", "remember"]

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


def remember(
    cores: dict[str, nn.Module], carry: PyTree, x: PyTree, episode_start: Array
) -> tuple[PyTree, PyTree]:
    """Takes features through cores of one kind, side by side where that is faster.

    Args:
        cores: by name of torso.
        carry: that of each, [B, ...].
        x: what each torso has made of the steps, [B, L, F].
        episode_start: [B, L] bool.

    Returns:
        The carries after the last step, and outputs [B, L, H], by the same names.
    """
    first, *others = cores.values()
    # torsos of different widths have cores of different shapes
    alike = len({features.shape for features in x.values()}) == 1
    together = others and alike and not first.is_initializing()
    if not (together and tuning.cores_side_by_side()):
        out = [core(carry[name], x[name], episode_start) for name, core in cores.items()]
    else:
        # one core, mapped over the parameters that each has under its own name
        given = [(core.variables, carry[name], x[name]) for name, core in cores.items()]
        stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *given)
        apply = jax.vmap(first.clone(parent=None).apply, (0, 0, 0, None))
        both = apply(*stacked, episode_start)
        out = [jax.tree.map(lambda x, i=i: x[i], both) for i in range(len(cores))]
    after, outputs = zip(*out, strict=True)
    return dict(zip(cores, after, strict=True)), dict(zip(cores, outputs, strict=True))
