"""What ways of sweeping find for the same budget: random settings, TPE, and a population.

Each repetition has its own seed; one whose figures are in the file is not run again, and a file of
another budget is refused. A budget is so
many trials of so many steps: TPE is asked for 16 trials at a time, a population is as many agents
as there are trials. Two figures of each:

agent     mean return of the best agent over episodes that it was not chosen by, actions sampled
setting   mean final return of the best setting over 8 fresh seeds; a population has no one setting
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.common.records import quickened, record, report, results_in
from benchmarks.common.returns import over, shortened
from purejaxppo import PPOConfig, fit, load_agents, make_evaluate, use_cores
from purejaxppo.run_folder.rows import final_returns
from purejaxppo.sweeps.sweep import SweepResult, sweep

SPACE = {
    "learning_rate": "log:1e-5..1e-1",
    "gamma": "0.9..0.999",
    "gae_lambda": "0.8..1.0",
    "clip_eps": "0.05..0.5",
    "entropy_coef": "log:1e-5..1e-1",
    "max_grad_norm": "log:0.1..5",
}
"""What is varied: scalars that others sweep too, in ranges wide enough to do harm."""

MINATAR = {
    "num_envs": 64, "num_steps": 128, "num_minibatches": 8, "torso": "mlp",
    "hidden_sizes": [128, 128], "activation": "relu", "shared_torso": True,
    "total_timesteps": 999_424,
}  # fmt: skip

BASE = {
    "Acrobot-v1": {"num_envs": 16, "num_steps": 64, "total_timesteps": 102_400},
    "Pendulum-v1": {
        "num_envs": 8, "num_steps": 128, "num_epochs": 10, "total_timesteps": 102_400,
        "normalize_rewards": True,
    },
    "CartPole-v1": {"num_envs": 8, "num_steps": 64, "total_timesteps": 51_200},
    "Breakout-MinAtar": MINATAR,
    "SpaceInvaders-MinAtar": MINATAR,
}  # fmt: skip
"""Configurations, but for what is varied: half of the steps of their presets or fewer."""

METHODS: dict[str, dict[str, Any]] = {
    "random": {"sampler": "random"},
    "tpe": {"sampler": "tpe", "batch": 16},
    "pbt": {"scheduler": "pbt"},
}
FRESH_EPISODES, FRESH_SEEDS = 256, 8


def measure(env: str, method: str, seed: int, trials: int, steps: int | None) -> dict[str, Any]:
    """Sweeps once; returns what was found."""
    config = shortened(PPOConfig(env=env, **BASE[env]), steps)
    options = {"seed": seed, "trials": trials, **METHODS[method]}
    if method == "pbt":
        options = {"seed": seed, "population": trials, **METHODS[method]}
    with tempfile.TemporaryDirectory() as folder:
        found = sweep(config, SPACE, study_dir=f"{folder}/study", **options)
        best = found.winner
        assert best is not None, found.results[0].why
        record = {
            "score": best.score,
            "setting_found": dict(best.setting),
            "agent": agent_again(found, seed),
            "seconds": sum(result.seconds for result in found.results),
            "steps": sum(result.steps for result in found.results),
        }
    if method != "pbt":
        again = fit(found.best or config, seeds=FRESH_SEEDS, seed=10_000 + seed)
        record["setting"] = float(final_returns(again.metrics).mean())
    return record


def agent_again(found: SweepResult, seed: int) -> float:
    """Mean return of the best agent, over episodes that it was not chosen by."""
    best = found.winner
    assert best is not None and best.run is not None and found.folder is not None
    config, agents = load_agents(found.folder / best.run)
    agent = jax.tree.map(lambda x: x[best.agents[0]], agents)
    evaluate, _ = make_evaluate(config, FRESH_EPISODES, sampled=True)
    return float(np.mean(jax.jit(evaluate)(agent, jax.random.key(20_000 + seed)).returns))


def compared(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Of each method, both figures of all repetitions, their means, and how far from random."""
    summary: dict[str, Any] = {}
    for method, found in runs.items():
        for figure in ("agent", "setting"):
            values = [run[figure] for run in found if figure in run]
            if not values:
                continue
            entry: dict[str, Any] = {"values": values, "mean": statistics.fmean(values)}
            others = [run[figure] for run in runs.get("random", []) if figure in run]
            if method != "random" and len(others) == len(values) > 1:
                # the same seed is no pair: what is drawn differs
                entry["over_random"] = statistics.fmean(values) - statistics.fmean(others)
                entry["over_random_95"] = over(values, others)
                entry["better"] = sum(a > b for a, b in zip(values, others, strict=True))
            summary.setdefault(method, {})[figure] = entry
    return summary


def main() -> None:
    """Sweeps every environment in every way, so many times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--envs", nargs="*", choices=BASE, default=["Acrobot-v1", "Pendulum-v1"])
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--trials", type=int, default=64, help="or agents of a population")
    parser.add_argument("--steps", type=int, help="of each trial; the environment's own if none")
    parser.add_argument("--quick", action="store_true", help="CartPole-v1, 4 trials, 10,000 steps")
    parser.add_argument("--out", type=Path, help="JSON file to write, or to go on with")
    args = parser.parse_args()
    if args.quick:
        args = quickened(parser, envs=["CartPole-v1"], repetitions=2, trials=4, steps=10_000)
    use_cores(args.trials)
    results = results_in(args.out)
    for env in args.envs:
        budget = {"trials": args.trials, "steps": args.steps, "config": BASE[env], "space": SPACE}
        name = f"{env}, {args.trials} trials"
        known = results.get(name, {"budget": budget, "runs": {}})
        if known["budget"] != budget:
            parser.error(f"--out {args.out}: {name} is of another budget: name another file")
        runs = known["runs"]
        for method in args.methods:
            found = runs.setdefault(method, [])
            for seed in range(len(found), args.repetitions):
                print(env, method, seed, file=sys.stderr, flush=True)
                found.append(measure(env, method, seed, args.trials, args.steps))
                results[name] = {"budget": budget, "runs": runs, "summary": compared(runs)}
                record("sweeps", results, args.out)  # a run that is cut off goes on
    report("sweeps", results, args.out)


if __name__ == "__main__":
    main()
