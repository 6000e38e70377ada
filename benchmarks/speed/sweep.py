"""How much faster a sweep is than as many runs: `purejaxppo sweep` beside `purejaxppo train`.

Both are whole commands, imports and compilation included. `train` finds its programs compiled
already, as after the first of many runs; a few of them are timed, and their median counts for all.
The sweep is timed with an empty cache of compiled programs.
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
    """Times the sweep and some runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--trials", type=int, default=256)
    parser.add_argument("--runs", type=int, default=8, help="of `train`, after one to warm up")
    parser.add_argument("--total-timesteps", type=int, help="of each trial; the preset's if none")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    steps = [] if args.total_timesteps is None else [f"--total-timesteps={args.total_timesteps}"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rates = np.geomspace(1e-4, 1e-2, args.runs + 1)
        alone = [
            seconds(
                ["train", args.env, "--quiet", f"--learning-rate={rate}", *steps,
                 f"--run-dir={folder / f'run-{i}'}"], folder / "kept",
            )
            for i, rate in enumerate(rates)
        ]  # fmt: skip
        swept = seconds(
            ["sweep", args.env, "--quiet", f"--trials={args.trials}", *steps,
             "--vary", f"learning_rate={RATES}", f"--study-dir={folder / 'study'}"],
            folder / "empty",
        )  # fmt: skip
        trials = [json.loads(line) for line in (folder / "study/trials.jsonl").open()]
    each = statistics.median(alone[1:])
    results = {
        "trials": len(trials),
        "steps_of_a_trial": trials[0]["steps"],
        "done": sum(trial["status"] == "done" for trial in trials),
        "runs_seconds": alone[1:],
        "first_run_seconds": alone[0],
        "sweep_seconds": swept,
        "sweep_steps_per_second": sum(trial["steps"] for trial in trials) / swept,
        "runs_would_take": each * args.trials,
        "times_as_fast": each * args.trials / swept,
    }
    report("sweep", results, args.out)


if __name__ == "__main__":
    main()
