"""From a rollout to minibatches: rows, their shuffled parts, and passes through the network."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from purejaxppo import tuning
from purejaxppo.ppo.collectives import standardize
from purejaxppo.tuning import nbytes
from purejaxppo.types import Array, Batch, Obs, Params, Policy, PyTree, Rollout


class Minibatches(NamedTuple):
    """How the gradient steps of an update go through its batch.

    Attributes:
        num_epochs: E, passes over the batch.
        num_minibatches: M, gradient steps per epoch.
        rows_per_pass: rows that go through the network at once, a divisor of B / M.
        standardize: bring the advantages of each minibatch to mean 0 and standard deviation 1.
    """

    num_epochs: int
    num_minibatches: int
    rows_per_pass: int
    standardize: bool


def as_batch(
    rollout: Rollout, obs: Obs, advantage: Array, target: Array, length: int | None = None
) -> Batch:
    """Arranges a rollout [T, N] as rows: transitions [T * N], or sequences with a memory.

    Args:
        rollout: [T, N].
        obs: [T, N, *O], normalised if the run normalises.
        advantage: [T, N].
        target: [T, N].
        length: L, a divisor of T; None: transitions stand alone.

    Returns:
        Rows [T * N], or [T / L * N, L] with the carry that each began with.
    """

    # a sequence needs the memory of its first step alone, which may be all that was kept
    def first(x):
        every = None if length is None else length * len(x) // len(rollout.value)
        return jax.lax.collapse(x[::every], 0, 2)

    carry = jax.tree.map(first, rollout.carry)
    batch = Batch(
        obs=obs,
        action=rollout.action,
        log_prob=rollout.log_prob,
        dist=rollout.dist,
        value=rollout.value,
        advantage=advantage,
        target=target,
        carry=(),
        episode_start=rollout.episode_start,
    )
    return as_rows(batch, length).replace(carry=carry)


def as_rows(steps: PyTree, length: int | None = None) -> PyTree:
    """Arranges what there is of each step and environment as rows.

    Args:
        steps: arrays [T, N, ...].
        length: L, a divisor of T; None: transitions stand alone.

    Returns:
        Rows [T * N, ...], or [T / L * N, L, ...].
    """

    def rows(x: Array) -> Array:
        if length is None:
            return jax.lax.collapse(x, 0, 2)
        x = x.reshape(len(x) // length, length, *x.shape[1:]).swapaxes(1, 2)  # [T / L, N, L]
        return jax.lax.collapse(x, 0, 2)

    return jax.tree.map(rows, steps)


def as_steps(rows: Array, num_envs: int) -> Array:
    """Arranges rows as steps of environments, the other way round than `as_rows`.

    Args:
        rows: [T * N], or [T / L * N, L].
        num_envs: N.

    Returns:
        [T, N].
    """
    if rows.ndim == 1:
        return rows.reshape(-1, num_envs)
    return rows.reshape(-1, num_envs, rows.shape[1]).swapaxes(1, 2).reshape(-1, num_envs)


def deal_advantages(
    advantage: Array, rows: Array, plan: Minibatches, axis_name: str | None = None
) -> Array:
    """Deals advantages out to the minibatches of an update, standardised in each if so planned.

    Args:
        advantage: [B] rows.
        rows: [E * M, B / M] int32, which of them each gradient step takes.
        plan: whether advantages are standardised.
        axis_name: mesh axis over which the batch is spread, or None.

    Returns:
        [E * M, B / M] rows.
    """
    dealt = advantage[rows]
    return standardize(dealt, axis_name, tuple(range(1, dealt.ndim))) if plan.standardize else dealt


def take(batch: Batch, rows: Array, advantage: Array) -> Batch:
    """Takes a minibatch.

    Args:
        batch: [B] rows.
        rows: [B / M] int32, which of them.
        advantage: [B / M], theirs.

    Returns:
        [B / M] rows.
    """
    others = jax.tree.map(lambda x: x[rows], batch.replace(advantage=()))
    return others.replace(advantage=advantage)


def rows_per_pass(
    policy: Policy, params: Params, batch: Batch, num_minibatches: int, chunk_size: int | None
) -> int:
    """Chooses the rows per forward and backward pass: those asked for, or what suits the device.

    Args:
        policy: actor and critic.
        params: the policy's parameters, or their shapes.
        batch: [B] rows, or their shapes.
        num_minibatches: M.
        chunk_size: transitions per pass, if they are asked for.

    Returns:
        A divisor of B / M.
    """
    if chunk_size is not None:
        transitions = batch.advantage.size // len(batch.advantage)  # in a row
        return chunk_size // transitions
    rows = len(batch.advantage) // num_minibatches
    inputs = (batch.carry, batch.obs, batch.episode_start)
    return tuning.chunk_size(rows, activation_bytes(policy, params, inputs))


def activation_bytes(policy: Policy, params: Params, inputs: PyTree) -> int:
    """Counts the bytes that the backward pass keeps of each row, from shapes alone.

    Args:
        policy: actor and critic.
        params: the policy's parameters, or their shapes.
        inputs: memory, observations and episode starts [B, ...] that it is applied to, or their
            shapes.

    Returns:
        Bytes per row.
    """

    def shapes(tree, first):
        leaves, structure = jax.tree.flatten(tree)
        return tuple(jax.ShapeDtypeStruct(x.shape[first:], x.dtype) for x in leaves), structure

    return _activation_bytes(policy, *shapes(params, 0), *shapes(inputs, 1))


@functools.lru_cache(16)  # traced once for the plan, the rollout and the gradient steps of a run
def _activation_bytes(policy: Policy, params, params_tree, inputs, inputs_tree) -> int:
    """Computes `activation_bytes` of leaves in shapes, those of one row."""

    def kept(rows):
        few = (jax.ShapeDtypeStruct((rows, *x.shape), x.dtype) for x in inputs)

        def residuals(params, inputs):
            return jax.vjp(lambda p: policy.apply(p, *inputs)[1:], params)[1]

        at = params_tree.unflatten(params), inputs_tree.unflatten(few)
        return nbytes(jax.eval_shape(residuals, *at))

    # the difference leaves out what does not grow with the rows
    return kept(2) - kept(1)


def in_passes(function: Callable[[PyTree], PyTree], inputs: PyTree, size: int) -> PyTree:
    """Applies `function` to equal parts of rows, one after the other.

    What a function of all rows gives, with the memory (and, on a CPU, the cache) of one part.

    Args:
        function: of [size, ...] to a pytree of [size, ...].
        inputs: pytree of [B, ...].
        size: a divisor of B.

    Returns:
        [B, ...].
    """
    if len(jax.tree.leaves(inputs)[0]) == size:
        return function(inputs)
    parts = jax.tree.map(lambda x: x.reshape(len(x) // size, size, *x.shape[1:]), inputs)
    return jax.tree.map(lambda x: jax.lax.collapse(x, 0, 2), jax.lax.map(function, parts))


def mean_over_chunks(function: Callable[[PyTree], PyTree], batch: PyTree, size: int) -> PyTree:
    """Averages `function` over equal parts of a batch, one after the other.

    The mean of a mean over all rows, with the memory (and, on a CPU, the cache) of one part.

    Args:
        function: of [size, ...] to a pytree of float arrays.
        batch: pytree of [B, ...].
        size: a divisor of B.

    Returns:
        What the function returns, averaged.
    """
    chunks = jax.tree.map(lambda x: x.reshape(len(x) // size, size, *x.shape[1:]), batch)
    count = jax.tree.leaves(chunks)[0].shape[0]
    first = jax.tree.map(lambda x: x[0], chunks)
    if count == 1:
        return function(first)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(function, first))

    def add(total, chunk):
        return jax.tree.map(jnp.add, total, function(chunk)), None

    total, _ = jax.lax.scan(add, zeros, chunks)
    return jax.tree.map(lambda x: x / count, total)
