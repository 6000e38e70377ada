"""The records that flow through the algorithm, and the interfaces of what users bring.

Letters in shapes: T num_steps, N num_envs, L sequence_length, B a (mini)batch, U num_updates, O and
A the shapes of one observation and one action (pytrees have several). `done` stands for
`terminated | truncated`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import Array
from jax.core import Tracer

from purejaxppo.hyperparams import Hyperparams
from purejaxppo.spaces import DeclaredSpace, EnvSpec

# Pytrees of arrays whose structure is the environment's, the policy's or the optimizer's own.
PyTree: TypeAlias = Any
Obs: TypeAlias = Any
Action: TypeAlias = Any
EnvState: TypeAlias = Any
EnvParams: TypeAlias = Any
Params: TypeAlias = Any
Carry: TypeAlias = Any

Row: TypeAlias = Mapping[str, Any]
"""What is logged of one update or evaluation of one seed: `step`, `seed`, and numbers by name."""


# -- what users may bring -----------------------------------------------------------------------


class Environment(Protocol):
    """One environment, with the interface of gymnax 1.x.

    Every method is pure and works on a single environment; `params` is a pytree of the
    environment's constants, which may be traced.
    """

    @property
    def default_params(self) -> EnvParams:
        """Holds parameters for those who pass none."""
        ...

    def reset_env(self, key: Array, params: EnvParams) -> tuple[Obs, EnvState]:
        """Begins an episode: (obs, state). The key is consumed."""
        ...

    def step_env(
        self, key: Array, state: EnvState, action: Action, params: EnvParams
    ) -> tuple[Obs, EnvState, Array, Array, Mapping[str, Any]]:
        """Steps without auto-reset or time limit: (obs, state, reward, terminated, info)."""
        ...

    def is_truncated(self, state: EnvState, params: EnvParams) -> Array:
        """Says whether the time limit is reached in `state`, () bool."""
        ...

    def observation_space(self, params: EnvParams) -> DeclaredSpace:
        """Describes the observations: a space of gymnax or gymnasium, or a tree of them."""
        ...

    def action_space(self, params: EnvParams) -> DeclaredSpace:
        """Describes the actions: a space of gymnax or gymnasium, or a tree of them."""
        ...


class Distribution(Protocol):
    """A distribution over actions: a pytree with leading axes [...], one action for each index."""

    def sample(self, key: Array) -> Action:
        """Draws actions [..., *A]. The key is consumed."""
        ...

    def mode(self) -> Action:
        """Returns the most probable actions [..., *A]."""
        ...

    def log_prob(self, action: Action) -> Array:
        """Returns the log-probability of actions [..., *A], in nats, [...]."""
        ...

    def entropy(self) -> Array:
        """Returns the entropy in nats, [...]."""
        ...

    def kl(self, other: Any) -> Array:
        """Returns KL(self, other), exactly, in nats, [...]; `other` is of the same class."""
        ...


class PolicyApply(Protocol):
    """The forward pass of a policy; see `Policy.apply`."""

    def __call__(
        self, params: Params, carry: Carry, obs: Obs, episode_start: Array, /
    ) -> tuple[Carry, Any, Array]:
        """Returns the carry after the last step, the `Distribution` and the value."""
        ...


class ObjectiveLoss(Protocol):
    """The loss of a policy objective, to be minimised.

    Called with the distribution and log-probabilities [B] of the policy that is trained, the
    minibatch, the hyperparameters in force, and what the objective remembers.
    """

    def __call__(
        self, dist: Any, log_prob: Array, batch: Batch, hyper: Hyperparams, state: PyTree, /
    ) -> Array | tuple[Array, Mapping[str, Array]]:
        """Returns the loss of each transition, [B]; and values by name [B], to be logged."""
        ...


class Estimator(Protocol):
    """An advantage estimator."""

    def __call__(self, rollout: Rollout, hyper: Hyperparams, config: Any, /) -> Estimate:
        """Returns advantages and targets of a rollout [T, N]; `config` is the `PPOConfig`."""
        ...


class Schedule(Protocol):
    """How hyperparameters change over a run."""

    def __call__(self, hyper: Hyperparams, progress: Array, /) -> Hyperparams:
        """Returns those in force at `progress`, () float32, from 0 (start of the run) to 1."""
        ...


class MakeOptimizer(Protocol):
    """What makes an optimizer; its update is given the parameters too."""

    def __call__(self, hyper: Hyperparams, /) -> optax.GradientTransformation:
        """Returns the transformation of gradients to updates, the learning rate included."""
        ...


class Logger(Protocol):
    """A function as a callback of `fit`; if it has a method `close`, that is called at the end."""

    def __call__(self, step: int, row: Row, /) -> Any:
        """Takes in a row after so many environment steps of each seed; False stops the run."""
        ...


# -- bundles of functions -----------------------------------------------------------------------


class Policy(NamedTuple):
    """Actor and critic as pure functions.

    Attributes:
        init: `(key) -> params`. The key is consumed.
        initial_carry: `(batch_shape) -> carry`, memory at an episode's start; `()` without memory.
        apply: `(params, carry, obs, episode_start) -> (carry, dist, value)`, for a step, with
            leading axes [N]. With a memory also for sequences [B, L], from the carry [B, ...] that
            each began with to the one after its last step; the carry counts as the initial one
            wherever `episode_start` is True. The value is what the run's `Critic` reads. What an
            action mask in obs forbids is for the distribution to leave out.
        critic_apart: the value has nothing in common with the distribution, and needs no memory:
            those of a rollout are then computed behind it, many at once.
        large_carry: the memory is too large to be kept of every step: a rollout keeps that before
            each sequence, and computes all values on the way.
        rescale_value: `(params, scale, shift) -> params` whose value is scale * value + shift;
            None: where the value comes from is not known, and `normalize_values` is refused.
    """

    init: Callable[[Array], Params]
    initial_carry: Callable[[tuple[int, ...]], Carry]
    apply: PolicyApply
    critic_apart: bool = False
    large_carry: bool = False
    rescale_value: Callable[[Params, Array, Array], Params] | None = None


class Critic(NamedTuple):
    """What the numbers that a policy gives as its value stand for, and how they are learned.

    Statistics are those of the targets, `Normalizers.value`, or None.

    Attributes:
        value: `(output, statistics) -> V [...]`, in the units of the rewards that are learned from.
        loss: `(output, batch, hyperparams, statistics) -> [B]`.
        first: K numbers that a fresh head gives for every state: the output is then [..., K];
            None: it is one number for each state, [...].
    """

    value: Callable[[Array, RunningStats | None], Array]
    loss: Callable[[Array, Batch, Hyperparams, RunningStats | None], Array]
    first: tuple[float, ...] | None = None


class Bonus(NamedTuple):
    """A measure of how new observations are, that is learned, as pure functions.

    Attributes:
        init: `(key) -> (params, target)`: what learns, and what never changes. The key is consumed.
        novelty: `(params, target, obs [B, *O]) -> [B]`, what is paid for them, and the loss that
            makes it fall where it has been paid.
        value: `(params, obs [B, *O]) -> [B]`, of the bonuses that will be paid from there on.
    """

    init: Callable[[Array], tuple[Params, Params]]
    novelty: Callable[[Params, Params, Obs], Array]
    value: Callable[[Params, Obs], Array]


class VecEnv(NamedTuple):
    """N environments as one, with auto-reset and episode statistics.

    Attributes:
        reset: `(key, env_params) -> (env_state, obs [N, *O])`. The key is consumed.
        draw: `(key, env_params, env_state=None) -> draws`, what one step leaves to chance: a key
            for each environment, and a fresh episode should its own end; `env_state` is read where
            environments keep parameters of their own. The key is consumed. Of keys [T], draws with
            the leading axis T: for many steps at once they cost far less than one by one.
        step: `(draws, env_state, action [N, *A], env_params) -> (env_state, EnvStep)`.
        spec: what one environment sees and does.
        close: `()`, ends what runs outside of the program; None where nothing does.
        agree: `env_state -> env_state`, after steps: ends the programs of all devices if what runs
            outside of one of them has failed.
    """

    reset: Callable[[Array, EnvParams], tuple[EnvState, Obs]]
    draw: Callable[..., PyTree]
    step: Callable[[PyTree, EnvState, Action, EnvParams], tuple[EnvState, EnvStep]]
    spec: EnvSpec
    close: Callable[[], None] | None = None
    agree: Callable[[EnvState], EnvState] = lambda env_state: env_state


class Learner(NamedTuple):
    """A training run as a pair of pure functions.

    Attributes:
        init: `(key, hyperparams=None, env_params=None) -> LearnerState`. The key is consumed.
        update: `(state, hyperparams=None, env_params=None, num_updates=None) -> (LearnerState,
            Metrics)`; schedules run over num_updates, or else over those of the configuration.
        close: `()`, ends environments that run on the host; None where there are none.
    """

    init: Callable[..., LearnerState]
    update: Callable[..., tuple[LearnerState, Metrics]]
    close: Callable[[], None] | None = None


# -- data: frozen pytrees ---------------------------------------------------------------------


class EnvStep(struct.PyTreeNode):
    """What N environments return for one action each.

    Attributes:
        obs: [N, *O], the first of a new episode where the last one ended.
        final_obs: [N, *O], the observation that the action led to, before any reset.
        reward: [N] float32.
        terminated: [N] bool, ended by the task.
        truncated: [N] bool, cut off (time limit); never both.
        episode_return: [N] float32, undiscounted, of the episode that this step belongs to.
        episode_length: [N] int32, this step included.
        info: [N] float32 by name, the numbers of `info_metrics`; on the host 0 before an episode's
            last step.
    """

    obs: Obs
    final_obs: Obs
    reward: Array
    terminated: Array
    truncated: Array
    episode_return: Array
    episode_length: Array
    info: Mapping[str, Array] = struct.field(default_factory=dict)


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
        carry: [T, N, ...], memory before each step, or [T / L, N, ...] before each sequence where
            it is large (`Policy.large_carry`); () without memory.
        episode_return: [T, N], as in EnvStep.
        episode_length: [T, N] int32.
        info: [T, N] by name, as in EnvStep.
        final_obs: [T, N, *O], the observation that the action led to, before any reset; () unless
            something is computed of it.
        ratio: [T, N], probability of `action` under the policy that is trained, over that under
            the policy of the rollout; None: 1, for they are the same.
        bonus: [T, N], advantages of what is new, added to those of the rewards; None: there are
            none.
    """

    obs: Obs
    action: Action
    log_prob: Array
    dist: Any
    value: Array
    next_value: Array
    reward: Array
    terminated: Array
    truncated: Array
    episode_start: Array
    carry: Carry
    episode_return: Array
    episode_length: Array
    info: Mapping[str, Array] = struct.field(default_factory=dict)
    final_obs: Obs = ()
    ratio: Array | None = None
    bonus: Array | None = None


