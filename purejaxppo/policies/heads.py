"""Heads: from features to a distribution over the actions of any space, some of them forbidden."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from purejaxppo.assertions import chex
from purejaxppo.errors import ConfigError
from purejaxppo.policies.distributions import (
    IMPOSSIBLE,
    Bernoulli,
    Categorical,
    DiagGaussian,
    Joint,
    MultiCategorical,
    Numbers,
    SquashedGaussian,
)
from purejaxppo.policies.layers import narrow_dot, orthogonal
from purejaxppo.spaces import (
    Box,
    Discrete,
    EnvSpec,
    MultiBinary,
    MultiDiscrete,
    Space,
    SpaceTree,
    by_choice,
    fields,
    mask_of,
    part_at,
)
from purejaxppo.types import Distribution, Obs, PyTree


class ActionHead(nn.Module):
    """The parameters of one distribution: logits, or (mean, log_std) for a Box.

    Attributes:
        space: of the action.
        state_dependent_std: the network gives log_std, else it is one parameter for all states.
    """

    space: Space
    state_dependent_std: bool

    @nn.compact
    def __call__(self, x: Array) -> Array | tuple[Array, Array]:
        """Maps features [B, F] to what `distribution` reads, [B, ...]."""
        space = self.space
        if not isinstance(space, Box):
            shape = logit_shape(space)
            return self._dense("logits", math.prod(shape))(x).reshape(-1, *shape)
        # one output for each number of the action, brought into its shape
        size, shape = math.prod(space.shape), (-1, *space.shape)
        mean = self._dense("mean", size)(x).reshape(shape)
        if self.state_dependent_std:
            return mean, self._dense("log_std", size)(x).reshape(shape)
        log_std = self.param("log_std", nn.initializers.zeros, space.shape, jnp.float32)
        return mean, jnp.broadcast_to(log_std, mean.shape)

    # small weights: the first policy is close to uniform, or to the middle of the bounds
    def _dense(self, name: str, size: int) -> nn.Dense:
        return nn.Dense(size, kernel_init=orthogonal(0.01), dot_general=narrow_dot, name=name)


def logit_shape(space: Discrete | MultiDiscrete | MultiBinary) -> tuple[int, ...]:
    """Returns the shape of an action's logits.

    Args:
        space: of the action.

    Returns:
        [*A] for MultiBinary, else [number of choices], those of MultiDiscrete side by side.
    """
    if isinstance(space, MultiBinary):
        return space.shape
    return (space.n if isinstance(space, Discrete) else sum(space.nvec),)


def distribution(
    spaces: SpaceTree, parameters: PyTree, mask: PyTree | None, squash: bool
) -> Distribution:
    """Makes the distribution over actions that a network's outputs stand for.

    Args:
        spaces: action spaces, a pytree.
        parameters: the same pytree, at each leaf: logits [..., n] for Discrete, [..., sum of nvec]
            for MultiDiscrete, [..., *A] for MultiBinary, (mean, log_std) [..., *A] for a Box.
        mask: what is allowed, as `check_mask` says, or None.
        squash: tanh-squashed normal distributions for boxes.

    Returns:
        One distribution, or a `Joint` of them where the spaces are a dictionary or tuple.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(spaces)
    parts = [
        _distribution(space, part, part_at(mask, path), squash)
        for (path, space), part in zip(leaves, tree.flatten_up_to(parameters), strict=True)
    ]
    # a single action needs no dictionary around it
    alone = tree == jax.tree.structure(0)
    return parts[0] if alone else Joint(tree.unflatten(parts))


