"""Compiled programs kept from one process to the next."""

from __future__ import annotations

import os
import sys

import jax
import platformdirs

LARGEST = 2**30  # bytes; the entries that were not used for longest make room


def keep_compiled_programs() -> None:
    """Turns on JAX's persistent compilation cache, in the user's cache folder.

    A folder that JAX was told of already (JAX_COMPILATION_CACHE_DIR) is left as it is. Where none
    can be written, one line on stderr says so, and the run goes on without.
    """
    chosen = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if chosen is not None:
        return
    folder = platformdirs.user_cache_path("purejaxppo") / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} cannot be written")
    except OSError as error:
        print(f"purejaxppo: compiled programs are not kept: {error}", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", LARGEST)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
