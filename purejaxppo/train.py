"""The whole algorithm put together: `make_learner` and `make_train`.

init     parameters, optimizer, statistics, environments
update   rollout -> advantages -> minibatch epochs -> statistics, metrics
train    init, then U updates in one scan
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import io_callback

from purejaxppo.components import (
    OwnAdvantage,
    OwnObjective,
    OwnPolicy,
    init_obs_stats,
    make_method,
    make_setup,
)
from purejaxppo.config.schema import PPOConfig, as_config
from purejaxppo.envs.host import HostEnvironment
from purejaxppo.hyperparams import Hyperparams
from purejaxppo.policies.heads import empty_masks
from purejaxppo.ppo.collectives import across, standardize, total
from purejaxppo.ppo.metrics import episode_sums, explained_variance
from purejaxppo.ppo.normalize import (
    init_reward_scaler,
    normalize,
    scale_rewards,
    update_obs_stats,
)
from purejaxppo.ppo.rollout import as_batch, collect
from purejaxppo.ppo.update import annealed, optimize, optimizer, pack
from purejaxppo.types import (
    Array,
    Environment,
    Learner,
    LearnerState,
    Metrics,
    Normalizers,
    TrainOutput,
)


def make_learner(
    config: PPOConfig | Mapping[str, Any],
    *,
    env: Environment | HostEnvironment | None = None,
    env_params: Any = None,
    policy: OwnPolicy = None,
    objective: OwnObjective = None,
    advantage: OwnAdvantage = None,
    axis_name: str | None = None,
) -> Learner:
    """A training run as `(init, update)`, for those who drive the updates themselves.

    Args:
        config: what to train; a mapping is read by `PPOConfig.from_dict`.
        env: an environment with gymnax's 1.x interface, or a `HostEnvironment`, in place of the
            one that `config` names.
        env_params: its parameters; None: its defaults.
        policy: a policy, or a linen module `obs [B, *O] -> (parameters, value [B])`, in place of
            the network that `config` describes.
        objective: an `Objective`, or its loss alone, `(dist, log_prob [B], batch, hyperparams,
            state) -> [B]`, in place of the one that `config` names.
        advantage: `(rollout, hyperparams, config) -> Estimate`, in place of the estimator that
            `config` names.
        axis_name: mesh axis over which environments are spread (each device has num_envs); None:
            one device.

    Returns:
        `init(key, hyperparams=None, env_params=None) -> LearnerState` and
        `update(state, hyperparams=None, env_params=None) -> (LearnerState, Metrics)`; and `close()`
        where environments run on the host, which belong to the last `init` until it is called.

    Raises:
        ConfigError: see `PPOConfig`, `setup.make_setup`, `setup.make_method`.

    Reference: arXiv:1707.06347, algorithm 1.
    """
    config, default_params, vec_env, policy = make_setup(config, env, env_params, policy)
    objective, estimate = make_method(config, objective, advantage)
    observation = vec_env.spec.observation

    def defaults(hyperparams, env_params):
        hyper = config.hyperparams() if hyperparams is None else hyperparams
        hyper = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), hyper)
        return hyper, default_params if env_params is None else env_params

    def init(key: Array, hyperparams: Hyperparams | None = None, env_params: Any = None):
        hyper, env_params = defaults(hyperparams, env_params)
        if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            key = jax.random.wrap_key_data(key)
        key_params, key_reset, key = jax.random.split(key, 3)
        params = policy.init(key_params)
        env_state, obs = vec_env.reset(key_reset, env_params)
        obs_stats = init_obs_stats(observation) if config.normalize_observations else None
        scaler = init_reward_scaler(config.num_envs) if config.normalize_rewards else None
        return LearnerState(
            params=params,
            opt_state=optimizer(hyper).init(pack(params)[0]),
            normalizers=Normalizers(obs_stats, scaler),
            env_state=env_state,
            obs=obs,
            episode_start=jnp.ones(config.num_envs, bool),
            carry=policy.initial_carry((config.num_envs,)),
            objective_state=objective.init(hyper),
            step=jnp.int32(0),
            key=key,
        )

    def update(state: LearnerState, hyperparams: Hyperparams | None = None, env_params: Any = None):
        hyper, env_params = defaults(hyperparams, env_params)
        hyper = annealed(hyper, state.step / config.num_updates)
        key_rollout, key_update, key = jax.random.split(state.key, 3)
        norms = state.normalizers

        state, rollout = collect(policy, vec_env, config.num_steps, state, env_params, key_rollout)
        done = rollout.terminated | rollout.truncated
        scaler, reward = scale_rewards(norms.reward, rollout.reward, done, hyper.gamma, axis_name)
        advantage, target = estimate(rollout.replace(reward=reward), hyper, config)
        if config.advantage_normalization == "batch":
            advantage = standardize(advantage, axis_name)

        obs = normalize(norms.obs, rollout.obs)
        batch = as_batch(rollout, obs, advantage, target, config.sequence_length)
        params, opt_state, learned = optimize(
            policy, objective, config, hyper, state.params, state.opt_state,
            state.objective_state, batch, key_update, axis_name,
        )  # fmt: skip

        kl_coef, objective_state = objective.kl_coef(hyper, state.objective_state), ()
        if objective.adapt is not None:
            _, dist, _ = policy.apply(params, batch.carry, batch.obs, batch.episode_start)
            kl = across(batch.dist.kl(dist).mean(), axis_name)
            objective_state = objective.adapt(state.objective_state, kl, hyper)
        obs_stats = update_obs_stats(norms.obs, rollout.obs, axis_name)

        metrics = Metrics(
            **episode_sums(rollout, done, axis_name),
            **learned,
            explained_variance=explained_variance(rollout.value, target, axis_name),
            learning_rate=hyper.learning_rate,
            kl_coef=jnp.asarray(kl_coef, jnp.float32),
            empty_masks=total(empty_masks(vec_env.spec, rollout.obs), axis_name),
        )
        return state.replace(
            params=params,
            opt_state=opt_state,
            normalizers=Normalizers(obs_stats, scaler),
            objective_state=objective_state,
            step=state.step + 1,
            key=key,
        ), metrics

    return Learner(init, update, vec_env.close)


def make_train(
    config: PPOConfig | Mapping[str, Any],
    *,
    env: Environment | HostEnvironment | None = None,
    env_params: Any = None,
    policy: OwnPolicy = None,
    objective: OwnObjective = None,
    advantage: OwnAdvantage = None,
) -> Callable[..., TrainOutput]:
    """A whole training run as one pure function.

    Args:
        config: what to train; a mapping is read by `PPOConfig.from_dict`.
        env: an environment with gymnax's 1.x interface, or a `HostEnvironment`, in place of the
            one that `config` names.
        env_params: its parameters; None: its defaults.
        policy: a policy, or a linen module `obs [B, *O] -> (parameters, value [B])`, in place of
            the network that `config` describes.
        objective: as in `make_learner`.
        advantage: as in `make_learner`.

    Returns:
        `train(key, hyperparams=None, env_params=None) -> TrainOutput`, to be jitted, and vmapped
        over any of its arguments. The key is consumed; legacy uint32 keys are accepted.

    Raises:
        ConfigError: see `make_learner`.
    """
    config = as_config(config)
    learner = make_learner(
        config,
        env=env,
        env_params=env_params,
        policy=policy,
        objective=objective,
        advantage=advantage,
    )

    def train(key: Array, hyperparams: Hyperparams | None = None, env_params: Any = None):
        def update(state, _):
            return learner.update(state, hyperparams, env_params)

        state = learner.init(key, hyperparams, env_params)
        output = TrainOutput(*jax.lax.scan(update, state, length=config.num_updates))
        if learner.close is not None:
            io_callback(learner.close, None, ordered=True)
        return output

    return train
