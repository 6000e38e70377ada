"""Commands over loopback that train together."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from support.processes import free_port

GLOO = re.compile(
    r"(\[Gloo\] Rank |\d+| is connected to | peer ranks\. "
    r"|Expected number of connected peer ranks is : )*"
)
"""A line of what Gloo says of itself: it is written in pieces, and threads come in between."""

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-P", "-c", "from purejaxppo.cli.main import main\nmain()"]


def environment(devices_each):
    """Variables of a process that compiles quickly, with so many devices of a CPU."""
    names = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    names |= {"PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    names["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / ".jax_cache")
    names["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return names | {"JAX_NUM_CPU_DEVICES": str(devices_each)}


class Processes:
    """Commands, or scripts, that have joined each other.

    Args:
        argv: those of `purejaxppo` for all, or a list for each process.
        count: how many processes.
        devices: of all together.
    """

    def __init__(self, argv, count, devices):
        where = f"localhost:{free_port()}"
        lists = argv if argv and isinstance(argv[0], list) else [argv] * count
        self.running = []
        for number, words in enumerate(lists):
            joined = ["--coordinator", where, "--num-processes", str(count)]
            line = [*COMMAND, *words, *joined, "--process-id", str(number)]
            self.running.append(
                subprocess.Popen(
                    line, env=environment(devices // count), text=True,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                )
            )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.running:
            process.kill()
            process.communicate()

    def wait_for(self, there, seconds=120):
        """Waits until something is there, which all must live to see."""
        end = time.monotonic() + seconds
        while not there():
            assert time.monotonic() < end, "it did not come"
            codes = [process.poll() for process in self.running]
            assert codes == [None] * len(codes), [p.communicate() for p in self.running]
            time.sleep(0.05)

    def ends(self, seconds=120):
        """Exit code, stdout and stderr of each; stderr without what Gloo says of itself."""
        found = []
        for process in self.running:
            out, err = process.communicate(timeout=seconds)
            lines = [line for line in err.splitlines() if not GLOO.fullmatch(line)]
            found.append((process.returncode, out, "\n".join(lines)))
        return found
