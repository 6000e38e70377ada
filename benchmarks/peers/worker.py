"""A worker of peers.py: `python worker.py arm_rejax` trains when told to, and says how long.

It is a process of its own, for the packages that it needs are in another environment. It is sent
one JSON line, the job; it compiles, and answers with a line; then it trains once for every further
line. It sleeps in between, so that workers can be timed in turn.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any

PACKAGES = (
    "purejaxppo", "rejax", "stable-baselines3", "sbx-rl", "brax", "jax", "flax", "optax", "gymnax",
    "gymnasium", "distrax", "torch", "numpy",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of those packages that the worker's environment has."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def device() -> str:
    """What it runs on, as jax calls it; a CPU where there is no jax."""
    jax = sys.modules.get("jax")
    return jax.devices()[0].device_kind if jax else "cpu"


def private_stdout():
    """The standard output for answers alone: what libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return out


def serve(module: str) -> None:
    """Answers the lines of standard input until it ends.

    Args:
        module: has `make(job) -> Arm` (see `job` in peers.py).
    """
    out = private_stdout()  # first: some packages print while they are imported
    job = json.loads(sys.stdin.readline())
    arm = import_module(module).make(job)
    compile_seconds = arm.compile_seconds
    cpu_seconds = time.process_time()  # of all threads: from the start of the process on
    if not job.get("compile_only") or compile_seconds is None:
        taken = [timed(arm.train, seed) for seed in (0, 1)]  # the first may still compile
        if compile_seconds is None:
            compile_seconds = max(taken[0] - taken[1], 0.0)
            cpu_seconds = None
    hello = {
        "compile_seconds": compile_seconds,
        "cpu_seconds": cpu_seconds,
        "device": device(),
        "versions": versions(),
    }
    print(json.dumps(hello), file=out)
    for line in sys.stdin:
        print(json.dumps({"seconds": timed(arm.train, json.loads(line)["seed"])}), file=out)


def timed(function: Callable[[int], Any], seed: int) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    function(seed)
    return time.perf_counter() - started


if __name__ == "__main__":
    serve(sys.argv[1])
