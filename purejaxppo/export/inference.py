"""A trained policy as one function of plain trees, which other programs understand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purejaxppo.act import actor_of
from purejaxppo.components import OwnPolicy, make_setup
from purejaxppo.config.schema import PPOConfig
from purejaxppo.envs.host import HostEnvironment
from purejaxppo.spaces import fields, zeros
from purejaxppo.types import Environment


class Acting(NamedTuple):
    """The most probable action, statistics frozen; trees are dictionaries and tuples.

    Attributes:
        act: `(obs) -> action`, or `(carry, obs, episode_start) -> (carry, action)` with a memory;
            every array has a leading axis [B].
        inputs: of `act`, by name and in order: shapes and dtypes without [B].
        initial_carry: memory before an episode, without [B]; `()` without memory.
    """

    act: Callable[..., Any]
    inputs: dict[str, Any]
    initial_carry: Any

    def specs(self, *lead: Any) -> tuple[Any, ...]:
        """Shapes and dtypes of the inputs with leading axes, which may be symbolic."""

        def spec(x):
            return jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype)

        return tuple(jax.tree.map(spec, tree) for tree in self.inputs.values())

    def input_names(self) -> list[str]:
        """Of every array: `obs`, or `obs.board`."""
        return [name for first, tree in self.inputs.items() for name in names(first, tree)]

    def output_names(self) -> list[str]:
        """Of every array: `action`, or `action.move`, after `next_carry` with a memory."""
        outputs = jax.eval_shape(self.act, *self.specs(1))
        carry, action = outputs if "carry" in self.inputs else ((), outputs)
        return [*names("next_carry", carry), *names("action", action)]


def make_acting(
    config: PPOConfig,
    agent: Any,
    *,
    env: Environment | HostEnvironment | None = None,
    policy: OwnPolicy = None,
) -> Acting:
    """The trained policy as one function of plain trees.

    Args:
        config: what was trained.
        agent: parameters and statistics (`agents.Agents`), of one seed.
        env: the environment, if one was passed to training.
        policy: the policy or linen module, if one was passed to training.

    Raises:
        ConfigError: see `setup.make_setup`.
    """
    setup = make_setup(config, env, policy=policy)
    actor = actor_of(setup, agent, deterministic=True)
    first_obs = zeros(setup.vec_env.spec.observation)
    first_carry = jax.tree.map(lambda x: x[0], actor.initial_carry((1,)))
    unused = jax.random.key(0)

    def act(carry, obs, episode_start):
        carry, obs = _restore(first_carry, carry), _restore(first_obs, obs)
        carry, action = actor.act(unused, carry, obs, episode_start)
        return _plain(carry), _plain(action)

    def act_at_once(obs):
        lead = jax.tree.leaves(obs)[0].shape[:1]
        return act(first_carry, obs, jnp.ones(lead, bool))[1]

    obs, carry = _plain(first_obs), _plain(first_carry)
    if not jax.tree.leaves(carry):
        return Acting(act_at_once, {"obs": obs}, ())
    return Acting(act, {"carry": carry, "obs": obs, "episode_start": jnp.bool_(True)}, carry)


def names(first: str, tree: Any) -> list[str]:
    """A name for each leaf: what comes first, and the keys that lead to it."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    keys = (jax.tree_util.keystr(path, simple=True, separator=".") for path in paths)
    return [f"{first}.{key}" if key else first for key in keys]


def _plain(tree: Any) -> Any:
    """The same with dictionaries in place of records."""
    named = fields(tree)
    if named:
        return {name: _plain(part) for name, part in named.items()}
    return tuple(map(_plain, tree)) if isinstance(tree, tuple | list) else tree


def _restore(template: Any, plain: Any) -> Any:
    """What `_plain` was given; other leaves, but a tree like this one."""
    leaves = dict(zip(names("", plain), jax.tree.leaves(plain), strict=True))
    return jax.tree.structure(template).unflatten(leaves[name] for name in names("", template))
