"""What policies and networks of a user's return, compared with what will be read of it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError

from purejaxppo.errors import ConfigError, shown
from purejaxppo.policies.distributions import Categorical, Joint, MultiCategorical
from purejaxppo.policies.heads import logit_shape
from purejaxppo.spaces import Box, Discrete, EnvSpec, MultiDiscrete, Space, zeros
from purejaxppo.types import Policy, PyTree

METHODS = ("sample", "log_prob", "entropy")
"""Of a distribution: those that every training calls."""


def check_policy(policy: Policy, spec: EnvSpec, first_value: tuple[float, ...] | None) -> None:
    """Compares what a policy of a user's returns for two observations with what it should.

    Args:
        policy: as it was passed.
        spec: of the environment.
        first_value: of the critic that reads its value.

    Raises:
        ConfigError: it returns something else.
    """
    before = policy.initial_carry((2,))
    inputs = before, zeros(spec.observation, (2,)), jnp.zeros(2, bool)

    def outputs(key):
        params = policy.init(key)
        _check_params(params)
        returned = policy.apply(params, *inputs)
        if not (isinstance(returned, tuple | list) and len(returned) == 3):
            raise ConfigError(
                f"the policy's apply returns {shown(returned)}: return (carry, distribution, value)"
            )
        carry, dist, value = returned
        for method in METHODS:
            if not callable(getattr(dist, method, None)):
                found = "array" if isinstance(dist, jax.Array) else type(dist).__name__
                raise ConfigError(
                    f"the policy's distribution, of type {found}, has no {method}: return such as "
                    "Categorical(logits) of purejaxppo.policies.distributions"
                )
        _check_choices(dist, spec)
        action = dist.sample(key)
        return carry, value, action, dist.log_prob(action)

    # traced, never run
    after, value, action, log_prob = jax.eval_shape(outputs, jax.random.key(0))
    check_value(value, first_value, "policy")
    _check_alike("action", action, jax.eval_shape(lambda: zeros(spec.action, (2,))), dtypes=False)
    _check_alike("log-probability", log_prob, jax.ShapeDtypeStruct((2,), jnp.float32), dtypes=False)
    _check_alike("carry", after, jax.eval_shape(lambda: before), dtypes=True)


def _check_params(params: PyTree) -> None:
    """Refuses random keys among the parameters, which no optimizer steps."""
    for where, x in jax.tree_util.tree_leaves_with_path(params):
        dtype = getattr(x, "dtype", type(x))
        if jnp.issubdtype(dtype, jax.dtypes.extended):
            raise ConfigError(
                f"the policy's parameters{jax.tree_util.keystr(where)} are {dtype}, which have no "
                "gradient: keep to arrays of numbers"
            )


def _check_choices(dist: Any, spec: EnvSpec) -> None:
    """Compares numbers of choices, which the shapes of actions do not show."""
    spaces, tree = jax.tree.flatten(spec.action)
    try:
        parts = tree.flatten_up_to(dist.parts if isinstance(dist, Joint) else dist)
    except ValueError:  # of another form: so are the actions that it draws
        return
    for space, part in zip(spaces, parts, strict=True):
        if isinstance(space, Discrete) and isinstance(part, Categorical):
            wanted = [2, space.n]
        elif isinstance(space, MultiDiscrete) and isinstance(part, MultiCategorical):
            wanted = [2, len(space.nvec), max(space.nvec)]
        else:
            continue
        if list(part.logits.shape) != wanted:
            raise ConfigError(
                f"the policy's logits have shape {list(part.logits.shape)} for 2 observations: "
                f"those of {space} must be {wanted}"
            )


def _check_alike(what: str, found: PyTree, wanted: PyTree, dtypes: bool) -> None:
    """Compares a part of what a policy returns for two observations with what is wanted."""

    def form(tree):
        leaves, structure = jax.tree.flatten(tree)
        return structure, [(x.shape, x.dtype if dtypes else None) for x in leaves]

    if form(found) != form(wanted):
        here, there = (
            jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}" if dtypes else list(x.shape), tree)
            for tree in (found, wanted)
        )
        verb = "is" if dtypes else "has shape"
        raise ConfigError(
            f"the policy's {what} for 2 observations {verb} {here}: it must be {there}"
        )


def check_network(module: Any, spec: EnvSpec, first_value: tuple[float, ...] | None) -> None:
    """Compares what a network of a user's returns for two observations with what it should.

    Args:
        module: called as `ActorCritic` is.
        spec: of the environment.
        first_value: of the critic that reads its value.

    Raises:
        ConfigError: it returns something else, or cannot be run on parameters alone.
    """
    obs, starts = zeros(spec.observation, (2,)), jnp.zeros((2, 1), bool)
    key = jax.random.key(0)
    # traced, never run; flax raises where apply needs more than parameters, such as dropout's key
    try:
        variables = jax.eval_shape(lambda: module.init(key, (), obs, starts))
        others = sorted(set(variables) - {"params"})
        if others:
            raise ConfigError(
                f"the network has variables {others}: keep to params, such as LayerNorm"
            )
        _, parameters, value = jax.eval_shape(
            lambda variables: module.apply(variables, (), obs, starts), variables
        )
    except FlaxError as error:
        raise ConfigError(f"the network cannot be run on parameters alone: {error}") from error
    check_value(value, first_value, "network")
    # parameters in the structure of the actions, each of the shape that its space asks for
    try:
        parts = jax.tree.structure(spec.action).flatten_up_to(parameters)
        fits = all(map(_fits, jax.tree.leaves(spec.action), parts))
    except ValueError:
        fits = False
    if not fits:
        shapes = jax.tree.map(lambda x: list(x.shape), parameters)
        raise ConfigError(
            f"the network's parameters {shapes} for 2 observations do not describe actions "
            f"{spec.action}: return logits, or (mean, log_std) for a Box"
        )


def check_value(value: Any, first_value: tuple[float, ...] | None, kind: str) -> None:
    """Checks the shape of a value that a network of a user's gives.

    Args:
        value: for two observations, or its shape.
        first_value: of the critic that reads it.
        kind: what gives it, in the message.

    Raises:
        ConfigError: it is another; [2, 1] in place of [2] would broadcast against the targets.
    """
    shape = list(getattr(value, "shape", "?"))
    wanted = [2] if first_value is None else [2, len(first_value)]
    if shape != wanted:
        such = "such as value[:, 0]" if first_value is None else "the logits of value_bins"
        raise ConfigError(
            f"the {kind}'s value has shape {shape} for 2 observations: it must be {wanted}, {such}"
        )


def _fits(space: Space, parameters: PyTree) -> bool:
    """Says whether these, of two actions, are what `heads.distribution` reads."""
    if isinstance(space, Box):
        if not isinstance(parameters, tuple | list) or len(parameters) != 2:
            return False
        mean, log_std = (part.shape for part in parameters)
        return mean == (2, *space.shape) == np.broadcast_shapes(mean, log_std)
    return getattr(parameters, "shape", None) == (2, *logit_shape(space))
