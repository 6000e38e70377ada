"""Strictness and speed for every test: rank promotion raises, compiling costs little.

Tests compile hundreds of programs and run each for an instant, so they skip the optimizations and
keep what was compiled on disk. Those marked `as_shipped` run in a process of their own, optimized.
"""

import gc
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

# thousands of traced programs stay alive: looking through them again and again costs minutes
gc.set_threshold(100_000, 50, 100)

AS_SHIPPED = "PUREJAXPPO_TESTS_AS_SHIPPED"
if AS_SHIPPED not in os.environ:
    jax.config.update("jax_disable_most_optimizations", True)
    if jax.__version_info__[:2] == (0, 10):  # XLA does not start with a flag it does not know
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
        os.environ["XLA_FLAGS"] = flags.strip()
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def pytest_addoption(parser):
    parser.addoption("--long-fuzz", action="store_true", help="thousands of random examples")


def pytest_configure(config):
    """Tells those who make examples, in this process and in those it starts."""
    if config.getoption("--long-fuzz"):
        os.environ["PUREJAXPPO_FUZZ"] = "1"


VARIANTS = {
    "eager": lambda f: f,
    "jit": jax.jit,
    "vmap": lambda f: (
        lambda *args: jax.tree.map(
            lambda x: x[0],
            jax.vmap(f)(*jax.tree.map(lambda x: jax.numpy.asarray(x)[None], args)),
        )
    ),
}


@pytest.fixture(params=VARIANTS)
def variant(request):
    """A pure function as it is, jitted, and vmapped over a leading axis of one."""
    return VARIANTS[request.param]


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Traced and compiled programs of a module are dropped behind it: they are not used again."""
    yield
    jax.clear_caches()
    gc.collect()


LONGEST = ("test_notebooks", "test_learning", "test_runs")


def pytest_collection_modifyitems(items):
    """Slow tests first, the longest before all: what is left at the end is short."""

    def place(item):
        slow = item.get_closest_marker("slow") is not None
        return not (slow and item.path.stem in LONGEST), not slow

    items.sort(key=place)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """A test marked `as_shipped` runs in another process, where XLA optimizes as for users."""
    if pyfuncitem.get_closest_marker("as_shipped") is None or AS_SHIPPED in os.environ:
        return None
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {AS_SHIPPED: "1"}
    options = ["-n", "0", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, pyfuncitem.nodeid]
    run = subprocess.run(
        command, env=env, cwd=pyfuncitem.config.rootpath, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout
    return True
