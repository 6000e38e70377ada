"""Distributions over actions: small frozen pytrees with any leading axes.

Each has the methods of `types.Distribution`: `sample(key)`, `mode()`, `log_prob(action)`,
`entropy()` and `kl(other)`, the exact KL(self, other). Log-probabilities, entropies and divergences
are in nats, one per leading index.

Actions must have the leading axes of their distributions: others would broadcast, and are an error
while a program is traced. A single distribution, without leading axes, takes any number of actions.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from purejaxppo.assertions import chex
from purejaxppo.types import Action, Distribution, PyTree

IMPOSSIBLE = float(np.finfo(np.float32).min)
"""The logit of what cannot be chosen: its probability is 0, and all that is made of it finite."""

Numbers: TypeAlias = "float | tuple[Numbers, ...]"
"""A number, or numbers in tuples: an array that can be hashed."""


def _sum(x: Array, axes: int) -> Array:
    """Sums over the last axes, so many."""
    return jnp.sum(x, tuple(range(-axes, 0)))


def _check_action(action: Array, shape: tuple[int, ...], event_ndim: int) -> None:
    """Checks the shape of actions while tracing, where another would broadcast.

    Args:
        action: [*shape]; or with any leading axes where there is but one distribution.
        shape: [..., *A], of one action for each distribution.
        event_ndim: number of axes in A.
    """
    if len(shape) == event_ndim:
        chex.assert_tree_shape_suffix(action, shape)
        return
    chex.assert_rank(action, len(shape))
    chex.assert_tree_shape_prefix(action, shape)


class Categorical(struct.PyTreeNode):
    """One choice of several: P(k) = softmax(logits)_k over 0 .. A - 1.

    Attributes:
        logits: [..., A], normalised or not.
    """

    logits: Array

    @property
    def log_probs(self) -> Array:
        """Returns log P(k), [..., A]."""
        return jax.nn.log_softmax(self.logits)

    def sample(self, key: Array) -> Array:
        """Draws an action for each leading index, [...] int32. The key is consumed."""
        return jax.random.categorical(key, self.logits).astype(jnp.int32)

    def mode(self) -> Array:
        """Returns the most probable action, [...] int32."""
        return jnp.argmax(self.logits, -1).astype(jnp.int32)

    def log_prob(self, action: Array) -> Array:
        """Returns log P(action), [...].

        Args:
            action: [...] integers.
        """
        _check_action(action, self.logits.shape[:-1], 0)
        return self.log_prob_of(action)

    def log_prob_of(self, action: Array) -> Array:
        """Returns what `log_prob` does, for actions whose axes its caller has checked."""
        # selects rather than gathers: the gradient of a gather is a scatter, slow on a CPU
        chosen = action[..., None] == jax.lax.broadcasted_iota(
            jnp.int32, self.logits.shape, self.logits.ndim - 1
        )
        return jnp.sum(jnp.where(chosen, self.log_probs, 0.0), -1)

    def entropy(self) -> Array:
        """Returns -sum_k P(k) log P(k), [...]."""
        return -jnp.sum(jnp.exp(self.log_probs) * self.log_probs, -1)

    def kl(self, other: Categorical) -> Array:
        """Returns sum_k P(k) (log P(k) - log Q(k)), [...].

        Args:
            other: Q, of the same shape.
        """
        chex.assert_equal_shape([self.logits, other.logits])
        return jnp.sum(jnp.exp(self.log_probs) * (self.log_probs - other.log_probs), -1)


class _Choices(struct.PyTreeNode):
    """Independent choices, whose numbers are summed over the action's axes, *A."""

    logits: Array
    event_ndim: int = struct.field(pytree_node=False, default=1)  # number of axes in A

    @property
    def _choices(self) -> Categorical:
        raise NotImplementedError

    def sample(self, key: Array) -> Array:
        """Draws an action for each leading index, [..., *A] int32. The key is consumed."""
        return self._choices.sample(key)

    def mode(self) -> Array:
        """Returns the most probable action, [..., *A] int32."""
        return self._choices.mode()

    def log_prob(self, action: Array) -> Array:
        """Returns the sum over choices of log P(action), [...].

        Args:
            action: [..., *A] integers.
        """
        choices = self._choices
        _check_action(action, choices.logits.shape[:-1], self.event_ndim)
        return _sum(choices.log_prob_of(action), self.event_ndim)

    def entropy(self) -> Array:
        """Returns the sum of the choices' entropies, [...]."""
        return _sum(self._choices.entropy(), self.event_ndim)

    def kl(self, other: _Choices) -> Array:
        """Returns the sum of the choices' divergences, [...].

        Args:
            other: of the same shape.
        """
        return _sum(self._choices.kl(other._choices), self.event_ndim)


