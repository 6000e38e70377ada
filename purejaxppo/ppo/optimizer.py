"""From gradients to parameters: the registry `OPTIMIZERS`, and how a gradient step is taken."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jax.flatten_util import ravel_pytree

from purejaxppo import tuning
from purejaxppo.errors import ConfigError, shown
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
        hyper: max_grad_norm, adam_b1, adam_b2, adam_eps and learning_rate of them are used.

    Returns:
        The transformation.

    Reference: arXiv:1412.6980, algorithm 1.
    """
    b1, b2 = _decays(hyper)
    return optax.chain(
        clip_gradients(hyper),
        optax.scale_by_adam(b1, b2, hyper.adam_eps),  # pyright: ignore[reportArgumentType]
        optax.scale_by_learning_rate(hyper.learning_rate),  # pyright: ignore[reportArgumentType]
    )


def _decays(hyper: Hyperparams) -> tuple[Any, Any]:
    """Returns Adam's decays; those that are None are constants, with which 1 - b rounds less."""
    b1 = 0.9 if hyper.adam_b1 is None else hyper.adam_b1
    return b1, 0.999 if hyper.adam_b2 is None else hyper.adam_b2


def adamw(hyper: Hyperparams) -> optax.GradientTransformation:
    r"""Makes AdamW behind clipping: Adam, and all parameters shrink by $\alpha \lambda \theta$.

    Args:
        hyper: those of Adam and weight_decay, $\lambda$, are used.

    Returns:
        The transformation.

    Reference: arXiv:1711.05101, algorithm 2.
    """
    b1, b2 = _decays(hyper)
    rates: Any = dict(learning_rate=hyper.learning_rate, weight_decay=hyper.weight_decay)
    return optax.chain(
        clip_gradients(hyper), optax.adamw(b1=b1, b2=b2, eps=hyper.adam_eps, **rates)
    )


def muon(hyper: Hyperparams) -> optax.GradientTransformation:
    r"""Makes Muon behind clipping: matrices move by their orthogonalised momentum.

    $\theta - \alpha (\sqrt{\max(1, out / in)} \, O + \lambda \theta)$, where O is of five
    Newton-Schulz steps on the momentum, with Nesterov's look ahead, from `[in, out]`. Kernels of
    convolutions, `[height, width, in, out]`, count as matrices `[height * width * in, out]`. All
    else, such as what is named bias or log_std, is under Adam with Nesterov's momentum and the same
    learning rate, and is not decayed.

    Args:
        hyper: those of Adam, momentum (None: 0.95) and weight_decay, $\lambda$, are used.

    Returns:
        The transformation, which needs its matrices as they are.

    Reference: Jordan 2024, github.com/KellerJordan/Muon; arXiv:2409.20325.
    """
    b1, b2 = _decays(hyper)
    rates: Any = dict(learning_rate=hyper.learning_rate, weight_decay=hyper.weight_decay)
    beta: Any = 0.95 if hyper.momentum is None else hyper.momentum
    return optax.chain(
        clip_gradients(hyper),
        optax.contrib.muon(
            **rates, beta=beta, adam_b1=b1, adam_b2=b2, eps=hyper.adam_eps,
            muon_weight_dimension_numbers=_matrices, ns_coeffs=NEWTON_SCHULZ,
        ),
    )  # fmt: skip


def _matrices(params: PyTree) -> PyTree:
    """Says which axes of each array are inputs and outputs; None where it is no matrix."""

    def axes(where: Any, x: Array) -> optax.contrib.MuonDimensionNumbers | None:
        # biases and deviations may have two axes, and multiply nothing
        if x.ndim not in (2, 4) or NO_MATRIX.search(jax.tree_util.keystr(where)):
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(x.ndim - 1)), x.ndim - 1)

    return jax.tree_util.tree_map_with_path(axes, params)


NEWTON_SCHULZ: Any = np.array([3.4445, -4.7750, 2.0315], np.float32)
"""Coefficients of its polynomial, a X + b X X' X + c (X X')^2 X (Jordan 2024)."""

NO_MATRIX = re.compile(r"(bias|log_std)\W*$")
"""Names of parameters that are added, whatever their shape."""


def rmsprop(hyper: Hyperparams) -> optax.GradientTransformation:
    r"""Makes RMSProp behind clipping, $\theta - \alpha g / \sqrt{v + \epsilon}$.

    $v$ begins at 0 and is $\beta v + (1 - \beta) g^2$ at each step. With momentum $\mu$ a step is
    $\mu$ times the one before it, and this.

    Args:
        hyper: max_grad_norm, rms_decay, rms_eps, momentum (None: 0) and learning_rate of them are
            used.

    Returns:
        The transformation.

    Reference: arXiv:1602.01783, section 4; Tieleman and Hinton 2012, lecture 6.5.
    """
    rates: Any = dict(learning_rate=hyper.learning_rate, decay=hyper.rms_decay, eps=hyper.rms_eps)
    return optax.chain(clip_gradients(hyper), optax.rmsprop(**rates, momentum=_momentum(hyper)))


