"""What differs from one kind of device to the next, in one place."""

from __future__ import annotations

import jax

IN_CACHE = 9 * 2**20  # bytes of activations that a CPU's cores go through without waiting


def compiler_options() -> dict[str, str | bool | int]:
    """Options under which training programs run fastest on the default device.

    For `jax.jit(train, compiler_options=compiler_options())`. They change speed, and the last
    digits of results.

    Returns:
        On a CPU, vectors of 512 bits where the processor has them (XLA takes 256 otherwise), and
        fewer copies of what a loop carries; elsewhere nothing.
    """
    if jax.default_backend() != "cpu":
        return {}
    return {
        "xla_cpu_prefer_vector_width": 512,
        "xla_cpu_copy_insertion_use_region_analysis": True,
    }


def chunk_size(rows: int, bytes_per_row: int) -> int:
    """How many rows to take through the network at once in a gradient step.

    Args:
        rows: those of a gradient step.
        bytes_per_row: what the backward pass keeps of each.

    Returns:
        A divisor of `rows`: on a CPU, the largest whose activations stay in the cache; elsewhere,
        and where none is near, all of them.
    """
    if jax.default_backend() != "cpu":
        return rows
    most = max(1, IN_CACHE // max(1, bytes_per_row))
    near = (size for size in range(min(most, rows), most // 4, -1) if rows % size == 0)
    return next(near, rows)


def steps_on_one_vector(size: int) -> bool:
    """Whether gradient steps are faster on all parameters as one vector than leaf by leaf.

    Args:
        size: number of parameters.

    Returns:
        On a CPU, while they are few: one vector is one operation instead of many, but it is cut
        and pasted at every step. Elsewhere always, for every operation is a launch.
    """
    return jax.default_backend() != "cpu" or size <= 2**15
