r"""Policy objectives, one function per equation, all to be minimised; the registry `OBJECTIVES`.

With the ratio $\rho = \pi(a|s) / \pi_{old}(a|s)$ = exp(log_prob - old_log_prob), and
the advantage A.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from purejaxppo.hyperparams import Hyperparams, Scalar
from purejaxppo.types import Batch, ObjectiveLoss, PyTree


def policy_gradient(log_prob: Array, advantage: Array) -> Array:
    r"""Computes the loss of the policy gradient, $-\log \pi(a|s) \, A$, of REINFORCE and A2C.

    Args:
        log_prob: [B], under the policy that is trained.
        advantage: [B].

    Returns:
        Loss of each transition, [B].

    Reference: Williams 1992; arXiv:1602.01783, section 4.
    """
    return -log_prob * advantage


def unclipped(log_prob: Array, old_log_prob: Array, advantage: Array) -> Array:
    r"""Computes the importance-sampled surrogate, $-\rho A$.

    Args:
        log_prob: [B], under the policy that is trained.
        old_log_prob: [B], under the policy of the rollout.
        advantage: [B].

    Returns:
        Loss of each transition, [B].

    Reference: arXiv:1707.06347, eq. 6.
    """
    return -jnp.exp(log_prob - old_log_prob) * advantage


def clip(log_prob: Array, old_log_prob: Array, advantage: Array, clip_eps: Scalar) -> Array:
    r"""Computes the clipped surrogate of PPO, $-\min(\rho A, \rho_c A)$.

    $\rho_c$ is the ratio, held within $1 - \epsilon$ and $1 + \epsilon$.

    Args:
        log_prob: [B], under the policy that is trained.
        old_log_prob: [B], under the policy of the rollout.
        advantage: [B].
        clip_eps: how far the ratio may move before its gradient stops.

    Returns:
        Loss of each transition, [B].

    Reference: arXiv:1707.06347, eq. 7.
    """
    ratio = jnp.exp(log_prob - old_log_prob)
    clipped = jnp.clip(ratio, 1.0 - clip_eps, 1.0 + clip_eps)
    return -jnp.minimum(ratio * advantage, clipped * advantage)


def kl_penalty(
    log_prob: Array, old_log_prob: Array, advantage: Array, kl: Array, kl_coef: Scalar
) -> Array:
    r"""Computes the surrogate with a penalty, $-\rho A + \beta \, KL(\pi_{old}, \pi)$.

    Args:
        log_prob: [B], under the policy that is trained.
        old_log_prob: [B], under the policy of the rollout.
        advantage: [B].
        kl: [B], exact divergence of the two distributions at each state.
        kl_coef: beta.

    Returns:
        Loss of each transition, [B].

    Reference: arXiv:1707.06347, eq. 8.
    """
    return unclipped(log_prob, old_log_prob, advantage) + kl_coef * kl


def adapt_kl_coef(kl_coef: Array, kl: Array, target: Scalar) -> Array:
    r"""Adapts $\beta$: halves it if KL < target / 1.5, doubles it if KL > 1.5 target.

    It stays within 1e-10 and 1e10: what has come to 0, or to infinity, could not change any more.

    Args:
        kl_coef: (), beta of the update that was made.
        kl: (), mean KL(pi_old, pi) over the rollout after it.
        target: the divergence to aim for.

    Returns:
        The new beta, ().

    Reference: arXiv:1707.06347, section 4.
    """
    grown = jnp.where(kl > 1.5 * target, 2.0 * kl_coef, kl_coef)
    return jnp.clip(jnp.where(kl < target / 1.5, 0.5 * kl_coef, grown), 1e-10, 1e10)


def _remembers_nothing(hyper: Hyperparams) -> PyTree:
    return ()


def _without_penalty(hyper: Hyperparams, state: PyTree) -> Scalar:
    return 0.0


class Objective(NamedTuple):
    """A policy objective and what it remembers from one update to the next.

    Attributes:
        loss: `(dist, log_prob [B], batch, hyperparams, state) -> [B]`, or `([B], {name: [B]})` with
            values to be logged, whose means are in `Metrics.extra`.
        init: `(hyperparams) -> state`; () where there is nothing to remember.
        adapt: `(state, kl, hyperparams) -> state`, called after each update with the mean exact
            divergence; None where there is nothing to adapt.
        kl_coef: `(hyperparams, state) -> ()`, weight of the KL penalty in force.
    """

    loss: ObjectiveLoss
    init: Callable[[Hyperparams], PyTree] = _remembers_nothing
    adapt: Callable[[PyTree, Array, Hyperparams], PyTree] | None = None
    kl_coef: Callable[[Hyperparams, PyTree], Scalar] = _without_penalty


def _penalised(beta: Callable[[Hyperparams, PyTree], Scalar]) -> ObjectiveLoss:
    """Makes the loss with a penalty whose weight is `beta(hyperparams, state)`."""

    def loss(dist: Any, log_prob: Array, batch: Batch, hyper: Hyperparams, state: PyTree) -> Array:
        kl = batch.dist.kl(dist)
        return kl_penalty(log_prob, batch.log_prob, batch.advantage, kl, beta(hyper, state))

    return loss


def _fixed_beta(hyper: Hyperparams, state: PyTree) -> Scalar:
    return hyper.kl_coef


def _adapted_beta(hyper: Hyperparams, state: PyTree) -> Scalar:
    return state


OBJECTIVES: dict[str, Objective] = {
    "clip": Objective(
        lambda dist, log_prob, batch, hyper, state: clip(
            log_prob, batch.log_prob, batch.advantage, hyper.clip_eps
        )
    ),
    "kl_penalty": Objective(_penalised(_fixed_beta), kl_coef=_fixed_beta),
    "adaptive_kl": Objective(
        _penalised(_adapted_beta),
        init=lambda hyper: jnp.asarray(hyper.kl_coef, jnp.float32),
        adapt=lambda state, kl, hyper: adapt_kl_coef(state, kl, hyper.adaptive_kl_target),
        kl_coef=_adapted_beta,
    ),
    "unclipped": Objective(
        lambda dist, log_prob, batch, hyper, state: unclipped(
            log_prob, batch.log_prob, batch.advantage
        )
    ),
    "policy_gradient": Objective(
        lambda dist, log_prob, batch, hyper, state: policy_gradient(log_prob, batch.advantage)
    ),
}
"""Policy objectives by name."""