def sgd(hyper: Hyperparams) -> optax.GradientTransformation:
    r"""Makes gradient descent behind clipping, $\theta - \alpha m$, with $m$ from $\mu m + g$.

    Args:
        hyper: max_grad_norm, momentum (None: 0), $\mu$, and learning_rate of them are used.

    Returns:
        The transformation.

    Reference: Sutskever et al. 2013, eq. 1 and 2.
    """
    return optax.chain(
        clip_gradients(hyper),
        optax.sgd(hyper.learning_rate, _momentum(hyper)),  # pyright: ignore[reportArgumentType]
    )


def _momentum(hyper: Hyperparams) -> Any:
    """Returns the momentum; none is 0, so that the state has one structure, whatever it is."""
    return 0.0 if hyper.momentum is None else hyper.momentum


OPTIMIZERS: dict[str, Optimizer] = {
    "adam": Optimizer(adam, elementwise=True),
    "adamw": Optimizer(adamw, elementwise=True),
    "muon": Optimizer(muon),
    "rmsprop": Optimizer(rmsprop, elementwise=True),
    "sgd": Optimizer(sgd, elementwise=True),
}
"""Optimizers by name, each behind clipping of gradients."""


def behind_clipping(optimizer: Optimizer) -> Optimizer:
    """Puts global-norm clipping in front of a custom optimizer, as it is in front of others.

    Args:
        optimizer: what to put it in front of.

    Returns:
        Both in a row.
    """

    def make(hyper: Hyperparams) -> optax.GradientTransformation:
        made = optimizer.make(hyper)
        if not (hasattr(made, "init") and hasattr(made, "update")):
            raise ConfigError(
                f"optimizer returns {shown(made)}, which must be a transformation of gradients: "
                "use optimizer=lambda hyper: optax.adam(hyper.learning_rate)"
            )
        return optax.chain(clip_gradients(hyper), made)

    return optimizer._replace(make=make)


def begin(transform: optax.GradientTransformation, packed: PyTree) -> PyTree:
    """Makes the state that a transformation of gradients begins with.

    Args:
        transform: what makes updates of gradients.
        packed: the parameters, as `pack` returns them.

    Returns:
        The state, over parameters that are float32 at least.
    """
    return transform.init(widened(packed))


def step_of(
    transform: optax.GradientTransformation, grad: PyTree, opt_state: PyTree, packed: PyTree
) -> tuple[PyTree, PyTree]:
    """Takes a gradient step.

    Args:
        transform: what makes updates of gradients.
        grad: of the loss, float32 at least.
        opt_state: of the transformation.
        packed: the parameters, as `pack` returns them.

    Returns:
        The parameters after it, each in its own dtype, and the state.
    """
    # optimizers multiply by counts, which JAX allows under its standard promotion of dtypes alone
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = transform.update(grad, opt_state, packed)
        return optax.apply_updates(packed, updates), opt_state


def widened(tree: PyTree) -> PyTree:
    """Returns numbers of fewer than 32 bits, such as bfloat16, as float32.

    Sums of squares and averages over many steps need the digits.

    Args:
        tree: parameters or gradients.
    """
    return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)


class Joined(NamedTuple):
    """A pytree with its small arrays in one vector.

    Attributes:
        vector: the small ones, end to end.
        large: the others.
    """

    vector: Array
    large: tuple[Array, ...]


def join_small(optimizer: Optimizer, packed: PyTree, tree: PyTree) -> PyTree:
    """Puts the small arrays of parameters, and of whatever goes with each of them, into one vector.

    Each array alone would be some ten operations of every gradient step, to compile and to start.

    Args:
        optimizer: what will step them; one that does not work element by element needs all arrays
            as they are.
        packed: the parameters, as `pack` returns them.
        tree: of them, of their moments, and of anything else.

    Returns:
        The tree, in which all that has the structure of the parameters is `Joined`.
    """
    structure = jax.tree.structure(packed)
    small = [not tuning.stepped_alone(x.size) for x in jax.tree.leaves(packed)]
    if not optimizer.elementwise or sum(small) < 2:
        return tree

    def is_like(x: PyTree) -> bool:
        return jax.tree.structure(x) == structure

    def join(x: PyTree) -> PyTree:
        if not is_like(x):
            return x
        leaves = list(zip(jax.tree.leaves(x), small, strict=True))
        with jax.numpy_dtype_promotion("standard"):
            vector = jnp.concatenate([leaf.reshape(-1) for leaf, is_small in leaves if is_small])
        return Joined(vector, tuple(leaf for leaf, is_small in leaves if not is_small))

    return jax.tree.map(join, tree, is_leaf=is_like)


def part_small(joined: PyTree, before: PyTree) -> PyTree:
    """Takes apart what `join_small` has joined.

    Args:
        joined: as it returns it.
        before: what that was made of, or its shapes and dtypes.

    Returns:
        A tree as `before`.
    """

    def part(x: PyTree, before: PyTree) -> PyTree:
        if not isinstance(x, Joined):
            return x
        leaves, structure = jax.tree.flatten(before)
        large = iter(x.large)
        small = [leaf for leaf in leaves if not tuning.stepped_alone(leaf.size)]
        ends = np.cumsum([leaf.size for leaf in small])[:-1].tolist()
        pieces = iter(jnp.split(x.vector, ends))
        return structure.unflatten(
            next(large)
            if tuning.stepped_alone(leaf.size)
            else next(pieces).reshape(leaf.shape).astype(leaf.dtype)
            for leaf in leaves
        )

    return jax.tree.map(part, joined, before, is_leaf=lambda x: isinstance(x, Joined))


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
