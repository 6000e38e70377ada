"""Actor and critic, put together from torsos, cores and heads by `make_policy`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from purejaxppo.assertions import chex
from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError, shown
from purejaxppo.policies.checks import check_network
from purejaxppo.policies.cores import core_of, remember
from purejaxppo.policies.heads import (
    ActionHead,
    as_float32,
    check_mask,
    distribution,
)
from purejaxppo.policies.layers import init_together, orthogonal, outputs_of
from purejaxppo.policies.torsos import Torso, check_torso, torso_for
from purejaxppo.spaces import Box, EnvSpec, Space, entries, is_within, mask_of, zeros
from purejaxppo.types import Carry, Distribution, Obs, Params, Policy, PyTree

Network: TypeAlias = Any
"""A custom network: `obs [B, *O] -> (parameters of the distributions, value [B])`.

It is a linen module; or an `nnx.Module`, its class, or a function `(rngs) -> nnx.Module`.
"""


class ActorCritic(nn.Module):
    """Torsos, cores and heads: observations to (parameters of the distributions, value).

    Heads are float32 whatever torsos and cores compute in, because their parameters are.

    Attributes:
        torso: makes one, given its name.
        core: makes one, given its name; None: no memory.
        spaces: of the parts of an action, in the order of the pytree's leaves.
        structure: a treedef, in which the parts stand.
        shared: one torso, and core, for actor and critic.
        state_dependent_std: of Gaussian heads.
        critic: False: there is none, and values are 0, for who acts and does not learn.
        first_value: what a fresh critic gives for every state, see `Critic.first`; None: one number
            of its weights.
    """

    torso: Callable[..., Torso]
    core: Callable[..., nn.Module] | None
    spaces: tuple[Space, ...]
    structure: Any
    shared: bool
    state_dependent_std: bool
    critic: bool = True
    first_value: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, carry: Carry, obs: Obs, episode_start: Array) -> tuple[Carry, PyTree, Array]:
        """Reads sequences, from the carry that each began with.

        Args:
            carry: [B, ...] by name of torso, or () without a core.
            obs: [B * L, *O].
            episode_start: [B, L] bool.

        Returns:
            The carry after the last step, parameters by action [B * L, ...], and values [B * L], or
            [B * L, K] where the critic reads K numbers.
        """
        chex.assert_rank(episode_start, 2)
        chex.assert_tree_shape_prefix(obs, (episode_start.size,))
        # torsos read steps one by one, cores the sequences that they belong to
        names = branches(self.shared, self.critic)
        features = {name: self.torso(name=name)(obs) for name in names}
        after = {}
        if self.core is not None:
            cores = {name: self.core(name=f"{name}_core") for name in names}
            x = _lead(features, (episode_start.size,), episode_start.shape)
            after, x = remember(cores, carry, x, episode_start)
            features = _lead(x, episode_start.shape, (episode_start.size,))
        # heads are float32, whatever was computed in before them
        features = {name: x.astype(jnp.float32) for name, x in features.items()}
        # names of parameters are those of checkpoints: a lone head has no number
        actor, critic = (features[name] for name in (names[0], names[-1]))
        several = len(self.spaces) > 1
        heads = [
            ActionHead(
                space, self.state_dependent_std, name=f"action_{i}" if several else "action"
            )(actor)
            for i, space in enumerate(self.spaces)
        ]
        if not self.critic:
            return after or (), self.structure.unflatten(heads), jnp.zeros(episode_start.size)
        return after or (), self.structure.unflatten(heads), self._value(critic)

    def _value(self, features: Array) -> Array:
        """Applies the value head, the last layer of the critic."""
        first = self.first_value
        if first is None:
            return nn.Dense(1, kernel_init=orthogonal(1.0), name="value")(features)[:, 0]
        return nn.Dense(
            len(first), kernel_init=nn.initializers.zeros,
            bias_init=lambda key, shape, dtype: jnp.asarray(first, dtype), name="value",
        )(features)  # fmt: skip


class Memoryless(nn.Module):
    """A custom module without a memory, in the form of `ActorCritic`.

    Attributes:
        network: `obs [B, *O] -> (parameters of the distributions, value [B])`.
    """

    network: Network

    def __call__(self, carry: Carry, obs: Obs, episode_start: Array) -> tuple[Carry, PyTree, Array]:
        """Reads single steps.

        Args:
            carry: (), returned as it is.
            obs: [B, *O].
            episode_start: not read.

        Returns:
            The carry, parameters by action [B, ...], and values [B].

        Raises:
            ConfigError: the module returns something else.
        """
        return carry, *outputs_of(self.network(obs))


def branches(shared: bool, critic: bool = True) -> tuple[str, ...]:
    """Returns the names of the torsos: one each for actor and critic, or one for both.

    Args:
        shared: one for both.
        critic: there is one.
    """
    return ("both",) if shared else ("actor", "critic") if critic else ("actor",)


def make_policy(
    config: PPOConfig,
    spec: EnvSpec,
    network: Network | None = None,
    *,
    critic: bool = True,
    first_value: tuple[float, ...] | None = None,
) -> Policy:
    """Makes the policy that a configuration describes, for the spaces of an environment.

    Args:
        config: torso, core and distribution.
        spec: of the environment.
        network: a custom network in place of torso and core,
            `obs [B, *O] -> (parameters, value [B])`, with the parameters that `heads.distribution`
            reads: a linen module; or an `nnx.Module`, with whose own parameters every seed begins,
            or what makes one for each seed, its class or a function `(rngs) -> nnx.Module`.
        critic: False: of the network that is configured the actor alone, which takes the parameters
            of both, and observations without what only the critic reads; values are 0.
        first_value: what a fresh critic gives for every state, see `Critic.first`; None: one number
            of its weights.

    Returns:
        A policy that takes any leading axes; with a memory, those of a step [N] or of sequences
        [B, L], whose carry is [N, ...] or [B, ...].

    Raises:
        ConfigError: the torso cannot read these observations, an option has no effect on these
            actions, a mask does not fit them, or the module returns something else.
    """
    # what cannot work is said now, in the words of the configuration, and not by a trace
    check_mask(spec)
    _check_distribution(config, spec)
    core = core_of(config)
    if network is None:
        module: Any = _build(config, spec, critic, core, first_value)
    else:
        module = _as_module(network)
        check_network(module, spec, first_value)

    def carry_of(batch_shape: tuple[int, ...]) -> Carry:
        if core is None:
            return ()
        zero = core().initial_carry(batch_shape)
        return dict.fromkeys(branches(config.shared_torso, critic), zero)

    def init(key: Array) -> Params:
        obs = zeros(spec.observation, (2,))  # only shapes matter
        return module.init(key, carry_of((2,)), obs, jnp.zeros((2, 1), bool))["params"]

    def apply(
        params: Params, carry: Carry, obs: Obs, episode_start: Array
    ) -> tuple[Carry, Distribution, Array]:
        lead = episode_start.shape
        batch, length = lead[:1], lead[1] if len(lead) > 1 else 1
        chex.assert_tree_shape_prefix(obs, lead)
        chex.assert_tree_shape_prefix(carry, batch)
        # networks see two leading axes flattened into one; a step is a sequence of one
        obs = _lead(obs, lead, (-1,))
        starts = episode_start.reshape(-1, length)
        outputs = module.apply({"params": params}, _lead(carry, batch, (-1,)), obs, starts)
        carry, parameters, value = outputs
        # the mask is read from the observations, whatever the network does with it
        dist = distribution(spec.action, parameters, mask_of(obs), config.squash_actions)
        return _lead(carry, (1,), batch), _lead(dist, (1,), lead), _lead(value, (1,), lead)

    apart = network is None and core is None and not config.shared_torso
    # a custom network may call an initialiser in a vmap, once for many kernels
    together = partial(init_together, init) if network is None else init
    large = core is not None and getattr(core.func, "large_carry", False)
    rescale = _rescale_value if network is None and first_value is None else None
    return in_float32(Policy(together, carry_of, apply, apart, large, rescale))


def _rescale_value(params: Params, scale: Array, shift: Array) -> Params:
    """Rescales the value head of an `ActorCritic`, see `Policy.rescale_value`."""
    head = params["value"]
    head = {"kernel": scale * head["kernel"], "bias": scale * head["bias"] + shift}
    return {**params, "value": head}


def for_any_lead(policy: Policy) -> Policy:
    """Returns a policy that takes steps of any leading axes, of one that takes [N].

    Args:
        policy: actor and critic, which takes [N], and with a memory [B, L].
    """

    def apply(
        params: Params, carry: Carry, obs: Obs, episode_start: Array
    ) -> tuple[Carry, Distribution, Array]:
        lead = episode_start.shape
        if len(lead) == 1 or (len(lead) == 2 and jax.tree.leaves(carry)):
            return policy.apply(params, carry, obs, episode_start)
        flat = (episode_start.size,)
        inputs = _lead((carry, obs, episode_start), lead, flat)
        return _lead(policy.apply(params, *inputs), flat, lead)

    return policy._replace(apply=apply)


def in_float32(policy: Policy) -> Policy:
    """Returns a policy whose distributions and values are float32, whatever it computes in.

    Ratios, losses and metrics are made of them, and bfloat16 has three digits.

    Args:
        policy: actor and critic.
    """

    def apply(
        params: Params, carry: Carry, obs: Obs, episode_start: Array
    ) -> tuple[Carry, Distribution, Array]:
        carry, *given = policy.apply(params, carry, obs, episode_start)
        return carry, *as_float32(given)

    return policy._replace(apply=apply)


def _build(
    config: PPOConfig,
    spec: EnvSpec,
    critic: bool,
    core: Callable[..., Any] | None,
    first_value: tuple[float, ...] | None,
) -> ActorCritic:
    """Makes the network that a configuration describes, with its core."""
    if critic:  # what the actor reads is a part of what was checked when it was trained
        check_torso(config.torso, spec.observation)
    actions, structure = jax.tree.flatten(spec.action)
    activation, dtype = getattr(nn, config.activation), jnp.dtype(config.compute_dtype)

    found = entries(spec.observation)

    # each torso reads the entries of its own, and the critic's may have layers of its own
    def torso(name: str) -> Torso:
        names = config.critic_observation if name == "critic" else config.actor_observation
        spaces = tuple(space for entry, space in found if is_within(entry, names))
        sizes = (config.critic_hidden_sizes if name == "critic" else ()) or config.hidden_sizes
        kinds, norm = tuple(torso_for(config.torso, x) for x in spaces), config.layer_norm
        return Torso(names, spaces, kinds, sizes, activation, norm, dtype, name=name)

    shared, dependent = config.shared_torso, config.state_dependent_std
    return ActorCritic(
        torso, core, tuple(actions), structure, shared, dependent, critic, first_value
    )


def _as_module(network: Network) -> Any:
    """Returns a custom network as a module that is called as `ActorCritic` is.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(network, nn.Module):
        return Memoryless(network)
    if isinstance(network, type) and issubclass(network, nn.Module):
        raise ConfigError(f"policy={shown(network)} is a class: pass {network.__name__}()")
    if not callable(network):
        raise ConfigError(
            f"policy={shown(network)} must be a Policy, a linen module such as MyNet(), or a "
            "function (rngs) -> nnx.Module"
        )
    # imported where it is needed: linen does without
    from purejaxppo.policies.nnx_network import NnxNetwork

    return NnxNetwork(network)


def _lead(tree: PyTree, old: tuple[int, ...], new: tuple[int, ...]) -> PyTree:
    """Returns every array of a pytree with its leading axes `old` replaced by `new`."""
    return jax.tree.map(lambda x: x.reshape(*new, *x.shape[len(old) :]), tree)


def _check_distribution(config: PPOConfig, spec: EnvSpec) -> None:
    """Checks the options of Gaussian policies against the actions."""
    boxes = any(isinstance(space, Box) for space in jax.tree.leaves(spec.action))
    for name in ("squash_actions", "state_dependent_std"):
        if getattr(config, name) and not boxes:
            raise ConfigError(f"{name}=True has no effect on actions {spec.action}: leave it False")
    # tanh maps onto an open interval, which must not be empty in any dimension, and whose width
    # must be a number of float32
    largest = np.finfo(np.float32).max
    for space in jax.tree.leaves(spec.action) if config.squash_actions else ():
        if isinstance(space, Box):
            width = np.asarray(space.high, np.float64) - np.asarray(space.low, np.float64)
            if not ((width > 0) & (width <= largest)).all():
                raise ConfigError(
                    f"squash_actions=True needs room between the bounds of {space}, and not more "
                    f"than {largest:.1e}: leave it False"
                )