class MultiCategorical(_Choices):
    """Independent categorical choices, each from its own range.

    Attributes:
        logits: [..., K, A], with A that of the widest range; the rest of the others is IMPOSSIBLE.
        event_ndim: 1, the axis of the choices.
    """

    @property
    def _choices(self) -> Categorical:
        return Categorical(self.logits)


class Bernoulli(_Choices):
    """Independent bits: P(1) = sigmoid(logit).

    Attributes:
        logits: [..., *A].
        event_ndim: number of axes in A.
    """

    @property
    def _choices(self) -> Categorical:
        # softmax(0, x) = sigmoid(x): one implementation for both
        return Categorical(jnp.stack([jnp.zeros_like(self.logits), self.logits], -1))


class DiagGaussian(struct.PyTreeNode):
    """Independent normal distributions N(mean, exp(log_std)^2) in each dimension.

    Attributes:
        mean: [..., *A].
        log_std: [..., *A], the logarithms of the standard deviations.
        event_ndim: number of axes in A.
    """

    mean: Array
    log_std: Array
    event_ndim: int = struct.field(pytree_node=False, default=1)

    def sample(self, key: Array) -> Array:
        """Draws an action for each leading index, [..., *A]. The key is consumed."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(self.log_std) * noise

    def mode(self) -> Array:
        """Returns the mean, [..., *A]."""
        return self.mean

    def log_prob(self, action: Array) -> Array:
        """Returns the sum over dimensions of -z^2 / 2 - log_std - log(2 pi) / 2, [...].

        Args:
            action: [..., *A], with z = (action - mean) / exp(log_std).
        """
        _check_action(action, self.mean.shape, self.event_ndim)
        z = (action - self.mean) * jnp.exp(-self.log_std)
        logs = -0.5 * jnp.square(z) - self.log_std - 0.5 * math.log(2 * math.pi)
        return _sum(logs, self.event_ndim)

    def entropy(self) -> Array:
        """Returns the sum over dimensions of log_std + log(2 pi e) / 2, [...]."""
        return _sum(self.log_std + 0.5 * math.log(2 * math.pi * math.e), self.event_ndim)

    def kl(self, other: DiagGaussian) -> Array:
        """Returns the sum of log(s'/s) + (s^2 + (m - m')^2) / (2 s'^2) - 1/2, [...].

        Args:
            other: with mean m' and standard deviation s', of the same shape.
        """
        chex.assert_equal_shape([self.mean, other.mean])
        ratio = jnp.exp(2 * (self.log_std - other.log_std))
        shift = jnp.square((self.mean - other.mean) * jnp.exp(-other.log_std))
        logs = other.log_std - self.log_std + 0.5 * (ratio + shift - 1.0)
        return _sum(logs, self.event_ndim)


class SquashedGaussian(struct.PyTreeNode):
    """a = low + (high - low) (tanh(u) + 1) / 2, u normal: every action is within its bounds.

    u is kept within -7 .. 7, where float32 can still tell actions from the bounds.

    Reference: Haarnoja et al., arXiv:1801.01290, appendix C.

    Attributes:
        gaussian: of u, [..., *A].
        bounds: (low, high), each [*A] in tuples, for a static field must be hashable.
    """

    gaussian: DiagGaussian
    bounds: tuple[Numbers, Numbers] = struct.field(pytree_node=False)

    LIMIT = 7.0
    NODES = 32

    def sample(self, key: Array) -> Array:
        """Draws an action for each leading index, [..., *A]. The key is consumed."""
        return self._squash(self.gaussian.sample(key))

    def mode(self) -> Array:
        """Returns the action of the mean of u (the median), [..., *A]."""
        return self._squash(self.gaussian.mode())

    def log_prob(self, action: Array) -> Array:
        """Returns log N(u) - sum log(da/du), [...].

        Args:
            action: [..., *A], within the bounds.
        """
        _check_action(action, self.gaussian.mean.shape, self.gaussian.event_ndim)
        # u of a bound would be infinite: it stands for all that `_squash` brings there
        low, high = self._bounds()
        y = 2.0 * (action - low) / (high - low) - 1.0
        edge = math.tanh(self.LIMIT)
        u = jnp.arctanh(jnp.clip(y, -edge, edge))
        return self.gaussian.log_prob(u) - _sum(self._log_slope(u), self.gaussian.event_ndim)

    def entropy(self) -> Array:
        """Returns H(u) + E[sum log(da/du)], [...], by Gauss-Hermite quadrature.

        Within 1e-5 nats per dimension for standard deviations of u up to 1, 0.003 up to 3.
        """
        # hermegauss is of weight exp(-z^2 / 2): a normal distribution once its weights sum to 1
        nodes, weights = np.polynomial.hermite_e.hermegauss(self.NODES)
        spread = jnp.exp(self.gaussian.log_std)
        expected = sum(
            w * self._log_slope(self.gaussian.mean + z * spread)
            for z, w in zip(nodes.tolist(), (weights / weights.sum()).tolist(), strict=True)
        )
        return self.gaussian.entropy() + _sum(jnp.asarray(expected), self.gaussian.event_ndim)

    def kl(self, other: SquashedGaussian) -> Array:
        """Returns that of the normal distributions, [...]: a bijection changes no divergence.

        Args:
            other: with the same bounds, of the same shape.
        """
        return self.gaussian.kl(other.gaussian)

    def _squash(self, u: Array) -> Array:
        low, high = self._bounds()
        y = jnp.tanh(jnp.clip(u, -self.LIMIT, self.LIMIT))
        return low + 0.5 * (high - low) * (y + 1.0)

    def _log_slope(self, u: Array) -> Array:
        """Returns log(da/du) in each dimension, [..., *A].

        log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), without the loss of digits near 1.
        """
        low, high = self._bounds()
        return jnp.log(0.5 * (high - low)) + 2.0 * (math.log(2) - u - jax.nn.softplus(-2.0 * u))

    def _bounds(self) -> list[Array]:
        shape = self.gaussian.mean.shape
        return [jnp.broadcast_to(np.asarray(b, np.float32), shape) for b in self.bounds]


class Joint(struct.PyTreeNode):
    """Independent distributions in a dictionary or tuple; an action is the same of actions.

    Attributes:
        parts: pytree of distributions with the same leading axes.
    """

    parts: PyTree

    def sample(self, key: Array) -> Action:
        """Draws an action for each leading index. The key is consumed."""
        parts, tree = self._flatten()
        keys = jax.random.split(key, len(parts))
        return tree.unflatten([part.sample(k) for part, k in zip(parts, keys, strict=True)])

    def mode(self) -> Action:
        """Returns the modes of the parts."""
        parts, tree = self._flatten()
        return tree.unflatten([part.mode() for part in parts])

    def log_prob(self, action: Action) -> Array:
        """Returns the sum of the parts' log-probabilities, [...].

        Args:
            action: an action for each part, in the same structure.
        """
        parts, tree = self._flatten()
        pairs = zip(parts, tree.flatten_up_to(action), strict=True)
        return cast(Array, sum(part.log_prob(a) for part, a in pairs))

    def entropy(self) -> Array:
        """Returns the sum of the parts' entropies, [...]."""
        return cast(Array, sum(part.entropy() for part in self._flatten()[0]))

    def kl(self, other: Joint) -> Array:
        """Returns the sum of the parts' divergences, [...].

        Args:
            other: of the same parts.
        """
        pairs = zip(self._flatten()[0], other._flatten()[0], strict=True)
        return cast(Array, sum(part.kl(q) for part, q in pairs))

    def _flatten(self) -> tuple[list[Distribution], Any]:
        # distributions are pytrees themselves: a leaf here is what has probabilities
        return jax.tree.flatten(self.parts, is_leaf=lambda x: hasattr(x, "log_prob"))
