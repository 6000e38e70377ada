"""Environments whose Python is run once, however often a program is made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.core import Tracer

from purejaxppo.envs.interface import check_arrays
from purejaxppo.envs.wrappers.base import Wrapper
from purejaxppo.types import Action, Array, EnvParams, EnvState


class TracedOnce(Wrapper):
    """Keeps the traced programs of `reset_env` and `step_env`.

    Spaces, plans, training and evaluation each trace an environment, some of which take seconds
    every time.

    Args:
        env: one environment.
        constant_params: parameters that are not traced stay what they are, so that the environment
            may use them in Python (as shapes, in conditions); else all of them are traced.
    """

    def __init__(self, env: Any, constant_params: bool = False):
        super().__init__(env)
        keep = _traced_once if constant_params else _traced_with_params
        self._constant_params = constant_params
        self._reset, self._step = keep(env.reset_env), keep(env.step_env)

    def reset_env(self, key: Array, params: EnvParams) -> tuple[Any, ...]:
        """Begins an episode: (obs, state)."""
        with jax.numpy_dtype_promotion("standard"):  # what most environments are written for
            return self._reset(key, params)

    def step_env(
        self, key: Array, state: EnvState, action: Action, params: EnvParams
    ) -> tuple[Any, ...]:
        """Steps: (obs, state, reward, terminated, info)."""
        with jax.numpy_dtype_promotion("standard"):
            return self._step(key, state, action, params)

    def __reduce__(self) -> tuple[type, tuple[Any, bool]]:
        """Copies and pickles without what was traced."""
        return TracedOnce, (self.env, self._constant_params)


def _traced_with_params(method: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps the programs of a method, in which its parameters, the last argument, are inputs."""
    program = jax.jit(method)

    def call(*args: Any) -> Any:
        check_arrays("env_params", args[-1])
        return program(*args)

    return call


MOST_PROGRAMS = 16
"""Kept of each method; more would be of parameters that are new in every call."""


def _traced_once(method: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps the programs of a method, one for each kind of arguments.

    Args:
        method: of any arguments, `params` the last of them.

    Returns:
        The same function; its program is part of whatever program it is called in.
    """
    programs: dict[Any, Callable[..., Any]] = {}

    def call(*args: Any) -> Any:
        *others, params = args
        leaves, structure = jax.tree.flatten(params)
        traced = [isinstance(x, Tracer) for x in leaves]
        # arrays are distinguished by identity: the program holds them, none can take their place
        constants = tuple(
            None if t else (type(x), repr(x) if isinstance(x, bool | int | float) else id(x))
            for x, t in zip(leaves, traced, strict=True)
        )
        kind = structure, constants
        try:
            known = kind in programs
        except TypeError:  # the structure holds what cannot be hashed: traced every time
            return method(*args)
        if not known:

            def program(others: list[Any], inputs: list[Any]) -> Any:
                given = iter(inputs)
                merged = [next(given) if t else x for x, t in zip(leaves, traced, strict=True)]
                return method(*others, structure.unflatten(merged))

            while len(programs) >= MOST_PROGRAMS:
                programs.pop(next(iter(programs)))
            programs[kind] = jax.jit(program, inline=True)
        return programs[kind](others, [x for x, t in zip(leaves, traced, strict=True) if t])

    return call
