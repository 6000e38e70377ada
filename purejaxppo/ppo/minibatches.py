"""Minibatches, epochs and the gradient step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from purejaxppo import tuning as backend
from purejaxppo.config.schema import PPOConfig
from purejaxppo.hyperparams import Hyperparams
from purejaxppo.ppo.collectives import across, standardize
from purejaxppo.ppo.objectives import VALUE_LOSSES, Objective
from purejaxppo.ppo.rollout import nbytes
from purejaxppo.ppo.shuffle import minibatch_indices
from purejaxppo.types import Array, Batch, Policy


def annealed(hyper: Hyperparams, progress) -> Hyperparams:
    """Hyperparameters as they stand at `progress` (0: start, 1: end and beyond) of a run.

    $x(p) = x (1 - p (1 - final))$ for learning_rate, clip_eps and entropy_coef.
    """
    progress = jnp.minimum(progress, 1.0)

    def at(value, final_scale):
        return value * (1.0 - progress * (1.0 - final_scale))

    return hyper.replace(
        learning_rate=at(hyper.learning_rate, hyper.learning_rate_final_scale),
        clip_eps=at(hyper.clip_eps, hyper.clip_eps_final_scale),
        entropy_coef=at(hyper.entropy_coef, hyper.entropy_coef_final_scale),
    )


def optimizer(hyper: Hyperparams) -> optax.GradientTransformation:
    """Global-norm clipping (unless max_grad_norm is None), then Adam."""
    clipping = optax.identity()
    if hyper.max_grad_norm is not None:
        clipping = optax.clip_by_global_norm(hyper.max_grad_norm)
    adam = optax.scale_by_adam(eps=hyper.adam_eps)
    return optax.chain(clipping, adam, optax.scale_by_learning_rate(hyper.learning_rate))


def loss(
    params: Any,
    batch: Batch,
    policy: Policy,
    objective: Objective,
    config: PPOConfig,
    hyper: Hyperparams,
    objective_state: Any,
) -> tuple[Array, dict[str, Array]]:
    """$L = L_{policy} + c_V L_{value} - c_H H$, each a mean over the batch.

    Args:
        params: the policy's parameters.
        batch: [B] rows, their advantages normalised.
        policy: actor and critic.
        objective: of the policy.
        config: which value loss.
        hyper: scalars in force.
        objective_state: what the objective remembers.

    Returns:
        The loss (), and its parts by the names of `Metrics`.

    Reference: arXiv:1707.06347, eq. 9.
    """
    _, dist, value = policy.apply(params, batch.carry, batch.obs, batch.episode_start)
    log_prob = dist.log_prob(batch.action)
    losses = objective.loss(dist, log_prob, batch, hyper, objective_state)
    log_ratio = log_prob - batch.log_prob
    ratio = jnp.exp(log_ratio)
    parts = {
        "policy_loss": losses.mean(),
        "value_loss": VALUE_LOSSES[config.value_loss](value, batch, hyper).mean(),
        "entropy": dist.entropy().mean(),
        "approx_kl": jnp.mean((ratio - 1.0) - log_ratio),
        "clip_fraction": jnp.mean(jnp.abs(ratio - 1.0) > hyper.clip_eps, dtype=jnp.float32),
    }
    total = (
        parts["policy_loss"]
        + hyper.value_coef * parts["value_loss"]
        - hyper.entropy_coef * parts["entropy"]
    )
    return total, parts


def take(batch: Batch, rows: Array, config: PPOConfig, axis_name: str | None = None) -> Batch:
    """A minibatch: the rows of the batch, advantages normalised over them if so configured."""
    minibatch = jax.tree.map(lambda x: x[rows], batch)
    if config.advantage_normalization == "minibatch":
        minibatch = minibatch.replace(advantage=standardize(minibatch.advantage, axis_name))
    return minibatch


def chunk_rows(policy: Policy, config: PPOConfig, params: Any, batch: Batch) -> int:
    """Rows per forward and backward pass: those asked for, or what suits the device.

    Args:
        policy: actor and critic.
        config: sizes.
        params: the policy's parameters, or their shapes.
        batch: [B] rows, or their shapes.

    Returns:
        A divisor of B / M.
    """
    transitions = batch.advantage.size // len(batch.advantage)  # in a row
    if config.chunk_size is not None:
        return config.chunk_size // transitions
    rows = len(batch.advantage) // config.num_minibatches
    return backend.chunk_size(rows, activation_bytes(policy, params, batch))


def activation_bytes(policy: Policy, params: Any, batch: Batch) -> int:
    """What the backward pass keeps of each row, found from shapes alone."""

    def kept(rows):
        few = jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype), batch)

        def residuals(params, carry, obs, episode_start):
            return jax.vjp(lambda p: policy.apply(p, carry, obs, episode_start)[1:], params)[1]

        return nbytes(jax.eval_shape(residuals, params, few.carry, few.obs, few.episode_start))

    return kept(2) - kept(1)


def mean_over_chunks(function: Callable[[Any], Any], batch: Any, size: int) -> Any:
    """The mean of `function` over equal parts of a batch, one after the other.

    The mean of a mean over all rows, with the memory (and, on a CPU, the cache) of one part.

    Args:
        function: of [size, ...] to a pytree of float arrays.
        batch: pytree of [B, ...].
        size: a divisor of B.

    Returns:
        What the function returns, averaged.
    """
    chunks = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), batch)
    count = jax.tree.leaves(chunks)[0].shape[0]
    first = jax.tree.map(lambda x: x[0], chunks)
    if count == 1:
        return function(first)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(function, first))

    def add(total, chunk):
        return jax.tree.map(jnp.add, total, function(chunk)), None

    total, _ = jax.lax.scan(add, zeros, chunks)
    return jax.tree.map(lambda x: x / count, total)


def pack(params: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The parameters as the optimizer holds them, and the way back: one vector, where that pays."""
    size = sum(x.size for x in jax.tree.leaves(params))
    return ravel_pytree(params) if backend.steps_on_one_vector(size) else (params, lambda p: p)


