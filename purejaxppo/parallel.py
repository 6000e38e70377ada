"""Seeds and environments spread over devices.

Each device trains its share of the seeds, and nothing passes between them; or several have one
agent together, each with its share of the environments, and average gradients and statistics.

A CPU is one device, whose cores share the work of every small operation, unless JAX is set to make
a device of each.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from typing import Literal

import jax
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from purejaxppo.errors import ConfigError
from purejaxppo.tuning import compiled_for
from purejaxppo.types import LearnerState, PyTree

SEEDS, ENVS = "seeds", "envs"
"""Names of the mesh axes."""


def use_cores(seeds: int, devices: int | Literal["all"] | None = None) -> None:
    """Makes a device of each core that can have an equal share of the seeds.

    It has an effect only before JAX's first computation (`make_train` is one); a number that was
    set already (JAX_NUM_CPU_DEVICES, or the flag of XLA for it) stays.

    Args:
        seeds: agents that will be trained side by side.
        devices: how many to make, or "all" for one of each core; None: by the cores and seeds.
    """
    chosen = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]
    if chosen >= 1 or "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    affinity = getattr(os, "sched_getaffinity", None)  # not everywhere
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):  # JAX has its devices already
        count = cores if devices == "all" else devices or _largest_share(seeds, cores)
        jax.config.update("jax_num_cpu_devices", count)


def make_mesh(seeds: int = 1, devices: int | Literal["all"] | None = None) -> Mesh:
    """Arranges devices in a mesh with the axes "seeds" and "envs".

    Seeds are spread first, for they need nothing of each other; devices that are left over share
    the environments of each.

    Args:
        seeds: agents trained side by side.
        devices: how many are used, or "all"; None: as many as can have an equal share of the seeds.

    Returns:
        The mesh. The number of seeds is a multiple of its first axis.

    Raises:
        ConfigError: there are not so many devices.
    """
    found = jax.devices()
    if devices is None:
        devices = _largest_share(seeds, len(found))
    if devices == "all":
        devices = len(found)
    if not 1 <= devices <= len(found):
        more = (
            ", or set JAX_NUM_CPU_DEVICES for more of a CPU" if found[0].platform == "cpu" else ""
        )
        raise ConfigError(
            f"devices={devices} must be 1 to {len(found)}, which JAX finds here: use "
            f"{len(found)}{more}"
        )
    apart = math.gcd(seeds, devices)
    shape = (apart, devices // apart)
    axes = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh(shape, (SEEDS, ENVS), axes, devices=found[:devices])


def platform_of(mesh: Mesh) -> str:
    """Returns the name of the platform that the devices of a mesh are of.

    Args:
        mesh: the devices, all of one kind.
    """
    return mesh.devices.flat[0].platform


def where(state: LearnerState, *lead: str) -> LearnerState:
    """Says where each array of a learner is on a mesh: whole everywhere, or spread over "envs".

    Args:
        state: the learner, or its shapes.
        *lead: the mesh axis of a leading axis that all arrays have, if they have one.

    Returns:
        A `PartitionSpec` for each array.
    """
    whole, spread = P(*lead), P(*lead, ENVS)

    def everywhere(tree: PyTree, spec: P) -> PyTree:
        return jax.tree.map(lambda _: spec, tree)

    specs, scaler = everywhere(state, whole), state.normalizers.reward
    per_env = ("env_state", "obs", "episode_start", "carry")
    specs = specs.replace(**{name: everywhere(getattr(state, name), spread) for name in per_env})
    if scaler is None:
        return specs
    reward = specs.normalizers.reward.replace(discounted_return=spread)
    return specs.replace(normalizers=specs.normalizers.replace(reward=reward))


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


def spread_seeds(
    function: Callable[[PyTree], PyTree], mesh: Mesh | None = None
) -> Callable[[PyTree], PyTree]:
    """Gives each device an equal share of the seeds, and computes them side by side there.

    Args:
        function: of one pytree.
        mesh: the devices, see `make_mesh`; None: as many as can have an equal share. Those that
            share a seed all compute it.

    Returns:
        The function of pytrees with a leading axis of seeds.
    """

    def run(tree: PyTree) -> PyTree:
        over = mesh or make_mesh(jax.tree.leaves(tree)[0].shape[0])
        here = compiled_for(platform_of(over))
        return jax.shard_map(
            here(side_by_side(function)), mesh=over, in_specs=P(SEEDS), out_specs=P(SEEDS),
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
        mesh = make_mesh(jax.tree.leaves(lead)[0].shape[0])
        here = compiled_for(platform_of(mesh))
        return jax.shard_map(
            here(jax.vmap(function, axes)), mesh=mesh, in_specs=specs, out_specs=P(SEEDS),
            check_vma=False,
        )(*args)  # fmt: skip

    return spread


def _largest_share(seeds: int, devices: int) -> int:
    """Returns the most devices among which the seeds can be shared out equally."""
    return max(n for n in range(1, min(seeds, devices) + 1) if seeds % n == 0)
