"""Distributions over actions: small frozen pytrees with any leading axes.

Each has `sample(key)`, `mode()`, `log_prob(action)`, `entropy()` and `kl(other)`, the exact
KL(self, other). Log-probabilities, entropies and divergences are in nats, one per leading index.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array


class Categorical(struct.PyTreeNode):
    """P(k) = softmax(logits)_k over 0 .. A - 1."""

    logits: Array  # [..., A], normalised or not

    @property
    def log_probs(self) -> Array:
        """Log P(k), [..., A]."""
        return jax.nn.log_softmax(self.logits)

    def sample(self, key: Array) -> Array:
        """An action for each leading index, [...] int32. The key is consumed."""
        return jax.random.categorical(key, self.logits).astype(jnp.int32)

    def mode(self) -> Array:
        """The most probable action, [...] int32."""
        return jnp.argmax(self.logits, -1).astype(jnp.int32)

    def log_prob(self, action: Array) -> Array:
        """Log P(action), [...].

        Selects rather than gathers: the gradient of a gather is a scatter, slow on a CPU.
        """
        chosen = action[..., None] == jax.lax.broadcasted_iota(
            jnp.int32, self.logits.shape, self.logits.ndim - 1
        )
        return jnp.sum(jnp.where(chosen, self.log_probs, 0.0), -1)

    def entropy(self) -> Array:
        """-sum_k P(k) log P(k), [...]."""
        return -jnp.sum(jnp.exp(self.log_probs) * self.log_probs, -1)

    def kl(self, other: Categorical) -> Array:
        """sum_k P(k) (log P(k) - log Q(k)), [...]."""
        return jnp.sum(jnp.exp(self.log_probs) * (self.log_probs - other.log_probs), -1)


class DiagGaussian(struct.PyTreeNode):
    """Independent normal distributions N(mean, exp(log_std)^2) in each of A dimensions."""

    mean: Array  # [..., A]
    log_std: Array  # [..., A]

    def sample(self, key: Array) -> Array:
        """An action for each leading index, [..., A]. The key is consumed."""
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape)

    def mode(self) -> Array:
        """The mean, [..., A]."""
        return self.mean

    def log_prob(self, action: Array) -> Array:
        """Sum over dimensions of -z^2 / 2 - log_std - log(2 pi) / 2, z the standard score."""
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return jnp.sum(-0.5 * jnp.square(z) - self.log_std - 0.5 * math.log(2 * math.pi), -1)

    def entropy(self) -> Array:
        """Sum over dimensions of log_std + log(2 pi e) / 2, [...]."""
        return jnp.sum(self.log_std + 0.5 * math.log(2 * math.pi * math.e), -1)

    def kl(self, other: DiagGaussian) -> Array:
        """Sum over dimensions of log(s'/s) + (s^2 + (m - m')^2) / (2 s'^2) - 1/2, [...]."""
        ratio = jnp.exp(2 * (self.log_std - other.log_std))
        shift = jnp.square((self.mean - other.mean) * jnp.exp(-other.log_std))
        return jnp.sum(other.log_std - self.log_std + 0.5 * (ratio + shift - 1.0), -1)
