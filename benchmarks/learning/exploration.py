"""What a bonus for the new is worth: a task whose reward is not found by chance.

DeepSea-bsuite of N rows pays 1 for N right moves in a row, each of which costs a little, and
nothing else: a random policy finds that once in 2^N episodes. The final return of a seed is the
mean return of the episodes that ended in the last tenth of its updates, actions sampled.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.common.records import quickened, report
from benchmarks.common.returns import shortened, spread
from purejaxppo import PPOConfig, fit, use_cores
from purejaxppo.run_folder.rows import final_returns

BONUSES = ("none", "rnd")


def deep_sea(size: int) -> PPOConfig:
    """Configuration without a bonus."""
    return PPOConfig(
        env="DeepSea-bsuite", env_options=(f"size={size}",), num_envs=16, num_steps=4 * size,
        total_timesteps=200_000, learning_rate=1e-3, hidden_sizes=(64,), entropy_coef=0.01,
    )  # fmt: skip


TASKS = {
    "DeepSea-bsuite, 10 rows": lambda: deep_sea(10),
    "DeepSea-bsuite, 20 rows": lambda: deep_sea(20),
}


def measure(task: str, bonus: str, seeds: int, total_timesteps: int | None) -> dict[str, Any]:
    """Trains with or without a bonus on one task; returns what there is to report."""
    config = TASKS[task]()
    if bonus != "none":
        config = config.replace(exploration=bonus, exploration_coef=1.0, exploration_size=64)
    config = shortened(config, total_timesteps)
    result = fit(config, seeds=seeds)
    returns = final_returns(result.metrics)
    return {
        "final_return": spread(returns.tolist()),
        "seeds_that_found_it": int((returns > 0.5).sum()),
        "seeds": seeds,
        "run_seconds": result.run_seconds,
        "compile_seconds": result.compile_seconds,
        "config": config.to_dict(),
    }


def main() -> None:
    """Trains on every task, with a bonus and without."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--bonuses", nargs="*", choices=BONUSES, default=list(BONUSES))
    parser.add_argument("--seeds", type=int, default=8, help="agents per run, in one program")
    parser.add_argument("--total-timesteps", type=int, help="about this many, not the task's own")
    parser.add_argument("--quick", action="store_true", help="10 rows, 2 seeds, 20,000 steps")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    if args.quick:
        args = quickened(parser, tasks=args.tasks[:1], seeds=2, total_timesteps=20_000)
    use_cores(args.seeds)
    results = {
        task: {
            bonus: measure(task, bonus, args.seeds, args.total_timesteps) for bonus in args.bonuses
        }
        for task in args.tasks
    }
    report("exploration", results, args.out)


if __name__ == "__main__":
    main()
