r"""How hyperparameters change over a run: by its progress, or by how far the policy moves.

With $p$ the progress of a run, 0 at its start and 1 at its end; $w$ the part of it that warms up;
and $q = (p - w) / (1 - w)$ what is done of the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp

from purejaxppo.hyperparams import Hyperparams, Scalar
from purejaxppo.types import Array, Metrics, PyTree, Schedule

SCHEDULED = ("learning_rate", "clip_eps", "entropy_coef")
"""Hyperparameters with a schedule of their own."""


def constant(progress: Array, final_scale: Scalar) -> Scalar:
    """Returns 1, whatever the progress is.

    Args:
        progress: (), q.
        final_scale: not used.
    """
    return 1.0


def linear(progress: Array, final_scale: Scalar) -> Scalar:
    r"""Computes the fraction that is left of a value that falls linearly, $1 - q (1 - final)$.

    Args:
        progress: (), q.
        final_scale: the fraction at the end.

    Returns:
        The fraction, ().
    """
    return 1.0 - progress * (1.0 - final_scale)


def cosine(progress: Array, final_scale: Scalar) -> Scalar:
    r"""Computes what is left of a value that falls along half a wave of the cosine.

    $final + (1 - final) (1 + \cos \pi q) / 2$

    Args:
        progress: (), q.
        final_scale: the fraction at the end.

    Returns:
        The fraction, ().

    Reference: arXiv:1608.03983, eq. 5, without restarts.
    """
    return final_scale + (1.0 - final_scale) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


SHAPES: dict[str, Callable[[Array, Scalar], Scalar]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
}
"""What is left of a value, by the name of its schedule: `(q, final_scale) -> fraction`."""


def annealed(
    shape: str,
    value: Scalar,
    final_scale: Scalar,
    warmup: Scalar | None,
    progress: Array,
    share: Array,
) -> Scalar:
    r"""Computes a value in force: it warms up linearly, then falls to a fraction of itself.

    The k-th of the n updates that warm up, from 1, has k / n of the value: the first one has the
    n-th part rather than nothing, and so learns, and the last one has all of it.

    Args:
        shape: a name in `SHAPES`.
        value: what it warms up to.
        final_scale: the fraction that is left at the end.
        warmup: part of the run that it takes, w; None: none of it.
        progress: (), p, where the update begins.
        share: (), of one update in the run.

    Returns:
        The value, ().
    """
    if warmup is None:
        return value * SHAPES[shape](progress, final_scale)
    ramp = jnp.minimum((progress + share) / jnp.maximum(warmup, share), 1.0)
    rest = jnp.maximum(progress - warmup, 0.0) / jnp.maximum(1.0 - warmup, share)
    return value * ramp * SHAPES[shape](rest, final_scale)


def adapt_rate(rate: Array, kl: Array, hyper: Hyperparams) -> Array:
    r"""Adapts the learning rate: / 1.5 if KL > 2 target, x 1.5 if KL < target / 2, within bounds.

    Args:
        rate: (), in force.
        kl: (), mean KL(pi_old, pi), exact, behind a step or more; NaN changes nothing.
        hyper: desired_kl, learning_rate_min and learning_rate_max of them are used.

    Returns:
        The new rate, ().

    Reference: arXiv:2109.11978, as in its library, rsl_rl.
    """
    lower = jnp.maximum(rate / 1.5, hyper.learning_rate_min)
    higher = jnp.minimum(rate * 1.5, hyper.learning_rate_max)
    grown = jnp.where(kl < hyper.desired_kl / 2, higher, rate)
    return jnp.where(kl > 2 * hyper.desired_kl, lower, grown)


def bounded(rate: Array, hyper: Hyperparams) -> Array:
    """Returns an adaptive learning rate within learning_rate_min and learning_rate_max.

    Args:
        rate: ().
        hyper: those in force.
    """
    return jnp.clip(rate, hyper.learning_rate_min, hyper.learning_rate_max)


class Scheduling(NamedTuple):
    """How hyperparameters change, and what is remembered for it from one update to the next.

    Attributes:
        at: `(hyperparams, progress, share, state) -> hyperparams`, those that an update begins
            with, see `annealed`.
        init: `(hyperparams) -> state`; () where there is nothing to remember.
        adapts: after what the learning rate is adapted to the divergence: a "minibatch" or an
            "update"; None: it is not. Only then is there a state: the learning rate.
    """

    at: Callable[[Hyperparams, Array, Array, PyTree], Hyperparams]
    init: Callable[[Hyperparams], PyTree] = lambda hyper: ()
    adapts: str | None = None

    @property
    def adapt_step(self) -> Callable[[Array, Array, Hyperparams], Array] | None:
        """Returns what adapts the rate before each gradient step; None: nothing does."""
        return adapt_rate if self.adapts == "minibatch" else None

    def after(self, metrics: Metrics, kl: PyTree, hyper: Hyperparams) -> PyTree:
        """Returns what is remembered after an update.

        Args:
            metrics: of the update; where none of its steps was taken, the rate stays.
            kl: [devices], mean exact divergences of the whole rollout, if it is an "update" after
                which the rate is adapted.
            hyper: those in force.
        """
        rate = metrics.learning_rate
        if self.adapts != "update":
            return rate if self.adapts else ()
        return jnp.where(metrics.gradient_steps > 0, adapt_rate(rate, kl.mean(), hyper), rate)


def custom_schedule(schedule: Schedule) -> Scheduling:
    """Makes what a run needs of a custom schedule.

    Args:
        schedule: `(hyperparams, progress) -> hyperparams`.
    """
    return Scheduling(lambda hyper, progress, share, state: schedule(hyper, progress))


def named_schedules(names: Mapping[str, str], adapts: str = "minibatch") -> Scheduling:
    """Makes what a run needs of schedules by name.

    Args:
        names: of the schedule of each hyperparameter in `SCHEDULED`, in `SHAPES`; that of the
            learning rate may be "kl_adaptive".
        adapts: after what that one is adapted, a "minibatch" or an "update".
    """
    by_kl = names["learning_rate"] == "kl_adaptive"
    shapes = {name: shape for name, shape in names.items() if shape in SHAPES}

    def at(hyper: Hyperparams, progress: Array, share: Array, state: PyTree) -> Hyperparams:
        changed = {
            name: annealed(
                shape,
                getattr(hyper, name),
                getattr(hyper, f"{name}_final_scale"),
                getattr(hyper, f"{name}_warmup"),
                progress,
                share,
            )
            for name, shape in shapes.items()
        }
        if by_kl:  # within the bounds of now, which another agent's may not have been
            changed["learning_rate"] = bounded(state, hyper)
        # what an annealed one ends at, such as 0, need not be what a run can begin with
        return hyper._replace(**changed)

    if not by_kl:
        return Scheduling(at)

    def init(hyper: Hyperparams) -> Array:
        return bounded(jnp.asarray(hyper.learning_rate, jnp.float32), hyper)

    return Scheduling(at, init, adapts)
