"""How time grows: with seeds in one vmap, and with environments, steps and width.

Seeds: S agents in one vmap against S separate runs one after the other, timed in turn.

Sizes: seconds per update of shape b with one size changed. All sizes of a kind are timed in turn,
round by round. Between neighbouring sizes the local exponent d log(seconds) / d log(size) says how
time grows: 0 where fixed costs rule (a launch, a loop, a small operation take their time whatever
the size), 1 where time is proportional, more where something overflows (a cache, most often). Over
all sizes, a fit seconds = fixed + rate x work, both at least 0 and least in relative error, says
which share of each size is fixed; `over_fit`, seconds over fitted seconds, says where it stops
being true. Work is the number of transitions, times the operations of the matrix products of one
(which is what a greater width means).
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy.optimize import nnls

from benchmarks.common.programs import Training, available_bytes, predicted_bytes
from benchmarks.common.roofline import flops_per_step
from benchmarks.common.shapes import SHAPES
from benchmarks.common.timing import (
    interleaved_seconds,
    paired_seconds,
    quartiles,
    report,
    seconds_of,
)
from purejaxppo import PPOConfig

SEEDS = [1, 2, 4, 8, 16, 32]
SIZES = {
    "environments": [4, 16, 64, 256, 1024, 4096, 16_384],
    "steps": [8, 32, 128, 512, 2048, 8192],
    "width": [16, 32, 64, 128, 256, 512, 1024],
}
SECONDS_PER_CALL = 0.1


def seeds_in_one(count: int, updates: int, rounds: int, separate: Callable) -> dict[str, Any]:
    """Times one vmap over seeds against as many calls of `separate`."""
    training = Training(SHAPES["a"].config, count)
    states = training.states()
    program = training.compile(updates)

    def one_by_one():
        for _ in range(count):
            jax.block_until_ready(separate())

    taken = paired_seconds(lambda: program(states), one_by_one, rounds)
    steps = count * updates * SHAPES["a"].config.batch_size
    return {
        "vmap_over_separate_seconds": quartiles([a / b for a, b in taken]),
        "vmap_steps_per_second": quartiles([steps / a for a, _ in taken]),
        "separate_steps_per_second": quartiles([steps / b for _, b in taken]),
    }


def config_of(kind: str, size: int) -> PPOConfig:
    """Shape b with one size changed, for one update."""
    base = SHAPES["b"].config
    changes = {
        "environments": {"num_envs": size},
        "steps": {"num_steps": size},
        "width": {"hidden_sizes": (size, size)},
    }[kind]
    sizes = {"num_envs": base.num_envs, "num_steps": base.num_steps} | changes
    return base.replace(**changes, total_timesteps=sizes["num_envs"] * sizes["num_steps"])


def updates_function(config: PPOConfig, updates: int | None) -> tuple[Callable, int] | None:
    """A call of some updates and their number; None where they do not fit in memory.

    Args:
        config: what to train.
        updates: per call; None: as many as take SECONDS_PER_CALL.
    """
    training = Training(config)
    program = training.compile(updates or 1)
    if predicted_bytes(program) > available_bytes():
        return None
    states = training.states()
    if updates is None:
        jax.block_until_ready(program(states))
        updates = math.ceil(SECONDS_PER_CALL / seconds_of(lambda: program(states)))
        program = training.compile(updates) if updates > 1 else program
    return lambda: program(states), updates


def growth(kind: str, sizes: list[int], updates: int | None, rounds: int) -> dict[str, Any]:
    """Seconds per update at every size that fits, exponents between them, and the fit."""
    configs, functions, counts = {}, [], []
    for size in sizes:
        made = updates_function(config_of(kind, size), updates)
        if made is None:
            break
        configs[size] = config_of(kind, size)
        functions.append(made[0])
        counts.append(made[1])
    taken = interleaved_seconds(functions, rounds)
    seconds = np.array(taken) / np.array(counts)[:, None]
    result = analysis(seconds, list(configs.values()), list(configs))
    return result | {"do_not_fit_in_memory": [s for s in sizes if s not in configs]}


def analysis(seconds: np.ndarray, configs: list[PPOConfig], sizes: list[int]) -> dict[str, Any]:
    """What the times of one kind say.

    Args:
        seconds: per update, [sizes, rounds].
        configs: of every size.
        sizes: rising.
    """
    flops = [flops_per_step(c) for c in configs]
    same_network = min(flops) == max(flops)
    work = np.array([
        c.batch_size * (1 if same_network else f) for c, f in zip(configs, flops, strict=True)
    ])  # fmt: skip
    medians = [statistics.median(row) for row in seconds]
    fixed, rate = fixed_and_proportional(work, np.array(medians))
    fitted = fixed + rate * work
    slopes = np.diff(np.log(seconds), axis=0) / np.diff(np.log(sizes))[:, None]
    return {
        "seconds_per_update": {
            str(size): quartiles(row.tolist()) for size, row in zip(sizes, seconds, strict=True)
        },
        "microseconds_per_transition": {
            str(size): 1e6 * s / c.batch_size
            for size, s, c in zip(sizes, medians, configs, strict=True)
        },
        "local_exponent": {
            f"{low} to {high}": quartiles(row.tolist())
            for low, high, row in zip(sizes, sizes[1:], slopes, strict=False)
        },
        "fit": {
            "fixed_seconds": fixed,
            "seconds_per_unit_of_work": rate,
            "unit_of_work": "transition" if same_network else "matrix operation",
            "fixed_share": dict(zip(map(str, sizes), (fixed / fitted).tolist(), strict=True)),
            "over_fit": dict(zip(map(str, sizes), (medians / fitted).tolist(), strict=True)),
        },
    }


def fixed_and_proportional(work: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """The fit seconds = fixed + rate x work, both at least 0, with least relative error."""
    scale = work.max()  # brings both columns to one magnitude
    rows = np.stack([1.0 / seconds, work / scale / seconds], axis=1)
    fixed, rate = nnls(rows, np.ones(len(work)))[0]
    return float(fixed), float(rate / scale)


def main() -> None:
    """Measures every kind in turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = ["seeds", *SIZES]
    parser.add_argument("--kinds", nargs="*", choices=kinds, default=kinds)
    for kind in kinds:
        parser.add_argument(f"--largest-{kind}", type=int, default=max(SIZES.get(kind, SEEDS)))
    parser.add_argument("--rounds", type=int, default=9, help="timed calls of each, at least 2")
    parser.add_argument("--updates", type=int, help="of a call; else as many as time needs")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    results: dict[str, Any] = {}
    for kind in args.kinds:
        print(kind, file=sys.stderr, flush=True)
        sizes = [n for n in SIZES.get(kind, SEEDS) if n <= getattr(args, f"largest_{kind}")]
        if kind != "seeds":
            results[kind] = growth(kind, sizes, args.updates, args.rounds)
            continue
        made = updates_function(SHAPES["a"].config, args.updates)
        assert made is not None, "one agent of shape a fits wherever this starts"
        results[kind] = {str(n): seeds_in_one(n, made[1], args.rounds, made[0]) for n in sizes}
    report("scaling", results, args.out)


if __name__ == "__main__":
    main()
