"""What differs from one kind of device to the next, and programs kept between processes.

Whatever is chosen here is chosen while a program is traced, for the platform that it is compiled
for: that of `compiled_for`, or else of JAX's default device.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, Literal

import jax
import platformdirs

from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError

IN_CACHE = 9 * 2**20  # bytes of activations that a CPU's cores go through without waiting
ONE_THREAD = 2**20  # products in a layer: up to here, one thread is faster than several
LARGEST_CACHE = 2**30  # bytes; the entries that were not used for longest make room

PLATFORMS = ("cpu", "gpu", "cuda", "rocm", "tpu")
"""Names of platforms, as devices of JAX have them and as users say them."""

IN_GRAPHS = (
    "FUSION", "CUBLAS", "CUBLASLT", "CUDNN", "CUSTOM_CALL", "CONDITIONAL", "DYNAMIC_SLICE_FUSION",
    "CONVOLUTION", "WHILE",
)  # fmt: skip
"""What XLA may record in CUDA graphs: its own choice, convolutions and whole loops beside it."""

UNROLLED = {"rollout": 4, "returns": 16, "shuffle": 24, "memory": 16}
"""How many turns of a loop are one on an accelerator, where each operation of a turn is a launch.

rollout    steps of the environments
returns    sums of rewards over the steps of a rollout, a few numbers for each environment
shuffle    rounds of a permutation, all of them in one kernel
memory     steps of a recurrent core through a sequence
"""

_chosen = jax.make_user_context()  # programs are traced anew where it differs


@contextlib.contextmanager
def compiled_for(platform: str) -> Iterator[None]:
    """Has programs that are traced inside made for a platform, whatever the default device is.

    Needed where a program is compiled for a device that is not the default one, or is not there:

        with compiled_for("cuda"):
            jax.jit(train).lower(key).compile(compiler_options())

    It is part of what JAX compares before it takes a program that was traced before.

    Args:
        platform: one of PLATFORMS, or that of a device here.

    Returns:
        A context manager, or a decorator of functions that are traced.

    Raises:
        ConfigError: it is no platform.
    """
    if platform not in PLATFORMS and platform != jax.default_backend():
        raise ConfigError(f"platform={platform!r} must be one of {', '.join(PLATFORMS)}: use 'gpu'")
    # what is traced for the same platform under its own name is the same
    with contextlib.nullcontext() if platform == platform_in_use() else _chosen(platform):
        yield


def platform_in_use() -> str:
    """Returns the name of the platform that programs are traced for."""
    device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    return _chosen.value or getattr(device, "platform", device) or jax.default_backend()


def _on_cpu() -> bool:
    return platform_in_use() == "cpu"


def compiler_options() -> dict[str, str | bool | int]:
    """Returns the options under which training programs run fastest on the platform in use.

    For `jax.jit(train, compiler_options=compiler_options())`. They change speed, and the last
    digits of results.

    Returns:
        On a CPU, vectors of 512 bits where the processor has them (XLA takes 256 otherwise), fewer
        copies of what a loop carries, and LLVM's first level of optimization: its third takes a
        fifth longer to compile, for programs that run no faster. On a GPU, loops as parts of CUDA
        graphs, which go on without the host; elsewhere nothing.
    """
    if _on_cpu():
        return {
            "xla_cpu_prefer_vector_width": 512,
            "xla_cpu_copy_insertion_use_region_analysis": True,
            "xla_backend_optimization_level": 1,
        }
    if platform_in_use() != "tpu":
        return {
            "xla_gpu_enable_command_buffer": ",".join(IN_GRAPHS),
            # a slice that a loop reads would be a copy whose place the host must say
            "xla_disable_hlo_passes": "fusion-dynamic-memcpy-rewriter",
        }
    return {}


def one_thread(config: PPOConfig, agents: int = 1) -> bool:
    """Says whether a CPU trains faster with one thread than with all of its cores.

    Threads hand over to each other at every operation of more than a few rows, which takes longer
    than what small ones compute.

    Args:
        config: what is trained.
        agents: how many side by side, on one device.

    Returns:
        Whether the largest layer multiplies less than ONE_THREAD numbers in a gradient step and in
        a step of the environments, and observations are surely no images, which only their suite
        knows.
    """
    plain = "MinAtar" not in config.env and not set("/:") & set(config.env)
    if config.torso != "mlp" and not (config.torso == "auto" and plain):
        return False
    rows = agents * max(config.minibatch_size, config.num_envs)
    widths = [*config.hidden_sizes, *config.critic_hidden_sizes]
    widths += [config.core_size] * (config.core != "none")
    widths += [config.exploration_size] * (config.exploration != "none")
    return rows * max(widths) ** 2 < ONE_THREAD


def check_compiles() -> None:
    """Refuses to go on where JAX is set to compile nothing.

    Raises:
        ConfigError: it is.
    """
    if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
        raise ConfigError(
            "JAX_DISABLE_JIT is set, and what is trained is one compiled program: unset it"
        )


def chunk_size(rows: int, bytes_per_row: int, parts: int = 1) -> int:
    """Chooses how many rows to take through the network at once.

    Args:
        rows: how many there are, such as those of a gradient step.
        bytes_per_row: what the backward pass keeps of each.
        parts: a divisor of `rows`, in so many they fit into the memory of any device.

    Returns:
        A divisor of `rows`: on a CPU, the largest whose activations stay in the cache, or all of
        them where none is near; elsewhere one of these parts.
    """
    if not _on_cpu():
        return rows // parts
    most = max(1, IN_CACHE // max(1, bytes_per_row))
    near = (size for size in range(min(most, rows), most // 4, -1) if rows % size == 0)
    return next(near, rows)


def updated_together(seeds: int, working: int) -> int:
    """Chooses how many seeds of a device are updated together, the others after them.

    Args:
        seeds: of the device.
        working: bytes that an update of one takes.

    Returns:
        On a CPU as many as stay in the cache, each of which goes through many updates there; 1 at
        least. Elsewhere all of them, for every operation is a launch.
    """
    return min(seeds, max(1, IN_CACHE // max(1, working))) if _on_cpu() else seeds


def steps_on_one_vector(size: int) -> bool:
    """Says whether gradient steps are faster on all parameters as one vector than leaf by leaf.

    Args:
        size: number of parameters.

    Returns:
        On a CPU, while they are few: one vector is one operation instead of many, but it is cut
        and pasted at every step. Elsewhere always, for every operation is a launch.
    """
    return not _on_cpu() or size <= 2**15


def stepped_alone(size: int) -> bool:
    """Says whether an array of parameters is large enough for gradient steps of its own.

    Args:
        size: its number of parameters, among arrays that are not all on one vector.
    """
    return size >= 2**13


def unroll(loop: Literal["rollout", "returns", "shuffle", "memory"]) -> int:
    """Chooses how many turns of a loop become one.

    Args:
        loop: which, a name in UNROLLED.

    Returns:
        1 on a CPU, where a turn costs little and longer programs more; elsewhere the number there.
    """
    return 1 if _on_cpu() else UNROLLED[loop]


def drawn_at_once() -> int:
    """Returns the bytes of random numbers and fresh episodes that are drawn for many steps at once.

    A few small draws cost most of a short step; large ones, on a CPU, are fetched from memory where
    they could be made in the cache.
    """
    return 2**20 if _on_cpu() else 2**30


def cores_side_by_side() -> bool:
    """Says whether the memories of actor and critic are faster as one than one after the other.

    Returns:
        Not on a CPU, where matrices would be laid side by side for nothing; elsewhere, for every
        operation of every step is a launch.
    """
    return not _on_cpu()


def all_steps_at_once() -> bool:
    """Says whether a linear recurrence is faster as an associative scan than step after step.

    Returns:
        Not on a CPU, for which that is twice the work; elsewhere.
    """
    return not _on_cpu()


def nbytes(tree: Any) -> int:
    """Counts the bytes of all arrays in a pytree, or of what has their shapes and dtypes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def keep_compiled_programs() -> None:
    """Turns on JAX's persistent compilation cache, in the user's cache folder.

    A folder that JAX was given already (JAX_COMPILATION_CACHE_DIR) is left as it is. Where none
    can be written, one line on stderr says so, and the run goes on without.
    """
    chosen = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if chosen is not None:
        return
    folder = platformdirs.user_cache_path("purejaxppo") / "compiled"
    try:
        if not folder.is_absolute():  # without a home
            raise FileNotFoundError("there is no home folder")
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} cannot be written")
    except OSError as error:
        print(f"purejaxppo: compiled programs are not kept: {error}", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", LARGEST_CACHE)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
