"""Steps per second, memory and the fraction of the roofline: shapes a to f, and larger sweeps.

The roofline of a point is the speed at which its matrix products alone would run, at the rate that
XLA reaches for `[chunk_size, width] @ [width, width]` on this device (batched over seeds), at the
default precision, which the networks use too. The rate is measured in turn with the training, so
that whatever slows the machine meets both. It bounds networks whose layers are mostly square: where
a wide observation makes the first layer the largest (d), its products run at a rate of their own.

What is timed is the training program, from its first rollout on: initialisation is a program of its
own, and not timed.

Every point runs in a process of its own: its peak memory is its own, and one that does not fit is
reported as such.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common.child import does_not_fit, result_of
from benchmarks.common.programs import Training, available_bytes, peak_bytes, predicted_bytes
from benchmarks.common.records import report
from benchmarks.common.roofline import flops_per_step, matrix_products
from benchmarks.common.shapes import SHAPES, Shape
from benchmarks.common.timing import paired_seconds, quartiles, seconds_of

SWEEPS = {
    "environments": [4, 16, 64, 256, 1024, 4096, 16_384, 65_536],
    "seeds": [1, 4, 16, 64, 256, 1024],
    "widths": [64, 128, 256, 512, 1024],
}
SECONDS_PER_CALL = 0.3
SECONDS_PER_POINT = 120


def point(sweep: str, size: str, total_timesteps: int | None = None) -> Shape:
    """What a point trains: `point("shapes", "a")`, `point("widths", "256")`.

    A point of a sweep does one update per call, unless `total_timesteps` says otherwise.
    """
    if sweep == "shapes":
        shape = SHAPES[size]
    elif sweep == "seeds":
        shape = Shape(SHAPES["a"].config, int(size))
    else:
        n = int(size)
        changes = {"num_envs": n} if sweep == "environments" else {"hidden_sizes": (n, n)}
        base = SHAPES["b"].config
        total = changes.get("num_envs", base.num_envs) * base.num_steps
        shape = Shape(base.replace(**changes, total_timesteps=total))
    if total_timesteps or sweep == "seeds":
        batch_size = shape.config.batch_size
        updates = max(1, (total_timesteps or 0) // batch_size)
        shape = shape._replace(config=shape.config.replace(total_timesteps=updates * batch_size))
    return shape


def measure(shape: Shape, repeats: int, adjust: bool) -> dict[str, Any]:
    """Compiles and times one point, in this process.

    Args:
        shape: what is trained.
        repeats: timed calls; fewer where they would take minutes.
        adjust: do as many updates per call as take SECONDS_PER_CALL, not the shape's own.
    """
    config, seeds = shape
    updates = config.num_updates
    training = Training(config, seeds)
    started = time.perf_counter()
    program = training.compile(updates)
    compile_seconds = time.perf_counter() - started
    predicted = predicted_bytes(program)
    memory: dict[str, Any] = {"predicted_bytes_per_seed": predicted // seeds}
    if predicted > available_bytes():
        return does_not_fit(f"the compiler asks for {predicted / 1e9:.1f} GB") | {"memory": memory}

    peak, source = peak_bytes(lambda: program(training.states()))
    memory |= {"measured_bytes_per_seed": peak and peak // seeds, "measured_by": source}
    states = training.states()
    seconds = seconds_of(lambda: program(states))
    if adjust and seconds < SECONDS_PER_CALL:
        updates = math.ceil(1.1 * SECONDS_PER_CALL / seconds * updates)
        program = training.compile(updates)
        seconds = seconds_of(lambda: program(states))
    products, flop = matrix_products(config, seeds)
    rounds = max(2, min(repeats, int(SECONDS_PER_POINT / seconds)))
    taken = paired_seconds(products, lambda: program(states), rounds)
    steps, per_step = updates * config.batch_size * seeds, flops_per_step(config)
    return {
        "steps_per_second": quartiles([steps / s for _, s in taken]),
        "fraction_of_roofline": quartiles([steps * per_step / s / (flop / r) for r, s in taken]),
        "roofline_steps_per_second": quartiles([flop / r / per_step for r, _ in taken]),
        "matrix_flop_per_second": quartiles([flop / r for r, _ in taken]),
        "matrix_flop_per_step": per_step,
        "repeats": rounds,
        "updates_per_call": updates,
        "compile_seconds": compile_seconds,
        "memory": memory,
        "seeds": seeds,
        "config": config.replace(total_timesteps=updates * config.batch_size).to_dict(),
    }


def measure_in_child(sweep: str, size: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measures one point in a new process; a point that fails says why."""
    command = ["-m", "benchmarks.speed.throughput", "--point", sweep, size]
    command += ["--repeats", str(args.repeats)]
    if args.total_timesteps:
        command += ["--total-timesteps", str(args.total_timesteps)]
    return result_of(command)


def main() -> None:
    """Measures every point in turn; exits with 1 if one failed for another cause than memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--sweeps", nargs="*", choices=SWEEPS, default=list(SWEEPS))
    parser.add_argument("--largest", type=int, default=math.inf, help="no larger sizes in sweeps")
    parser.add_argument("--repeats", type=int, default=7, help="timed calls per point, at least 2")
    parser.add_argument("--total-timesteps", type=int, help="of a call, about, per seed")
    parser.add_argument("--point", nargs=2, metavar=("SWEEP", "SIZE"), help="one, in this process")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    if args.point:
        sweep, size = args.point
        adjust = sweep != "shapes" and not args.total_timesteps
        shape = point(sweep, size, args.total_timesteps)
        print(json.dumps(measure(shape, args.repeats, adjust)))
        return
    sizes = {"shapes": args.shapes} | {
        sweep: [str(n) for n in SWEEPS[sweep] if n <= args.largest] for sweep in args.sweeps
    }
    results: dict[str, dict[str, Any]] = {}
    for sweep, names in sizes.items():
        results[sweep] = {}
        for name in names:
            print(f"{sweep} {name}", file=sys.stderr, flush=True)
            results[sweep][name] = measure_in_child(sweep, name, args)
    report("throughput", results, args.out)
    sys.exit(any("failed" in r for row in results.values() for r in row.values()))


if __name__ == "__main__":
    main()