def as_float32(tree: PyTree) -> PyTree:
    """Returns a tree whose floats are float32; all else is as it was.

    Args:
        tree: of arrays.
    """
    return jax.tree.map(
        lambda x: x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def _distribution(
    space: Space, parameters: PyTree, mask: Array | None, squash: bool
) -> Distribution:
    """Makes the distribution over one action; the arguments are those of `distribution`."""
    # logits of what is impossible would be infinite in fewer bits; masks may be bits or numbers
    parameters = as_float32(parameters)
    mask = None if mask is None else mask.astype(bool)
    if isinstance(space, Discrete):
        return Categorical(forbid(parameters, mask))
    if isinstance(space, MultiDiscrete):
        # ranges of different width are rows of the widest, filled up with what cannot be chosen
        rows, real = by_choice(space, parameters, IMPOSSIBLE), real_choices(space)
        allowed = real if mask is None else by_choice(space, mask, False)
        allowed, real = (jnp.broadcast_to(x, rows.shape) for x in (allowed, real))
        return MultiCategorical(forbid(rows, allowed, real))
    if isinstance(space, MultiBinary):
        # bits have no masks, as `check_mask` says
        return Bernoulli(parameters, len(space.shape))
    mean, log_std = parameters
    gaussian = DiagGaussian(mean, jnp.broadcast_to(log_std, mean.shape), len(space.shape))
    if not squash:
        return gaussian
    low, high = (np.asarray(b, np.float64).tolist() for b in (space.low, space.high))
    return SquashedGaussian(gaussian, (_tuples(low), _tuples(high)))


def forbid(logits: Array, mask: Array | None, real: Array | bool = True) -> Array:
    """Returns logits with IMPOSSIBLE wherever the mask is False, unless that leaves nothing.

    Args:
        logits: [..., n].
        mask: [..., n] bool, what is allowed; None: everything.
        real: [..., n] bool, what may be chosen if the mask allows nothing.
    """
    if mask is None:
        return logits
    chex.assert_equal_shape([logits, mask])
    # a distribution over nothing would be NaN; `empty_masks` counts how often this happens
    empty = ~mask.any(-1, keepdims=True)
    return jnp.where(mask | (empty & real), logits, IMPOSSIBLE)


def real_choices(space: MultiDiscrete) -> np.ndarray:
    """Returns what is within each range, [K, widest] bool.

    Args:
        space: of the choices.
    """
    return np.arange(max(space.nvec)) < np.asarray(space.nvec)[:, None]


def check_mask(spec: EnvSpec) -> None:
    """Checks that the observations' action mask, if there is one, fits the actions.

    It is [n] for Discrete, and [sum of nvec], or [K, n] where all ranges are alike, for
    MultiDiscrete. For a dictionary or tuple of actions it is the same of masks; actions without
    one are free.

    Args:
        spec: of the environment.

    Raises:
        ConfigError: it does not.
    """
    # compare each part of the mask with the shapes that its action allows
    mask = mask_of(spec.observation)
    found = 0
    for path, space in jax.tree_util.tree_flatten_with_path(spec.action)[0]:
        part = part_at(mask, path)
        if part is None:
            continue
        found += 1
        if not isinstance(space, Discrete | MultiDiscrete):
            raise ConfigError(f"an action mask cannot forbid part of {space}: leave it out")
        fitting = [logit_shape(space)]
        if isinstance(space, MultiDiscrete) and len(set(space.nvec)) == 1 < len(space.nvec):
            fitting.append((len(space.nvec), space.nvec[0]))
        if getattr(part, "shape", None) not in fitting:
            shapes = " or ".join(str(list(shape)) for shape in fitting)
            raise ConfigError(f"an action mask for {space} must have shape {shapes}, not {part}")
    # what is left of the mask belongs to no action; a tuple is matched by place, so by length too
    of_places = isinstance(mask, tuple | list) and not fields(mask)
    short = of_places and len(mask or ()) != len(spec.action)
    if short or found < len(jax.tree.leaves(mask)):
        raise ConfigError(f"the action mask {mask} is of other actions than {spec.action}")


def empty_masks(spec: EnvSpec, obs: Obs) -> Array:
    """Counts the choices that had nothing allowed; they were made among everything.

    Args:
        spec: of the environment.
        obs: observations with any leading axes.

    Returns:
        () int32.
    """
    mask, count = mask_of(obs), jnp.int32(0)
    if mask is None:
        return count
    for path, space in jax.tree_util.tree_flatten_with_path(spec.action)[0]:
        part = part_at(mask, path)
        if part is None:
            continue
        part = part.astype(bool)
        rows = by_choice(space, part, False) if isinstance(space, MultiDiscrete) else part
        count += jnp.sum(~rows.any(-1), dtype=jnp.int32)
    return count


def _tuples(x: list | float) -> Numbers:
    """Returns nested lists as tuples, which can be hashed."""
    return tuple(map(_tuples, x)) if isinstance(x, list) else x
