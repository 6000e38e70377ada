"""The loss, and the gradient steps of one update."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

from purejaxppo.assertions import chex
from purejaxppo.errors import ConfigError, shown
from purejaxppo.hyperparams import Hyperparams
from purejaxppo.ppo.collectives import across
from purejaxppo.ppo.minibatches import Minibatches, deal_advantages, mean_over_chunks, take
from purejaxppo.ppo.objectives import Objective
from purejaxppo.ppo.optimizer import (
    Optimizer,
    join_small,
    pack,
    part_small,
    step_of,
    widened,
)
from purejaxppo.ppo.shuffle import minibatch_indices
from purejaxppo.types import (
    Array,
    Batch,
    Critic,
    Estimate,
    Metrics,
    Params,
    Policy,
    PyTree,
    RunningStats,
)

Loss = Callable[[Params, Batch], tuple[Array, dict[str, Any]]]
"""`(params, minibatch) -> (loss (), its parts by the names of Metrics)`."""

EXPLORATION = ("intrinsic_reward", "intrinsic_value_loss", "novelty_loss")
"""Names under which `Metrics.extra` says how a bonus for what is new does."""


def loss(
    params: Params,
    batch: Batch,
    policy: Policy,
    objective: Objective,
    critic: Critic,
    hyper: Hyperparams,
    objective_state: PyTree,
    value_stats: RunningStats | None = None,
    with_kl: bool = False,
) -> tuple[Array, dict[str, Any]]:
    """Computes $L = L_{policy} + c_V L_{value} - c_H H$, each a mean over the batch.

    Args:
        params: the policy's parameters.
        batch: [B] rows, their advantages normalised.
        policy: actor and critic.
        objective: of the policy.
        critic: what the policy's value stands for, and its loss.
        hyper: scalars in force.
        objective_state: what the objective remembers.
        value_stats: statistics of the targets, where the critic has some.
        with_kl: whether the exact divergence from the rollout's policy is wanted too.

    Returns:
        The loss (), and its parts by the names of `Metrics`; under `extra` those that the objective
        named, and the divergence under `kl`.

    Raises:
        ConfigError: the objective's loss is not [B], or it gives a value the name of a metric.

    Reference: arXiv:1707.06347, eq. 9.
    """
    # forward pass under the parameters that are trained
    _, dist, output = policy.apply(params, batch.carry, batch.obs, batch.episode_start)
    log_prob = dist.log_prob(batch.action)
    chex.assert_equal_shape([log_prob, batch.log_prob, batch.advantage, batch.target])

    losses, extra = _outcome(objective, dist, log_prob, batch, hyper, objective_state)

    # how far the policy has moved from that of the rollout
    log_ratio = log_prob - batch.log_prob
    ratio = jnp.exp(log_ratio)
    value_losses = critic.loss(output, batch, hyper, value_stats)
    chex.assert_equal_shape([log_prob, value_losses])  # else they would broadcast
    of_rows = {
        "policy_loss": losses,
        "value_loss": value_losses,
        "entropy": dist.entropy(),
        "approx_kl": (ratio - 1.0) - log_ratio,
        "clip_fraction": (jnp.abs(ratio - 1.0) > hyper.clip_eps).astype(jnp.float32),
    }
    if with_kl:
        of_rows["kl"] = batch.dist.kl(dist)
    parts: dict[str, Any] = means_of(of_rows)
    parts["extra"] = {name: jnp.mean(x, dtype=jnp.float32) for name, x in extra.items()}
    total = (
        parts["policy_loss"]
        + hyper.value_coef * parts["value_loss"]
        - hyper.entropy_coef * parts["entropy"]
    )
    return total, parts


def means_of(of_rows: dict[str, Array]) -> dict[str, Array]:
    """Computes means over rows in one reduction."""
    rows = jnp.stack([x.reshape(-1) for x in of_rows.values()])
    return dict(zip(of_rows, rows.mean(-1), strict=True))


def _outcome(
    objective: Objective,
    dist: Any,
    log_prob: Array,
    batch: Batch,
    hyper: Hyperparams,
    state: PyTree,
) -> tuple[Array, dict[str, Array]]:
    """Computes the objective's losses and the values that it names, and checks both."""
    outcome = objective.loss(dist, log_prob, batch, hyper, state)
    losses, extra = outcome if isinstance(outcome, tuple) else (outcome, {})
    if jnp.shape(losses) != log_prob.shape:
        raise ConfigError(
            f"the objective's loss has shape {list(jnp.shape(losses))} for a minibatch of "
            f"{list(log_prob.shape)}: return the loss of each transition, not their mean"
        )
    if not isinstance(extra, Mapping):
        raise ConfigError(
            f"the objective returns {shown(extra)} beside its loss: return values by name, such as "
            "{'my_ratio': ratio}"
        )
    taken = {field.name for field in dataclasses.fields(Metrics)} | {"step", "seed"}
    taken |= {"episode_return", "episode_length", *EXPLORATION}
    for name in extra:
        if name in taken:
            raise ConfigError(
                f"the objective returns a value named {name!r}, which is a column of the metrics "
                f"already: name it {'my_' + name!r}"
            )
    return losses, dict(extra)


