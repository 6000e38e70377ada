"""The memory that a run takes on each of its devices, from shapes alone, and what there is.

A seed is held at all times; while it is updated, it is at its largest in one of three stages.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal, jaxprs_in_params
from jax.sharding import Mesh

from purejaxppo import tuning
from purejaxppo.components import Components
from purejaxppo.ppo.minibatches import activation_bytes, as_batch
from purejaxppo.ppo.rollout import collect
from purejaxppo.processes import everyones
from purejaxppo.runs.compiled import most_updates
from purejaxppo.train import learner_of, minibatches_of
from purejaxppo.tuning import nbytes
from purejaxppo.types import Batch, LearnerState, Metrics, Params, Policy, PyTree, Rollout

USABLE = 0.8  # of a device's memory: allocations leave gaps, and evaluations and copies need some

MANY = 2**20  # rows, of which shapes alone are looked at

RECOMPUTED = {
    "abs", "add", "and", "broadcast_in_dim", "convert_element_type", "copy", "eq", "expand_dims",
    "ge", "gt", "integer_pow", "le", "lt", "max", "min", "mul", "ne", "neg", "not",
    "optimization_barrier", "or", "reshape", "select_n", "sign", "square", "squeeze",
    "stop_gradient", "sub", "transpose",
}  # fmt: skip
"""Operations so cheap that compilers repeat them where their result is read, and store nothing."""

CALLS = ("jit", "closed_call", "custom_jvp_call", "custom_vjp_call")
"""Operations that consist of others."""

CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux says what a container may take, in both versions of control groups."""


class Shapes(NamedTuple):
    """What one device has of one seed, in shapes and dtypes.

    Attributes:
        state: the learner.
        rollout: [T, N].
        batch: [B] rows.
    """

    state: LearnerState
    rollout: Rollout
    batch: Batch


