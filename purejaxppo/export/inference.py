"""A trained policy as one function of plain trees, which other programs understand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purejaxppo.act import actor_of, as_declared, spec_of_actor
from purejaxppo.components import Components
from purejaxppo.envs.declared import Form
from purejaxppo.runs.agents import Agents
from purejaxppo.spaces import fields, zeros
from purejaxppo.trained_policy import action_forms
from purejaxppo.types import Array, PyTree


class Acting(NamedTuple):
    """A policy that takes the most probable action, as a function of dictionaries and tuples.

    Attributes:
        act: `(obs) -> action`, or `(carry, obs, episode_start) -> (carry, action)` with a memory;
            every array has a leading axis [B].
        inputs: of `act`, by name and in order: shapes and dtypes without [B].
        spaces: of the arrays of an observation, structured as `inputs["obs"]`.
        initial_carry: memory before an episode, without [B]; `()` without memory.
        forms: of the leaves of an action, in their order: dtypes and bounds as declared.
    """

    act: Callable[..., PyTree]
    inputs: dict[str, PyTree]
    spaces: PyTree
    initial_carry: PyTree
    forms: Sequence[Form]

    def specs(self, *lead: Any) -> tuple[PyTree, ...]:
        """Returns shapes and dtypes of the inputs.

        Args:
            *lead: sizes of the leading axes, which may be symbolic.
        """

        def spec(x: Array) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype)

        return tuple(jax.tree.map(spec, tree) for tree in self.inputs.values())

    def input_names(self) -> list[str]:
        """Returns a name for every array that goes in: `obs`, or `obs.board`."""
        return [name for first, tree in self.inputs.items() for name in names(first, tree)]

    def output_names(self) -> list[str]:
        """Returns a name for every array that comes out: `next_carry` if there is one, `action`."""
        outputs = jax.eval_shape(self.act, *self.specs(1))
        carry, action = outputs if "carry" in self.inputs else ((), outputs)
        return [*names("next_carry", carry), *names("action", action)]


def make_acting(
    components: Components,
    agent: Agents,
) -> Acting:
    """Makes one function of plain trees of a trained policy.

    Args:
        components: of the run.
        agent: parameters and statistics of one seed.

    Returns:
        The function, and what goes into it.
    """
    actor = as_declared(components, actor_of(components, agent, deterministic=True))
    # templates of the trees that the policy knows; the most probable action draws nothing
    spaces = spec_of_actor(components).observation
    first_obs = zeros(spaces)
    first_carry = jax.tree.map(lambda x: x[0], actor.initial_carry((1,)))
    unused = jax.random.key(0)

    def act(carry: PyTree, obs: PyTree, episode_start: Array) -> tuple[PyTree, PyTree]:
        carry, obs = _restore(first_carry, carry), _restore(first_obs, obs)
        carry, action = actor.act(unused, carry, obs, episode_start)
        return _plain(carry), _plain(action)

    def act_without_memory(obs: PyTree) -> PyTree:
        lead = jax.tree.leaves(obs)[0].shape[:1]
        return act(first_carry, obs, jnp.ones(lead, bool))[1]

    # dictionaries have another order of leaves than records
    forms, structure = jax.tree.flatten(action_forms(components))
    order = jax.tree.leaves(_plain(structure.unflatten(range(len(forms)))))
    forms = [forms[i] for i in order]
    obs, carry, spaces = _plain(first_obs), _plain(first_carry), _plain(spaces)
    if not jax.tree.leaves(carry):
        return Acting(act_without_memory, {"obs": obs}, spaces, (), forms)
    inputs = {"carry": carry, "obs": obs, "episode_start": jnp.bool_(True)}
    return Acting(act, inputs, spaces, carry, forms)


def names(first: str, tree: PyTree) -> list[str]:
    """Returns a name for each leaf of a tree, by the keys that lead to it.

    Args:
        first: what the names begin with.
        tree: of arrays.
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    keys = (jax.tree_util.keystr(path, simple=True, separator=".") for path in paths)
    return [f"{first}.{key}" if key else first for key in keys]


def _plain(tree: PyTree) -> PyTree:
    """Returns a tree with dictionaries in place of records, and without parts that hold nothing."""
    named = fields(tree)
    if named:
        return {name: _plain(x) for name, x in named.items() if jax.tree.leaves(x)}
    return tuple(map(_plain, tree)) if isinstance(tree, tuple | list) else tree


def _restore(template: PyTree, plain: PyTree) -> PyTree:
    """Returns the tree that `_plain` has turned into this one; its records are the template's."""
    leaves = dict(zip(names("", plain), jax.tree.leaves(plain), strict=True))
    return jax.tree.structure(template).unflatten(leaves[name] for name in names("", template))
