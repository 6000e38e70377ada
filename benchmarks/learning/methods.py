"""Returns with other optimizers, rates, critics and advantages, beside the plain setting.

Each method is one change of a task's configuration; all else, steps and seeds too, is the same.
Muon's updates have another size than Adam's, so its learning rate is the best of three for a few
other seeds. Mean and final returns are those of `benchmarks.common.returns`; the difference from
the plain setting has a 95% interval (Welch's t).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.records import (
    asked_for,
    check_same,
    measured_before,
    quickened,
    record,
    report,
)
from benchmarks.common.returns import compared, returns_of, shortened
from benchmarks.common.shapes import FLAT
from purejaxppo import PPOConfig, use_cores

TUNED_FROM = 1000
"""First seed of those that a learning rate is chosen with."""

TASKS: dict[str, PPOConfig] = {
    "CartPole-v1": PPOConfig(
        num_envs=8, num_steps=125, learning_rate=2.5e-3, learning_rate_final_scale=0.0,
        gae_lambda=0.9, total_timesteps=500_000,
    ),
    "Pendulum-v1": PPOConfig.preset("Pendulum-v1"),
    "Breakout-MinAtar": FLAT,
    "brax/inverted_double_pendulum": PPOConfig.preset(
        "brax/hopper", env="brax/inverted_double_pendulum", total_timesteps=250_000,
        reset_batch=None,
    ),
}  # fmt: skip
"""The plain setting of each task."""

METHODS: dict[str, list[dict[str, Any]]] = {
    "plain": [{}],
    "muon": [{"optimizer": "muon", "learning_rate": rate} for rate in (0.003, 0.01, 0.03)],
    "kl_adaptive": [{"learning_rate_schedule": "kl_adaptive", "learning_rate_final_scale": 1.0}],
    "categorical": [{"value_loss": "categorical"}],
    "normalize_values": [{"normalize_values": True}],
    "recompute": [{"recompute_advantages": True}],
    "vtrace": [{"advantage": "vtrace", "recompute_advantages": True}],
}
"""What is changed of a task's configuration; where there are several changes, one is chosen."""


def chosen(config: PPOConfig, changes: list[dict[str, Any]], seeds: int) -> dict[str, Any]:
    """Returns the change whose mean return over the run is highest for seeds of their own."""
    if len(changes) == 1:
        return changes[0]
    means = [
        np.mean(returns_of(config.replace(**change), seeds, TUNED_FROM)["mean_returns"])
        for change in changes
    ]
    return changes[int(np.argmax(means))]


def measure(config: PPOConfig, name: str, seeds: int, plain: dict[str, Any] | None) -> dict:
    """Trains a task with one method; returns what there is to report, beside the plain setting."""
    change = chosen(config, METHODS[name], min(seeds, 4))
    returns = returns_of(config.replace(**change), seeds)
    return {"change": change} | compared(returns, plain)


def main() -> None:
    """Trains every task with every method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=8, help="agents per run, in one program")
    parser.add_argument("--total-timesteps", type=int, help="about this many, not the task's own")
    parser.add_argument("--quick", action="store_true", help="two tasks, 4 seeds, 50,000 steps")
    parser.add_argument("--out", type=Path, help="JSON file to write, or to go on with")
    args = parser.parse_args()
    if args.quick:
        args = quickened(parser, tasks=args.tasks[:2], seeds=4, total_timesteps=50_000)
    use_cores(args.seeds)
    # what an earlier process has measured stays, and each method is kept as soon as it is
    asked = asked_for(args)
    results = measured_before(args.out, parser, asked)
    for task in args.tasks:
        config = shortened(TASKS[task], args.total_timesteps)
        start = {"seeds": args.seeds, "config": config.to_dict(), "methods": {}}
        check_same(config, results.setdefault(task, start), parser)
        there = results[task]["methods"]
        for name in dict.fromkeys(["plain", *args.methods]):
            if name in there:
                continue
            print(task, name, file=sys.stderr, flush=True)
            there[name] = measure(config, name, args.seeds, there.get("plain"))
            record("methods", results, args.out, asked)
    report("methods", results, args.out, asked)


if __name__ == "__main__":
    main()
