"""Using what was trained: `make_act`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from purejaxppo.config import PPOConfig
from purejaxppo.envs.base import Environment, to_bounds
from purejaxppo.ppo.normalize import normalize
from purejaxppo.ppo.records import Array, LearnerState, Policy
from purejaxppo.train import make_setup


def make_act(
    config: PPOConfig | Mapping[str, Any],
    state: LearnerState,
    deterministic: bool = False,
    *,
    env: Environment | None = None,
    env_params: Any = None,
    policy: Policy | None = None,
) -> Callable[[Array, Any], Array]:
    """The trained policy as a function, with its statistics frozen.

    Args:
        config: the configuration that was trained.
        state: the learner after training (of one seed: index the leaves of vmapped ones).
        deterministic: the most probable action rather than a sampled one.
        env: the environment, if one was passed to training.
        env_params: its parameters; None: its defaults.
        policy: the policy, if one was passed to training.

    Returns:
        `act(key, obs [..., *O]) -> action [..., *A]`, within the action bounds. The key is
        consumed (and not used when deterministic).
    """
    setup = make_setup(config, env, env_params, policy)
    space = setup.vec_env.spec.action

    def act(key: Array, obs: Any) -> Array:
        obs = normalize(state.normalizers.obs, jnp.asarray(obs))
        lead = obs.shape[: obs.ndim - len(setup.vec_env.spec.observation.shape)]
        carry = setup.policy.initial_carry(lead)
        _, dist, _ = setup.policy.apply(state.params, carry, obs, jnp.ones(lead, bool))
        action = dist.mode() if deterministic else dist.sample(key)
        return to_bounds(space, action)

    return act