class Footprint(NamedTuple):
    """Bytes that a device holds of each of its seeds.

    Attributes:
        held: at all times.
        working: beside it, while the seed is updated.
    """

    held: int
    working: int

    def peak(self, seeds: int, at_once: int) -> int:
        """Returns the bytes of all seeds at their peak.

        Args:
            seeds: of the device.
            at_once: how many of them are updated together; fewer than all are cut out of the
                arrays of all, and are there twice.
        """
        cut_out = at_once if at_once < seeds else 0
        return (seeds + cut_out) * self.held + at_once * self.working

    def at_once(self, seeds: int, memory: int | None) -> int:
        """Chooses how many seeds are updated together.

        Args:
            seeds: of the device.
            memory: bytes of the device; None: they are not known.

        Returns:
            As many as are fastest, if that leaves enough of the memory, or if turns, which cut
            seeds out, would not take less; else the most that do, and 1 at least.
        """
        fast = tuning.updated_together(seeds, self.working)
        if memory is None or self.peak(seeds, fast) <= USABLE * memory:
            return fast
        left = USABLE * memory - seeds * self.held
        some = max(1, min(seeds - 1, int(left // (self.held + self.working))))
        return some if self.peak(seeds, some) < self.peak(seeds, fast) else fast

    def most_seeds(self, memory: int) -> int:
        """Returns the most seeds that a device can have, updated one at a time, or 0.

        Args:
            memory: bytes of the device.
        """
        if self.peak(1, 1) > memory:
            return 0
        return max(1, (memory - self.peak(1, 1)) // self.held)


def shapes_of(components: Components, shares: int = 1) -> Shapes:
    """Finds the shapes of an update's stages, nothing of which is run.

    Args:
        components: what is trained.
        shares: devices that the environments of a seed are shared out among.
    """
    config, learner = components.config, learner_of(components, devices=shares)
    vec_env = components.vectorize(config.num_envs // shares)

    def roll(state, key):
        policy, critic, params = components.policy, components.critic, components.env_params
        here, kept = (state, params, key), components.keeps_final_obs
        return collect(
            policy, critic, vec_env, config.num_steps, *here, keep_final_obs=kept,
            length=components.sequence_length,
        )[1]  # fmt: skip

    def rows(rollout):
        value = rollout.value
        return as_batch(rollout, rollout.obs, value, value, components.sequence_length)

    state = jax.eval_shape(learner.init, jax.random.key(0))
    rollout = jax.eval_shape(roll, state, jax.random.key(0))
    return Shapes(state, rollout, jax.eval_shape(rows, rollout))


def footprint_of(
    components: Components, shapes: Shapes, seeds: int = 1, episodes: int = 0
) -> Footprint:
    """Estimates the bytes of a seed on one device.

    Args:
        components: what is trained.
        shapes: of the same.
        seeds: of the run, over all devices.
        episodes: of each evaluation; 0: there are none.

    Returns:
        What is held of each seed, and what an update of it takes.
    """
    state, rollout, batch = shapes
    config, policy, params = components.config, components.policy, state.params
    num_envs, num_minibatches = len(state.episode_start), config.num_minibatches
    metrics = len(Metrics.__dataclass_fields__) + len(config.info_metrics)
    held = nbytes(state) + 4 * metrics * most_updates(seeds)
    held += nbytes(params) if episodes else 0  # the best so far

    # an update goes back to the parameters and averages that it began with where its steps lead to
    # none: both are there until its end
    began = nbytes((params, state.opt_state))

    # a rollout and the observations that its actions led to, and its steps; or, once these are
    # done, the values of those observations, some rows after the other
    final_obs = nbytes(rollout.final_obs)  # kept until the last epoch, or not
    taken = nbytes(rollout) + (0 if final_obs else nbytes(rollout.obs))
    collecting = taken + stepping(components, state, num_envs)
    seen = seen_of(state)
    rows = tuning.chunk_size(
        num_envs * config.num_steps, activation_bytes(policy, params, seen), num_minibatches
    )
    values = held_by_layers(critic_alone(policy), params, seen).passing
    valuing = 0 if policy.large_carry else taken + nbytes(rollout.carry) + rows * values

    # the batch, the order and the advantages of all epochs, a minibatch, its gradient and the sum
    # of gradients; and a pass through the network, whose gradient goes back layer by layer
    each = held_by_layers(policy, params, (batch.carry, batch.obs, batch.episode_start))
    rows = minibatches_of(components, params, batch).rows_per_pass
    order = config.num_epochs * (4 * len(batch.advantage) + nbytes(batch.advantage))
    learning = nbytes(batch) + final_obs + order + nbytes(batch) // num_minibatches
    learning += 2 * nbytes(params) + rows * (each.kept + each.widest)

    playing = stepping(components.on_defaults(), state, episodes)
    return Footprint(held, max(began + max(collecting, valuing, learning), playing))


def seen_of(state: LearnerState) -> PyTree:
    """Returns memory, observations and episode starts, which the policy is applied to.

    Args:
        state: the learner, or its shapes.
    """
    return state.carry, state.obs, state.episode_start


def stepping(components: Components, state: LearnerState, num_envs: int) -> int:
    """Estimates the bytes that steps of environments take, beside what is kept of them.

    Args:
        components: what is played.
        state: a learner of it, or its shapes.
        num_envs: environments.

    Returns:
        What is drawn for one step, or for all of a rollout where that is done at once;
        environments after a step beside those before; and what passes through the layers.
    """

    def draw(key):
        vec_env = components.vectorize(num_envs)
        return vec_env.draw(key, components.env_params, state.env_state)

    one = nbytes(jax.eval_shape(draw, jax.random.key(0))) if num_envs else 0
    drawn = one * components.config.num_steps
    seen = seen_of(state)
    envs = nbytes((state.env_state, seen)) // len(state.episode_start)
    layers = held_by_layers(components.policy, state.params, seen).passing
    return (drawn if drawn <= tuning.drawn_at_once() else one) + num_envs * (envs + layers)


class Layers(NamedTuple):
    """Bytes of a row in a network.

    Attributes:
        kept: of all outputs that a backward pass reads, each once.
        widest: of the largest output of an operation.
    """

    kept: int
    widest: int

    @property
    def passing(self) -> int:
        """Returns the bytes of a pass without gradients: what a layer gives, and what it takes."""
        return 2 * self.widest


def critic_alone(policy: Policy) -> Policy:
    """Returns a policy that gives values and nothing else.

    Args:
        policy: actor and critic.
    """

    def apply(*inputs: Any) -> Any:
        return (), (), policy.apply(*inputs)[2]

    return policy._replace(apply=apply)


def held_by_layers(policy: Policy, params: Params, inputs: PyTree) -> Layers:
    """Counts the bytes that a network holds of each row.

    JAX keeps tanh(x) and 1 - tanh(x) for the backward pass; a compiler keeps the first, and
    computes the second again.

    Args:
        policy: actor and critic.
        params: the policy's parameters, or their shapes.
        inputs: memory, observations and episode starts [B, ...] that it is applied to, or their
            shapes.

    Returns:
        Bytes per row, without the inputs.
    """
    # so many rows that what does not grow with them, such as a transposed matrix, counts nothing
    many = jax.tree.map(lambda x: jax.ShapeDtypeStruct((MANY, *x.shape[1:]), x.dtype), inputs)
    leaves, tree = jax.tree.flatten((params, many))
    return _held(policy, tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves), tree)


@functools.lru_cache(16)  # steps and rows without a memory are of the same shapes
def _held(policy: Policy, leaves: Any, tree: Any) -> Layers:
    """Computes `held_by_layers` of leaves in shapes, those of MANY rows."""

    def residuals(params, inputs):
        return jax.vjp(lambda p: policy.apply(p, *inputs)[1:], params)[1]

    jaxpr = jax.make_jaxpr(residuals)(*tree.unflatten(leaves)).jaxpr
    widest = max(
        (nbytes(v.aval) for eqn in jaxpr.eqns if not is_recomputed(eqn) for v in eqn.outvars),
        default=0,
    )
    return Layers(sum(nbytes(v.aval) for v in stored(jaxpr)) // MANY, widest // MANY)


def stored(jaxpr: Any) -> set[Any]:
    """Finds the outputs of a program that are stored, rather than computed again where needed.

    Args:
        jaxpr: the program, without its constants.

    Returns:
        The variables, without its inputs and what is cheaply made of inputs and one another.
    """
    outputs = {v for v in jaxpr.outvars if not isinstance(v, Literal)}
    there, kept = {*jaxpr.invars, *jaxpr.constvars}, set()
    for eqn in jaxpr.eqns:
        inputs = {v for v in eqn.invars if not isinstance(v, Literal)}
        if inputs <= there and is_recomputed(eqn):
            there.update(eqn.outvars)
            continue
        found = outputs.intersection(eqn.outvars)
        kept |= found
        there |= found
    return kept


def is_recomputed(eqn: Any) -> bool:
    """Says whether an operation, and all inside of it, is cheap.

    Args:
        eqn: of a program.
    """
    if eqn.primitive.name not in CALLS:
        return eqn.primitive.name in RECOMPUTED
    inside = (inner for jaxpr in jaxprs_in_params(eqn.params) for inner in jaxpr.eqns)
    return all(map(is_recomputed, inside))


def in_bytes(count: int) -> str:
    """Writes a number of bytes in three digits, such as 4.15 MB.

    Args:
        count: of bytes.
    """
    for power, unit in enumerate(["bytes", "kB", "MB", "GB"]):
        text = f"{count / 1000**power:.3g}"
        if float(text) < 1000:
            return f"{text} {unit}"
    return f"{count / 1000**4:.3g} TB"


def memory_of(mesh: Mesh) -> int | None:
    """Finds the memory of each device of a run.

    The devices of a CPU share that of the machine, all of it, or what its container may take: what
    is free from one moment to the next would decide over the last digits of results.

    Args:
        mesh: the devices.

    Returns:
        Bytes, those of the smallest where several processes have the devices; None where it cannot
        be known.
    """
    device = mesh.local_devices[0]
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        here = stats["bytes_limit"]
    else:
        total = machine_bytes() if device.platform == "cpu" else None
        here = None if total is None else total // len(mesh.local_devices)
    return min((n for n in everyones(here) if n is not None), default=None)


def machine_bytes() -> int | None:
    """Finds the memory of the machine, or of the container; None where it cannot be known."""
    limits = []
    if hasattr(os, "sysconf") and {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(os.sysconf_names):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in map(Path, CGROUPS):
        text = path.read_text(encoding="utf-8").strip() if path.exists() else "max"
        limits += [] if text == "max" else [int(text)]
    return min((n for n in limits if n > 0), default=None)