class Progress(NamedTuple):
    """What each gradient step of an update hands on to the next.

    Attributes:
        params: the policy's parameters, packed.
        opt_state: of the optimizer.
        stopped: () bool, target_kl was exceeded.
        rate: where it is adapted, the learning rate () and whether a step was taken, () bool; else
            ().
    """

    params: PyTree
    opt_state: PyTree
    stopped: Array
    rate: PyTree


@jax.named_scope("steps")
def optimize(
    loss: Loss,
    optimizer: Optimizer,
    hyper: Hyperparams,
    plan: Minibatches,
    params: Params,
    opt_state: PyTree,
    batch: Batch,
    key: Array,
    axis_name: str | None = None,
    adapt: Callable[[Array, Array, Hyperparams], Array] | None = None,
    estimate: Callable[[Params], Estimate] | None = None,
) -> tuple[Params, PyTree, dict[str, Any]]:
    """Takes all gradient steps of one update: E epochs of M minibatches, in one scan or in E.

    A step whose loss or gradient is not finite is left out and counted. So are all steps together
    if they lead to parameters or an optimizer state that are not finite. Once a minibatch's
    approx_kl exceeds target_kl, that step and all that remain are left out. An adapted learning
    rate is so before the step of each minibatch that counts, but for those before any step was
    taken: there is no divergence yet but rounding.

    Args:
        loss: `(params, minibatch) -> (loss, parts)`, the divergence `kl` among them if `adapt` is
            given.
        optimizer: what makes updates of gradients.
        hyper: scalars in force; the optimizer and target_kl read them.
        plan: epochs, minibatches, rows per pass.
        params: the policy's parameters.
        opt_state: of the optimizer, over the packed parameters.
        batch: [B] rows, transitions or sequences.
        key: consumed.
        axis_name: mesh axis over which the batch is spread, or None.
        adapt: `(learning rate, kl, hyperparams) -> learning rate`; None: it stays.
        estimate: advantages and targets [B] under parameters, which each epoch but the first begins
            with; None: those of the batch are for all epochs.

    Returns:
        Parameters, optimizer state, and means of the loss parts over the steps that counted, with
        the learning rate of the last one.
    """
    packed, unpack = pack(optimizer, params)
    before = packed, opt_state
    fixed = optimizer.make(hyper)

    def packed_loss(packed, minibatch):
        return loss(unpack(part_small(packed, before[0])), minibatch)

    def gradient_of(packed, rows):
        # with all its digits before passes and devices are added up
        return widened(jax.value_and_grad(packed_loss, has_aux=True)(packed, rows))

    def gradient_step(batch: Batch, progress: Progress, dealt):
        # gradient of a minibatch, averaged over passes, and with the parts of the loss over devices
        minibatch = take(batch, *dealt)
        gradient = partial(gradient_of, progress.params)
        means = mean_over_chunks(gradient, minibatch, plan.rows_per_pass)
        (total, parts), grad = across(means, axis_name)
        parts["grad_norm"] = optax.tree.norm(grad)

        # whether this step is taken: one bad step must not poison the run, or the other seeds
        finite = jnp.isfinite(total) & jnp.isfinite(parts["grad_norm"])
        counts = finite & ~progress.stopped
        stopped = progress.stopped
        if hyper.target_kl is not None:
            stopped |= finite & (parts["approx_kl"] > hyper.target_kl)
        step = finite & ~stopped

        # the rate of the step, which what the steps before it have done may change
        rate, transform = progress.rate, fixed
        if adapt is not None:
            (before_it, moved), kl = rate, parts.pop("kl")
            now = jnp.where(counts & moved, adapt(before_it, kl, hyper), before_it)
            rate, transform = (now, moved | step), optimizer.make(hyper._replace(learning_rate=now))

        # the step; computed in any case, because a branch under vmap computes both sides
        moved = step_of(transform, grad, progress.opt_state, progress.params)
        kept = (progress.params, progress.opt_state)
        new = jax.tree.map(lambda a, b: jnp.where(step, a, b), moved, kept)

        # its metrics leave the loop as one vector, and the way to unpack that beside it
        tallies = {"counted": counts, "gradient_steps": step, "skipped_steps": ~finite & ~stopped}
        parts = jax.tree.map(lambda x: jnp.where(counts, x, 0.0), parts)
        metrics = jax.tree.map(lambda x: x.astype(jnp.float32), parts | tallies)
        vector, unravel = ravel_pytree(metrics)
        return Progress(new[0], new[1], stopped, rate), Partial(unravel, vector)

    def gradient_steps(batch: Batch, progress: Progress, rows: Array):
        advantage = deal_advantages(batch.advantage, rows, plan, axis_name)
        return jax.lax.scan(partial(gradient_step, batch), progress, (rows, advantage))

    def epoch(estimate, progress: Progress, inputs):
        # the first one has the rollout's own advantages
        number, rows = inputs
        old = Estimate(batch.advantage, batch.target)
        params = unpack(part_small(progress.params, before[0]))
        advantage, target = jax.lax.cond(number > 0, estimate, lambda _: old, params)
        again = batch.replace(advantage=advantage, target=target)
        return gradient_steps(again, progress, rows)

    # every epoch sees every row once, in an order of its own
    size = len(batch.advantage)
    rows = minibatch_indices(key, size, plan.num_epochs, plan.num_minibatches)
    stepped, opt_state = join_small(optimizer, packed, before)
    rate = jnp.asarray(hyper.learning_rate, jnp.float32)
    rates = () if adapt is None else (rate, jnp.bool_(False))
    start = Progress(stepped, opt_state, jnp.bool_(False), rates)
    if estimate is None:
        end, metrics = gradient_steps(batch, start, rows)
    else:
        rows = rows.reshape(plan.num_epochs, plan.num_minibatches, -1)
        end, metrics = jax.lax.scan(
            partial(epoch, estimate), start, (jnp.arange(plan.num_epochs), rows)
        )

    # what the steps have led to is looked at once: after each of them, it would be one more pass
    # over all parameters and averages. The barrier keeps it from being written out at every array
    taken = jax.lax.optimization_barrier(_all_finite((end.params, end.opt_state)))
    end = jax.tree.map(lambda a, b: jnp.where(taken, a, b), end, start)
    packed, opt_state = part_small((end.params, end.opt_state), before)

    # means over the steps that counted, which may be none
    (vectors,) = metrics.args
    sums = metrics.func(vectors.reshape(-1, vectors.shape[-1]).sum(0))
    tallies = {
        name: sums.pop(name).astype(jnp.int32) for name in ("gradient_steps", "skipped_steps")
    }
    counted = jnp.maximum(sums.pop("counted"), 1.0)
    means = jax.tree.map(lambda x: x / counted, sums)
    tallies["skipped_steps"] += jnp.where(taken, 0, tallies["gradient_steps"])
    tallies["gradient_steps"] = jnp.where(taken, tallies["gradient_steps"], 0)
    tallies["learning_rate"] = rate if adapt is None else end.rate[0]
    return unpack(packed), opt_state, means | tallies


def _all_finite(tree: PyTree) -> Array:
    """Says whether every number of a pytree is finite, () bool."""
    floats = (x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact))
    return jnp.stack([jnp.bool_(True), *(jnp.isfinite(x).all() for x in floats)]).all()
