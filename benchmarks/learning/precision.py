"""Whether hidden layers in bfloat16 learn what those in float32 do: the same seeds, both ways.

Vectors, bits of a grid laid out flat, and a memory have a task each. The final return of a seed is
the mean return of the episodes that ended in the last tenth of its updates, actions sampled. A CPU
computes bfloat16 by way of float32: how long a run takes there says nothing about a GPU or a TPU.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.common.records import quickened, report
from benchmarks.common.returns import shortened, spread
from benchmarks.common.shapes import FLAT
from benchmarks.learning.memory import memory_chain
from purejaxppo import PPOConfig, fit, use_cores
from purejaxppo.run_folder.rows import final_returns

DTYPES = ("float32", "bfloat16")


def chain() -> tuple[Any, Any, PPOConfig]:
    """MemoryChain with a GRU."""
    env, params, config = memory_chain()
    return env, params, config.replace(core="gru", core_size=config.hidden_sizes[0])


TASKS = {
    "CartPole-v1": lambda: (None, None, PPOConfig.preset("CartPole-v1")),
    "Breakout-MinAtar": lambda: (None, None, FLAT),
    "MemoryChain-bsuite, GRU": chain,
}
"""Environment, its parameters and configuration; None: those that the configuration names."""


def measure(task: str, dtype: str, seeds: int, total_timesteps: int | None) -> dict[str, Any]:
    """Trains one task in one dtype; returns what there is to report."""
    print(task, dtype, file=sys.stderr, flush=True)
    env, env_params, config = TASKS[task]()
    config = config.replace(compute_dtype=dtype)
    config = shortened(config, total_timesteps)
    result = fit(config, seeds=seeds, env=env, env_params=env_params)
    returns = final_returns(result.metrics)
    return {
        "final_return": spread(returns.tolist()),
        "seeds": seeds,
        "run_seconds": result.run_seconds,
        "config": config.to_dict(),
    }


def main() -> None:
    """Trains every task in both dtypes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=8, help="agents per run, in one program")
    parser.add_argument("--total-timesteps", type=int, help="about this many, not the task's own")
    parser.add_argument("--quick", action="store_true", help="one task, 2 seeds, 50,000 steps")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    if args.quick:
        args = quickened(parser, tasks=args.tasks[:1], seeds=2, total_timesteps=50_000)
    use_cores(args.seeds)
    results = {
        task: {dtype: measure(task, dtype, args.seeds, args.total_timesteps) for dtype in DTYPES}
        for task in args.tasks
    }
    report("precision", results, args.out)


if __name__ == "__main__":
    main()
