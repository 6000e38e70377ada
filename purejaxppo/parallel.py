"""Seeds and environments spread over devices.

Each device trains its share of the seeds, and nothing passes between them; or several have one
agent together, each with its share of the environments, and average gradients and statistics.

A CPU is one device, whose cores share the work of every small operation, unless JAX is set to make
a device of each.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from purejaxppo.config.coerce import coerce
from purejaxppo.config.rules import as_count
from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.processes import process_count
from purejaxppo.tuning import compiled_for, one_thread
from purejaxppo.types import Array, LearnerState, PyTree, RewardScaler

SEEDS, ENVS = "seeds", "envs"
"""Names of the mesh axes."""


def cores() -> int:
    """Returns how many processor cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not everywhere
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def use_cores(
    seeds: int, devices: int | Literal["all"] | None = None, config: PPOConfig | None = None
) -> None:
    """Makes a device of each core that can have an equal share of the seeds.

    It has an effect only before JAX's first computation (`make_train` is one); a number that was
    set already (JAX_NUM_CPU_DEVICES, the flag of XLA for it, or NPROC for threads) stays.

    Args:
        seeds: agents that will be trained side by side.
        devices: how many to make, of all processes together, or "all" for one of each core; None:
            by the cores and seeds.
        config: what will be trained; given, JAX finds its devices here and now, and where there is
            one, and the gradient steps are so small that threads would wait for each other longer
            than they compute, it has one thread.
    """
    chosen = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]
    if chosen >= 1 or "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    if devices == "all":
        count = cores()
    elif devices is not None:
        count = max(1, as_count("devices", devices, 1) // process_count())
    else:
        count = _largest_share(as_count("seeds", seeds, 1), cores())
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # JAX has its devices already
        return
    alone = count == 1 and process_count() == 1
    if config is not None and alone and one_thread(config, seeds):
        _start_with_one_thread()


def _start_with_one_thread() -> None:
    """Has JAX find its devices, those of a CPU with one thread, unless NPROC was set.

    XLA reads NPROC when it makes a CPU's pools of threads, and never again: it is taken back, for
    processes that are started from here. Programs are compiled by all cores still.
    """
    platforms = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    if "NPROC" in os.environ or (platforms and "cpu" not in platforms):
        return
    os.environ["NPROC"] = "1"
    try:
        jax.devices()
    finally:
        del os.environ["NPROC"]


def make_mesh(seeds: int = 1, devices: int | Literal["all"] | None = None) -> Mesh:
    """Arranges devices in a mesh with the axes "seeds" and "envs".

    Seeds are spread first, for they need nothing of each other; devices that are left over share
    the environments of each.

    Args:
        seeds: agents trained side by side.
        devices: how many are used, of all processes together, or "all"; None: as many as can have
            an equal share of the seeds, and all where there are several processes.

    Returns:
        The mesh, on which each process has equally many devices. The number of seeds is a multiple
        of its first axis.

    Raises:
        ConfigError: there are not so many devices.
    """
    seeds = as_count("seeds", seeds, 1)
    found, processes = jax.device_count(), process_count()
    count: int = found
    if devices is None and processes == 1:
        count = _largest_share(seeds, found)
    elif devices is not None and devices != "all":
        count = coerce("devices", int, devices, found)
    if count % processes:
        raise ConfigError(
            f"devices={count} are of all {processes} processes together, and each has equally "
            f"many: use {found}"
        )
    if not 1 <= count <= found:
        more = (
            ", or set JAX_NUM_CPU_DEVICES for more of a CPU"
            if jax.default_backend() == "cpu"
            else ""
        )
        raise ConfigError(
            f"devices={count} must be 1 to {found}, which JAX finds here: use {found}{more}"
        )
    apart, each = math.gcd(seeds, count), count // processes
    used = [d for i in range(processes) for d in jax.local_devices(process_index=i)[:each]]
    axes = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((apart, count // apart), (SEEDS, ENVS), axes, devices=used)


def place(tree: PyTree, mesh: Mesh, specs: PyTree) -> PyTree:
    """Puts arrays on the devices of a mesh, those of other processes included.

    Args:
        tree: of arrays and keys, whole and the same in every process.
        mesh: the devices.
        specs: where on it each of them is, a `PartitionSpec` for each or one for all.

    Returns:
        As `tree`.
    """
    shardings = shardings_of(mesh, specs)
    if process_count() == 1:
        return jax.device_put(tree, shardings)
    # arrays that are on a device here cannot go to those of others: they are read first
    is_key = jax.tree.map(lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key), tree)

    def put(x, key, sharding):
        if key:
            data = put(jax.random.key_data(x), False, sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        return jax.device_put(np.asarray(x), sharding)

    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(put, tree, is_key, shardings)


def shardings_of(mesh: Mesh, specs: PyTree) -> PyTree:
    """Says where arrays are, for those that ask for the devices too.

    Args:
        mesh: the devices.
        specs: a `PartitionSpec` for each array.

    Returns:
        A `NamedSharding` for each.
    """
    return jax.tree.map(partial(NamedSharding, mesh), specs, is_leaf=lambda x: isinstance(x, P))


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

    def of(x: PyTree) -> PyTree:
        if not isinstance(x, RewardScaler):
            return whole
        return x.replace(discounted_return=spread, stats=everywhere(x.stats, whole))

    specs = jax.tree.map(of, state, is_leaf=lambda x: isinstance(x, RewardScaler))
    per_env = ("env_state", "obs", "episode_start", "carry")
    return specs.replace(**{name: everywhere(getattr(state, name), spread) for name in per_env})


def side_by_side(
    function: Callable[[PyTree], PyTree], at_once: int | None = None
) -> Callable[[PyTree], PyTree]:
    """Vmaps a function, but computes a single one as it is.

    Environments on the host cannot be vmapped, not even one of them.

    Args:
        function: of one pytree.
        at_once: how many are computed together, see `in_turns`; None: all.

    Returns:
        The function of pytrees with a leading axis.
    """

    def together(tree: PyTree) -> PyTree:
        if _count(tree) > 1:
            return jax.vmap(function)(tree)
        return jax.tree.map(lambda x: x[None], function(jax.tree.map(lambda x: x[0], tree)))

    def run(tree: PyTree) -> PyTree:
        if at_once is None:
            return together(tree)
        # what is computed has a place beside what it is computed from
        found = jax.eval_shape(together, tree)
        place = jax.tree.map(lambda x: jnp.empty(x.shape, x.dtype), found)
        return in_turns(lambda rows: (rows[0], together(rows[0])), (tree, place), at_once)[1]

    return run


def in_turns(
    function: Callable[[PyTree], PyTree], tree: PyTree, at_once: int | None = None
) -> PyTree:
    """Applies a function to some rows after the other, each in the place of what it is made from.

    Beside the whole, there is in memory what the function needs for so many rows. Each row gets
    what it would get together with all others, to rounding.

    Args:
        function: of rows [K, ...], each apart from the others, to as many in the same shapes.
        tree: [S, ...].
        at_once: K at most, turns are equally large; None: S.

    Returns:
        [S, ...].
    """
    count = _count(tree)
    turns = 1 if at_once is None else -(-count // at_once)
    size = -(-count // turns)
    if turns == 1:
        return function(tree)

    def turn(i: Array, tree: PyTree) -> PyTree:
        # the last turn reaches back to rows that had theirs already, and leaves them as they are
        start = jnp.minimum(i * size, count - size)
        before = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), tree)
        waiting = start + jnp.arange(size) >= i * size
        after = jax.tree.map(
            lambda a, b: jax.vmap(jnp.where)(waiting, a, b), function(before), before
        )
        return jax.tree.map(
            lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, start, 0), tree, after
        )

    return jax.lax.fori_loop(0, turns, turn, tree)


def spread_seeds(
    function: Callable[[PyTree], PyTree], mesh: Mesh | None = None, at_once: int | None = None
) -> Callable[[PyTree], PyTree]:
    """Gives each device an equal share of the seeds, and computes them side by side there.

    Args:
        function: of one pytree.
        mesh: the devices, see `make_mesh`; None: as many as can have an equal share. Those that
            share a seed all compute it.
        at_once: how many seeds a device computes together; None: all that it has.

    Returns:
        The function of pytrees with a leading axis of seeds.
    """

    def run(tree: PyTree) -> PyTree:
        over = mesh or make_mesh(_count(tree))
        here = compiled_for(platform_of(over))
        return jax.shard_map(
            here(side_by_side(function, at_once)), mesh=over, in_specs=P(SEEDS), out_specs=P(SEEDS),
            check_vma=False,
        )(tree)  # fmt: skip

    return run


def vmap_over_devices(
    function: Callable[..., PyTree], in_axes: int | Sequence[int | None] = 0
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
        ValueError: another axis, or none at all; or as many as there are arguments are not given,
            or have no such axis.
    """

    def spread(*args: PyTree) -> PyTree:
        axes = tuple(in_axes) if isinstance(in_axes, Sequence) else (in_axes,) * len(args)
        if 0 not in axes or set(axes) - {0, None} or len(axes) != len(args):
            raise ValueError(
                f"in_axes={in_axes} must be 0 for one of {len(args)} arguments, and 0 or None for "
                "each"
            )
        lead = [a for a, axis in zip(args, axes, strict=True) if axis == 0]
        if {*map(jnp.ndim, jax.tree.leaves(lead))} & {0}:
            raise ValueError(
                "in_axes=0 is the leading axis of an argument that has none: use "
                "jax.random.split(key, 8), or None for what all have alike"
            )
        specs = tuple(P() if axis is None else P(SEEDS) for axis in axes)
        mesh = make_mesh(_count(lead))
        here = compiled_for(platform_of(mesh))
        return jax.shard_map(
            here(jax.vmap(function, axes)), mesh=mesh, in_specs=specs, out_specs=P(SEEDS),
            check_vma=False,
        )(*args)  # fmt: skip

    return spread


def _count(tree: PyTree) -> int:
    """Returns the length of the leading axis that all arrays have."""
    return jax.tree.leaves(tree)[0].shape[0]


def _largest_share(seeds: int, devices: int) -> int:
    """Returns how many devices each process can have an equal share of the seeds for, at most."""
    processes = process_count()
    even = (n for n in range(1, devices + 1) if seeds % (n * processes) == 0)
    return max(even, default=1)
