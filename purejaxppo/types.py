"""The records that flow through the algorithm, and the bundles of functions that carry them.

Letters in shapes: T num_steps, N num_envs, L sequence_length, B a (mini)batch, U num_updates, O and
A the shapes of one observation and one action (pytrees have several). `done` stands for
`terminated | truncated`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import struct
from jax import Array


class Policy(NamedTuple):
    """Actor and critic as pure functions.

    Attributes:
        init: `(key) -> params`. The key is consumed.
        initial_carry: `(batch_shape) -> carry`, memory at an episode's start; `()` without memory.
        apply: `(params, carry, obs, episode_start) -> (carry, dist, value)`, for a step, with
            leading axes [N]. With a memory also for sequences [B, L], from the carry [B, ...] that
            each began with to the one after its last step; the carry counts as the initial one
            wherever `episode_start` is True.
    """

    init: Callable[..., Any]
    initial_carry: Callable[..., Any]
    apply: Callable[..., Any]


class VecEnv(NamedTuple):
    """N environments as one, with auto-reset and episode statistics.

    Attributes:
        reset: `(key, env_params) -> (env_state, obs [N, *O])`. The key is consumed.
        draw: `(key, env_params) -> draws`, what one step leaves to chance: a key for each
            environment, and a fresh episode should its own end. The key is consumed. Drawn for many
            steps at once, they cost far less than one by one.
        step: `(draws, env_state, action [N, *A], env_params) -> (env_state, EnvStep)`.
        spec: what one environment sees and does (`envs.spaces.EnvSpec`).
        close: `()`, ends what runs outside of the program; None where nothing does.
    """

    reset: Callable[..., Any]
    draw: Callable[..., Any]
    step: Callable[..., Any]
    spec: Any
    close: Callable[[], None] | None = None


class Learner(NamedTuple):
    """A training run as a pair of pure functions.

    Attributes:
        init: `(key, hyperparams=None, env_params=None) -> LearnerState`. The key is consumed.
        update: `(state, hyperparams=None, env_params=None) -> (LearnerState, Metrics)`.
        close: `()`, ends environments that run on the host; None where there are none.
    """

    init: Callable[..., LearnerState]
    update: Callable[..., tuple[LearnerState, Metrics]]
    close: Callable[[], None] | None = None


class EnvStep(struct.PyTreeNode):
    """What N environments return for one action each."""

    obs: Any  # [N, *O], the first of a new episode where the last one ended
    final_obs: Any  # [N, *O], the observation that the action led to, before any reset
    reward: Array  # [N] float32
    terminated: Array  # [N] bool, ended by the task
    truncated: Array  # [N] bool, cut off (time limit); never both
    episode_return: Array  # [N] float32, undiscounted, of the episode that this step belongs to
    episode_length: Array  # [N] int32, this step included


class Rollout(struct.PyTreeNode):
    """T steps of N environments under one policy.

    Attributes:
        obs: [T, N, *O], as the environment gave it.
        action: [T, N, *A], as sampled (before clipping to the action bounds).
        log_prob: [T, N], of `action`.
        dist: distribution with leading axes [T, N], which `action` was sampled from.
        value: [T, N], V(obs).
        next_value: [T, N], V(observation that the action led to, before any reset).
        reward: [T, N].
        terminated: [T, N] bool.
        truncated: [T, N] bool.
        episode_start: [T, N] bool, obs is the first of an episode.
        carry: [T, N, ...], memory before each step; () without memory.
        episode_return: [T, N], as in EnvStep.
        episode_length: [T, N] int32.
    """

    obs: Any
    action: Any
    log_prob: Array
    dist: Any
    value: Array
    next_value: Array
    reward: Array
    terminated: Array
    truncated: Array
    episode_start: Array
    carry: Any
    episode_return: Array
    episode_length: Array


class Batch(struct.PyTreeNode):
    """What the gradient steps read: the transitions of a rollout as rows.

    A row is a transition, or with a memory a sequence of L: [B, L] then stands for [B].

    Attributes:
        obs: [B, *O], normalised if the run normalises.
        action: [B, *A].
        log_prob: [B], under the policy of the rollout.
        dist: leading axis [B], the policy of the rollout.
        value: [B], V(obs) at the rollout.
        advantage: [B].
        target: [B], what the critic learns to predict.
        carry: [B, ...], memory before each row; () without memory.
        episode_start: [B] bool.
    """

    obs: Any
    action: Any
    log_prob: Array
    dist: Any
    value: Array
    advantage: Array
    target: Array
    carry: Any
    episode_start: Array


class Normalizers(struct.PyTreeNode):
    """Running statistics; a part that is switched off is None."""

    obs: Any  # RunningStats (or None) for each part of an observation, or None
    reward: Any  # RewardScaler, or None


class LearnerState(struct.PyTreeNode):
    """Everything that a run is between two updates: saved and loaded, it goes on to the bit.

    But for environments on the host, which cannot go back: of them it holds what step they are at.

    Attributes:
        params: the policy's parameters.
        opt_state: Adam's moments, over the packed parameters.
        normalizers: running statistics.
        env_state: leading axis [N].
        obs: [N, *O], what the policy sees next.
        episode_start: [N] bool, obs is the first of an episode.
        carry: leading axis [N], memory; () without memory.
        objective_state: what the objective remembers: beta under adaptive_kl, else ().
        step: () int32, updates done.
        key: () typed key.
    """

    params: Any
    opt_state: Any
    normalizers: Normalizers
    env_state: Any
    obs: Any
    episode_start: Array
    carry: Any
    objective_state: Any
    step: Array
    key: Array


class Metrics(struct.PyTreeNode):
    """One update in scalars: sums and counts over episodes, means over gradient steps.

    Attributes:
        episodes: () int32, episodes that ended in this rollout.
        return_sum: () float32, their undiscounted returns added up.
        length_sum: () int32, their lengths added up.
        policy_loss: () float32, as are all below.
        value_loss: unweighted.
        entropy: mean over states, nats.
        approx_kl: mean of (ratio - 1) - log(ratio): KL(rollout's policy, new policy).
        clip_fraction: fraction of ratios outside 1 - clip_eps .. 1 + clip_eps.
        grad_norm: global norm before clipping.
        explained_variance: 1 - Var(target - V) / Var(target), V from the rollout.
        learning_rate: of Adam, as annealed.
        kl_coef: weight of the KL penalty in force (0 without one).
        gradient_steps: () int32, steps taken.
        skipped_steps: () int32, steps left out because loss or gradient was not finite.
        empty_masks: () int32, choices in the rollout whose action mask allowed nothing.
    """

    episodes: Array
    return_sum: Array
    length_sum: Array
    policy_loss: Array
    value_loss: Array
    entropy: Array
    approx_kl: Array
    clip_fraction: Array
    grad_norm: Array
    explained_variance: Array
    learning_rate: Array
    kl_coef: Array
    gradient_steps: Array
    skipped_steps: Array
    empty_masks: Array

    @property
    def episode_return(self) -> Array:
        """Mean return of the episodes that ended in the update, NaN where none did."""
        return self._mean(self.return_sum)

    @property
    def episode_length(self) -> Array:
        """Mean length of the episodes that ended in the update, NaN where none did."""
        return self._mean(self.length_sum)

    def _mean(self, total: Array) -> Array:
        return jnp.where(self.episodes > 0, total / jnp.maximum(self.episodes, 1), jnp.nan)


class TrainOutput(NamedTuple):
    """What `train` returns.

    Attributes:
        state: the learner after its last update.
        metrics: one row per update, every field [U].
    """

    state: LearnerState
    metrics: Metrics
