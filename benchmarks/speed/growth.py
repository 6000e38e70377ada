"""How time grows: with environments, steps and width, and with seeds in one program.

Seconds per update with one size changed: shape b (with 8 steps of each environment where their
number grows), and S agents of shape a in one vmap. All sizes of a kind are timed in turn, round by
round. Between neighbouring sizes the local exponent d log(seconds) / d log(size) says how time
grows: 0 where fixed costs rule (a launch, a loop, a small operation take their time whatever the
size), 1 where time is proportional, more where something overflows (a cache, most often). Over all
sizes, a fit seconds = fixed + rate x work, both at least 0 and least in relative error, says which
share of each size is fixed; `over_fit`, seconds over fitted seconds, says where it stops being
true. Work is the number of transitions, times the operations of the matrix products of one (which
is what a greater width means).

What a size takes of memory is predicted by the compiler before it is run; sizes from the first one
on that does not fit are left out, and named.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy.optimize import nnls

from benchmarks.common.programs import Training, available_bytes, predicted_bytes
from benchmarks.common.records import report
from benchmarks.common.roofline import flops_per_step
from benchmarks.common.shapes import SHAPES
from benchmarks.common.timing import interleaved_seconds, quartiles, seconds_of
from purejaxppo import PPOConfig

SIZES = {
    "environments": [4**n for n in range(1, 11)],
    "seeds": [4**n for n in range(7)],
    "steps": [8, 32, 128, 512, 2048, 8192],
    "width": [16, 32, 64, 128, 256, 512, 1024],
}
SECONDS_PER_CALL = 0.1


def sized(kind: str, size: int) -> tuple[PPOConfig, int]:
    """The configuration of a size, for one update, and how many agents it trains."""
    if kind == "seeds":
        base = SHAPES["a"].config
        return base.replace(total_timesteps=base.batch_size), size
    base = SHAPES["b"].config
    changes = {
        "environments": {"num_envs": size, "num_steps": 8},
        "steps": {"num_steps": size},
        "width": {"hidden_sizes": (size, size)},
    }[kind]
    sizes = {"num_envs": base.num_envs, "num_steps": base.num_steps} | changes
    return base.replace(**changes, total_timesteps=sizes["num_envs"] * sizes["num_steps"]), 1


def updates_function(
    config: PPOConfig, seeds: int, updates: int | None
) -> tuple[Callable, int, int]:
    """A call of some updates, their number, and the bytes that it is predicted to take.

    Args:
        config: what to train.
        seeds: agents in one vmap.
        updates: per call; None: as many as take SECONDS_PER_CALL.

    Raises:
        MemoryError: they do not fit.
    """
    training = Training(config, seeds)
    program = training.compile_any()
    predicted = predicted_bytes(program)
    if predicted > available_bytes():
        raise MemoryError
    states = training.states()
    if updates is None:
        jax.block_until_ready(program(states, 1))
        updates = math.ceil(SECONDS_PER_CALL / seconds_of(lambda: program(states, 1)))
    return lambda: program(states, updates), updates, predicted


def growth(kind: str, sizes: list[int], updates: int | None, rounds: int) -> dict[str, Any]:
    """Seconds per update at every size that fits, exponents between them, and the fit."""
    work, functions, counts, predicted = {}, [], [], {}
    for size in sizes:
        print(f"{kind} {size}", file=sys.stderr, flush=True)
        config, seeds = sized(kind, size)
        try:
            function, count, predicted[str(size)] = updates_function(config, seeds, updates)
        except MemoryError:
            break
        functions.append(function)
        counts.append(count)
        work[size] = config.batch_size * seeds, flops_per_step(config)
    seconds = np.array(interleaved_seconds(functions, rounds)) / np.array(counts)[:, None]
    result = analysis(seconds, work) | {"predicted_bytes": predicted}
    return result | {"do_not_fit_in_memory": [s for s in sizes if s not in work]}


def analysis(seconds: np.ndarray, work: dict[int, tuple[int, float]]) -> dict[str, Any]:
    """What the times of one kind say.

    Args:
        seconds: per update, [sizes, rounds].
        work: transitions of an update and operations of each, for every size in rising order.
    """
    sizes = list(work)
    transitions, flops = (np.array(x, float) for x in zip(*work.values(), strict=True))
    same_network = min(flops) == max(flops)
    total = transitions * (1 if same_network else flops)
    middle = np.median(seconds, axis=1)
    fixed, rate = fixed_and_proportional(total, middle)
    fitted = fixed + rate * total
    slopes = np.diff(np.log(seconds), axis=0) / np.diff(np.log(sizes))[:, None]

    def by_size(values):
        return dict(zip(map(str, sizes), values, strict=True))

    return {
        "seconds_per_update": by_size(quartiles(row) for row in seconds.tolist()),
        "steps_per_second": by_size(
            quartiles(row) for row in (transitions[:, None] / seconds).tolist()
        ),
        "local_exponent": {
            f"{low} to {high}": quartiles(row.tolist())
            for low, high, row in zip(sizes, sizes[1:], slopes, strict=False)
        },
        "fit": {
            "fixed_seconds": fixed,
            "seconds_per_unit_of_work": rate,
            "unit_of_work": "transition" if same_network else "matrix operation",
            "fixed_share": by_size((fixed / fitted).tolist()),
            "over_fit": by_size((middle / fitted).tolist()),
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
    parser.add_argument("--kinds", nargs="*", choices=SIZES, default=list(SIZES))
    for kind, sizes in SIZES.items():
        parser.add_argument(f"--largest-{kind}", type=int, default=max(sizes))
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each, at least 2")
    parser.add_argument("--updates", type=int, help="of a call; else as many as time needs")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    results: dict[str, Any] = {}
    for kind in args.kinds:
        sizes = [n for n in SIZES[kind] if n <= getattr(args, f"largest_{kind}")]
        results[kind] = growth(kind, sizes, args.updates, args.rounds)
    report("growth", results, args.out)


if __name__ == "__main__":
    main()