class Estimate(NamedTuple):
    """What the update needs of a rollout.

    Attributes:
        advantage: [T, N], weight of each action's gradient.
        target: [T, N], what the critic learns to predict.
    """

    advantage: Array
    target: Array


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

    obs: Obs
    action: Action
    log_prob: Array
    dist: Any
    value: Array
    advantage: Array
    target: Array
    carry: Carry
    episode_start: Array


class RunningStats(struct.PyTreeNode):
    """Mean and variance of everything seen."""

    mean: Array  # [*O] float32
    var: Array  # [*O] float32, population variance
    count: Array  # () float32, samples seen


class RewardScaler(struct.PyTreeNode):
    """The discounted return so far of each environment, and the statistics of all of them."""

    discounted_return: Array  # [N] float32, 0 at an episode's start
    stats: RunningStats  # over []


class Normalizers(struct.PyTreeNode):
    """Running statistics; a part that is switched off is None."""

    obs: PyTree  # RunningStats (or None) for each part of an observation, or None
    reward: RewardScaler | None
    value: RunningStats | None = None  # of the critic's targets, over []


class Exploration(struct.PyTreeNode):
    """What a `Bonus` has learned.

    Attributes:
        params: of what learns.
        target: parameters that never change.
        opt_state: of the optimizer, over the parameters as it holds them.
        normalizers: statistics of observations, and of bonuses: their sums go on over the ends of
            episodes.
    """

    params: Params
    target: Params
    opt_state: PyTree
    normalizers: Normalizers


