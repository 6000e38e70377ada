"""A guard of learning: returns on a few tasks beside those that are on record.

Whoever changes what is learned runs it, and compares:

    python -m benchmarks.learning.guard --against benchmarks/results/guard.json

It ends with exit code 1 if returns on a task are lower, with a probability of less than 1% that
chance has done it (Mann-Whitney, one-sided). What is compared is the mean return over the run of
each seed, see `benchmarks.common.returns`; what changes nothing gives the bits on record.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from scipy import stats

from benchmarks.common.records import (
    asked_for,
    measured_before,
    quickened,
    record,
    report,
    results_in,
)
from benchmarks.common.returns import over, returns_of, shortened, spread
from benchmarks.common.shapes import FLAT
from benchmarks.learning.memory import memory_chain
from purejaxppo import PPOConfig, use_cores

LOWER = 0.05
"""Probability that chance makes any of all tasks look lower, shared out among them (Bonferroni)."""

SHORT = {
    "CartPole-v1": 200_000, "Acrobot-v1": 200_000, "Pendulum-v1": 200_000,
    "MountainCarContinuous-v0": 200_000, "gymnasium/Hopper-v5": 60_000,
}  # fmt: skip
TASKS: dict[str, PPOConfig] = {
    **{task: PPOConfig.preset(task, total_timesteps=steps) for task, steps in SHORT.items()},
    "Breakout-MinAtar": FLAT.replace(total_timesteps=2**18),
}
"""Short runs, in which every step counts."""

MEMORY = "MemoryChain-bsuite"
TESTS = len(TASKS) + 1


def agents_of(task: str, steps: int | None) -> tuple[PPOConfig, dict[str, Any]]:
    """Returns the configuration of a task, and what takes the place of its parts."""
    if task == MEMORY:
        env, params, config = memory_chain()
        parts = {"env": env, "env_params": params}
        config = config.replace(core="gru", core_size=32)
    else:
        config, parts = TASKS[task], {}
    return shortened(config, steps), parts


def beside(found: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Compares returns with those on record.

    Args:
        found: of a task.
        before: the same, on record.

    Returns:
        The probability that chance makes them as low, the interval of the difference of the means,
        and whether they count as lower.
    """
    ours, theirs = found["mean_returns"]["values"], before["mean_returns"]["values"]
    chance = float(stats.mannwhitneyu(ours, theirs, alternative="less").pvalue)
    return {
        "before": before["mean_returns"]["mean"],
        "difference_95": over(ours, theirs),
        "chance": chance,
        "lower": chance < LOWER / TESTS,
    }


def main() -> None:
    """Trains every task, and compares."""
    tasks = [*TASKS, MEMORY]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", choices=tasks, default=tasks)
    parser.add_argument("--seeds", type=int, default=8, help="agents of each task")
    parser.add_argument("--seed", type=int, default=0, help="of the key that theirs are split from")
    parser.add_argument("--total-timesteps", type=int, help="about this many, not the task's own")
    parser.add_argument("--against", type=Path, help="JSON file of an earlier run")
    parser.add_argument("--quick", action="store_true", help="two tasks, 4 seeds, 50,000 steps")
    parser.add_argument("--out", type=Path, help="JSON file to write, or to go on with")
    args = parser.parse_args()
    if args.quick:
        args = quickened(parser, tasks=tasks[:2], seeds=4, total_timesteps=50_000)
    if args.against is not None and not args.against.exists():
        parser.error(f"--against {args.against}: there is no such file")
    use_cores(args.seeds)
    asked = asked_for(args)
    before, results = results_in(args.against), measured_before(args.out, parser, asked)
    for task in args.tasks:
        config, parts = agents_of(task, args.total_timesteps)
        if task in before and (steps := before[task]["timesteps"]) != config.timesteps:
            parser.error(
                f"--against: {task} is on record after {steps:,} steps, not {config.timesteps:,}: "
                "leave out --quick and --total-timesteps"
            )
        if task not in results:
            print(task, file=sys.stderr, flush=True)
            returns = returns_of(config, args.seeds, args.seed, **parts)
            results[task] = {
                "config": config.to_dict(),
                "timesteps": config.timesteps,
                "run_seconds": returns["run_seconds"],
                "mean_returns": spread(returns["mean_returns"]),
                "final_returns": spread(returns["final_returns"]),
            }
        if task in before:
            results[task]["against"] = beside(results[task], before[task])
        record("guard", results, args.out, asked)
    report("guard", results, args.out, asked)
    lower = [task for task, found in results.items() if found.get("against", {}).get("lower")]
    if lower:
        sys.exit(f"returns are lower than before: {', '.join(lower)}")


if __name__ == "__main__":
    main()
