"""Whether an environment is the pure function that training takes it for; see `check_env`."""

from __future__ import annotations

import traceback
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.spaces import EnvSpec, action_spaces, zeros

METHODS = ("reset_env", "step_env", "is_truncated", "observation_space", "action_space")


def raised_in(error: Exception, env: Any) -> str:
    """The method of the environment that an exception came through, if any."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.name for frame in frames if frame.name in METHODS), type(env).__name__)


def first_line(error: Exception) -> str:
    """What an exception says, without the rest of it."""
    return (str(error).splitlines() or [""])[0]


def state_fault(env: Any, params: Any) -> str | None:
    """How the state after a step is not like that after a reset (but for dtypes), if so."""
    with jax.ensure_compile_time_eval():
        actions = action_spaces(env.action_space(params))

    def states(key):
        _, first, *_ = env.reset_env(key, params)
        return first, env.step_env(key, first, zeros(actions), params)[1]

    def form(state):
        leaves, tree = jax.tree.flatten(state)
        return tree, [list(x.shape) for x in leaves]

    reset, step = map(form, jax.eval_shape(states, jax.random.key(0)))
    if reset == step:
        return None
    (tree, shapes), (other, others) = reset, step
    return (
        f"the state is {tree} with shapes {shapes} after reset_env, {other} with shapes {others} "
        "after step_env: give both one form"
    )


def kept_by(env: Any) -> dict[str, tuple[Any, Any]]:
    """What objects and their classes hold, by name: in words (or identity), and itself."""
    found = {}
    while env is not None:
        owners = [getattr(env, "__dict__", {}), *(vars(c) for c in type(env).__mro__[:-1])]
        for name, value in (item for owner in reversed(owners) for item in owner.items()):
            plain = isinstance(value, int | float | str | list | tuple | dict | set | np.ndarray)
            if not name.startswith("__"):
                found[f"{type(env).__name__}.{name}"] = (repr(value) if plain else id(value), value)
        env = getattr(env, "__dict__", {}).get("env")
    return found


def traced(env: Any, params: Any, spec: EnvSpec) -> tuple[Any, ...]:
    """The program of a reset and a step, and the constants in it."""

    def once(key):
        _, state, *_ = env.reset_env(key, params)
        return env.step_env(key, state, zeros(spec.action), params)

    program = jax.make_jaxpr(once)(jax.random.key(0))
    return str(program), *(repr(np.asarray(x)) for x in program.consts if not is_key(x))


def is_key(x: Any) -> bool:
    """Whether an array is of typed keys."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
