"""Many runs, each a command in a process of its own: those that are there are not trained again."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from purejaxppo.report.results import Results, read_results

COMMAND = [sys.executable, "-c", "from purejaxppo.cli.main import main; main()"]


def flags_of(settings: Mapping[str, Any]) -> list[str]:
    """Returns settings as flags of `purejaxppo train`."""
    words = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, (list, tuple)):
            words += [f"--{flag}", *map(str, value)]
        else:
            words += [f"--{flag}", str(value)]
    return words


def finished(folder: Path) -> Results | None:
    """Returns the results of a run that went to its end; None of others."""
    if not (folder / "summary.json").exists():
        return None
    results = read_results(folder)
    return results if results.metrics.episodes.shape[1] >= results.config.num_updates else None


def train_all(runs: Mapping[Path, list[str]], jobs: int) -> None:
    """Trains what is not there yet, several runs at a time; what was begun goes on.

    Args:
        runs: the words behind `purejaxppo train` by folder, in the order in which they are begun.
        jobs: processes side by side.

    Raises:
        RuntimeError: a run has failed, and what it said; the others are trained first.
    """

    def train(folder: Path) -> str:
        if finished(folder) is not None:
            return ""
        words = [*runs[folder], "--run-dir", str(folder)]
        words += ["--resume"] if (folder / "run.json").exists() else []
        print("purejaxppo train", shlex.join(words), file=sys.stderr, flush=True)
        # one core each: threads would be in the way of the other runs
        env = os.environ | {"NPROC": "1", "JAX_NUM_CPU_DEVICES": "1"}
        done = subprocess.run(
            [*COMMAND, "train", *words, "--quiet"], env=env, capture_output=True, text=True
        )
        return f"{folder}: {done.stderr.strip()}" if done.returncode else ""

    with ThreadPoolExecutor(jobs) as pool:
        failed = [words for words in pool.map(train, runs) if words]
    if failed:
        raise RuntimeError("; ".join(failed))
