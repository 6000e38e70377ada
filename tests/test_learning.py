"""The presets learn; `benchmarks.learning.scores` has the same runs at full length."""

import json
import os
import subprocess
import sys

import pytest

RUNS = [  # arguments of `purejaxppo train`, score to reach as the mean of 2 seeds (unless said)
    ("CartPole-v1 --total-timesteps 250000", 490),
    ("CartPole-v1 --algorithm ppo_kl", 475),
    ("CartPole-v1 --algorithm ppo_kl --objective adaptive_kl", 475),
    ("CartPole-v1 --algorithm a2c", 450),
    ("CartPole-v1 --algorithm reinforce", 400),
    ("CartPole-v1 --preset classic", 475),
    ("Pendulum-v1 --total-timesteps 250000", -250),
    ("Acrobot-v1 --total-timesteps 250000", -90),
    ("MountainCarContinuous-v0 --total-timesteps 250000", 85),
    ("Breakout-MinAtar --total-timesteps 262144", 4),  # at random 0.4
    ("brax/hopper --total-timesteps 300000", 300),  # at random below 100
    ("gymnasium/Hopper-v5 --total-timesteps 100000 --seeds 1", 200),  # at random about 20
]


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "score"), RUNS)
def test_preset_reaches_its_score(arguments, score, tmp_path):
    """In a process of its own, compiled with all optimizations."""
    command = [sys.executable, "-c", "from purejaxppo.cli.main import main; main()", "train"]
    seeds = "" if "--seeds" in arguments else "--seeds 2"
    options = f"{arguments} {seeds} --seed 1 --run-dir run --json"
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    printed = subprocess.run(
        [*command, *options.split()], check=True, cwd=tmp_path, env=env, stdout=subprocess.PIPE
    ).stdout
    summary = json.loads(printed.splitlines()[-1])
    assert summary["total_timesteps"] <= 1_000_000
    assert summary["final_return_mean"] >= score, summary["final_returns"]
    with open(tmp_path / "run/metrics.jsonl") as file:
        assert sum(json.loads(line)["skipped_steps"] for line in file) == 0
