"""What every arm_*.py of this folder makes: something to time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Arm(NamedTuple):
    """Something to time.

    Attributes:
        train: trains once from a seed, and returns when all is computed.
        compile_seconds: tracing and compiling; None: part of the first call.
    """

    train: Callable[[int], Any]
    compile_seconds: float | None = None


def jax_arm(
    train: Callable,
    seeds: int,
    compiler_options: dict | None = None,
    vmap: Callable[[Callable], Callable] | None = None,
) -> Arm:
    """A pure function of a key as an arm, compiled ahead of its first call.

    Args:
        train: `train(key)`.
        seeds: agents side by side, in one vmap; 1: no vmap.
        compiler_options: of XLA.
        vmap: in place of `jax.vmap`.
    """
    import jax

    def keys(seed):
        key = jax.random.PRNGKey(seed)
        return key if seeds == 1 else jax.random.split(key, seeds)

    started = time.perf_counter()
    many = train if seeds == 1 else (vmap or jax.vmap)(train)
    program = jax.jit(many, compiler_options=compiler_options)
    compiled = program.lower(keys(0)).compile()
    seconds = time.perf_counter() - started
    return Arm(lambda seed: jax.block_until_ready(compiled(keys(seed))), seconds)
