"""Using what was trained: `make_act`, and `make_actor` for policies with a memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from purejaxppo.components import Components, CustomEnv, CustomPolicy, make_components
from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError, shown
from purejaxppo.policies.networks import make_policy
from purejaxppo.ppo.normalize import normalize
from purejaxppo.spaces import EnvSpec, from_start, from_zero, only, part_at, to_bounds
from purejaxppo.types import Action, Array, Carry, EnvParams, Normalizers, Obs, Params, PyTree


class Trained(Protocol):
    """What acting needs: a `LearnerState` has it, and so have the agents of `load_agents`."""

    @property
    def params(self) -> Params:
        """Holds the policy's parameters."""
        ...

    @property
    def normalizers(self) -> Normalizers:
        """Holds running statistics, which acting leaves as they are."""
        ...


class Actor(NamedTuple):
    """A trained policy, its statistics frozen, with its memory passed in and out.

    Attributes:
        initial_carry: `(batch_shape) -> carry`, memory before an episode, the actor's alone under
            `actor_observation`; `()` without memory.
        act: `(key, carry, obs [*B, *O], episode_start [*B]) -> (carry, action [*B, *A])`, within
            the action bounds; B is a batch shape of no axes or one. The key is consumed (and not
            used when deterministic). Under `actor_observation`, obs may be those entries alone.
    """

    initial_carry: Callable[[tuple[int, ...]], Carry]
    act: Callable[[Array, Carry, Obs, Array], tuple[Carry, Action]]


def make_actor(
    config: PPOConfig | Mapping[str, Any],
    state: Trained,
    deterministic: bool = False,
    *,
    env: CustomEnv = None,
    env_params: EnvParams = None,
    policy: CustomPolicy = None,
) -> Actor:
    """Makes pure functions of the trained policy, with a memory or without.

    Args:
        config: the configuration that was trained.
        state: the learner after training, or its agents (`load_agents`); of one seed: index the
            leaves of vmapped ones.
        deterministic: the most probable action rather than a sampled one.
        env: the environment, if one was passed to training.
        env_params: its parameters; None: its defaults.
        policy: the policy or network, if one was passed to training.

    Returns:
        The functions that start and step it.

    Raises:
        ConfigError: see `components.make_components`.
    """
    components = make_components(config, env=env, env_params=env_params, policy=policy)
    return as_declared(components, actor_of(components, state, deterministic))


def actor_of(components: Components, state: Trained, deterministic: bool) -> Actor:
    """Makes the actor of components that are built already, for the environments of a program.

    Args:
        components: of the run.
        state: parameters and statistics of one seed.
        deterministic: the most probable action rather than a sampled one.

    Returns:
        The functions that start and step it; integers are counted from 0.

    Raises:
        ConfigError: the state is none, or that of several seeds.
    """
    _check_one(components, state)
    spec, policy, stats = components.spec, components.policy, state.normalizers.obs
    alone = bool(components.config.actor_observation)
    if alone:  # without the critic, and statistics of what it alone reads
        spec = spec_of_actor(components)
        policy, stats = make_policy(components.config, spec, critic=False), _at(spec, stats)

    def act(key: Array, carry: Carry, obs: Obs, episode_start: Array) -> tuple[Carry, Action]:
        # observations are normalised as they were in training
        obs = normalize(stats, _at(spec, obs) if alone else obs)
        carry, dist, _ = policy.apply(state.params, carry, obs, episode_start)
        action = dist.mode() if deterministic else dist.sample(key)
        return carry, to_bounds(spec.action, action)

    return Actor(policy.initial_carry, components.in_precision(act))


def _check_one(components: Components, state: Any) -> None:
    """Refuses what is no state of one learner."""
    if not (hasattr(state, "params") and hasattr(state, "normalizers")):
        raise ConfigError(
            f"state={shown(state)} is no state of a learner: use output.state of make_train, or "
            "of fit that of one seed, jax.tree.map(lambda x: x[0], result.state)"
        )
    one = jax.tree.leaves(jax.eval_shape(components.policy.init, jax.random.key(0)))
    shapes = [x.shape for x in jax.tree.leaves(state.params)]
    for like, shape in zip(one, shapes, strict=False):
        lead = shape[: len(shape) - len(like.shape)]
        if lead and shapes == [(*lead, *like.shape) for like in one]:
            first = ", ".join("0" * len(lead))
            raise ConfigError(
                f"state has leading axes {[*lead]}, such as those of seeds: use that of one, "
                f"jax.tree.map(lambda x: x[{first}], state), or jax.vmap over them"
            )


