"""Final returns of the presets: mean and standard deviation over seeds.

The final return of a seed is the mean return of the episodes that ended in the last tenth of its
updates, with actions sampled as in training.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.common.timing import report
from purejaxppo import PPOConfig, fit, use_cores
from purejaxppo.config.schema import Algorithm
from purejaxppo.run_folder.rows import final_returns

RUNS: dict[str, tuple[str, Algorithm, dict[str, Any]]] = {
    "CartPole-v1, ppo": ("CartPole-v1", "ppo", {}),
    "CartPole-v1, ppo_kl": ("CartPole-v1", "ppo_kl", {}),
    "CartPole-v1, ppo_kl, adaptive": ("CartPole-v1", "ppo_kl", {"objective": "adaptive_kl"}),
    "CartPole-v1, a2c": ("CartPole-v1", "a2c", {}),
    "CartPole-v1, reinforce": ("CartPole-v1", "reinforce", {}),
    "CartPole-v1, classic": ("classic", "ppo", {}),
    "Pendulum-v1, ppo": ("Pendulum-v1", "ppo", {}),
    "Acrobot-v1, ppo": ("Acrobot-v1", "ppo", {}),
    "MountainCarContinuous-v0, ppo": ("MountainCarContinuous-v0", "ppo", {}),
}


def measure(name: str, seeds: int, seed: int, total_timesteps: int | None) -> dict:
    """Trains one preset; returns what there is to report."""
    preset, algorithm, changes = RUNS[name]
    config = PPOConfig.preset(preset, algorithm, **changes)
    if total_timesteps:
        config = config.replace(total_timesteps=total_timesteps)
    result = fit(config, seeds=seeds, seed=seed)
    returns = final_returns(result.metrics)
    return {
        "final_return_mean": float(returns.mean()),
        "final_return_std": float(returns.std()),
        "final_returns": returns.tolist(),
        "seeds": seeds,
        "seed": seed,
        "run_seconds": result.run_seconds,
        "compile_seconds": result.compile_seconds,
        "steps_per_second": seeds * config.timesteps / result.run_seconds,
        "config": config.to_dict(),
    }


def main() -> None:
    """Trains the presets one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", nargs="*", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seeds", type=int, default=8, help="agents per preset, in one program")
    parser.add_argument("--seed", type=int, default=0, help="of the key that theirs are split from")
    parser.add_argument("--total-timesteps", type=int, help="about this many, not the preset's")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    use_cores(args.seeds)
    results = {}
    for name in args.runs:
        results[name] = measure(name, args.seeds, args.seed, args.total_timesteps)
    report("scores", results, args.out)


if __name__ == "__main__":
    main()
