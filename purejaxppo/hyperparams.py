"""The scalars of the algorithm that are traced: one compilation serves all their values.

Without jax, so that a configuration can be made before jax is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import jax

Scalar: TypeAlias = "float | jax.Array"
"""A Python number, or an array that may have an axis to be vmapped over."""


class Hyperparams(NamedTuple):
    """Every scalar that may vary without a new compilation; a pytree, so it can be vmapped.

    Each field has the meaning of the `PPOConfig` field of the same name. Fields that are None
    switch a part of the algorithm off, statically. `extra` is any pytree of numbers and arrays, for
    a custom objective, estimator, schedule or optimizer to read.
    """

    learning_rate: Scalar
    learning_rate_final_scale: Scalar
    gamma: Scalar
    gae_lambda: Scalar
    clip_eps: Scalar
    clip_eps_final_scale: Scalar
    kl_coef: Scalar
    adaptive_kl_target: Scalar
    value_coef: Scalar
    value_clip_eps: Scalar
    huber_delta: Scalar
    entropy_coef: Scalar
    entropy_coef_final_scale: Scalar
    adam_eps: Scalar
    max_grad_norm: Scalar | None
    target_kl: Scalar | None
    extra: Any = ()

    def replace(self, **changes: Any) -> Hyperparams:
        """Returns the same hyperparameters with some fields changed."""
        return self._replace(**changes)
