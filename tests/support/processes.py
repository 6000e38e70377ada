"""Code that runs in a process of its own, with as many devices as it asks for."""

import os
import socket
import subprocess
import sys

START = """
import os, sys
sys.path.insert(0, "tests")
import conftest
import jax
import jax.numpy as jnp
import numpy as np

def leaves(tree):
    plain = lambda x: jax.random.key_data(x) if x.dtype == jax.random.key(0).dtype else x
    return [np.asarray(plain(x)) for x in jax.tree.leaves(tree)]

def same(a, b, **tolerance):
    check = np.testing.assert_allclose if tolerance else np.testing.assert_array_equal
    for x, y in zip(leaves(a), leaves(b), strict=True):
        check(x, y, **tolerance)
"""


def process(code, **env):
    """Runs code, after the imports above."""
    env = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"} | env
    run = subprocess.run(
        [sys.executable, "-c", START + code], env=env, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def on_devices(devices, code):
    """Runs code on so many devices of a CPU."""
    process(code, JAX_NUM_CPU_DEVICES=str(devices))


JOIN = """
from purejaxppo.processes import join_processes

join_processes({coordinator!r}, {count}, {number})
"""


def free_port():
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def in_processes(count, code, devices=1, timeout=120, **env):
    """Runs code in so many processes that train together, each with devices of its own.

    Returns the exit code and stderr of each; none of them outlives this.
    """
    where = f"127.0.0.1:{free_port()}"
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), **env}
    begun = []
    for number in range(count):
        join = JOIN.format(coordinator=where, count=count, number=number)
        words = [sys.executable, "-c", START + join + code]
        begun.append(subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True))
    try:
        said = [process.communicate(timeout=timeout)[1] for process in begun]
    finally:
        for process in begun:
            process.kill()
            process.wait()
    return [(process.returncode, words) for process, words in zip(begun, said, strict=True)]
