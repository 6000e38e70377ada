"""Losses of the critic, one function per equation, and the registry `VALUE_LOSSES`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo.hyperparams import Hyperparams, Scalar
from purejaxppo.types import Batch

ValueLoss = Callable[[Array, Batch, Hyperparams], Array]
"""`(value [B], batch, hyperparams) -> [B]`."""


def squared(value: Array, target: Array) -> Array:
    r"""Computes $(V - target)^2 / 2$.

    Args:
        value: [B], of the critic that is trained.
        target: [B].

    Returns:
        Loss of each transition, [B].

    Reference: arXiv:1602.01783, section 4.
    """
    return 0.5 * jnp.square(value - target)


def clipped(value: Array, old_value: Array, target: Array, value_clip_eps: Scalar) -> Array:
    r"""Computes the larger of two losses: of the value, and of the value kept near the old one.

    $\max((V - target)^2, (V_{old} + clip(V - V_{old}, -\epsilon, \epsilon) - target)^2) / 2$

    Args:
        value: [B], of the critic that is trained.
        old_value: [B], of the critic at the rollout.
        target: [B].
        value_clip_eps: how far a value may move before its gradient stops.

    Returns:
        Loss of each transition, [B].

    Reference: openai/baselines ppo2; arXiv:2006.05990, section 3.4.
    """
    near = old_value + jnp.clip(value - old_value, -value_clip_eps, value_clip_eps)
    return jnp.maximum(squared(value, target), squared(near, target))


def huber(value: Array, target: Array, delta: Scalar) -> Array:
    r"""Computes $e^2 / 2$ for $|e| \le \delta$, else $\delta (|e| - \delta / 2)$; $e = V - target$.

    Args:
        value: [B], of the critic that is trained.
        target: [B].
        delta: error at which the loss turns linear.

    Returns:
        Loss of each transition, [B].

    Reference: Huber 1964.
    """
    error = jnp.abs(value - target)
    quadratic = jnp.minimum(error, delta)
    return 0.5 * jnp.square(quadratic) + delta * (error - quadratic)


def categorical(logits: Array, target: Array) -> Array:
    r"""Computes the cross-entropy $-\sum_i q_i \log p_i$, $p$ the softmax of the logits.

    Args:
        logits: [B, K], of the critic that is trained.
        target: [B, K], the probabilities q.

    Returns:
        Loss of each transition, [B].

    Reference: arXiv:2403.03950, eq. 2.
    """
    return -jnp.sum(target * jax.nn.log_softmax(logits), -1)


VALUE_LOSSES: dict[str, ValueLoss] = {
    "squared": lambda value, batch, hyper: squared(value, batch.target),
    "clipped": lambda value, batch, hyper: clipped(
        value, batch.value, batch.target, hyper.value_clip_eps
    ),
    "huber": lambda value, batch, hyper: huber(value, batch.target, hyper.huber_delta),
}
"""Value losses of one number for each state: `(value [B], batch, hyperparams) -> [B]`.

`categorical` reads many, see `ppo.critics`.
"""
