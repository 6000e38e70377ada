"""What a configuration stands for: environments, policy and first statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from purejaxppo.config.coerce import parse_options
from purejaxppo.config.rules import check_sequences
from purejaxppo.config.schema import PPOConfig, as_config
from purejaxppo.envs import registry
from purejaxppo.envs.host import HostEnvironment, make_host_vec_env
from purejaxppo.envs.vec_env import make_vec_env
from purejaxppo.errors import ConfigError
from purejaxppo.policies.networks import Network, make_policy
from purejaxppo.ppo.advantages import ADVANTAGES
from purejaxppo.ppo.normalize import init_stats
from purejaxppo.ppo.objectives import OBJECTIVES, Objective
from purejaxppo.spaces import is_measured, mask_of, without_mask
from purejaxppo.types import Array, Environment, Estimate, Policy, VecEnv

OwnPolicy = Policy | Network | None
"""What may be passed in place of the network that a configuration describes."""
OwnObjective = Objective | Callable[..., Array] | None
"""In place of the objective that it names."""
OwnAdvantage = Callable[..., Estimate] | None
"""In place of the advantage estimator that it names."""

# what a network, or a policy, in place of the configured one must do itself
_OF_NETWORK = ("core", "core_size", "state_dependent_std")
_OF_POLICY = (*_OF_NETWORK, "squash_actions")


class Setup(NamedTuple):
    """What a configuration stands for, made once."""

    config: PPOConfig
    env_params: Any
    vec_env: VecEnv
    policy: Policy


def make_setup(
    config: PPOConfig | Mapping[str, Any],
    env: Environment | HostEnvironment | None = None,
    env_params: Any = None,
    policy: OwnPolicy = None,
    num_envs: int | None = None,
) -> Setup:
    """Environments and policy of a configuration; those that are passed take precedence.

    Args:
        config: what to train; as in `make_learner`, as are those that are passed.
        env: see there.
        env_params: see there.
        policy: see there.
        num_envs: how many environments, if not as many as are trained on.

    Raises:
        ConfigError: the environment contradicts itself (`envs.base.make_vec_env`), the policy
            cannot be made for it (`policies.networks.make_policy`), or an option has no effect.
    """
    config = as_config(config)
    made, default_params = _environment(config, env)
    env_params = default_params if env_params is None else env_params
    vec_env = _vectorize(config, made, env_params, num_envs or config.num_envs)
    parts = jax.tree.leaves(without_mask(vec_env.spec.observation))
    if config.normalize_observations and not any(map(is_measured, parts)):
        raise ConfigError(f"normalize_observations=True has no meaning for {parts}: leave it False")
    if policy is not None:
        names = _OF_POLICY if isinstance(policy, Policy) else _OF_NETWORK
        _check_idle(config, names, "a policy")
    if not isinstance(policy, Policy):
        policy = make_policy(config, vec_env.spec, policy)
    return Setup(with_sequences(config, policy), env_params, vec_env, policy)


def _environment(config: PPOConfig, env: Any) -> tuple[Any, Any]:
    """The environment, passed or named, and its default parameters."""
    options = parse_options(config.env_options)
    if env is None:
        return registry.make_env(config.env, **options)
    if options:
        raise ConfigError(
            f"env_options={list(config.env_options)} have no effect on an environment of your own: "
            "leave them out"
        )
    return env, env.default_params


def _vectorize(config: PPOConfig, env: Any, env_params: Any, num_envs: int) -> VecEnv:
    """N environments as one: pure ones vmapped, those of the host behind a callback."""
    if isinstance(env, HostEnvironment):
        if config.reset_batch is not None:
            raise ConfigError(
                f"reset_batch={config.reset_batch} has no effect on environments of the host: "
                "leave it None"
            )
        if jax.tree.leaves(env_params):
            raise ConfigError(
                f"env_params={env_params} have no effect on environments of the host: leave it None"
            )
        return make_host_vec_env(env, num_envs)
    return make_vec_env(env, env_params, num_envs, config.reset_batch)


def make_method(
    config: PPOConfig, objective: OwnObjective, advantage: OwnAdvantage
) -> tuple[Objective, Callable[..., Estimate]]:
    """Policy objective and advantage estimator; those that are passed take precedence.

    Args:
        config: names them.
        objective: as in `make_learner`.
        advantage: as in `make_learner`.

    Raises:
        ConfigError: what is passed cannot be called, or an option has no effect beside it.
    """
    for name, own in (("objective", objective), ("advantage", advantage)):
        if own is not None:
            _check_idle(config, (name,), f"an {name}")
            if not (callable(own) or isinstance(own, Objective)):
                raise ConfigError(
                    f"{name}={own!r} must be a function: pass names to PPOConfig({name}=...)"
                )
    if objective is None:
        objective = OBJECTIVES[config.objective]
    elif not isinstance(objective, Objective):
        objective = Objective(objective)
    return objective, advantage or ADVANTAGES[config.advantage]


def _check_idle(config: PPOConfig, names: tuple[str, ...], own: str) -> None:
    """Raises ConfigError if any of these, which only what is ours obeys, is set."""
    default = PPOConfig()
    idle = [name for name in names if getattr(config, name) != getattr(default, name)]
    if idle:
        changes = ", ".join(f"{name}={getattr(default, name)!r}" for name in idle)
        raise ConfigError(
            f"{', '.join(idle)} would have no effect on {own} of your own: use "
            f"config.replace({changes})"
        )


def with_sequences(config: PPOConfig, policy: Policy) -> PPOConfig:
    """The configuration with its sequence_length filled in where the policy has a memory.

    Raises:
        ConfigError: a memory that the policy does not have, or sequences that do not fit.
    """
    if jax.tree.leaves(jax.eval_shape(lambda: policy.initial_carry((1,)))):
        config = config.replace(sequence_length=config.sequence_length or config.num_steps)
        check_sequences(config)
    elif config.sequence_length is not None:
        raise ConfigError(
            f"sequence_length={config.sequence_length} has no effect without a memory: use it "
            "with core='gru', or leave it None"
        )
    return config


def init_obs_stats(observation: Any) -> Any:
    """Statistics of what is measured in an observation; None for images, bits, names and masks.

    Args:
        observation: spaces, a pytree (`EnvSpec.observation`).
    """
    masks = list(map(id, jax.tree.leaves(mask_of(observation))))

    def of(space):
        return init_stats(space.shape) if is_measured(space) and id(space) not in masks else None

    return jax.tree.map(of, observation)
