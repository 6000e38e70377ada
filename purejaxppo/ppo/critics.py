"""What the numbers of a value head stand for, and how they are learned: `make_critic`.

One number for each state is V, or with `normalize_values` V in the units of normalised targets.
A categorical critic gives the logits of bins, over which V is the expectation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import ndtr

from purejaxppo.errors import ConfigError
from purejaxppo.ppo.normalize import update_stats
from purejaxppo.ppo.value_losses import VALUE_LOSSES, categorical
from purejaxppo.types import Critic, Normalizers, Params, Policy, Rollout, RunningStats


def make_critic(config: Any) -> Critic:
    """Makes the critic that a configuration describes.

    Args:
        config: the `PPOConfig`; its fields of the group `value` are read.

    Returns:
        The critic.
    """
    if config.value_loss == "categorical":
        return categorical_critic(
            make_bins(
                config.value_bins, config.value_min, config.value_max, config.value_symlog,
                config.value_sigma,
            )
        )  # fmt: skip
    value_loss = VALUE_LOSSES[config.value_loss]
    critic = Critic(
        value=lambda output, stats: output,
        loss=lambda output, batch, hyper, stats: value_loss(output, batch, hyper),
    )
    return normalized(critic) if config.normalize_values else critic


# -- normalised values ------------------------------------------------------------------------


def normalized(critic: Critic) -> Critic:
    r"""Makes a critic of normalised targets, $V = \mu + \sigma \hat V$, of one for plain ones.

    Args:
        critic: of one number for each state; its loss compares that with targets and with the
            values of the rollout, which are normalised alike.

    Returns:
        The critic, which needs statistics of the targets.

    Reference: arXiv:1602.07714, section 2.
    """

    def value(output: Array, stats: RunningStats | None) -> Array:
        mean, std = units(stats)
        return mean + std * critic.value(output, None)

    def loss(output, batch, hyper, stats):
        mean, std = units(stats)
        target, old = (batch.target - mean) / std, (batch.value - mean) / std
        return critic.loss(output, batch.replace(target=target, value=old), hyper, None)

    return critic._replace(value=value, loss=loss)


def units(stats: RunningStats | None) -> tuple[Array, Array]:
    """Returns the mean and standard deviation that targets are normalised by.

    Args:
        stats: of the targets.

    Returns:
        Both, (). The deviation is at least 1e-4, and a ten-thousandth of the mean: targets that
        differ by nothing but rounding would become noise of size 1.
    """
    assert stats is not None
    least = jnp.maximum(1e-4, 1e-4 * jnp.abs(stats.mean))
    return stats.mean, jnp.maximum(jnp.sqrt(stats.var), least)


@jax.named_scope("popart")
def renormalize(
    policy: Policy,
    params: Params,
    norms: Normalizers,
    rollout: Rollout,
    target: Array,
    axis_name: str | None = None,
) -> tuple[Params, Normalizers, Rollout]:
    r"""Adds targets to the statistics, and rescales the value head so that V stays what it was.

    $W' = W \sigma / \sigma'$, $b' = (\sigma b + \mu - \mu') / \sigma'$

    At the first targets the head is left as it is: it has learned nothing that should stay, and V
    begins at their mean rather than at 0, which may be many deviations away.

    Args:
        policy: its `rescale_value` finds the head.
        params: the policy's parameters.
        norms: running statistics, among them those of the targets seen before; where there are
            none, nothing changes.
        rollout: [T, N], whose values that head gave.
        target: [T, N], new ones; if they are not finite, nothing changes.
        axis_name: mesh axis over which they are spread, or None.

    Returns:
        The parameters, the statistics, and the rollout with the values that the head gives now:
        the critic's loss may keep near to them.

    Reference: arXiv:1602.07714, algorithm 1.
    """
    stats = norms.value
    if stats is None:
        return params, norms, rollout
    assert policy.rescale_value is not None
    moved = update_stats(stats, target, axis_name)
    (mean, std), (new_mean, new_std) = units(stats), units(moved)
    learned = stats.count > 0
    scale = jnp.where(learned, std / new_std, 1.0)
    shift = jnp.where(learned, (mean - new_mean) / new_std, 0.0)
    left = new_mean + new_std * (rollout.value - mean) / std
    rollout = rollout.replace(value=jnp.where(learned, rollout.value, left))
    return policy.rescale_value(params, scale, shift), norms.replace(value=moved), rollout


# -- categorical values -----------------------------------------------------------------------


class Bins(NamedTuple):
    """The values that a categorical critic chooses among.

    Attributes:
        values: [K] float32, what each bin stands for.
        edges: [K + 1] float32, of the bins on the axis x that they are evenly spaced on: the value
            itself, or its symlog.
        sigma: width on x of the Gaussian that a target becomes.
        symlog: which of the two x is.
    """

    values: np.ndarray
    edges: np.ndarray
    sigma: float
    symlog: bool


def make_bins(count: int, low: float, high: float, symlog: bool, sigma: float) -> Bins:
    """Spreads bins over a range of values.

    Args:
        count: K.
        low: value of the first bin.
        high: value of the last.
        symlog: evenly spaced in symlog(V) = sign(V) log(1 + |V|), not in V.
        sigma: of a target's Gaussian, in widths of a bin.

    Returns:
        The bins.

    Raises:
        ConfigError: their values do not ascend, for Gaussians are too wide.
    """
    ends = np.array([low, high])
    first, last = _symlog(ends) if symlog else ends
    width = (last - first) / (count - 1)
    centers = np.linspace(first, last, count)
    edges = np.linspace(first - width / 2, last + width / 2, count + 1)
    values = centers
    if symlog:
        # exp of a Gaussian that is cut into bins has a larger mean than exp of its centre: by the
        # first two factors for the Gaussian, by the third for the bins
        spread = np.exp(-((sigma * width) ** 2) / 2) * (width / 2) / np.sinh(width / 2)
        values = np.sign(centers) * (np.exp(np.abs(centers)) * spread - 1)
    values, edges = values.astype(np.float32), edges.astype(np.float32)
    if not (np.diff(values) > 0).all():
        raise ConfigError(
            f"value_sigma={sigma:g} of value_bins={count} in symlog makes Gaussians so wide that "
            "larger bins have smaller values: use value_sigma=0.75, or more bins"
        )
    return Bins(values, edges, float(sigma * width), symlog)


def _symlog(x):
    xp = np if isinstance(x, np.ndarray) else jnp
    return xp.sign(x) * xp.log1p(xp.abs(x))


def target_probabilities(bins: Bins, target: Array) -> Array:
    r"""Puts targets into bins, as Gaussians around them: $p_i \propto \Phi(e_{i+1}) - \Phi(e_i)$.

    Args:
        bins: K of them.
        target: [...]; beyond the range of the bins it counts as the nearer end.

    Returns:
        [..., K], which sums to 1.

    Reference: arXiv:2403.03950, section 3.1 (HL-Gauss); arXiv:2301.04104, eq. 9 (symlog).
    """
    half = (bins.edges[1] - bins.edges[0]) / 2
    x = _symlog(target) if bins.symlog else target
    x = jnp.clip(x, bins.edges[0] + half, bins.edges[-1] - half)
    edges = bins.edges[(None,) * x.ndim]
    below = ndtr((edges - x[..., None]) / bins.sigma)
    return jnp.diff(below) / (below[..., -1:] - below[..., :1])


def categorical_critic(bins: Bins) -> Critic:
    r"""Makes a critic of logits, $V = \sum_i p_i v_i$, that learns by cross-entropy.

    Args:
        bins: K of them.

    Returns:
        The critic.

    Reference: arXiv:2403.03950.
    """

    def value(output: Array, stats: RunningStats | None) -> Array:
        # whatever `matmul_precision` is: on GPUs products may have three digits
        return jnp.dot(jax.nn.softmax(output), bins.values, precision="highest")

    def loss(output, batch, hyper, stats):
        return categorical(output, target_probabilities(bins, batch.target))

    return Critic(value, loss, first=tuple(_first_logits(bins).tolist()))


def _first_logits(bins: Bins) -> np.ndarray:
    """Returns logits [K] that a head begins with: a bell around 0, a tenth of the bins wide.

    The value is near 0 then, though the outermost bins may stand for very large ones.
    """
    count = len(bins.values)
    away = np.arange(count) - np.abs(bins.values).argmin()
    return -0.5 * np.square(away / max(1.0, count / 10))
