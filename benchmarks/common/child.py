"""Points of a benchmark that run in processes of their own: what they say, or how they ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "MemoryError", "bad_alloc")


def result_of(command: list[str], limit: float | None = None) -> dict[str, Any]:
    """Runs a point in a new process, which prints its result as the last line; or says why not.

    Args:
        command: what the interpreter is told.
        limit: seconds after which the process is ended; None: it may take any time.

    Returns:
        The result; or `does_not_fit`, `out_of_time` or `failed`, with words.
    """
    # a cached program would compile in no time, and tells nothing of its memory
    env = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    try:
        child = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, env=env, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return {"out_of_time": f"not done after {limit:.0f} seconds"}
    if child.returncode == 0:
        return json.loads(child.stdout.splitlines()[-1])
    lines = child.stderr.splitlines()
    words = next((line for line in lines for word in OUT_OF_MEMORY if word in line), None)
    if words or child.returncode == -signal.SIGKILL:
        return does_not_fit((words or "killed by the operating system")[:300])
    print(child.stderr, file=sys.stderr)
    return {"failed": (child.stderr.strip().splitlines() or [f"exit {child.returncode}"])[-1]}


def does_not_fit(why: str) -> dict[str, Any]:
    """The result of a point that ran out of memory, or would have."""
    return {"does_not_fit": why}
