"""Seeds spread over devices: each device trains its share, and nothing passes between them.

A CPU is one device, whose cores share the work of every small operation, unless JAX is set to make
a device of each.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import jax
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from purejaxppo.types import PyTree

SEEDS = "seeds"  # name of the mesh axis


def use_cores(seeds: int) -> None:
    """Makes a device of each core that can have an equal share of the seeds.

    It has an effect only before JAX's first computation (`make_train` is one); a number that was
    set already (JAX_NUM_CPU_DEVICES, or the flag of XLA for it) stays.

    Args:
        seeds: agents that will be trained side by side.
    """
    chosen = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]
    if chosen >= 1 or "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    affinity = getattr(os, "sched_getaffinity", None)  # not everywhere
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):  # JAX has its devices already
        jax.config.update("jax_num_cpu_devices", _largest_share(seeds, cores))


def seed_mesh(seeds: int) -> Mesh:
    """Makes a mesh with axis `seeds` of as many devices as can have an equal share of the seeds."""
    devices = jax.devices()
    count = _largest_share(seeds, len(devices))
    return jax.make_mesh((count,), (SEEDS,), (AxisType.Auto,), devices=devices[:count])


def side_by_side(function: Callable[[PyTree], PyTree]) -> Callable[[PyTree], PyTree]:
    """Vmaps a function, but computes a single one as it is.

    Environments on the host cannot be vmapped, not even one of them.

    Args:
        function: of one pytree.

    Returns:
        The function of pytrees with a leading axis.
    """

    def run(tree: PyTree) -> PyTree:
        if jax.tree.leaves(tree)[0].shape[0] > 1:
            return jax.vmap(function)(tree)
        return jax.tree.map(lambda x: x[None], function(jax.tree.map(lambda x: x[0], tree)))

    return run


def spread_seeds(function: Callable[[PyTree], PyTree]) -> Callable[[PyTree], PyTree]:
    """Gives each device an equal share of the seeds, and computes them side by side there.

    Args:
        function: of one pytree.

    Returns:
        The function of pytrees with a leading axis of seeds.
    """

    def run(tree: PyTree) -> PyTree:
        mesh = seed_mesh(jax.tree.leaves(tree)[0].shape[0])
        return jax.shard_map(
            side_by_side(function), mesh=mesh, in_specs=P(SEEDS), out_specs=P(SEEDS),
            check_vma=False,
        )(tree)  # fmt: skip

    return run


def vmap_over_devices(
    function: Callable[..., PyTree], in_axes: int | tuple[int | None, ...] = 0
) -> Callable[..., PyTree]:
    """Cuts the leading axis of `jax.vmap(function, in_axes)` into equal parts, one a device.

    `jax.jit(vmap_over_devices(make_train(config)))(keys)` trains what `jax.vmap` trains, to
    rounding. Where the number of devices does not divide the axis, fewer are used.

    Args:
        function: of pytrees.
        in_axes: 0 or None for each argument, or 0 for all.

    Returns:
        A function of the same arguments and results.

    Raises:
        ValueError: another axis, or none at all.
    """

    def spread(*args: PyTree) -> PyTree:
        axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
        if 0 not in axes or set(axes) - {0, None}:
            raise ValueError(
                f"in_axes={in_axes} must be 0 for one argument, and 0 or None for each"
            )
        lead = next(a for a, axis in zip(args, axes, strict=True) if axis == 0)
        specs = tuple(P() if axis is None else P(SEEDS) for axis in axes)
        mesh = seed_mesh(jax.tree.leaves(lead)[0].shape[0])
        return jax.shard_map(
            jax.vmap(function, axes), mesh=mesh, in_specs=specs, out_specs=P(SEEDS), check_vma=False
        )(*args)

    return spread


def _largest_share(seeds: int, devices: int) -> int:
    """Returns the most devices among which the seeds can be shared out equally."""
    return max(n for n in range(1, min(seeds, devices) + 1) if seeds % n == 0)
