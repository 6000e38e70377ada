"""The scalars of the algorithm that are traced: one compilation serves all their values.

Without jax, so that a configuration can be made before jax is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from purejaxppo.bounds import (
    DECAY,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    Bound,
    check_float32,
    check_value,
    is_traced,
)
from purejaxppo.errors import ConfigError, did_you_mean, shown

if TYPE_CHECKING:
    import jax

Scalar: TypeAlias = "float | jax.Array"
"""A Python number, or an array that may have an axis to be vmapped over."""


class Hyperparams(NamedTuple):
    """Every scalar that may vary without a new compilation; a pytree, so it can be vmapped.

    Each field has the meaning of the `PPOConfig` field of the same name. Fields that are None
    switch a part of the algorithm off, or leave a constant in it, statically. `extra` is any pytree
    of numbers and arrays, for a custom objective, estimator, schedule or optimizer to read.
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
    vtrace_rho: Scalar
    vtrace_c: Scalar
    adam_b1: Scalar | None
    adam_b2: Scalar | None
    weight_decay: Scalar
    momentum: Scalar | None
    rms_decay: Scalar
    rms_eps: Scalar
    learning_rate_warmup: Scalar | None
    clip_eps_warmup: Scalar | None
    entropy_coef_warmup: Scalar | None
    desired_kl: Scalar
    learning_rate_min: Scalar
    learning_rate_max: Scalar
    exploration_coef: Scalar
    exploration_gamma: Scalar
    extra: Any = ()

    def replace(self, **changes: Any) -> Hyperparams:
        """Returns the same hyperparameters with some fields changed; known values are checked.

        Args:
            **changes: by field: a number, an array that may have an axis to be vmapped over, or a
                traced value, which cannot be checked; `extra` is any pytree.

        Raises:
            ConfigError: there is no such field, or a value is none that `PPOConfig` would take.
        """
        for name, value in changes.items():
            if name not in self._fields:
                raise ConfigError(
                    f"unknown hyperparameter {name!r}: {did_you_mean(name, self._fields)}"
                )
            check_hyperparameter(name, value, getattr(self, name))
        return self._replace(**changes)


BOUNDS: dict[str, Bound] = {
    "learning_rate": POSITIVE,
    "learning_rate_final_scale": FRACTION,
    "gamma": FRACTION,
    "gae_lambda": FRACTION,
    "clip_eps": POSITIVE,
    "clip_eps_final_scale": FRACTION,
    "kl_coef": NOT_NEGATIVE,
    "adaptive_kl_target": POSITIVE,
    "value_coef": NOT_NEGATIVE,
    "value_clip_eps": POSITIVE,
    "huber_delta": POSITIVE,
    "entropy_coef": NOT_NEGATIVE,
    "entropy_coef_final_scale": FRACTION,
    "adam_eps": POSITIVE,
    "max_grad_norm": POSITIVE,
    "target_kl": POSITIVE,
    "vtrace_rho": POSITIVE,
    "vtrace_c": POSITIVE,
    "adam_b1": DECAY,
    "adam_b2": DECAY,
    "weight_decay": NOT_NEGATIVE,
    "momentum": DECAY,
    "rms_decay": DECAY,
    "rms_eps": POSITIVE,
    "learning_rate_warmup": FRACTION,
    "clip_eps_warmup": FRACTION,
    "entropy_coef_warmup": FRACTION,
    "desired_kl": POSITIVE,
    "learning_rate_min": POSITIVE,
    "learning_rate_max": POSITIVE,
    "exploration_coef": NOT_NEGATIVE,
    "exploration_gamma": FRACTION,
}
"""What each of them must be, here and in `PPOConfig`."""

OPTIONAL = (
    "max_grad_norm", "target_kl", "adam_b1", "adam_b2", "momentum",
    "learning_rate_warmup", "clip_eps_warmup", "entropy_coef_warmup",
)  # fmt: skip
"""Those that may be None."""


def check_hyperparameter(name: str, value: Any, works: Any) -> None:
    """Checks a value of a field of `Hyperparams`, every entry of it, as far as it is known.

    Args:
        name: of the field; whatever `extra` is, is right.
        value: what was given.
        works: another value of the field, for the message; one that is no number is not offered.

    Raises:
        ConfigError: it is no number, or one that is out of range.
    """
    if name == "extra" or (value is None and name in OPTIONAL):
        return
    bound = BOUNDS[name]
    if not isinstance(works, int | float):
        works = 1.0 if bound.holds(1.0) else 0.9
    for number in _numbers(name, value, works):
        check_float32(name, number, works)
        check_value(name, number, [bound], works)


def _numbers(name: str, value: Any, works: Any) -> Iterator[float]:
    """Yields the numbers that a value is known to hold.

    Raises:
        ConfigError: it is neither a number nor an array of numbers.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
        return
    dtype = str(getattr(value, "dtype", "none"))
    if not (hasattr(value, "shape") and dtype.startswith(("float", "bfloat", "int", "uint"))):
        raise ConfigError(
            f"{name}={shown(value)} must be a number, or an array of numbers: use {works}"
        )
    # traced values, shapes alone, and what is spread over other machines too are not known here
    unknown = is_traced(value) or not hasattr(value, "__array__")
    if not unknown and getattr(value, "is_fully_addressable", True):
        import numpy as np

        yield from np.unique(np.asarray(value).astype(np.float64)).tolist()


def check_hyperparams(hyper: Any, works: Hyperparams) -> None:
    """Checks hyperparameters as far as they are known: those that are traced have a shape alone.

    Args:
        hyper: what was given.
        works: others that could be used, for messages.

    Raises:
        ConfigError: they are of another type, out of range, or several where a run takes one.
    """
    if not isinstance(hyper, Hyperparams):
        raise ConfigError(
            f"hyperparams={shown(hyper)} must be Hyperparams: use "
            "config.hyperparams().replace(learning_rate=1e-3)"
        )
    for name, other in works._asdict().items():
        value = getattr(hyper, name)
        check_hyperparameter(name, value, other)
        shape = getattr(value, "shape", ())
        if shape and name != "extra":
            raise ConfigError(
                f"{name} is an array {list(shape)}, a run takes one number: use "
                "jax.vmap(train, (None, 0))(key, hyperparams), with hyperparams = jax.vmap(lambda "
                f"x: config.hyperparams().replace({name}=x))(values)"
            )
