"""Is an environment what training takes it for? `check_env`, for one's own and for all others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.envs.host import HostEnvironment, make_host_vec_env
from purejaxppo.envs.purity import (
    METHODS,
    first_line,
    is_key,
    kept_by,
    raised_in,
    state_fault,
    traced,
)
from purejaxppo.envs.vec_env import make_vec_env
from purejaxppo.errors import ConfigError, HostError
from purejaxppo.policies.heads import distribution, logit_shape
from purejaxppo.spaces import (
    Box,
    EnvSpec,
    Space,
    mask_of,
    to_bounds,
)
from purejaxppo.types import Array, EnvStep, VecEnv

NUM_ENVS = 4


def check_env(env: Any, env_params: Any = None, *, num_steps: int = 200) -> EnvSpec:
    """Steps an environment at random, and holds what it does against what training needs.

    That is: its interface and spaces; observations within them; finite rewards; flags that are off
    when an episode begins; states that a loop can carry; equal results for equal arguments, also
    under jit and vmap; nothing kept outside of the state.

    Args:
        env: an environment with gymnax's 1.x interface, or a `HostEnvironment`.
        env_params: its parameters; None: its defaults.
        num_steps: random steps of each of 4 copies; fresh episodes begin where one ends.

    Returns:
        Its spaces, as training sees them.

    Raises:
        ConfigError: what is wrong and how to mend it, a line for each fault.
    """
    if isinstance(env, HostEnvironment):
        faults = list(_host_faults(env, num_steps))
    else:
        faults = list(_interface_faults(env)) or list(_faults(env, env_params, num_steps))
    if faults:
        raise ConfigError("\n".join(faults))
    if isinstance(env, HostEnvironment):
        return env.spec
    return make_vec_env(env, _params(env, env_params), 1).spec


def _params(env: Any, env_params: Any) -> Any:
    return env.default_params if env_params is None else env_params


def _interface_faults(env: Any) -> Iterator[str]:
    if isinstance(env, type):
        yield f"{env.__name__} is a class: pass an environment, such as {env.__name__}()"
        return
    for name in METHODS:
        if not callable(getattr(env, name, None)):
            yield f"{name} is missing: define it as gymnax's 1.x environments do"
    if not hasattr(env, "default_params"):
        yield "default_params is missing: a pytree of constants, or () for none"


def _faults(env: Any, env_params: Any, num_steps: int) -> Iterator[str]:
    """What is wrong with a pure environment, the gravest first."""
    params, kept = _params(env, env_params), kept_by(env)
    try:
        fault = state_fault(env, params)
        if fault:
            yield fault
            return
        vec_env = make_vec_env(env, params, NUM_ENVS)
        traces = [traced(env, params, vec_env.spec) for _ in range(2)]
        first, (action, after) = _roll(vec_env, params, num_steps)
        yield from _values(vec_env.spec, first, after)
        agreement = list(_agreement(env, params, jax.tree.map(lambda x: x[0], action)))
    except ConfigError as error:
        yield str(error)
        return
    except Exception as error:
        yield f"{raised_in(error, env)} raises {type(error).__name__}: {first_line(error)}"
        return
    now = kept_by(env)
    for name in kept:
        if now.get(name, kept[name])[0] != kept[name][0]:
            yield f"{name} changed while stepping: keep it in the state, or in params"
    if traces[0] != traces[1]:
        yield "traced twice, the program differs: draw from the key, not from numpy or random"
    else:
        yield from agreement


def _roll(vec_env: VecEnv, params: Any, num_steps: int) -> tuple[Any, Any]:
    """The first observations [N], and actions and steps [T, N] of random play, NumPy."""

    @jax.jit
    def run(key):
        key_reset, key = jax.random.split(key)
        state, obs = vec_env.reset(key_reset, params)

        def step(loop, key):
            state, obs = loop
            key_action, key_env = jax.random.split(key)
            action = random_actions(key_action, vec_env.spec, obs, NUM_ENVS)
            state, after = vec_env.step(vec_env.draw(key_env, params), state, action, params)
            return (state, after.obs), (action, after)

        return obs, jax.lax.scan(step, (state, obs), jax.random.split(key, num_steps))[1]

    return jax.tree.map(np.asarray, run(jax.random.key(0)))


def random_actions(key: Array, spec: EnvSpec, obs: Any, num_envs: int) -> Any:
    """Actions [N, *A] at random, among those that are allowed.

    Args:
        key: consumed.
        spec: what the environment sees and does.
        obs: [N, *O], which may hold a mask.
        num_envs: N.
    """

    def parameters(space: Space) -> Any:
        if isinstance(space, Box):
            low, high = (
                jnp.broadcast_to(b, (num_envs, *space.shape)) for b in (space.low, space.high)
            )
            low, high = low.astype(jnp.float32), high.astype(jnp.float32)
            return (low + high) / 2, jnp.log(jnp.maximum((high - low) / 2, 1e-6))
        return jnp.zeros((num_envs, *logit_shape(space)))

    dist = distribution(spec.action, jax.tree.map(parameters, spec.action), mask_of(obs), False)
    return to_bounds(spec.action, dist.sample(key))


def _values(spec: EnvSpec, first: Any, after: EnvStep) -> Iterator[str]:
    """Observations outside of their spaces, rewards that are no numbers."""
    spaces = jax.tree_util.tree_leaves_with_path(spec.observation)
    for where, obs in (("reset_env", first), ("step_env", after.final_obs)):
        for (path, space), x in zip(spaces, jax.tree.leaves(obs), strict=True):
            fault = _outside(space, x)
            if fault:
                yield f"{where} returns an observation{jax.tree_util.keystr(path)} with {fault}"
    if not np.isfinite(after.reward).all():
        yield "rewards must be finite, not NaN or infinite"


def _outside(space: Space, x: np.ndarray) -> str | None:
    if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
        return "values that are NaN or infinite: mend what computes them"
    sizes = getattr(space, "nvec", getattr(space, "n", 2))
    low, high = (space.low, space.high) if isinstance(space, Box) else (0, np.asarray(sizes) - 1)
    slack = 1e-5 * np.maximum(1, np.abs(np.nan_to_num(np.asarray(high, np.float64), posinf=0)))
    numbers = x.astype(np.float64)
    if (numbers < low - slack).any() or (numbers > high + slack).any():
        return f"values {x.min()} .. {x.max()}: declare the space {space} wider"
    return None


def _agreement(env: Any, params: Any, action: Any) -> Iterator[str]:
    """One step and one reset computed in several ways, which must give the same."""
    keys = jax.random.split(jax.random.key(1), NUM_ENVS)

    def once(key, action):
        obs, state, *_ = env.reset_env(key, params)
        after = env.step_env(key, state, action, params)[:4]
        return obs, after, env.is_truncated(state, params)

    one = jax.jit(once)
    each = [one(key, jax.tree.map(lambda a, i=i: a[i], action)) for i, key in enumerate(keys)]
    together = jax.jit(jax.vmap(once))(keys, action)
    rows = [jax.tree.map(lambda x, i=i: x[i], together) for i in range(NUM_ENVS)]
    again = one(keys[0], jax.tree.map(lambda a: a[0], action))
    if not _close(each[0], again, 0):
        yield "called twice with equal arguments, results differ: let them depend on the key alone"
    if not all(map(_close, each, rows)):
        yield "under vmap, results differ from those of one environment: compute with jnp alone"
    if any(bool(np.any(truncated)) for *_, truncated in each):
        yield "is_truncated is True of a fresh state: count from 0"


def _close(a: Any, b: Any, tolerance: float = 1e-4) -> bool:
    def same(x, y):
        if is_key(x):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        return np.allclose(x, y, tolerance, tolerance, equal_nan=True)

    a, b = jax.tree.map(jnp.asarray, (a, b))
    return all(map(same, jax.tree.leaves(a), jax.tree.leaves(b)))


def _host_faults(env: HostEnvironment, num_steps: int) -> Iterator[str]:
    """What is wrong with an environment on the host."""
    try:
        spec = env.spec
    except ConfigError as error:
        yield str(error)
        return
    runs = []
    for _ in range(2):
        vec_env = make_host_vec_env(env, NUM_ENVS)
        try:
            with closing(cast(Any, vec_env)):
                runs.append(_roll(vec_env, (), num_steps))
        except (HostError, jax.errors.JaxRuntimeError) as error:
            yield f"{first_line(error)}: mend it, it was stepped at random"
            return
    first, (_, after) = runs[0]
    yield from _values(spec, first, after)
    if not _close(runs[0], runs[1], 0):
        yield "two runs with equal seeds differ: let everything depend on reset's seed"
