"""Scores of the presets, beside those that others publish.

Two numbers of a seed: the mean return of 100 episodes at the end of its run, most probable actions
taken, and its final return, that of the episodes which ended in the last tenth of its updates,
actions sampled. Interquartile means over seeds have 95% bootstrap intervals (arXiv:2108.13264).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common.records import (
    asked_for,
    check_same,
    measured_before,
    quickened,
    record,
    report,
)
from benchmarks.common.returns import runs_of, shortened, spread
from purejaxppo import PPOConfig, use_cores
from purejaxppo.config.schema import Algorithm
from purejaxppo.run_folder.rows import final_returns

EPISODES = 100

GYMNAX, BLINES = "gymnax's README", "gymnax-blines"
ZOO, CLEANRL, BASELINES = "RL Baselines3 Zoo", "CleanRL", "openai/baselines"


class Reference(NamedTuple):
    """A score that others publish: as they write it, after how many steps, and where."""

    score: str
    steps: str
    source: str


REFERENCES: dict[str, list[Reference]] = {
    "CartPole-v1": [
        Reference("490.0 ± 6.1", "500k", CLEANRL), Reference("497.5 ± 4.0", "500k", BASELINES),
        Reference("500", "100k", ZOO), Reference("500", "128k-144k", BLINES),
    ],
    "Acrobot-v1": [
        Reference("-86.4 ± 1.3", "500k", CLEANRL), Reference("-81.8 ± 5.6", "500k", BASELINES),
        Reference("-73.5", "1M", ZOO), Reference("-80", "", GYMNAX),
    ],
    "Pendulum-v1": [Reference("-172.2", "100k", ZOO), Reference("-130", "", GYMNAX)],
    "MountainCar-v0": [Reference("-110.4", "1M", ZOO), Reference("-118", "", GYMNAX)],
    "MountainCarContinuous-v0": [Reference("88.3", "20k", ZOO), Reference("92", "", GYMNAX)],
    "Breakout-MinAtar": [Reference("28", "10M", BLINES)],
    "SpaceInvaders-MinAtar": [Reference("131", "10M", BLINES)],
    "Asterix-MinAtar": [Reference("15", "10M", BLINES)],
    "Freeway-MinAtar": [Reference("58", "10M", BLINES)],
    "gymnasium/Hopper-v5": [
        Reference("2382.9 ± 272 (v4)", "1M", CLEANRL), Reference("2316.2 (v1)", "1M", BASELINES),
        Reference("2410 (v3)", "1M", ZOO),
    ],
    "gymnasium/HalfCheetah-v5": [
        Reference("1442.6 ± 46 (v4)", "1M", CLEANRL), Reference("1668.6 (v1)", "1M", BASELINES),
        Reference("5819 (v3)", "1M", ZOO),
    ],
    "gymnasium/Walker2d-v5": [
        Reference("2288.0 ± 571.8 (v4)", "1M", CLEANRL), Reference("3425.0 (v1)", "1M", BASELINES),
        Reference("3479 (v3)", "1M", ZOO),
    ],
    "gymnasium/InvertedPendulum-v5": [
        Reference("963.1 ± 22.2 (v4)", "1M", CLEANRL), Reference("809.4 (v1)", "1M", BASELINES),
    ],
    "gymnasium/InvertedDoublePendulum-v5": [Reference("7102.9 (v1)", "1M", BASELINES)],
    "gymnasium/Reacher-v5": [Reference("-6.7 (v1)", "1M", BASELINES)],
    "gymnasium/Swimmer-v5": [Reference("111.2 (v1)", "1M", BASELINES)],
    "gymnasium/Humanoid-v5": [Reference("716.1 ± 49.1 (v4)", "1M", CLEANRL)],
    "gymnasium/Pusher-v5": [Reference("-40.4 ± 7.2 (v4)", "1M", CLEANRL)],
    "gymnasium/Ant-v5": [Reference("1824 ± 906 (v4)", "8M", CLEANRL)],
}  # fmt: skip
"""By environment; who gives a deviation has several seeds, all others one run or model."""


class Row(NamedTuple):
    """A preset: its algorithm, what is changed of it, and how many seeds are trained."""

    preset: str
    algorithm: Algorithm = "ppo"
    changes: Mapping[str, Any] = MappingProxyType({})
    seeds: int = 8


STICKY = MappingProxyType({"env_options": ("sticky_actions=0.1",)})

ROWS: dict[str, Row] = {
    "CartPole-v1": Row("CartPole-v1"),
    "CartPole-v1, KL penalty": Row("CartPole-v1", "ppo_kl"),
    "CartPole-v1, adaptive KL": Row("CartPole-v1", "ppo_kl", {"objective": "adaptive_kl"}),
    "CartPole-v1, A2C": Row("CartPole-v1", "a2c"),
    "CartPole-v1, REINFORCE": Row("CartPole-v1", "reinforce"),
    "CartPole-v1, classic": Row("classic"),
    "Acrobot-v1": Row("Acrobot-v1"),
    "Pendulum-v1": Row("Pendulum-v1"),
    "MountainCar-v0": Row("MountainCar-v0"),
    "MountainCarContinuous-v0": Row("MountainCarContinuous-v0"),
    "Breakout-MinAtar": Row("Breakout-MinAtar", seeds=6),
    "SpaceInvaders-MinAtar": Row("SpaceInvaders-MinAtar", seeds=6),
    "Asterix-MinAtar": Row("Asterix-MinAtar", seeds=6),
    "Freeway-MinAtar": Row("Freeway-MinAtar", seeds=6),
    "Breakout-MinAtar, sticky actions": Row("Breakout-MinAtar", changes=STICKY, seeds=6),
    "SpaceInvaders-MinAtar, sticky actions": Row("SpaceInvaders-MinAtar", changes=STICKY, seeds=6),
    "Asterix-MinAtar, sticky actions": Row("Asterix-MinAtar", changes=STICKY, seeds=6),
    "Freeway-MinAtar, sticky actions": Row("Freeway-MinAtar", changes=STICKY, seeds=6),
    **{name: Row(name, seeds=6) for name in (
        "navix/Navix-Empty-8x8-v0", "navix/Navix-DoorKey-5x5-v0", "navix/Navix-FourRooms-v0",
        "xminigrid/MiniGrid-EmptyRandom-8x8", "xminigrid/MiniGrid-DoorKey-5x5",
        "xminigrid/MiniGrid-FourRooms", "jumanji/Game2048-v1", "jumanji/Maze-v0",
        "jumanji/Snake-v1", "brax/hopper", "brax/walker2d",
    )},
    **{f"brax/{name}, hopper's preset": Row(
        "brax/hopper", changes={"env": f"brax/{name}", "total_timesteps": 2_000_000}, seeds=6,
    ) for name in ("halfcheetah", "ant")},
    **{f"gymnasium/{name}-v5": Row(f"gymnasium/{name}-v5", seeds=6) for name in (
        "Hopper", "HalfCheetah", "Walker2d", "InvertedPendulum", "InvertedDoublePendulum",
        "Reacher", "Swimmer", "Humanoid", "Pusher", "Ant",
    )},
}  # fmt: skip


def config_of(row: Row, total_timesteps: int | None) -> PPOConfig:
    """Returns what is trained of a row, for other steps where they are asked for."""
    return shortened(PPOConfig.preset(row.preset, row.algorithm, **row.changes), total_timesteps)


def measure(row: Row, config: PPOConfig, seeds: int, seed: int) -> dict[str, Any]:
    """Trains a preset; returns what there is to report."""
    same = "env_options" not in row.changes  # the environment that others have
    references = REFERENCES.get(config.env, []) if same else []
    runs = runs_of(config, seeds, seed, eval_every=config.timesteps, eval_episodes=EPISODES)
    returns = np.concatenate([np.asarray(run.best.returns) for run in runs])
    seconds = sum(run.run_seconds for run in runs)
    return {
        "references": [reference._asdict() for reference in references],
        "evaluation": spread(returns.tolist()),
        "final_return": spread(
            np.concatenate([final_returns(run.metrics) for run in runs]).tolist()
        ),
        "seeds": seeds,
        "seed": seed,
        "run_seconds": seconds,
        "compile_seconds": sum(run.compile_seconds for run in runs),
        "steps_per_second": seeds * config.timesteps / seconds,
        "config": config.to_dict(),
    }


def main() -> None:
    """Trains the presets one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, help="agents per preset; those of its row if none")
    parser.add_argument("--seed", type=int, default=0, help="of the key that theirs are split from")
    parser.add_argument("--total-timesteps", type=int, help="about this many, not the preset's")
    parser.add_argument("--quick", action="store_true", help="two presets, 2 seeds, 50,000 steps")
    parser.add_argument("--out", type=Path, help="JSON file to write, or to go on with")
    args = parser.parse_args()
    if args.quick:
        args = quickened(parser, rows=args.rows[:2], seeds=2, total_timesteps=50_000)
    use_cores(args.seeds or max(row.seeds for row in ROWS.values()))
    asked = asked_for(args)
    results = measured_before(args.out, parser, asked)
    for name in args.rows:
        row, config = ROWS[name], config_of(ROWS[name], args.total_timesteps)
        if name in results:
            check_same(config, results[name], parser)
        else:
            print(name, file=sys.stderr, flush=True)
            results[name] = measure(row, config, args.seeds or row.seeds, args.seed)
            record("scores", results, args.out, asked)
    report("scores", results, args.out, asked)


if __name__ == "__main__":
    main()
