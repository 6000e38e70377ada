"""Bonuses for what is new: how they are scaled, summed, and how what measures them learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purejaxppo.hyperparams import Hyperparams
from purejaxppo.ppo.collectives import across, gather, own_key
from purejaxppo.ppo.minibatches import Minibatches, as_batch, in_passes
from purejaxppo.ppo.normalize import (
    init_reward_scaler,
    init_stats,
    normalize,
    obs_moments,
    scale_rewards,
    update_obs_stats,
)
from purejaxppo.ppo.optimizer import Optimizer, begin, pack
from purejaxppo.ppo.update import EXPLORATION, optimize
from purejaxppo.spaces import Box, EnvSpec, mask_of
from purejaxppo.types import (
    Array,
    Batch,
    Bonus,
    Estimate,
    Exploration,
    LearnerState,
    Normalizers,
    Obs,
    Params,
    PyTree,
    Rollout,
    RunningStats,
)

CLIP = 5.0
"""Whitened observations are cut off at this distance from 0 (arXiv:1810.12894, section 2.4)."""


class Explorer(NamedTuple):
    """What pays for the new, and how it learns.

    Attributes:
        bonus: what measures novelty.
        spec: of the environment.
        estimate: `(rollout, hyperparams) -> Estimate`, advantages of bonuses.
        optimizer: of the bonus's parameters.
        num_epochs: E, as of the policy's gradient steps.
        num_minibatches: M.
        chunk_size: transitions per pass through the networks; None: a minibatch.
    """

    bonus: Bonus
    spec: EnvSpec
    estimate: Callable[[Rollout, Hyperparams], Estimate]
    optimizer: Optimizer
    num_epochs: int
    num_minibatches: int
    chunk_size: int | None


def begin_exploration(
    explorer: Explorer | None, hyper: Hyperparams, num_envs: int, keys: Sequence[Array]
) -> Exploration | tuple[()]:
    """Makes the state that exploration begins with.

    Args:
        explorer: what pays for the new; None: nothing does.
        hyper: scalars in force.
        num_envs: N.
        keys: one for an explorer, consumed.

    Returns:
        Parameters, and statistics that have seen nothing; () without an explorer.
    """
    if explorer is None:
        return ()
    (key,) = keys
    params, target = explorer.bonus.init(key)
    packed, _ = pack(explorer.optimizer, params)
    opt_state = begin(explorer.optimizer.make(hyper), packed)

    # unlike a policy's, of grids and bits too: what seldom varies in them tells states apart
    masks = list(map(id, jax.tree.leaves(mask_of(explorer.spec.observation))))

    def stats_of(space):
        measured = isinstance(space, Box) and id(space) not in masks
        return init_stats(space.shape) if measured else None

    obs_stats = jax.tree.map(stats_of, explorer.spec.observation)
    norms = Normalizers(obs_stats, init_reward_scaler(num_envs))
    return Exploration(params, target, opt_state, norms)


def whiten(stats: PyTree, obs: Obs) -> Obs:
    """Computes (x - mean) / std of all that has statistics, cut off at -5 and 5.

    Args:
        stats: RunningStats for each part of an observation, or None.
        obs: with any leading axes.

    Returns:
        The observations, float32 where they have statistics.

    Reference: arXiv:1810.12894, section 2.4.
    """

    def of(stats, x):
        if stats is None:
            return x
        return jnp.clip(normalize(stats, x.astype(jnp.float32)), -CLIP, CLIP)

    return jax.tree.map(of, stats, obs, is_leaf=lambda x: x is None or isinstance(x, RunningStats))


@jax.named_scope("exploration")
def explore(
    explorer: Explorer | None,
    hyper: Hyperparams,
    learner: LearnerState,
    rollout: Rollout,
    keys: Sequence[Array],
    axis_name: str | None = None,
) -> tuple[LearnerState, Rollout, dict[str, Any]]:
    r"""Pays for what is new in a rollout, and learns from it.

    The bonus of a step is the novelty of what its action led to, over the running standard
    deviation of the discounted sum of bonuses. That sum, and the advantages, go on where episodes
    end: what is to be found in the next one is worth something in this one.

    Args:
        explorer: what pays for the new; None: nothing does, and all is returned as it is.
        hyper: scalars in force; exploration_gamma discounts, exploration_coef weighs.
        learner: what the rollout has led to.
        rollout: [T, N], with the observations that its actions led to.
        keys: one for an explorer, consumed.
        axis_name: mesh axis over which environments are spread, or None.

    Returns:
        The learner after it, the rollout with the bonuses' advantages, and means by the names in
        `EXPLORATION`.

    Reference: arXiv:1810.12894, sections 2.2 to 2.4 and algorithm 1.
    """
    if explorer is None:
        return learner, rollout, {}
    bonus, state, norms = explorer.bonus, learner.exploration, learner.exploration.normalizers
    rows = explorer.chunk_size or rollout.reward.size // explorer.num_minibatches
    plan = Minibatches(explorer.num_epochs, explorer.num_minibatches, rows, standardize=False)

    # statistics first: those of the first rollout stand for the paper's steps of a random agent
    seen = gather(obs_moments(norms.obs, rollout.final_obs), axis_name)
    obs_stats = update_obs_stats(norms.obs, seen)

    # what is new, and what it is worth: an end of an episode ends neither
    novelty, value = _measured(bonus, state, obs_stats, rollout, rows)
    last = bonus.value(state.params, whiten(obs_stats, learner.obs))
    never = jnp.zeros_like(rollout.terminated)
    scaler, reward = scale_rewards(norms.reward, novelty, never, hyper.exploration_gamma, axis_name)
    paid = rollout.replace(
        reward=reward, value=value, next_value=jnp.concatenate([value[1:], last[None]]),
        terminated=never, truncated=never, carry=(),
    )  # fmt: skip
    advantage, target = explorer.estimate(paid, hyper._replace(gamma=hyper.exploration_gamma))

    # the same gradient steps as the policy's, on another loss
    def loss(params: Params, batch: Batch) -> tuple[Array, dict[str, Any]]:
        after, before = (whiten(obs_stats, obs) for obs in batch.obs)
        errors = bonus.value(params, before) - batch.target
        parts = {
            "novelty_loss": bonus.novelty(params, state.target, after).mean(),
            "intrinsic_value_loss": 0.5 * jnp.square(errors).mean(),
        }
        return parts["novelty_loss"] + parts["intrinsic_value_loss"], parts

    batch = as_batch(paid, (rollout.final_obs, rollout.obs), advantage, target)
    (key,) = keys
    params, opt_state, learned = optimize(
        loss, explorer.optimizer, hyper._replace(target_kl=None), plan, state.params,
        state.opt_state, batch, own_key(key, axis_name), axis_name,
    )  # fmt: skip

    told = across({"intrinsic_reward": reward.mean()}, axis_name)
    told |= {name: learned[name] for name in EXPLORATION if name in learned}
    state = state.replace(
        params=params, opt_state=opt_state, normalizers=Normalizers(obs_stats, scaler)
    )
    rollout = rollout.replace(bonus=hyper.exploration_coef * advantage)
    return learner.replace(exploration=state), rollout, told


def _measured(
    bonus: Bonus, state: Exploration, obs_stats: PyTree, rollout: Rollout, size: int
) -> tuple[Array, Array]:
    """Computes novelty and values of a rollout, [T, N], so many rows at once."""
    rows = jax.tree.map(lambda x: jax.lax.collapse(x, 0, 2), (rollout.final_obs, rollout.obs))

    def measure(rows):
        after, before = (whiten(obs_stats, obs) for obs in rows)
        return bonus.novelty(state.params, state.target, after), bonus.value(state.params, before)

    novelty, value = in_passes(measure, rows, size)
    return novelty.reshape(rollout.reward.shape), value.reshape(rollout.reward.shape)
