"""The memory that a run is estimated to take, beside what its compiled program takes.

The estimate is that of the plan, from shapes alone; the other is the compiler's, for the program of
a chunk of updates. Then what it costs that seeds take turns where not all fit: CPU time of a chunk
of many small agents, so many at once, in turn.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from benchmarks.common.programs import predicted_bytes
from benchmarks.common.records import report
from benchmarks.common.shapes import CNN, SHAPES, Shape
from benchmarks.common.timing import quartiles
from purejaxppo import PPOConfig, make_mesh
from purejaxppo.components import make_components
from purejaxppo.parallel import SEEDS
from purejaxppo.runs.compiled import compile_run, compiled, given_to, lower_run
from purejaxppo.runs.memory import footprint_of, shapes_of
from purejaxppo.runs.plan import plan_of
from purejaxppo.sharding import spread_over

MEASURED = {
    **SHAPES,
    "cnn": Shape(CNN.replace(total_timesteps=CNN.batch_size)),
    "gru": Shape(SHAPES["b"].config.replace(core="gru")),
}
"""The shapes, and a convolutional network, and b with a memory."""

TURNS = [64, 32, 16, 8, 1]
SMALL = PPOConfig(
    num_envs=4, num_steps=128, total_timesteps=512, num_minibatches=4, hidden_sizes=(16,)
)


def beside_the_compilers(shape: Shape) -> dict[str, Any]:
    """Compares the plan of a shape on one device with its compiled program."""
    components = make_components(shape.config)
    estimated = plan_of(components, shape.seeds, devices=1).bytes_per_device
    footprint = footprint_of(components, shapes_of(components), shape.seeds)
    spread = spread_over(components, make_mesh(shape.seeds, devices=1), SEEDS)
    chunk = compiled(lower_run(spread, shape.seeds, given_to(shape.config))[1])
    needed = predicted_bytes(chunk)
    return {
        "seeds": shape.seeds,
        "estimated_bytes": estimated,
        "compiled_bytes": needed,
        "estimated_over_compiled": estimated / needed,
        "held_bytes_per_seed": footprint.held,
        "working_bytes_per_seed": footprint.working,
    }


def turn_of(seeds: int, at_once: int, updates: int) -> tuple[Callable[[], float], int]:
    """Makes a call of a chunk that returns its CPU seconds; and the memory of its program."""
    spread = spread_over(make_components(SMALL), make_mesh(seeds, devices=1), SEEDS)
    programs = compile_run(spread, seeds, SMALL, at_once=at_once)
    chunk = compiled(lower_run(spread, seeds, given_to(SMALL), at_once)[1])
    state = programs.init(programs.place(jax.random.split(jax.random.key(0), seeds)))

    def call() -> float:
        nonlocal state
        started = time.process_time()
        state = jax.block_until_ready(programs.run_chunk(state, updates))[0]
        return time.process_time() - started

    return call, predicted_bytes(chunk)


def turns(sizes: list[int], updates: int, rounds: int) -> dict[str, Any]:
    """Measures chunks of as many seeds as the first size says, so many of them at once."""
    made = {size: turn_of(sizes[0], size, updates) for size in sizes}
    for call, _ in made.values():
        call()
    taken = [{size: call() for size, (call, _) in made.items()} for _ in range(rounds)]
    whole = sizes[0]
    return {
        str(size): {
            "cpu_seconds": quartiles([row[size] for row in taken]),
            "over_all_at_once": quartiles([row[size] / row[whole] for row in taken]),
            "compiled_bytes": needed,
        }
        for size, (_, needed) in made.items()
    }


def main() -> None:
    """Compares every shape, then times the turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", choices=MEASURED, default=list(MEASURED))
    parser.add_argument("--turns", nargs="*", type=int, default=TURNS, help="seeds at once")
    parser.add_argument("--updates", type=int, default=20, help="of a timed chunk")
    parser.add_argument("--rounds", type=int, default=9, help="timed chunks, at least 2")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    results: dict[str, Any] = {"shapes": {}}
    for name in args.shapes:
        print(name, file=sys.stderr, flush=True)
        results["shapes"][name] = beside_the_compilers(MEASURED[name])
    if args.turns:
        results["turns"] = turns(args.turns, args.updates, args.rounds)
    report("memory_plan", results, args.out)


if __name__ == "__main__":
    main()
