"""The records that flow through the algorithm, and the bundles of functions that carry them.

Letters in shapes: T num_steps, N num_envs, L sequence_length, B a (mini)batch, U num_updates, O and
A the shapes of one observation and one action (pytrees have several). `done` stands for
`terminated | truncated`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array


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
    """T steps of N environments under one policy."""

    obs: Any  # [T, N, *O], as the environment gave it
    action: Any  # [T, N, *A], as sampled (before clipping to the action bounds)
    log_prob: Array  # [T, N], of `action`
    dist: Any  # distribution with leading axes [T, N], which `action` was sampled from
    value: Array  # [T, N], V(obs)
    next_value: Array  # [T, N], V(observation that the action led to, before any reset)
    reward: Array  # [T, N]
    terminated: Array  # [T, N] bool
    truncated: Array  # [T, N] bool
    episode_start: Array  # [T, N] bool, obs is the first of an episode
    carry: Any  # [T, N, ...], memory before each step; () without memory
    episode_return: Array  # [T, N], as in EnvStep
    episode_length: Array  # [T, N] int32


class Batch(struct.PyTreeNode):
    """What the gradient steps read: the transitions of a rollout as rows.

    A row is a transition, or with a memory a sequence of L: [B, L] then stands for [B].
    """

    obs: Any  # [B, *O], normalised if the run normalises
    action: Any  # [B, *A]
    log_prob: Array  # [B], under the policy of the rollout
    dist: Any  # leading axis [B], the policy of the rollout
    value: Array  # [B], V(obs) at the rollout
    advantage: Array  # [B]
    target: Array  # [B], what the critic learns to predict
    carry: Any  # [B, ...], memory before each row; () without memory
    episode_start: Array  # [B] bool


class Normalizers(struct.PyTreeNode):
    """Running statistics; a part that is switched off is None."""

    obs: Any  # RunningStats (or None) for each part of an observation, or None
    reward: Any  # RewardScaler, or None


class LearnerState(struct.PyTreeNode):
    """Everything that a run is between two updates: saved and loaded, it goes on to the bit.

    But for environments on the host, which cannot go back: of them it holds what step they are at.
    """

    params: Any  # the policy's parameters
    opt_state: Any  # Adam's moments, over the packed parameters
    normalizers: Normalizers
    env_state: Any  # leading axis [N]
    obs: Any  # [N, *O], what the policy sees next
    episode_start: Array  # [N] bool, obs is the first of an episode
    carry: Any  # leading axis [N], memory; () without memory
    objective_state: Any  # the KL coefficient under adaptive_kl, else ()
    step: Array  # () int32, updates done
    key: Array  # () typed key


class Metrics(struct.PyTreeNode):
    """One update in scalars: sums and counts over episodes, means over gradient steps."""

    episodes: Array  # () int32, episodes that ended in this rollout
    return_sum: Array  # () float32, their undiscounted returns added up
    length_sum: Array  # () int32, their lengths added up
    policy_loss: Array  # () float32, as are all below
    value_loss: Array  # unweighted
    entropy: Array  # mean over states, nats
    approx_kl: Array  # mean of (ratio - 1) - log(ratio): KL(rollout's policy, new policy)
    clip_fraction: Array  # fraction of ratios outside 1 - clip_eps .. 1 + clip_eps
    grad_norm: Array  # global norm before clipping
    explained_variance: Array  # 1 - Var(target - V) / Var(target), V from the rollout
    learning_rate: Array
    kl_coef: Array  # weight of the KL penalty in force (0 without one)
    gradient_steps: Array  # () int32, steps taken
    skipped_steps: Array  # () int32, steps left out because loss or gradient was not finite
    empty_masks: Array  # () int32, choices in the rollout whose action mask allowed nothing

    @property
    def episode_return(self) -> Array:
        """Mean return of the episodes that ended in the update, NaN where none did."""
        return jnp.where(
            self.episodes > 0, self.return_sum / jnp.maximum(self.episodes, 1), jnp.nan
        )

    @property
    def episode_length(self) -> Array:
        """Mean length of the episodes that ended in the update, NaN where none did."""
        return jnp.where(
            self.episodes > 0, self.length_sum / jnp.maximum(self.episodes, 1), jnp.nan
        )


class TrainOutput(NamedTuple):
    """What `train` returns.

    Attributes:
        state: the learner after its last update.
        metrics: one row per update, every field [U].
    """

    state: LearnerState
    metrics: Metrics
