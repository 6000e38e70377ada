"""The training program of a configuration, and the memory that it takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

import purejaxppo
from purejaxppo import PPOConfig, make_learner, make_mesh
from purejaxppo.runs.memory import memory_of


class Training:
    """The programs of a configuration: states, and any number of updates from them."""

    def __init__(self, config: PPOConfig, seeds: int = 1):
        learner = make_learner(config)
        self._update = jax.vmap(lambda s: learner.update(s)) if seeds > 1 else learner.update
        init = jax.vmap(lambda key: learner.init(key)) if seeds > 1 else learner.init
        key = jax.random.key(0)
        self._keys = jax.random.split(key, seeds) if seeds > 1 else key
        self._init = jax.jit(init).lower(self._keys).compile()
        self._shapes = jax.eval_shape(init, self._keys)

    def states(self) -> Any:
        """The learners at their start; with more than one seed, under a leading axis."""
        return self._init(self._keys)

    def compile(self, updates: int) -> jax.stages.Compiled:
        """`program(states) -> (states, metrics)`, a scan of so many updates."""

        def train(states):
            return jax.lax.scan(lambda s, _: self._update(s), states, length=updates)

        options = purejaxppo.compiler_options()
        return jax.jit(train, compiler_options=options).lower(self._shapes).compile()

    def compile_any(self, **options: str) -> jax.stages.Compiled:
        """`program(states, n) -> states`, any number of updates: of those, chunks of `fit` are.

        Args:
            **options: of the compiler, beside its usual ones.
        """

        def one(_, states):
            # a loop of length 1 in between: see `runs.compiled.lower_run`
            return jax.lax.scan(lambda s, _: self._update(s), states, length=1)[0]

        def train(states, number):
            return jax.lax.fori_loop(0, number, one, states)

        given = purejaxppo.compiler_options() | options
        return jax.jit(train, compiler_options=given).lower(self._shapes, 1).compile()


def predicted_bytes(program: jax.stages.Compiled) -> int:
    """Memory that the compiler sets aside: arguments, outputs and everything between."""
    sizes = program.memory_analysis()
    if sizes is None:
        return 0
    taken = sizes.temp_size_in_bytes + sizes.argument_size_in_bytes + sizes.output_size_in_bytes
    return taken - sizes.alias_size_in_bytes  # outputs in the place of arguments


def available_bytes() -> float:
    """Memory that a program may take on the first device."""
    return memory_of(make_mesh(devices=1)) or math.inf


def peak_bytes(function: Callable) -> tuple[int | None, str]:
    """Runs a function; the most memory that it took, and where that figure comes from."""
    device = jax.devices()[0]
    on_device = "peak_bytes_in_use" in (device.memory_stats() or {})
    before = None if on_device else reset_resident_peak()
    jax.block_until_ready(function())
    if on_device:
        return device.memory_stats()["peak_bytes_in_use"], "device, whole process"
    if before is None:
        return None, "nothing to measure it with"
    return proc_bytes("/proc/self/status", "VmHWM") - before, "growth of resident memory"


def reset_resident_peak() -> int | None:
    """Resident memory now; the peak that Linux remembers starts again from here."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return proc_bytes("/proc/self/status", "VmRSS")
    except OSError:
        return None


def proc_bytes(path: str, name: str) -> int:
    """A line of a file such as /proc/meminfo, in bytes."""
    lines = dict(line.split(":", 1) for line in Path(path).read_text().splitlines())
    return 1024 * int(lines[name].split()[0])