class Progress(NamedTuple):
    """What the gradient steps of one update hand on.

    Attributes:
        params: the policy's parameters, packed.
        opt_state: Adam's moments of them.
        stopped: () bool, target_kl was exceeded.
    """

    params: Any
    opt_state: Any
    stopped: Array


def optimize(
    policy: Policy,
    objective: Objective,
    config: PPOConfig,
    hyper: Hyperparams,
    params: Any,
    opt_state: Any,
    objective_state: Any,
    batch: Batch,
    key: Array,
    axis_name: str | None = None,
) -> tuple[Any, Any, dict[str, Array]]:
    """All gradient steps of one update: E epochs of M minibatches in one scan.

    A step whose loss or gradient is not finite is left out and counted. Once a minibatch's
    approx_kl exceeds target_kl, that step and all that remain are left out.

    Args:
        policy: actor and critic.
        objective: of the policy.
        config: sizes and choices.
        hyper: scalars in force.
        params: the policy's parameters.
        opt_state: of `optimizer`, over the packed parameters.
        objective_state: what the objective remembers.
        batch: [B] rows, transitions or sequences.
        key: consumed.
        axis_name: mesh axis over which the batch is spread, or None.

    Returns:
        Parameters, optimizer state, and means of the loss parts over the steps that counted.
    """
    packed, unpack = pack(params)
    chunk = chunk_rows(policy, config, params, batch)
    transform = optimizer(hyper)

    def packed_loss(packed, chunk):
        return loss(unpack(packed), chunk, policy, objective, config, hyper, objective_state)

    def gradient_step(progress: Progress, rows):
        minibatch = take(batch, rows, config, axis_name)
        gradient = partial(jax.value_and_grad(packed_loss, has_aux=True), progress.params)
        means = mean_over_chunks(gradient, minibatch, chunk)
        (total, parts), grad = across(means, axis_name)
        parts["grad_norm"] = optax.tree.norm(grad)

        finite = jnp.isfinite(total) & jnp.isfinite(parts["grad_norm"])
        counts = finite & ~progress.stopped
        stopped = progress.stopped
        if hyper.target_kl is not None:
            stopped |= finite & (parts["approx_kl"] > hyper.target_kl)
        step = finite & ~stopped

        updates, opt_state = transform.update(grad, progress.opt_state)
        moved = (optax.apply_updates(progress.params, updates), opt_state)
        kept = (progress.params, progress.opt_state)
        new = jax.tree.map(lambda a, b: jnp.where(step, a, b), moved, kept)
        tallies = {"counted": counts, "gradient_steps": step, "skipped_steps": ~finite & ~stopped}
        parts = jax.tree.map(lambda x: jnp.where(counts, x, 0.0), parts)
        return Progress(new[0], new[1], stopped), (parts, tallies)

    size = len(batch.advantage)
    rows = minibatch_indices(key, size, config.num_epochs, config.num_minibatches)
    start = Progress(packed, opt_state, jnp.bool_(False))
    end, (parts, tallies) = jax.lax.scan(gradient_step, start, rows)
    tallies = {name: jnp.sum(t, dtype=jnp.int32) for name, t in tallies.items()}
    counted = jnp.maximum(tallies.pop("counted"), 1)
    means = {name: jnp.sum(x) / counted for name, x in parts.items()}
    return unpack(end.params), end.opt_state, means | tallies
