"""Using what was trained: `make_act`, and `make_actor` for policies with a memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purejaxppo.components import OwnPolicy, Setup, make_setup
from purejaxppo.config.schema import PPOConfig
from purejaxppo.envs.host import HostEnvironment
from purejaxppo.errors import ConfigError
from purejaxppo.ppo.normalize import normalize
from purejaxppo.spaces import to_bounds
from purejaxppo.types import Array, Environment, LearnerState


class Actor(NamedTuple):
    """A trained policy, its statistics frozen, with its memory passed in and out.

    Attributes:
        initial_carry: `(batch_shape) -> carry`, memory before an episode; `()` without memory.
        act: `(key, carry, obs [*B, *O], episode_start [*B]) -> (carry, action [*B, *A])`, within
            the action bounds; B is a batch shape of no axes or one. The key is consumed (and not
            used when deterministic).
    """

    initial_carry: Callable[[tuple[int, ...]], Any]
    act: Callable[[Array, Any, Any, Array], tuple[Any, Any]]


def make_actor(
    config: PPOConfig | Mapping[str, Any],
    state: LearnerState | Any,
    deterministic: bool = False,
    *,
    env: Environment | HostEnvironment | None = None,
    env_params: Any = None,
    policy: OwnPolicy = None,
) -> Actor:
    """The trained policy as pure functions, with a memory or without.

    Args:
        config: the configuration that was trained.
        state: the learner after training, or its agents (`load_agents`); of one seed: index the
            leaves of vmapped ones.
        deterministic: the most probable action rather than a sampled one.
        env: the environment, if one was passed to training.
        env_params: its parameters; None: its defaults.
        policy: the policy or linen module, if one was passed to training.

    Returns:
        The functions that start and step it.

    Raises:
        ConfigError: see `setup.make_setup`.
    """
    return actor_of(make_setup(config, env, env_params, policy), state, deterministic)


def actor_of(setup: Setup, state: Any, deterministic: bool) -> Actor:
    """The actor of a setup that is made already, and of what has params and normalizers."""
    spec = setup.vec_env.spec

    def act(key: Array, carry: Any, obs: Any, episode_start: Array) -> tuple[Any, Any]:
        obs = jax.tree.map(lambda space, x: jnp.asarray(x), spec.observation, obs)
        obs = normalize(state.normalizers.obs, obs)
        carry, dist, _ = setup.policy.apply(state.params, carry, obs, episode_start)
        action = dist.mode() if deterministic else dist.sample(key)
        return carry, to_bounds(spec.action, action)

    return Actor(setup.policy.initial_carry, act)


def make_act(
    config: PPOConfig | Mapping[str, Any],
    state: LearnerState | Any,
    deterministic: bool = False,
    *,
    env: Environment | HostEnvironment | None = None,
    env_params: Any = None,
    policy: OwnPolicy = None,
) -> Callable[[Array, Any], Any]:
    """The trained policy as one function of a key and observations.

    Args:
        config: as in `make_actor`, as are all others.
        state: see there.
        deterministic: see there.
        env: see there.
        env_params: see there.
        policy: see there.

    Returns:
        `act(key, obs [..., *O]) -> action [..., *A]`, within the action bounds. The key is
        consumed (and not used when deterministic).

    Raises:
        ConfigError: the policy has a memory, which `make_actor` passes in and out.
    """
    setup = make_setup(config, env, env_params, policy)
    actor, spec = actor_of(setup, state, deterministic), setup.vec_env.spec
    if jax.tree.leaves(jax.eval_shape(lambda: actor.initial_carry((1,)))):
        raise ConfigError("this policy has a memory: use make_actor, which passes it in and out")

    def act(key: Array, obs: Any) -> Any:
        obs = jax.tree.map(lambda space, x: jnp.asarray(x), spec.observation, obs)
        first, space = jax.tree.leaves(obs)[0], jax.tree.leaves(spec.observation)[0]
        lead = first.shape[: first.ndim - len(space.shape)]
        return actor.act(key, actor.initial_carry(lead), obs, jnp.ones(lead, bool))[1]

    return act
