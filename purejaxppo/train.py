"""The whole algorithm put together: `make_learner` and `make_train`.

init     parameters, optimizer, statistics, environments
update   rollout -> advantages -> minibatch epochs -> statistics, metrics
train    init, then U updates in one scan
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from purejaxppo.components import (
    Components,
    CustomEnv,
    CustomObjective,
    CustomOptimizer,
    CustomPolicy,
    make_components,
)
from purejaxppo.config.schema import PPOConfig
from purejaxppo.envs.environments import check_taken
from purejaxppo.errors import ConfigError, shown
from purejaxppo.hyperparams import Hyperparams, check_hyperparams
from purejaxppo.policies.heads import empty_masks
from purejaxppo.ppo.collectives import gather, own_key
from purejaxppo.ppo.critics import renormalize
from purejaxppo.ppo.estimates import estimate_again, estimate_of
from purejaxppo.ppo.exploration import begin_exploration, explore
from purejaxppo.ppo.metrics import summed, update_sums
from purejaxppo.ppo.minibatches import Minibatches, as_batch, rows_per_pass
from purejaxppo.ppo.normalize import (
    init_obs_stats,
    init_reward_scaler,
    init_stats,
    normalize,
    obs_moments,
    scale_rewards,
    update_obs_stats,
)
from purejaxppo.ppo.optimizer import begin, pack
from purejaxppo.ppo.rollout import collect
from purejaxppo.ppo.update import Loss, loss, optimize
from purejaxppo.types import (
    Array,
    Batch,
    EnvParams,
    Estimate,
    Estimator,
    Learner,
    LearnerState,
    Metrics,
    Normalizers,
    Params,
    PyTree,
    Rollout,
    RunningStats,
    Schedule,
    TrainOutput,
)


def make_learner(
    config: PPOConfig | Mapping[str, Any],
    *,
    env: CustomEnv = None,
    env_params: EnvParams = None,
    policy: CustomPolicy = None,
    objective: CustomObjective = None,
    advantage: Estimator | None = None,
    optimizer: CustomOptimizer = None,
    schedule: Schedule | None = None,
    env_params_axis: Any = None,
) -> Learner:
    """Makes a training run as `(init, update)`, for those who drive the updates themselves.

    Args:
        config: what to train; a mapping is read by `PPOConfig.from_dict`.
        env: an environment with gymnax's 1.x interface, or a `HostEnvironment`, in place of the
            one that `config` names.
        env_params: its parameters; None: its defaults; or `(key) -> params`, what each environment
            draws for every episode, or `DrawnParams`.
        policy: a policy, or a network `obs [B, *O] -> (parameters, value [B])`, of linen or nnx, in
            place of the one that `config` describes (`policies.networks.make_policy`).
        objective: an `Objective`, or its loss alone, `(dist, log_prob [B], batch, hyperparams,
            state) -> [B]`, in place of the one that `config` names. The loss may also return values
            to be logged, `([B], {name: [B]})`.
        advantage: `(rollout, hyperparams, config) -> Estimate`, in place of the estimator that
            `config` names.
        optimizer: `(hyperparams) -> optax.GradientTransformation`, or an `Optimizer`, in place of
            the one that `config` names; gradients are clipped to max_grad_norm before it.
        schedule: `(hyperparams, progress) -> hyperparams`, with progress from 0 to 1, in place of
            those that `config` names.
        env_params_axis: 0, or axes as `jax.vmap` takes them, where env_params have one of num_envs.

    Returns:
        `init(key, hyperparams=None, env_params=None) -> LearnerState` and `update(state,
        hyperparams=None, env_params=None, num_updates=None) -> (LearnerState, Metrics)`, where
        num_updates is what schedules run over, if not the configuration's; and `close()` where
        environments run on the host, which belong to the last `init` until it is called.

    Raises:
        ConfigError: see `PPOConfig` and `components.make_components`.

    Reference: arXiv:1707.06347, algorithm 1.
    """
    components = make_components(
        config, env=env, env_params=env_params, env_params_axis=env_params_axis, policy=policy,
        objective=objective, advantage=advantage, optimizer=optimizer, schedule=schedule,
    )  # fmt: skip
    return learner_of(components)


def learner_of(components: Components, axis_name: str | None = None, devices: int = 1) -> Learner:
    """Makes a training run of components that are built already.

    Args:
        components: what is trained, and how.
        axis_name: mesh axis over which environments are spread, or None.
        devices: along that axis.

    Returns:
        `init`, `update` and `close`, see `make_learner`.
    """
    config, policy, objective = components.config, components.policy, components.objective
    explorer, schedule = components.explorer, components.schedule
    vec_env = components.vectorize(num_envs := config.num_envs // devices)

    def defaults(hyperparams, env_params):
        known = components.hyperparams()
        hyper = known if hyperparams is None else hyperparams
        check_hyperparams(hyper, known)
        scalars = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), hyper.replace(extra=()))
        hyper = _opaque(scalars.replace(extra=jax.tree.map(jnp.asarray, hyper.extra)))
        if env_params is None:
            return hyper, components.env_params
        check_taken(components.env, env_params, components.custom.get("env_params_axis"))
        return hyper, env_params

    def init(key: Array, hyperparams: Hyperparams | None = None, env_params: EnvParams = None):
        hyper, env_params = defaults(hyperparams, env_params)
        key_params, key_reset, key, *more = jax.random.split(_one_key(key), 3 + bool(explorer))
        key_reset = own_key(key_reset, axis_name)

        # policy and optimizer
        params = policy.init(key_params)
        packed, _ = pack(components.optimizer, params)
        opt_state = begin(components.optimizer.make(hyper), packed)

        # environments, and statistics that have seen nothing
        env_state, obs = vec_env.reset(key_reset, env_params)
        obs_stats = init_obs_stats(components.spec) if config.normalize_observations else None
        scaler = init_reward_scaler(num_envs) if config.normalize_rewards else None
        value_stats = init_stats(()) if config.normalize_values else None
        return LearnerState(
            params=params,
            opt_state=opt_state,
            normalizers=Normalizers(obs_stats, scaler, value_stats),
            env_state=env_state,
            obs=obs,
            episode_start=jnp.ones(num_envs, bool),
            carry=policy.initial_carry((num_envs,)),
            objective_state=objective.init(hyper),
            step=jnp.int32(0),
            key=key,
            schedule_state=schedule.init(hyper),
            exploration=begin_exploration(explorer, hyper, num_envs, more),
        )

    def update(state: LearnerState, hyperparams=None, env_params=None, num_updates=None):
        # the hyperparameters in force, and keys for what is left to chance
        hyper, env_params = defaults(hyperparams, env_params)
        updates = config.num_updates if num_updates is None else num_updates
        hyper = _in_force(components, hyper, state, updates)
        key_rollout, key_update, key, *more = jax.random.split(state.key, 3 + bool(explorer))
        key_rollout, key_update = (own_key(k, axis_name) for k in (key_rollout, key_update))
        norms = state.normalizers

        # experience: T steps of N environments, and what is paid for the new in it
        state, rollout = collect(
            policy, components.critic, vec_env, config.num_steps, state, env_params, key_rollout,
            config.num_minibatches, components.keeps_final_obs, components.sequence_length,
        )  # fmt: skip
        state, rollout, told = explore(explorer, hyper, state, rollout, more, axis_name)
        done = rollout.terminated | rollout.truncated

        # advantages, of rewards scaled by statistics that have seen this rollout
        scaler, reward = scale_rewards(norms.reward, rollout.reward, done, hyper.gamma, axis_name)
        estimate = partial(estimate_of, components.advantage, config, hyper, axis_name=axis_name)
        scaled = rollout.replace(reward=reward)
        advantage, target = estimate(scaled)
        # the critic learns its targets in the units of statistics that have seen them
        params, norms, scaled = renormalize(policy, state.params, norms, scaled, target, axis_name)

        # gradient steps
        before = state.replace(params=params, normalizers=norms)
        params, opt_state, learned, kl = _learn(
            components, hyper, before, scaled, advantage, target, estimate, key_update, axis_name
        )

        # what else is to be known of all devices: metrics, in scalars; what the objective
        # remembers; and statistics, after all use of the old ones
        sums = update_sums(rollout, target)
        sums["empty_masks"] = empty_masks(components.spec, rollout.obs)
        sums, seen, kl = gather((sums, obs_moments(norms.obs, rollout.obs), kl), axis_name)
        metrics = Metrics(
            **summed(sums),
            **learned | {"extra": learned["extra"] | told},
            kl_coef=jnp.asarray(objective.kl_coef(hyper, state.objective_state), jnp.float32),
        )
        objective_state = state.objective_state
        if objective.adapt is not None:
            adapted = objective.adapt(objective_state, kl.mean(), hyper)
            # without a gradient step there is no divergence that would say anything
            stepped = partial(jnp.where, metrics.gradient_steps > 0)
            objective_state = jax.tree.map(stepped, adapted, objective_state)
        return state.replace(
            params=params,
            opt_state=opt_state,
            normalizers=Normalizers(update_obs_stats(norms.obs, seen), scaler, norms.value),
            objective_state=objective_state,
            step=state.step + 1,
            key=key,
            schedule_state=schedule.after(metrics, kl, hyper),
        ), metrics

    return Learner(components.in_precision(init), components.in_precision(update), vec_env.close)


def _one_key(key: Any) -> Array:
    """Returns the random key of a run; legacy uint32 keys are wrapped.

    Raises:
        ConfigError: it is no key, or several.
    """
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        try:
            key = jax.random.wrap_key_data(key)
        except TypeError as error:
            raise ConfigError(
                f"key={shown(key)} must be a random key: use jax.random.key(0)"
            ) from error
    if key.shape:
        raise ConfigError(
            f"key is an array of keys {list(key.shape)}, a run takes one: use jax.vmap(train)(keys)"
        )
    return key


def _opaque(tree: PyTree) -> PyTree:
    """Returns values that the compiler takes for unknown: with known ones it rounds otherwise."""
    return jax.lax.optimization_barrier(tree)


def _in_force(
    components: Components, hyper: Hyperparams, state: LearnerState, updates: Any
) -> Hyperparams:
    """Returns the hyperparameters that the schedule gives to the next of so many updates.

    Raises:
        ConfigError: it gives something else.
    """
    # times the inverse: the compiler may divide otherwise by what it knows
    known = not isinstance(updates, jax.Array)
    share = _opaque(1 / (np.float32(updates) if known else updates.astype(jnp.float32)))
    done = state.step.astype(jnp.float32) * share
    hyper = components.schedule.at(hyper, jnp.minimum(done, 1.0), share, state.schedule_state)
    if not isinstance(hyper, Hyperparams):
        raise ConfigError(
            f"the schedule returns {shown(hyper)}: return hyperparameters, such as "
            "hyper.replace(learning_rate=...)"
        )
    return hyper


def _learn(
    components: Components,
    hyper: Hyperparams,
    state: LearnerState,
    rollout: Rollout,
    advantage: Array,
    target: Array,
    estimate: Callable[[Rollout], Estimate],
    key: Array,
    axis_name: str | None,
) -> tuple[Params, PyTree, dict[str, Any], PyTree]:
    """Takes the gradient steps of an update.

    Args:
        components: of the run.
        hyper: scalars in force.
        state: the learner, in whose units of values the critic is to learn.
        rollout: [T, N], with the rewards that are learned from.
        advantage: [T, N].
        target: [T, N].
        estimate: both of another rollout, such as this one as other parameters evaluate it.
        key: consumed.
        axis_name: mesh axis over which environments are spread, or None.

    Returns:
        Parameters, the optimizer's state, what `optimize` tells, and the mean exact divergence of
        the policy from the rollout's, () where nobody adapts to it.
    """
    policy, schedule, length = components.policy, components.schedule, components.sequence_length
    norms = state.normalizers

    # on observations as the rollout saw them: the first ratio is exactly 1
    obs = normalize(norms.obs, rollout.obs)
    batch = as_batch(rollout, obs, advantage, target, length)
    plan = minibatches_of(components, state.params, batch)
    again = None
    if components.config.recompute_advantages:
        again = partial(
            estimate_again, policy=policy, critic=components.critic, norms=norms, rollout=rollout,
            batch=batch, length=length, size=plan.rows_per_pass, estimate=estimate,
        )  # fmt: skip
    params, opt_state, learned = optimize(
        loss_of(components, hyper, state.objective_state, norms.value), components.optimizer,
        hyper, plan, state.params, state.opt_state, batch, key, axis_name,
        schedule.adapt_step, again,
    )  # fmt: skip

    # how far the policy has moved, for an objective or a learning rate that adapts to it
    kl = ()
    if components.objective.adapt is not None or schedule.adapts == "update":
        _, dist, _ = policy.apply(params, batch.carry, batch.obs, batch.episode_start)
        kl = batch.dist.kl(dist).mean()
    return params, opt_state, learned, kl


def loss_of(
    components: Components, hyper: Hyperparams, objective_state: PyTree,
    value_stats: RunningStats | None = None,
) -> Loss:  # fmt: skip
    """Makes the loss of a minibatch.

    Args:
        components: of the run.
        hyper: scalars in force.
        objective_state: what the objective remembers.
        value_stats: statistics of the targets, where the critic has some.

    Returns:
        `(params, minibatch) -> (loss, parts)`.
    """
    return partial(
        loss,
        policy=components.policy,
        objective=components.objective,
        critic=components.critic,
        hyper=hyper,
        objective_state=objective_state,
        value_stats=value_stats,
        with_kl=components.schedule.adapt_step is not None,
    )


def minibatches_of(components: Components, params: Params, batch: Batch) -> Minibatches:
    """Plans how the gradient steps go through a batch.

    Args:
        components: of the run.
        params: the policy's parameters, or their shapes.
        batch: [B] rows, or their shapes.

    Returns:
        Epochs, minibatches, and rows per pass.
    """
    config, policy = components.config, components.policy
    rows = rows_per_pass(policy, params, batch, config.num_minibatches, config.chunk_size)
    standardize = config.advantage_normalization == "minibatch"
    return Minibatches(config.num_epochs, config.num_minibatches, rows, standardize)


def make_train(
    config: PPOConfig | Mapping[str, Any],
    *,
    env: CustomEnv = None,
    env_params: EnvParams = None,
    policy: CustomPolicy = None,
    objective: CustomObjective = None,
    advantage: Estimator | None = None,
    optimizer: CustomOptimizer = None,
    schedule: Schedule | None = None,
    env_params_axis: Any = None,
) -> Callable[..., TrainOutput]:
    """Makes a whole training run as one pure function.

    Args:
        config: what to train; a mapping is read by `PPOConfig.from_dict`.
        env: an environment with gymnax's 1.x interface, or a `HostEnvironment`, in place of the
            one that `config` names.
        env_params: its parameters; None: its defaults; or what draws them, see `make_learner`.
        policy: a policy, or a network `obs [B, *O] -> (parameters, value [B])`, of linen or nnx, in
            place of the one that `config` describes (`policies.networks.make_policy`).
        objective: an `Objective`, or its loss alone, `(dist, log_prob [B], batch, hyperparams,
            state) -> [B]`, in place of the one that `config` names. The loss may also return values
            to be logged, `([B], {name: [B]})`.
        advantage: `(rollout, hyperparams, config) -> Estimate`, in place of the estimator that
            `config` names.
        optimizer: `(hyperparams) -> optax.GradientTransformation`, or an `Optimizer`, in place of
            the one that `config` names; gradients are clipped to max_grad_norm before it.
        schedule: `(hyperparams, progress) -> hyperparams`, with progress from 0 to 1, in place of
            those that `config` names.
        env_params_axis: where env_params have an axis of environments, see `make_learner`.

    Returns:
        `train(key, hyperparams=None, env_params=None) -> TrainOutput`, to be jitted, and vmapped
        over any of its arguments. The key is consumed; legacy uint32 keys are accepted.

    Raises:
        ConfigError: see `PPOConfig` and `components.make_components`.
    """
    components = make_components(
        config, env=env, env_params=env_params, env_params_axis=env_params_axis, policy=policy,
        objective=objective, advantage=advantage, optimizer=optimizer, schedule=schedule,
    )  # fmt: skip
    learner, num_updates = learner_of(components), components.config.num_updates

    def train(
        key: Array, hyperparams: Hyperparams | None = None, env_params: EnvParams = None
    ) -> TrainOutput:
        def update(state, _):
            return learner.update(state, hyperparams, env_params)

        state = learner.init(key, hyperparams, env_params)
        output = TrainOutput(*jax.lax.scan(update, state, length=num_updates))
        close = learner.close
        if close is not None:  # after the last step, which says where the environments are
            io_callback(lambda where: close(), None, output.state.env_state)
        return output

    return train
