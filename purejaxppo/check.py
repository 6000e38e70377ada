"""`check_env`: whether an environment, custom or built in, is what training takes it for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.config.rules import as_count
from purejaxppo.config.schema import PPOConfig
from purejaxppo.envs.environments import check_taken
from purejaxppo.envs.host import HostEnvironment
from purejaxppo.envs.host_info import kinds_told
from purejaxppo.envs.host_program import make_host_vec_env
from purejaxppo.envs.inspection import Checked, inspect_env
from purejaxppo.envs.registry import find_env
from purejaxppo.envs.vec_env import vectorize
from purejaxppo.errors import ConfigError, HostError
from purejaxppo.policies.heads import distribution, logit_shape
from purejaxppo.policies.networks import make_policy
from purejaxppo.spaces import Box, EnvSpec, Space, mask_of, to_bounds, zeros
from purejaxppo.types import (
    Action,
    Array,
    Environment,
    EnvParams,
    EnvState,
    EnvStep,
    Obs,
    PyTree,
    VecEnv,
)

NUM_ENVS = 4


def check_env(env: Any, env_params: EnvParams = None, *, num_steps: int = 200) -> EnvSpec:
    """Steps an environment at random, and compares what it does with what training needs.

    That is: its interface and spaces; observations within them; finite rewards; flags that are off
    when an episode begins; states that a loop can carry; equal results for equal arguments, also
    under jit and vmap; nothing kept outside of the state.

    Args:
        env: an environment with gymnax's 1.x interface, a `HostEnvironment`, or whatever else
            training takes: the name of one, one of Gymnasium's, or a class or function that makes
            one.
        env_params: its parameters; None: its defaults.
        num_steps: random steps of each of 4 copies; fresh episodes begin where one ends.

    Returns:
        Its spaces, as training sees them.

    Raises:
        ConfigError: what is wrong and how to fix it, a line for each fault; or num_steps is no
            count.
    """
    num_steps = as_count("num_steps", num_steps, 200)
    env, default_params = find_env(env)
    env_params = default_params if env_params is None else env_params
    check_taken(env, env_params)
    hosted = isinstance(env, HostEnvironment)
    found = _host_faults(env, num_steps) if hosted else _faults(env, env_params, num_steps)
    faults = list(found)
    if faults:
        raise ConfigError("\n".join(faults))
    return env.spec if hosted else inspect_env(env, env_params).spec


def info_numbers(env: Any, env_params: EnvParams = None) -> list[str]:
    """Returns the names of the numbers in an environment's info, which `info_metrics` can log.

    Args:
        env: an environment that has no faults, as in `check_env`.
        env_params: its parameters; None: its defaults.

    Raises:
        ConfigError: it is none, or has faults.
        HostError: an environment on the host failed.
    """
    env, default_params = find_env(env)
    if isinstance(env, HostEnvironment):
        kinds = kinds_told(env)
    else:
        kinds = inspect_env(env, default_params if env_params is None else env_params).info
    return [name for name, kind in kinds.items() if not kind]


def random_actions(key: Array, spec: EnvSpec, obs: Obs, num_envs: int) -> Action:
    """Returns actions [N, *A] at random, among those that are allowed.

    Args:
        key: consumed.
        spec: what the environment sees and does.
        obs: [N, *O], which may hold a mask.
        num_envs: N.
    """

    def parameters(space: Space) -> PyTree:
        if isinstance(space, Box):
            # a normal distribution with most of its mass within the bounds, and some beyond
            low, high = (
                jnp.broadcast_to(b, (num_envs, *space.shape)) for b in (space.low, space.high)
            )
            # halves first: the sum or difference of the largest numbers would be infinite
            low, high = low.astype(jnp.float32) / 2, high.astype(jnp.float32) / 2
            return low + high, jnp.log(jnp.maximum(high - low, 1e-6))
        return jnp.zeros((num_envs, *logit_shape(space)))

    # the distributions of training, so that masks are obeyed as there
    dist = distribution(spec.action, jax.tree.map(parameters, spec.action), mask_of(obs), False)
    return to_bounds(spec.action, dist.sample(key))


# -- environments in JAX --------------------------------------------------------------------------


def _faults(env: Environment, params: EnvParams, num_steps: int) -> Iterator[str]:
    """Yields what is wrong with an environment in JAX, the gravest first."""
    kept = _kept_by(env)
    try:
        # what training refuses, whatever it is configured to do with the environment
        inspected = inspect_env(env, params)
        vec_env, checked = vectorize(inspected, NUM_ENVS), Checked(env)
        make_policy(PPOConfig(), inspected.spec)
        traces = [_traced(checked, params, vec_env.spec) for _ in range(2)]
        # what can be seen of random play, then of single steps computed in several ways
        first, (action, after) = _roll(vec_env, params, num_steps)
        yield from _values(vec_env.spec, first, after)
        agreement = list(_agreement(checked, params, jax.tree.map(lambda x: x[0], action)))
    except ConfigError as error:
        yield str(error)
        return
    except jax.errors.JaxRuntimeError as error:
        yield f"it fails when it is stepped: {_first_line(error)}"
        return
    # a value written while tracing is a constant of the program: nothing would ever change it
    now = _kept_by(env)
    for name in kept:
        if now.get(name, kept[name])[0] != kept[name][0]:
            yield f"{name} changed while stepping: keep it in the state, or in params"
    # results that differ are a consequence of programs that differ, which says more
    if traces[0] != traces[1]:
        yield "traced twice, the program differs: draw from the key, not from numpy or random"
    else:
        yield from agreement


def _kept_by(env: object) -> dict[str, tuple[Any, Any]]:
    """Returns what environments, wrapped ones included, hold outside of the state.

    Returns:
        For each attribute of the objects and their classes, by name: what to compare (its words
        where it is plain, else its identity), and itself, so that its identity is not given away.
    """
    found = {}
    while env is not None:
        # a class's attributes come first, for those of the object hide them
        owners = [getattr(env, "__dict__", {}), *(vars(c) for c in type(env).__mro__[:-1])]
        for name, value in (item for owner in reversed(owners) for item in owner.items()):
            plain = isinstance(value, int | float | str | list | tuple | dict | set | np.ndarray)
            if not name.startswith("__"):
                found[f"{type(env).__name__}.{name}"] = (repr(value) if plain else id(value), value)
        env = getattr(env, "__dict__", {}).get("env")
    return found


def _traced(env: Environment, params: EnvParams, spec: EnvSpec) -> tuple[str, ...]:
    """Returns the program of a reset and a step, and the constants in it."""

    def once(key: Array) -> PyTree:
        _, state, *_ = env.reset_env(key, params)
        return env.step_env(key, state, zeros(spec.action), params)

    program = jax.make_jaxpr(once)(jax.random.key(0))
    return str(program), *(repr(np.asarray(x)) for x in program.consts if not _is_key(x))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _agreement(env: Environment, params: EnvParams, action: Action) -> Iterator[str]:
    """Yields where a reset and a step, computed in several ways, do not give the same.

    Args:
        env: one environment.
        params: its parameters.
        action: [4, *A].
    """
    keys = jax.random.split(jax.random.key(1), NUM_ENVS)

    def once(key: Array, action: Action) -> tuple[Obs, PyTree, Array]:
        obs, state, *_ = env.reset_env(key, params)
        after = env.step_env(key, state, action, params)[:4]
        return obs, after, env.is_truncated(state, params)

    # one by one, again with the arguments of the first, and all at once under vmap
    one = jax.jit(once)
    each = [one(key, jax.tree.map(lambda a, i=i: a[i], action)) for i, key in enumerate(keys)]
    together = jax.jit(jax.vmap(once))(keys, action)
    rows = [jax.tree.map(lambda x, i=i: x[i], together) for i in range(NUM_ENVS)]
    again = one(keys[0], jax.tree.map(lambda a: a[0], action))
    if not _close(each[0], again, 0):
        yield "called twice with equal arguments, results differ: let them depend on the key alone"
    # vmap may add in another order, so that the last digits are no fault
    if not all(map(_close, each, rows)):
        yield "under vmap, results differ from those of one environment: compute with jnp alone"
    if any(bool(np.any(truncated)) for *_, truncated in each):
        yield "is_truncated is True of a fresh state: count from 0"


def _close(a: PyTree, b: PyTree, tolerance: float = 1e-4) -> bool:
    """Says whether two pytrees of numbers and keys are equal within a tolerance, NaN to NaN."""

    def same(x: Array, y: Array) -> bool:
        if _is_key(x):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
        return np.allclose(first, second, tolerance, tolerance, equal_nan=True)

    a, b = jax.tree.map(jnp.asarray, (a, b))
    return all(map(same, jax.tree.leaves(a), jax.tree.leaves(b)))


def _is_key(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


# -- random play, of environments in JAX and on the host ------------------------------------------


def _roll(vec_env: VecEnv, params: EnvParams, num_steps: int) -> tuple[Obs, tuple[Action, EnvStep]]:
    """Plays at random: the first observations [N], and actions and steps [T, N], in NumPy."""

    @jax.jit
    def run(key: Array) -> tuple[Obs, tuple[Action, EnvStep]]:
        key_reset, key = jax.random.split(key)
        state, obs = vec_env.reset(key_reset, params)

        def step(loop: tuple[EnvState, Obs], key: Array) -> tuple[PyTree, PyTree]:
            state, obs = loop
            key_action, key_env = jax.random.split(key)
            action = random_actions(key_action, vec_env.spec, obs, NUM_ENVS)
            state, after = vec_env.step(vec_env.draw(key_env, params), state, action, params)
            return (state, after.obs), (action, after)

        return obs, jax.lax.scan(step, (state, obs), jax.random.split(key, num_steps))[1]

    return jax.tree.map(np.asarray, run(jax.random.key(0)))


def _values(spec: EnvSpec, first: Obs, after: EnvStep) -> Iterator[str]:
    """Yields observations outside of their spaces, and rewards that are no numbers.

    Args:
        spec: what the environment declares.
        first: [N, *O], of resets.
        after: [T, N], steps in NumPy.
    """
    spaces = jax.tree_util.tree_leaves_with_path(spec.observation)
    for where, obs in (("reset_env", first), ("step_env", after.final_obs)):
        for (path, space), x in zip(spaces, jax.tree.leaves(obs), strict=True):
            fault = _outside(space, x)
            if fault:
                yield f"{where} returns an observation{jax.tree_util.keystr(path)} with {fault}"
    if not np.isfinite(after.reward).all():
        yield "rewards must be finite, not NaN or infinite"


def _outside(space: Space, x: np.ndarray) -> str | None:
    """Describes values that are not in a space, and what to do about them; None if all are."""
    if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
        return "values that are NaN or infinite: fix what computes them"
    # bits have neither nvec nor n: two values
    sizes = getattr(space, "nvec", getattr(space, "n", 2))
    low, high = (space.low, space.high) if isinstance(space, Box) else (0, np.asarray(sizes) - 1)
    # float32 computes a bound such as 2 pi with an error in its last digits
    low, high = (np.asarray(bound, np.float64) for bound in (low, high))
    slack = [1e-5 * np.maximum(1, np.abs(bound)) for bound in (low, high)]
    numbers = x.astype(np.float64)
    if (numbers < low - slack[0]).any() or (numbers > high + slack[1]).any():
        return f"values {x.min()} .. {x.max()}: declare the space {space} wider"
    return None


# -- environments on the host ---------------------------------------------------------------------


def _host_faults(env: HostEnvironment, num_steps: int) -> Iterator[str]:
    """Yields what is wrong with an environment on the host."""
    try:
        spec = env.spec
        make_policy(PPOConfig(), spec)
    except ConfigError as error:
        yield str(error)
        return
    # twice with one seed: what is not seeded differs
    runs = []
    for _ in range(2):
        vec_env = make_host_vec_env(env, NUM_ENVS)
        try:
            # closing raises what a step has raised, in place of JAX's report of it
            with closing(cast(Any, vec_env)):
                runs.append(_roll(vec_env, (), num_steps))
        except (HostError, jax.errors.JaxRuntimeError) as error:
            yield f"{_first_line(error)}: fix it, it was stepped at random"
            return
    first, (_, after) = runs[0]
    yield from _values(spec, first, after)
    if _never_reset(first, after):
        yield (
            "episodes do not begin anew: reset(options={'reset_mask': mask}) must reset where the "
            "mask is True, as vector environments with AutoresetMode.DISABLED do"
        )
    if not _close(runs[0], runs[1], 0):
        yield "two runs with equal seeds differ: let everything depend on reset's seed"


def _never_reset(first: Obs, after: EnvStep) -> bool:
    """Says whether what follows the end of an episode is always its last observation.

    Args:
        first: [N, *O], of resets.
        after: [T, N], steps in NumPy.
    """
    ended = after.terminated | after.truncated
    which = np.nonzero(ended)[1]
    leaves = [jax.tree.leaves(tree) for tree in (first, after.obs, after.final_obs)]
    stayed = all(np.array_equal(x[ended], last[ended]) for _, x, last in zip(*leaves, strict=True))
    moved = any((x[which] != last[ended]).any() for x, _, last in zip(*leaves, strict=True))
    return len(which) >= 8 and stayed and moved  # a few may begin by chance where they have ended
