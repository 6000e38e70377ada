"""Running statistics of observations and of returns.

They move once per rollout. A rollout and every epoch of its update use the same observation
statistics, so the first ratio of an update is exactly 1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo import tuning
from purejaxppo.ppo.collectives import Moments, gather, joined, moments
from purejaxppo.spaces import EnvSpec, is_measured, mask_of
from purejaxppo.types import Normalizers, Obs, PyTree, RewardScaler, RunningStats


def init_stats(shape: tuple[int, ...]) -> RunningStats:
    """Makes statistics that leave values as they are: mean 0, variance 1, nothing seen."""
    mean, var = jnp.zeros(shape, jnp.float32), jnp.ones(shape, jnp.float32)
    return RunningStats(mean, var, jnp.float32(0))


def init_obs_stats(spec: EnvSpec) -> PyTree:
    """Makes statistics of what is measured in an observation.

    Args:
        spec: of the environment.

    Returns:
        `RunningStats` for each part of an observation; None for images, bits, names and masks.
    """
    masks = list(map(id, jax.tree.leaves(mask_of(spec.observation))))

    def of(space):
        return init_stats(space.shape) if is_measured(space) and id(space) not in masks else None

    return jax.tree.map(of, spec.observation)


def obs_moments(stats: PyTree, obs: Obs) -> PyTree:
    """Computes the moments of every part of an observation that has statistics.

    Args:
        stats: RunningStats for each part, or None.
        obs: [..., *O], what was observed.

    Returns:
        Moments for each part, over [*O], or None; of this device alone.
    """

    def of(stats, x):
        return None if stats is None else _moments_of(stats, x)

    return jax.tree.map(of, stats, obs, is_leaf=_is_stats)


def update_obs_stats(stats: PyTree, seen: PyTree) -> PyTree:
    """Adds what was seen to the statistics of every part of an observation.

    Args:
        stats: RunningStats for each part, or None, which stays None.
        seen: as `obs_moments` gives them, with a leading axis of devices.

    Returns:
        The statistics of all that was seen.
    """

    def update(stats, seen):
        return None if stats is None else merged(stats, joined(seen))

    return jax.tree.map(update, stats, seen, is_leaf=_is_stats)


def update_stats(stats: RunningStats, x: Array, axis_name: str | None = None) -> RunningStats:
    """Adds samples to running statistics.

    Args:
        stats: what was seen before, over [*O].
        x: [..., *O], new samples.
        axis_name: mesh axis over which the samples are spread, or None.

    Returns:
        The statistics of all that was seen.
    """
    return merged(stats, joined(gather(_moments_of(stats, x), axis_name)))


def _moments_of(stats: RunningStats, x: Array) -> Moments:
    return moments(x.astype(jnp.float32), tuple(range(x.ndim - stats.mean.ndim)))


def merged(stats: RunningStats, new: Moments) -> RunningStats:
    """Merges new samples into running statistics.

    Args:
        stats: what was seen before, over [*O].
        new: of the samples.

    Returns:
        Statistics of both together (Chan, Golub and LeVeque 1979, eq. 2.1), or the old ones where
        the new samples are not finite.
    """
    total = stats.count + new.samples
    delta = new.mean - stats.mean
    # by the share of each side, which is exactly 1 for the first batch: products of counts and
    # samples would be rounded, or overflow
    share = new.samples / total
    spread = stats.var * (1.0 - share) + new.variance * share
    merged = RunningStats(
        stats.mean + delta * share, spread + jnp.square(delta) * (1.0 - share) * share, total
    )
    finite = jnp.isfinite(merged.mean).all() & jnp.isfinite(merged.var).all()
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), merged, stats)


def normalize(stats: PyTree, obs: Obs) -> Obs:
    """Computes (x - mean) / sqrt(var + 1e-8), cut off at -10 and 10.

    Args:
        stats: RunningStats for each part of an observation, or None for parts (or a whole) that
            stay as they are.
        obs: observations with any leading axes.

    Returns:
        The observations, normalised part by part.
    """

    def standard(stats, x):
        if stats is None:
            return x
        lead = tuple(range(x.ndim - stats.mean.ndim))
        mean, var = (jnp.expand_dims(s, lead) for s in (stats.mean, stats.var))
        return jnp.clip((x - mean) * jax.lax.rsqrt(var + 1e-8), -10.0, 10.0)

    return jax.tree.map(standard, stats, obs, is_leaf=_is_stats)


def _is_stats(x: PyTree) -> bool:
    return x is None or isinstance(x, RunningStats)


def init_reward_scaler(num_envs: int) -> RewardScaler:
    """Makes a scaler that has seen nothing, for N environments."""
    return RewardScaler(jnp.zeros(num_envs, jnp.float32), init_stats(()))


def with_fresh_returns(norms: Normalizers, fresh: Normalizers) -> Normalizers:
    """Returns statistics of environments that begin anew, and so have returned nothing yet.

    Args:
        norms: statistics so far, which stay; with or without an axis of seeds.
        fresh: of learners that have just begun.
    """
    if norms.reward is None or fresh.reward is None:
        return norms
    return norms.replace(reward=fresh.reward.replace(stats=norms.reward.stats))


def scale_rewards(
    scaler: RewardScaler | None,
    reward: Array,
    done: Array,
    gamma: Array | float,
    axis_name: str | None = None,
) -> tuple[RewardScaler | None, Array]:
    """Divides rewards by the standard deviation of the discounted return R.

    R_t = gamma * (1 - done_{t-1}) * R_{t-1} + r_t: reset after the last reward was counted.

    Args:
        scaler: statistics so far, or None for rewards as they are.
        reward: [T, N].
        done: [T, N] bool.
        gamma: discount.
        axis_name: mesh axis over which environments are spread, or None.

    Returns:
        The scaler after this rollout, and the rewards [T, N] scaled by its statistics.
    """
    if scaler is None:
        return None, reward

    def step(discounted, inputs):
        reward, done = inputs
        discounted = gamma * discounted + reward
        return jnp.where(done, 0.0, discounted), discounted

    start, unroll = scaler.discounted_return, tuning.unroll("returns")
    last, returns = jax.lax.scan(step, start, (reward, done), unroll=unroll)
    last = jnp.where(jnp.isfinite(last), last, 0.0)  # a bad reward spoils this rollout only
    stats = update_stats(scaler.stats, returns, axis_name)
    return RewardScaler(last, stats), reward * jax.lax.rsqrt(stats.var + 1e-8)
