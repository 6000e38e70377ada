"""Networks that are written with `flax.nnx`, in the form of linen's modules."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from purejaxppo.errors import ConfigError, shown
from purejaxppo.policies.layers import outputs_of
from purejaxppo.types import Carry, Obs, PyTree

Rngs: Any = nnx.Rngs
MAKES = "such as lambda rngs: MyNet(64, rngs=rngs)"


class NnxNetwork:
    """A module of nnx as functions of its parameters, called as a linen module is.

    Args:
        network: a module; or its class, or a function, which makes one of `rngs` alone.

    Raises:
        ConfigError: it is none, makes none, or has variables that are not parameters.
    """

    def __init__(self, network: Any):
        self._make = None if isinstance(network, nnx.Module) else _maker(network)
        made = network if self._make is None else _made(network, self._make)
        self._graph, self._state, others = nnx.split(made, nnx.Param, ...)
        kinds = sorted({type(variable).__name__ for _, variable in nnx.to_flat_state(others)})
        if kinds:
            raise ConfigError(
                f"the network has variables {kinds}: keep to nnx.Param, such as LayerNorm in place "
                "of BatchNorm, and no Dropout"
            )

    def init(self, key: jax.Array, *_: Any) -> dict[str, PyTree]:
        """Returns the parameters that a key gives; a module's own are the same for every key.

        Args:
            key: consumed.
            *_: what linen modules are initialised with.

        Returns:
            {"params": dictionaries by the names of attributes}.
        """
        state = self._state
        if self._make is not None:
            state = nnx.state(self._make(Rngs(key)), nnx.Param)
        # copied: training gives its buffers away, and the module keeps its own
        return {"params": jax.tree.map(jnp.copy, nnx.to_pure_dict(state))}

    def apply(
        self, variables: dict[str, PyTree], carry: Carry, obs: Obs, episode_start: jax.Array
    ) -> tuple[Carry, PyTree, jax.Array]:
        """Reads single steps.

        Args:
            variables: as `init` returns them.
            carry: (), returned as it is.
            obs: [B, *O].
            episode_start: not read.

        Returns:
            The carry, parameters by action [B, ...], and values [B].

        Raises:
            ConfigError: the module returns something else.
        """
        state = jax.tree.map(lambda x: x, self._state)  # a copy, which may be written to
        nnx.replace_by_pure_dict(state, variables["params"])
        network: Any = nnx.merge(self._graph, state)
        return carry, *outputs_of(network(obs))


def _made(network: Any, make: Callable[[Any], Any]) -> nnx.Module:
    """Returns the module that is made, its parameters as shapes and dtypes."""

    def once() -> nnx.Module:
        made = make(Rngs(0))
        if not isinstance(made, nnx.Module):
            raise ConfigError(
                f"policy={shown(network)} makes a {type(made).__name__}: let it return an "
                f"nnx.Module, {MAKES}"
            )
        return made

    try:
        return nnx.eval_shape(once)
    except ConfigError:
        raise
    except Exception as error:  # whatever is raised is raised by what the user gave
        words = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise ConfigError(
            f"policy={shown(network)} is called with rngs, and raises {words}: let it return an "
            f"nnx.Module, {MAKES}"
        ) from error


def _maker(network: Any) -> Callable[[Any], Any]:
    """Returns what makes a module of rngs, which constructors often take by name alone."""
    # the metaclass of modules hides what their constructors take
    takes = partial(network.__init__, None) if isinstance(network, type) else network
    try:
        signature = inspect.signature(takes)
        kinds = {parameter.kind for parameter in signature.parameters.values()}
        named = "rngs" in signature.parameters or inspect.Parameter.VAR_KEYWORD in kinds
        signature.bind(rngs=None) if named else signature.bind(None)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"policy={shown(network)} must make an nnx.Module of rngs alone ({error}): pass a "
            f"function, {MAKES}"
        ) from error
    return (lambda rngs: network(rngs=rngs)) if named else network
