"""Strictness and speed for every test: rank promotion raises, compilations are cached on disk."""

from pathlib import Path

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

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
