"""How much faster a sweep is than as many runs: `purejaxppo sweep` beside `purejaxppo train`.

Both are whole commands, imports and compilation included. `train` finds its programs compiled
already, as after the first of many runs; a few of them are timed, and their median counts for all.
The sweep is timed with an empty cache of compiled programs. Both are timed in turn, several times:
the machine is not as fast at every time, and a command is short.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common.records import report
from benchmarks.common.runs import COMMAND

RATES = "log:1e-4..1e-2"


def seconds(arguments: list[str], cache: Path) -> float:
    """Seconds of one command, with a folder of compiled programs."""
    started = time.perf_counter()
    subprocess.run(
        [*COMMAND, *arguments], check=True, stdout=subprocess.DEVNULL,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)},
    )  # fmt: skip
    return time.perf_counter() - started


def main() -> None:
    """Times some runs and the sweep, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--trials", type=int, default=256)
    parser.add_argument("--runs", type=int, default=8, help="of `train` before each sweep")
    parser.add_argument("--repetitions", type=int, default=3, help="of runs and sweep")
    parser.add_argument("--total-timesteps", type=int, help="of each trial; the preset's if none")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    steps = [] if args.total_timesteps is None else [f"--total-timesteps={args.total_timesteps}"]
    rates, rounds, trials = np.geomspace(1e-4, 1e-2, args.runs), [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def train(run: str, rate: float) -> float:
            return seconds(
                ["train", args.env, "--quiet", f"--learning-rate={rate}", *steps,
                 f"--run-dir={folder / run}"], folder / "kept",
            )  # fmt: skip

        first = train("first", float(rates[0]))
        for i in range(args.repetitions):
            alone = [train(f"run-{i}-{j}", rate) for j, rate in enumerate(rates)]
            swept = seconds(
                ["sweep", args.env, "--quiet", f"--trials={args.trials}", *steps,
                 "--vary", f"learning_rate={RATES}", f"--study-dir={folder / f'study-{i}'}"],
                folder / f"empty-{i}",
            )  # fmt: skip
            trials = [json.loads(line) for line in (folder / f"study-{i}/trials.jsonl").open()]
            assert sum(trial["status"] == "done" for trial in trials) == args.trials, trials
            would = statistics.median(alone) * args.trials
            rounds.append({
                "runs_seconds": alone, "sweep_seconds": swept, "runs_would_take": would,
                "times_as_fast": would / swept,
            })  # fmt: skip
    middle = {
        key: statistics.median(found[key] for found in rounds)
        for key in ("sweep_seconds", "runs_would_take", "times_as_fast")
    }
    results = {
        "trials": args.trials,
        "steps_of_a_trial": trials[0]["steps"],
        "first_run_seconds": first,
        "rounds": rounds,
        "sweep_steps_per_second": args.trials * trials[0]["steps"] / middle["sweep_seconds"],
        **middle,
    }
    report("sweep", results, args.out)


if __name__ == "__main__":
    main()