class LearnerState(struct.PyTreeNode):
    """Everything that a run is between two updates: saved and loaded, it goes on to the bit.

    But for environments on the host, which cannot go back: of them it holds what step they are at.

    Attributes:
        params: the policy's parameters.
        opt_state: of the optimizer, over the parameters as it holds them.
        normalizers: running statistics.
        env_state: leading axis [N].
        obs: [N, *O], what the policy sees next.
        episode_start: [N] bool, obs is the first of an episode.
        carry: leading axis [N], memory; () without memory.
        objective_state: what the objective remembers: beta under adaptive_kl, else ().
        step: () int32, updates done.
        key: () typed key.
        schedule_state: what schedules remember: under kl_adaptive the learning rate () float32 that
            the next update begins with, else ().
        exploration: `Exploration`, what the bonus for what is new has learned; () without one.
    """

    params: Params
    opt_state: PyTree
    normalizers: Normalizers
    env_state: EnvState
    obs: Obs
    episode_start: Array
    carry: Carry
    objective_state: PyTree
    step: Array
    key: Array
    schedule_state: PyTree = ()
    exploration: PyTree = ()

    def __repr__(self) -> str:
        """Writes down how large it is, rather than every number."""
        size, seeds = sum(map(np.size, jax.tree.leaves(self.params))), np.size(self.step)
        lead = f"{list(np.shape(self.step))} of " if np.shape(self.step) else ""
        return f"LearnerState({lead}{size // max(1, seeds):,} parameters)"


