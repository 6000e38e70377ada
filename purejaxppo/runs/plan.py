"""The sizes of a run, found without running or compiling anything."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
from jax.sharding import Mesh

from purejaxppo.components import Components
from purejaxppo.envs.host_program import ONE_AT_A_TIME
from purejaxppo.errors import ConfigError
from purejaxppo.parallel import ENVS, SEEDS, make_mesh, platform_of
from purejaxppo.runs.agents import Agents
from purejaxppo.runs.memory import (
    Footprint,
    Shapes,
    footprint_of,
    in_bytes,
    memory_of,
    shapes_of,
    stepping,
)
from purejaxppo.runs.options import FitOptions
from purejaxppo.sharding import check_spread
from purejaxppo.train import learner_of, minibatches_of
from purejaxppo.tuning import compiled_for, nbytes


class Plan(NamedTuple):
    """The sizes of a run.

    Attributes:
        updates: rollouts, each followed by its epochs.
        timesteps: environment steps per seed, exactly.
        chunk: transitions per pass through the network in a gradient step.
        parameters: scalars in the policy, per seed.
        bytes_per_device: estimate of the memory that the run takes on each device, at its peak.
        at_once: seeds that each device updates together; None: all that it has.
        mesh: the devices that seeds and environments are spread over.
    """

    updates: int
    timesteps: int
    chunk: int
    parameters: int
    bytes_per_device: int
    at_once: int | None
    mesh: Mesh


def plan_of(
    components: Components,
    seeds: int = 1,
    devices: int | Literal["all"] | None = None,
    episodes: int = 0,
    memory: int | None = None,
) -> Plan:
    """Finds the sizes of a run from the shapes of its parts.

    Args:
        components: of the run.
        seeds: agents trained side by side.
        devices: how many are asked for, see `make_mesh`.
        episodes: of each evaluation; 0: there are none.
        memory: bytes of each device; None: what it has.

    Returns:
        The plan.

    Raises:
        ConfigError: several seeds of environments that run on the host; there are not so many
            devices, or what each would have is not whole, or does not fit into its memory.
    """
    if components.hosted and seeds > 1:
        raise ConfigError(f"seeds={seeds}: {ONE_AT_A_TIME}")
    mesh = make_mesh(seeds, devices)
    check_spread(components, mesh)
    # in the choices that are made for these devices
    with compiled_for(platform_of(mesh)):
        return _plan_on(mesh, components, seeds, episodes, memory)


def _plan_on(
    mesh: Mesh, components: Components, seeds: int, episodes: int, memory: int | None
) -> Plan:
    """Finds the sizes of a run on the devices of a mesh, see `plan_of`."""
    config = components.config

    # what each device has, and how many of its seeds it can update together
    shapes = shapes_of(components, mesh.shape[ENVS])
    footprint = footprint_of(components, shapes, seeds, episodes)
    memory, here = memory_of(mesh) if memory is None else memory, seeds // mesh.shape[SEEDS]
    at_once = footprint.at_once(here, memory)
    taken = footprint.peak(here, at_once)
    if memory is not None and taken > memory:
        few = _most_seeds(components, shapes, mesh, seeds, episodes, memory)
        works = f"seeds={few}" if few else _smaller(components, mesh, episodes, memory)
        what = f"seeds={seeds} take" if few else f"num_envs={config.num_envs} takes"
        raise ConfigError(
            f"{what} about {in_bytes(taken)} of memory on a device, which has {in_bytes(memory)}: "
            f"use {works}"
        )

    rows = minibatches_of(components, shapes.state.params, shapes.batch).rows_per_pass
    per_row = shapes.batch.advantage.size // len(shapes.batch.advantage)
    parameters = sum(x.size for x in jax.tree.leaves(shapes.state.params))
    return Plan(
        config.num_updates, config.timesteps, rows * per_row, parameters, taken,
        at_once if at_once < here else None, mesh,
    )  # fmt: skip


def seeds_that_fit(
    components: Components,
    seeds: int,
    devices: int | Literal["all"] | None = None,
    episodes: int = 0,
    memory: int | None = None,
) -> int:
    """Finds how many seeds fit into memory side by side.

    Args:
        components: of the run.
        seeds: at most so many are wanted.
        devices: how many are asked for, see `make_mesh`.
        episodes: of each evaluation; 0: there are none.
        memory: bytes of each device; None: what it has.

    Returns:
        So many as are wanted, or fewer; 0: not even one.
    """
    mesh = make_mesh(seeds, devices)
    check_spread(components, mesh)
    with compiled_for(platform_of(mesh)):
        shapes = shapes_of(components, mesh.shape[ENVS])
        memory = memory_of(mesh) if memory is None else memory
        if memory is None:
            return seeds
        return _most_seeds(components, shapes, mesh, seeds, episodes, memory)


def _most_seeds(
    components: Components, shapes: Shapes, mesh: Mesh, seeds: int, episodes: int, memory: int
) -> int:
    """Finds how many of these seeds fit into the memory of the devices; see `seeds_that_fit`."""
    # the chunks of fewer seeds are longer, and hold more metrics of each
    while seeds:
        footprint = footprint_of(components, shapes, seeds, episodes)
        most = footprint.most_seeds(memory) * mesh.shape[SEEDS]
        if most >= seeds:
            break
        seeds = most
    return seeds


def plan_for(components: Components, options: FitOptions, memory: int | None = None) -> Plan:
    """Finds the sizes of the run that options describe, see `plan_of`.

    Args:
        components: of the run.
        options: seeds, devices and evaluations of them are used.
        memory: bytes of each device; None: what it has.
    """
    episodes = 0 if options.eval_every is None else options.eval_episodes
    return plan_of(components, options.seeds, options.devices, episodes, memory)


def seeds_played_at_once(
    components: Components, agents: Agents, episodes: int, memory: int | None = None
) -> int:
    """Chooses how many agents a device evaluates together.

    Args:
        components: of their run.
        agents: with a leading axis of seeds.
        episodes: that each plays side by side.
        memory: bytes of each device; None: what it has.
    """
    state = jax.eval_shape(learner_of(components).init, jax.random.key(0))
    seeds = jax.tree.leaves(agents)[0].shape[0]
    mesh = make_mesh(seeds)
    footprint = Footprint(nbytes(agents) // seeds, stepping(components, state, episodes))
    memory = memory_of(mesh) if memory is None else memory
    return footprint.at_once(seeds // mesh.shape[SEEDS], memory)


def _smaller(components: Components, mesh: Mesh, episodes: int, memory: int) -> str:
    """Finds the sizes of a run, of which at least one seed fits, by halves of those it has."""
    config = components.config
    for name in ("num_envs", "num_steps"):
        size = getattr(config, name)
        while size > 1:
            size //= 2
            try:
                less = components._replace(config=config.replace(**{name: size}))
                check_spread(less, mesh)
            except ConfigError:  # what must divide it does not
                continue
            footprint = footprint_of(less, shapes_of(less, mesh.shape[ENVS]), 1, episodes)
            if footprint.peak(1, 1) <= memory:
                return f"{name}={size}"
    return "a smaller network, such as hidden_sizes=(64,)"
