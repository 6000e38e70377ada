"""From gradients to parameters: optimizers, and how hyperparameters change over a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax
from jax.flatten_util import ravel_pytree

from purejaxppo import tuning
from purejaxppo.hyperparams import Hyperparams
from purejaxppo.types import Array, MakeOptimizer, Params, PyTree


class Optimizer(NamedTuple):
    """A transformation of gradients to updates, made anew from the hyperparameters in force.

    Attributes:
        make: `(hyperparams) -> optax.GradientTransformation`, the learning rate included. Its state
            must have one structure, whatever the hyperparameters are.
        elementwise: each parameter is stepped by its own gradients alone, as with Adam: the
            parameters may then be held as one vector, which is faster where they are few. Muon, for
            one, needs its matrices as they are.
    """

    make: MakeOptimizer
    elementwise: bool = False


def clip_gradients(hyper: Hyperparams) -> optax.GradientTransformation:
    """Scales gradients down to the global norm max_grad_norm, unless it is None.

    Args:
        hyper: scalars in force.

    Returns:
        A transformation without a state.
    """
    if hyper.max_grad_norm is None:
        return optax.identity()
    return optax.clip_by_global_norm(hyper.max_grad_norm)  # pyright: ignore[reportArgumentType]


def adam(hyper: Hyperparams) -> optax.GradientTransformation:
    r"""Makes Adam behind clipping, $\theta - \alpha \hat m / (\sqrt{\hat v} + \epsilon)$.

    Args:
        hyper: max_grad_norm, adam_eps and learning_rate of them are used.

    Returns:
        The transformation.

    Reference: arXiv:1412.6980, algorithm 1.
    """
    return optax.chain(
        clip_gradients(hyper),
        optax.scale_by_adam(eps=hyper.adam_eps),  # pyright: ignore[reportArgumentType]
        optax.scale_by_learning_rate(hyper.learning_rate),  # pyright: ignore[reportArgumentType]
    )


ADAM = Optimizer(adam, elementwise=True)
"""The optimizer unless another one is passed."""


def behind_clipping(optimizer: Optimizer) -> Optimizer:
    """Puts global-norm clipping in front of a custom optimizer, as it is in front of Adam.

    Args:
        optimizer: what to put it in front of.

    Returns:
        Both in a row.
    """
    return optimizer._replace(
        make=lambda hyper: optax.chain(clip_gradients(hyper), optimizer.make(hyper))
    )


def linear_schedule(hyper: Hyperparams, progress: Array) -> Hyperparams:
    r"""Anneals learning_rate, clip_eps and entropy_coef linearly to a fraction of themselves.

    $x(p) = x (1 - p (1 - final))$

    Args:
        hyper: as the run begins.
        progress: () float32, 0 at the start of the run, 1 at its end.

    Returns:
        The hyperparameters in force.
    """

    def at(value, final_scale):
        return value * (1.0 - progress * (1.0 - final_scale))

    # what an annealed one ends at, such as 0, need not be what a run can begin with
    return hyper._replace(
        learning_rate=at(hyper.learning_rate, hyper.learning_rate_final_scale),
        clip_eps=at(hyper.clip_eps, hyper.clip_eps_final_scale),
        entropy_coef=at(hyper.entropy_coef, hyper.entropy_coef_final_scale),
    )


def pack(optimizer: Optimizer, params: Params) -> tuple[PyTree, Callable[[PyTree], Params]]:
    """Brings the parameters into the form that the optimizer holds them in.

    That is one vector where the optimizer works element by element and a vector is faster.

    Args:
        optimizer: what will step them.
        params: the policy's parameters.

    Returns:
        The packed parameters, and the function that unpacks them.
    """
    size = sum(x.size for x in jax.tree.leaves(params))
    if optimizer.elementwise and tuning.steps_on_one_vector(size):
        return ravel_pytree(params)
    return params, lambda packed: packed