def spec_of_actor(components: Components) -> EnvSpec:
    """Returns what the actor sees and does: None in place of what the critic alone reads.

    Args:
        components: of a run.
    """
    spec, names = components.spec, components.config.actor_observation
    return spec._replace(observation=only(spec.observation, names))


def _at(spec: EnvSpec, tree: PyTree) -> PyTree:
    """Returns what a tree has in the places of an observation, whatever it has elsewhere."""
    return jax.tree_util.tree_map_with_path(lambda path, _: part_at(tree, path), spec.observation)


def _as_arrays(components: Components, obs: Obs) -> Obs:
    """Returns the entries that the actor reads, as arrays; whatever else was given is passed over.

    Raises:
        ConfigError: one of them is missing.
    """
    spec = spec_of_actor(components)
    if components.config.actor_observation:
        for path, space in jax.tree_util.tree_leaves_with_path(spec.observation):
            if part_at(obs, path) is None:
                raise ConfigError(
                    f"observation{jax.tree_util.keystr(path)} is missing: the actor reads {space} "
                    "there"
                )
        obs = _at(spec, obs)
    return jax.tree.map(lambda space, x: jnp.asarray(x), spec.observation, obs)


def as_declared(components: Components, actor: Actor) -> Actor:
    """Makes an actor for users: integers are counted as the environment declares them.

    Args:
        components: of the run.
        actor: what `actor_of` makes.

    Returns:
        The same, of observations as the environment gives them and actions as it takes them.
    """
    spec = spec_of_actor(components)

    def act(key: Array, carry: Carry, obs: Obs, episode_start: Array) -> tuple[Carry, Action]:
        obs = _as_arrays(components, obs)
        carry, action = actor.act(key, carry, from_zero(spec.observation, obs), episode_start)
        return carry, from_start(spec.action, action)

    return actor._replace(act=act)


def has_memory(components: Components) -> bool:
    """Says whether the policy of components remembers anything.

    Args:
        components: of a run.
    """
    return bool(jax.tree.leaves(jax.eval_shape(lambda: components.policy.initial_carry((1,)))))


def make_act(
    config: PPOConfig | Mapping[str, Any],
    state: Trained,
    deterministic: bool = False,
    *,
    env: CustomEnv = None,
    env_params: EnvParams = None,
    policy: CustomPolicy = None,
) -> Callable[[Array, Obs], Action]:
    """Makes one function of a key and observations of the trained policy.

    Args:
        config: the configuration that was trained.
        state: the learner after training, or its agents (`load_agents`); of one seed: index the
            leaves of vmapped ones.
        deterministic: the most probable action rather than a sampled one.
        env: the environment, if one was passed to training.
        env_params: its parameters; None: its defaults.
        policy: the policy or network, if one was passed to training.

    Returns:
        `act(key, obs [..., *O]) -> action [..., *A]`, within the action bounds. The key is
        consumed (and not used when deterministic).

    Raises:
        ConfigError: the policy has a memory, which `make_actor` passes in and out.
    """
    components = make_components(config, env=env, env_params=env_params, policy=policy)
    return act_of(components, state, deterministic)


def act_of(components: Components, state: Trained, deterministic: bool) -> Callable[..., Action]:
    """Makes the function of `make_act` of components that are built already.

    Args:
        components: of the run.
        state: parameters and statistics of one seed.
        deterministic: the most probable action rather than a sampled one.

    Returns:
        `act(key, obs [..., *O]) -> action [..., *A]`.

    Raises:
        ConfigError: the policy has a memory.
    """
    if has_memory(components):
        raise ConfigError("this policy has a memory: use make_actor, which passes it in and out")
    actor = as_declared(components, actor_of(components, state, deterministic))
    spec = spec_of_actor(components)

    def act(key: Array, obs: Obs) -> Action:
        # any leading axes: those that the first part has beyond its space
        obs = _as_arrays(components, obs)
        first, space = jax.tree.leaves(obs)[0], jax.tree.leaves(spec.observation)[0]
        lead = first.shape[: first.ndim - len(space.shape)]
        return actor.act(key, actor.initial_carry(lead), obs, jnp.ones(lead, bool))[1]

    return act
