"""Returns on tasks of MuJoCo Playground's control suite, beside Brax's PPO, which was made for it.

Ours trains with the settings that Playground publishes for Brax, but for sizes that two cores can
do in minutes: 512 environments, minibatches of 64 rollouts of 30 steps, 8 epochs, a critic of three
layers of 64, and a rate that falls to 0. After every tenth of the steps, 64 episodes of 1,000 steps
are evaluated, most probable actions taken; the seeds are one program. Beside it stand Brax's curves
with its published sizes, of others' runs (`PUBLISHED`), and with `--arms brax` its PPO is trained
here with our sizes, at its constant rate, each seed in a process. What differs beside that: a
deviation is exp(x) here and softplus(x) + 0.001 there, layers begin orthogonal here, and every
episode has a fresh reset here.

It needs Playground, and the arm of Brax needs Brax: `pip install '.[playground,brax]'`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common.child import result_of
from benchmarks.common.records import (
    asked_for,
    check_same,
    measured_before,
    quickened,
    record,
    report,
)
from benchmarks.common.returns import spread
from purejaxppo import PPOConfig, fit, use_cores
from purejaxppo.report.results import read_results

WORKER = Path(__file__).with_name("score_brax.py")
TASKS = (
    "CartpoleBalance", "CartpoleSwingup", "PendulumSwingup", "ReacherHard", "CheetahRun",
    "WalkerWalk",
)  # fmt: skip
SIZES: dict[str, Any] = {
    "num_envs": 512, "num_steps": 30, "num_minibatches": 8, "num_epochs": 8, "reset_batch": 16,
    "critic_hidden_sizes": (64, 64, 64), "learning_rate_final_scale": 0.0,
}  # fmt: skip
EVALUATIONS, EPISODES, EPISODE_LENGTH = 10, 64, 1000

PUBLISHED: dict[str, dict[float, tuple[float, float]]] = {
    "CartpoleBalance": {0: (262.9, 37.7), 10.5: (983.2, 11.2), 21.1: (998.9, 0.3)},
    "CartpoleSwingup": {0: (32.5, 18.7), 10.5: (298.1, 64.6), 21.1: (694.3, 111.9)},
    "PendulumSwingup": {0: (1.0, 0.4), 10.5: (47.1, 41.9), 21.1: (54.7, 21.5)},
    "ReacherHard": {0: (11.1, 1.6), 10.5: (944.3, 35.9), 21.1: (970.1, 6.3)},
    "CheetahRun": {0: (3.0, 0.4), 10.5: (289.0, 36.9), 21.1: (529.6, 81.6)},
    "WalkerWalk": {0: (30.9, 1.5), 10.5: (297.5, 48.0), 21.1: (722.7, 75.8)},
}
"""Brax's PPO as Playground publishes it, by millions of steps: mean and deviation of five runs.

Computed from results/TASK_ppo_brax.csv of cvoelcker/reppo at a7ab85b, whose axis is interpolated.
"""


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


ARMS = {"ours": train_ours, "brax": train_brax}


def measure(arm: str, config: PPOConfig, seeds: int, episodes: int) -> dict[str, Any]:
    """Trains agents of one of the two; returns what there is to report."""
    run = ARMS[arm](config, seeds, episodes)
    return {**run, "seeds": seeds, "last": spread([float(x[-1]) for x in run["returns"]])}


def main() -> None:
    """Trains on the tasks one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS[:4]))
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=["ours"])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--total-timesteps", type=int, default=3_072_000)
    parser.add_argument("--episodes", type=int, default=EPISODES, help="of an evaluation")
    parser.add_argument("--quick", action="store_true", help="one task, 1 seed, 153,600 steps")
    parser.add_argument("--out", type=Path, help="JSON file to write, or to go on with")
    args = parser.parse_args()
    if args.quick:
        args = quickened(parser, tasks=args.tasks[:1], seeds=1, total_timesteps=153_600)
    use_cores(args.seeds)
    asked = asked_for(args)
    results = measured_before(args.out, parser, asked)
    for task in args.tasks:
        sizes = {"total_timesteps": args.total_timesteps, **SIZES}
        config = PPOConfig.preset(f"playground/{task}", **sizes)
        published = [[1e6 * x, *of] for x, of in PUBLISHED[task].items()]
        known = {"config": config.to_dict(), "steps": config.timesteps, "published": published}
        found = results.setdefault(task, known)
        check_same(config, found, parser)
        for arm in args.arms:
            if arm not in found:
                print(f"{task}, {arm}", file=sys.stderr, flush=True)
                found[arm] = measure(arm, config, args.seeds, args.episodes)
                record("control_suite", results, args.out, asked)
    report("control_suite", results, args.out, asked)


if __name__ == "__main__":
    main()