class Metrics(struct.PyTreeNode):
    """One update in scalars: sums and counts over episodes, means over gradient steps.

    Attributes:
        episodes: () int32, episodes that ended in this rollout.
        return_sum: () float32, their undiscounted returns added up.
        length_sum: () float32, their lengths added up.
        policy_loss: () float32, as are all below.
        value_loss: unweighted.
        entropy: mean over states, nats.
        approx_kl: mean of (ratio - 1) - log(ratio): KL(rollout's policy, new policy).
        clip_fraction: fraction of ratios outside 1 - clip_eps .. 1 + clip_eps.
        grad_norm: global norm before clipping.
        explained_variance: 1 - Var(target - V) / Var(target), V from the rollout.
        learning_rate: of the last gradient step, as annealed or adapted.
        kl_coef: weight of the KL penalty in force (0 without one).
        gradient_steps: () int32, steps taken.
        skipped_steps: () int32, steps left out because loss, gradient or result was not finite.
        empty_masks: () int32, choices in the rollout whose action mask allowed nothing.
        extra: values by name that the loss of a custom objective returns, () float32 each.
        info_sum: by name the numbers of `info_metrics` in the last steps of these episodes, added
            up, () float32 each.
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
    extra: Mapping[str, Array] = struct.field(default_factory=dict)
    info_sum: Mapping[str, Array] = struct.field(default_factory=dict)

    @property
    def episode_return(self) -> Array:
        """Computes the mean return of the episodes that ended in the update, NaN where none did."""
        return self._mean(self.return_sum)

    @property
    def episode_length(self) -> Array:
        """Computes the mean length of the episodes that ended in the update, NaN where none did."""
        return self._mean(self.length_sum)

    @property
    def episode_info(self) -> dict[str, Array]:
        """Computes the means of the numbers in `info_sum` over these episodes, NaN without any."""
        return {name: self._mean(total) for name, total in self.info_sum.items()}

    def _mean(self, total: Array) -> Array:
        count = self.episodes
        if isinstance(count, Tracer):
            return jnp.where(count > 0, total / jnp.maximum(count, 1).astype(jnp.float32), jnp.nan)
        # in NumPy where it can be: `jax_debug_nans` raises where an operation of JAX gives NaN
        count = np.asarray(count)
        mean = np.where(count > 0, np.asarray(total) / np.maximum(count, 1), np.nan)
        return jax.device_put(mean.astype(np.float32))

    def __repr__(self) -> str:
        """Writes down which there are and their shape, rather than every number."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "extra"]
        return f"Metrics({list(np.shape(self.episodes))} of {', '.join([*names, *self.extra])})"


class TrainOutput(NamedTuple):
    """What `train` returns.

    Attributes:
        state: the learner after its last update.
        metrics: one row per update, every field [U].
    """

    state: LearnerState
    metrics: Metrics
