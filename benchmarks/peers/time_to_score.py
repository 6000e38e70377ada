"""Seconds from the start of a process to a trained agent: ours, Stable-Baselines3 and SBX.

Every run is a fresh process that imports, compiles, trains with the hyperparameters that its
library publishes for the environment, and evaluates after every 5,000 steps or so: the mean return
of 20 episodes of separate environments with deterministic actions. It ends at the first evaluation
that reaches the score (475 on CartPole-v1, -200 on Pendulum-v1), or when the steps that the
hyperparameters are published for are used up (SBX on Pendulum-v1 does without the state-dependent
exploration that it does not fully implement). The parent takes the time, from before it starts the
process to the line that this prints; evaluations count. A run that uses JAX is done twice, with an
empty cache of compiled programs (cold) and with the one that the first has left (warm).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common.records import report
from benchmarks.common.timing import quartiles
from benchmarks.peers.peer_envs import CACHE, PINS, python_of

WORKERS = Path(__file__).parent
SCORES = {"CartPole-v1": 475.0, "Pendulum-v1": -200.0}
NEVER = 1e12  # seconds of a run that does not get there, to rank it last


class Arm(NamedTuple):
    """A library: its script in peers/, its environment (None: this one), the caches it has."""

    script: str
    env: str | None
    caches: tuple[str, ...]


ARMS = {
    "ours": Arm("score_ours.py", None, ("cold", "warm")),
    "sb3": Arm("score_sb3.py", "sbx", ("no cache",)),
    "sbx": Arm("score_sb3.py", "sbx", ("cold", "warm")),
}


def run(command: list[str], cache: str, limit: float) -> dict[str, Any]:
    """One process from its start to its line; `seconds` is None where the score is not reached."""
    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    answer = None
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        timer = threading.Timer(limit, process.kill)
        timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                seconds = time.perf_counter() - started
                answer = json.loads(line)
                answer["seconds"] = seconds if answer["reached"] else None
    status = "failed" if timer.is_alive() else "out of time"
    timer.cancel()
    return answer or {"reached": False, "seconds": None, "status": status}


def run_seed(arm: Arm, job: dict[str, Any], python: str, limit: float) -> dict[str, dict]:
    """The runs of one seed, by the cache that they had."""
    command = [python, str(WORKERS / arm.script), json.dumps(job)]
    with tempfile.TemporaryDirectory() as folder:
        return {cache: run(command, folder, limit) | {"seed": job["seed"]} for cache in arm.caches}


def summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and quartiles over seeds, those that were not reached counted as never."""
    seconds = [NEVER if r["seconds"] is None else r["seconds"] for r in runs]
    spread = quartiles(seconds if len(seconds) > 1 else seconds * 2)
    return {
        "seconds": {name: None if s > NEVER / 100 else s for name, s in spread.items()},
        "reached": sum(r["reached"] for r in runs),
        "runs": runs,
    }


def measure(env: str, args: argparse.Namespace, pythons: dict[str, str]) -> dict[str, Any]:
    """Every arm on one environment, seed by seed, in an order that alternates."""
    runs = {name: {cache: [] for cache in ARMS[name].caches} for name in args.arms}
    for seed in range(args.repeats):
        for name in args.arms[:: 1 if seed % 2 == 0 else -1]:
            print(f"{env}, {name}, seed {seed}", file=sys.stderr, flush=True)
            job = {
                "env": env,
                "library": name,
                "seed": seed,
                "score": SCORES[env],
                "eval_every": args.eval_every,
                "episodes": args.episodes,
                "max_steps": args.max_steps,
            }
            for cache, result in run_seed(ARMS[name], job, pythons[name], args.limit).items():
                runs[name][cache].append(result)
    return {
        name: {cache: summarize(each) for cache, each in by_cache.items()}
        for name, by_cache in runs.items()
    }


def main() -> None:
    """Measures every environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--envs", nargs="*", choices=SCORES, default=list(SCORES))
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--repeats", type=int, default=5, help="seeds of every arm")
    parser.add_argument("--eval-every", type=int, default=5_000, help="steps, about")
    parser.add_argument("--episodes", type=int, default=20, help="of one evaluation")
    parser.add_argument("--max-steps", type=int, default=500_000, help="at most these")
    parser.add_argument("--limit", type=float, default=600, help="seconds for one run")
    parser.add_argument("--envs-dir", type=Path, default=CACHE, help="where environments are kept")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    names = {name: ARMS[name].env for name in args.arms}
    pythons = {n: python_of(e, args.envs_dir) if e else sys.executable for n, e in names.items()}
    results: dict[str, Any] = {env: measure(env, args, pythons) for env in args.envs}
    results["pins"] = {e: PINS[e] for e in {*names.values()} if e}
    results["settings"] = {"eval_every": args.eval_every, "episodes": args.episodes}
    report("time_to_score", results, args.out)


if __name__ == "__main__":
    main()
