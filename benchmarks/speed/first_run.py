"""From `pip install .` to the first trained agents: seconds and bytes of every command.

In a fresh virtual environment, with nothing cached: the installation, which downloads, then the
same training twice, the second time with another learning rate.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common.records import report

ROOT = Path(__file__).parents[2]
TRAIN = "purejaxppo train CartPole-v1"
RUNS = {"first": TRAIN, "another learning rate": f"{TRAIN} --learning-rate 0.001"}


def bytes_in(folder: Path) -> int:
    """Adds up the files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def timed(words: list[str], folder: Path, variables: dict[str, str]) -> tuple[float, str]:
    """Runs a command; returns its seconds, and what it printed."""
    started = time.perf_counter()
    done = subprocess.run(
        words, cwd=folder, env=variables, check=True, stdout=subprocess.PIPE, text=True
    )
    return time.perf_counter() - started, done.stdout


def install(folder: Path, variables: dict[str, str]) -> tuple[Path, dict[str, Any]]:
    """Makes an environment, and installs the checkout into it.

    Args:
        folder: where there is room for it.
        variables: of the environment.

    Returns:
        The folder of its commands, and what there is to report.
    """
    place = folder / "environment"
    made, _ = timed([sys.executable, "-m", "venv", str(place)], folder, variables)
    commands = place / ("Scripts" if os.name == "nt" else "bin")
    empty = bytes_in(place)
    words = ["-m", "pip", "install", "--quiet", "--no-cache-dir", str(ROOT)]
    seconds, _ = timed([str(commands / "python"), *words], folder, variables)
    taken = {"command": "pip install .", "seconds": seconds, "bytes": bytes_in(place) - empty}
    return commands, {"environment_seconds": made, "install": taken}


def measure(folder: Path, total_timesteps: int | None, here: bool) -> dict[str, Any]:
    """Installs and trains; returns what there is to report.

    Args:
        folder: an empty one.
        total_timesteps: of each training; None: as many as the preset says.
        here: train with the packages of this Python; nothing is installed.
    """
    # what this machine has cached already is not for these commands
    variables = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    variables["XDG_CACHE_HOME"] = str(folder / "cache")
    commands, results = Path(sys.executable).parent, {}
    if here:
        variables["PYTHONPATH"] = str(ROOT)
    else:
        commands, results = install(folder, variables)

    for name, command in RUNS.items():
        shorter = [] if total_timesteps is None else ["--total-timesteps", str(total_timesteps)]
        words = [str(commands / "purejaxppo"), *shlex.split(command)[1:], *shorter, "--json"]
        seconds, printed = timed(words, folder, variables)
        summary = json.loads(printed.splitlines()[-1])
        kept = ("compile_seconds", "run_seconds", "timesteps", "final_return_mean")
        results[name] = {"command": command, "seconds": seconds} | {k: summary[k] for k in kept}
        results[name]["cache_bytes"] = bytes_in(folder / "cache")
    return results


def main() -> None:
    """Measures what a new user waits for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--total-timesteps", type=int, help="of each run; default: the preset's")
    parser.add_argument("--here", action="store_true", help="install nothing, use this Python")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), args.total_timesteps, args.here)
    report("first_run", results, args.out)


if __name__ == "__main__":
    main()
