"""Returns on tasks of MuJoCo Playground's control suite, beside Brax's PPO, which was made for it.

Both train with the settings that Playground publishes for Brax, but for sizes that two cores can do
in minutes: 512 environments, minibatches of 64 rollouts of 30 steps, 8 epochs, a critic of three
layers of 64. After every tenth of the steps, 64 episodes of 1,000 steps are evaluated, most
probable actions taken. Our seeds are one program, those of Brax a process each.

Both need Playground and Brax: `pip install '.[playground,brax]'`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.child import result_of
from benchmarks.common.returns import over, spread
from benchmarks.common.timing import measured_before, record, report
from purejaxppo import PPOConfig, fit, use_cores
from purejaxppo.report.results import read_results

WORKER = Path(__file__).with_name("score_brax.py")
TASKS = (
    "CartpoleBalance", "CartpoleSwingup", "PendulumSwingup", "ReacherHard", "CheetahRun",
    "WalkerWalk",
)  # fmt: skip
SIZES: dict[str, Any] = {
    "num_envs": 512, "num_steps": 30, "num_minibatches": 8, "num_epochs": 8, "reset_batch": 16,
    "critic_hidden_sizes": (64, 64, 64),
}  # fmt: skip
EVALUATIONS, EPISODES, EPISODE_LENGTH = 10, 64, 1000


def train_ours(config: PPOConfig, seeds: int, episodes: int) -> dict[str, Any]:
    """Trains agents side by side.

    Returns:
        Steps of the evaluations, their returns [seeds, evaluations], and seconds.
    """
    every = config.timesteps // EVALUATIONS
    with tempfile.TemporaryDirectory() as folder:
        run = fit(
            config, seeds=seeds, run_dir=Path(folder) / "run",
            eval_every=every, eval_episodes=episodes,
        )  # fmt: skip
        results = read_results(Path(folder) / "run")
    return {
        "steps": results.eval_steps.tolist(),
        "returns": results.eval_returns.tolist(),
        "run_seconds": run.run_seconds,
        "compile_seconds": run.compile_seconds,
    }


def train_brax(config: PPOConfig, seeds: int, episodes: int) -> dict[str, Any]:
    """Trains one agent after the other with Brax.

    Returns:
        As `train_ours`.

    Raises:
        RuntimeError: a process has failed.
    """
    words = config.replace(total_timesteps=config.timesteps).to_dict()
    runs = []
    for seed in range(seeds):
        job = {
            "config": words, "seed": seed, "evaluations": EVALUATIONS, "episodes": episodes,
            "episode_length": EPISODE_LENGTH,
        }  # fmt: skip
        found = result_of([str(WORKER), json.dumps(job)])
        if "returns" not in found:
            raise RuntimeError(f"Brax's PPO on {config.env}: {found}")
        runs.append(found)
    return {
        "steps": runs[0]["steps"],
        "returns": [run["returns"] for run in runs],
        "run_seconds": sum(run["seconds"][-1] for run in runs),
    }


def measure(task: str, seeds: int, total_timesteps: int, episodes: int) -> dict[str, Any]:
    """Trains agents of both; returns what there is to report."""
    config = PPOConfig.preset(f"playground/{task}", total_timesteps=total_timesteps, **SIZES)
    found: dict[str, Any] = {"config": config.to_dict(), "seeds": seeds, "steps": config.timesteps}
    for name, train in {"ours": train_ours, "brax": train_brax}.items():
        print(f"{task}, {name}", file=sys.stderr, flush=True)
        run = train(config, seeds, episodes)
        curve = np.array(run["returns"])
        found[name] = {**run, "last": spread(curve[:, -1].tolist())}
    ours, theirs = (found[name]["last"]["values"] for name in ("ours", "brax"))
    found["over_brax_95"] = over(ours, theirs) if seeds > 1 else None
    return found


def main() -> None:
    """Trains on the tasks one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS[:4]))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--total-timesteps", type=int, default=3_072_000)
    parser.add_argument("--episodes", type=int, default=EPISODES, help="of an evaluation")
    parser.add_argument("--quick", action="store_true", help="one task, 1 seed, 153,600 steps")
    parser.add_argument("--out", type=Path, help="JSON file to write, or to go on with")
    args = parser.parse_args()
    if args.quick:
        args.tasks, args.seeds, args.total_timesteps = args.tasks[:1], 1, 153_600
    use_cores(args.seeds)
    results = measured_before(args.out)
    for task in args.tasks:
        if task not in results:
            results[task] = measure(task, args.seeds, args.total_timesteps, args.episodes)
            record("control_suite", results, args.out)
    report("control_suite", results, args.out)


if __name__ == "__main__":
    main()
