"""Is an environment what training takes it for? `check_env`, for one's own and for all others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.envs.base import make_vec_env
from purejaxppo.envs.host import HostEnvironment, make_host_vec_env
from purejaxppo.envs.spaces import Box, EnvSpec, MultiBinary, Space, mask_of, to_bounds
from purejaxppo.policies.heads import distribution, logit_count
from purejaxppo.ppo.records import Array, EnvStep, VecEnv
from purejaxppo.validation import ConfigError

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
        env_params = env.default_params if env_params is None else env_params
        faults = list(_interface_faults(env)) or list(_faults(env, env_params, num_steps))
    if faults:
        raise ConfigError("\n".join(faults))
    is_host = isinstance(env, HostEnvironment)
    return env.spec if is_host else make_vec_env(env, env_params, 1).spec


_METHODS = ("reset_env", "step_env", "is_truncated", "observation_space", "action_space")


def _interface_faults(env: Any) -> Iterator[str]:
    for name in _METHODS:
        if not callable(getattr(env, name, None)):
            yield f"{name} is missing: define it as gymnax's 1.x environments do"
    if not hasattr(env, "default_params"):
        yield "default_params is missing: a pytree of constants, or () for none"


def _faults(env: Any, params: Any, num_steps: int) -> Iterator[str]:
    """What is wrong with a pure environment, the gravest first."""
    kept = _kept(env)
    try:
        reset, step = _state_shapes(env, params)
        if reset != step:
            yield f"the state is {reset} after reset_env, {step} after step_env: give both one form"
            return
        vec_env = make_vec_env(env, params, NUM_ENVS)
    except ConfigError as error:
        yield str(error)
        return
    if _kept(env) != kept:
        yield f"{_kept(env) ^ kept} changed while stepping: keep it in the state, or in params"
    if _trace(env, params, vec_env.spec) != _trace(env, params, vec_env.spec):
        yield "traced twice, the program differs: draw from the key, not from numpy or random"
    first, (action, after) = _roll(vec_env, params, num_steps)
    yield from _values(vec_env.spec, first, after)
    yield from _agreement(env, params, jax.tree.map(lambda x: x[0], action))


def _state_shapes(env: Any, params: Any) -> tuple[str, str]:
    """Forms of the state after a reset and after a step; dtypes are left to `make_vec_env`."""
    spec = make_vec_env(env, params, 1).spec

    def states(key):
        _, first, *_ = env.reset_env(key, params)
        action = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), spec.action)
        return first, env.step_env(key, first, action, params)[1]

    def form(state):
        leaves, tree = jax.tree.flatten(state)
        return f"{tree} with shapes {[list(x.shape) for x in leaves]}"

    first, second = jax.eval_shape(states, jax.random.key(0))
    return form(first), form(second)


def _kept(env: Any) -> frozenset[str]:
    """What the object itself holds: names, and identities of their values."""
    return frozenset(f"{name} ({id(value)})" for name, value in vars(env).items())


def _trace(env: Any, params: Any, spec: EnvSpec) -> str:
    def once(key):
        _, state, *_ = env.reset_env(key, params)
        action = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), spec.action)
        return env.step_env(key, state, action, params)

    return str(jax.make_jaxpr(once)(jax.random.key(0)))


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
        shape = space.shape if isinstance(space, MultiBinary) else (logit_count(space),)
        return jnp.zeros((num_envs, *shape))

    dist = distribution(spec.action, jax.tree.map(parameters, spec.action), mask_of(obs), False)
    return to_bounds(spec.action, dist.sample(key))


def _values(spec: EnvSpec, first: Any, after: EnvStep) -> Iterator[str]:
    """Observations outside of their spaces, rewards that are no numbers."""
    for where, obs in (
        ("reset_env", first),
        ("step_env", after.obs),
        ("step_env", after.final_obs),
    ):
        parts = zip(
            jax.tree_util.tree_leaves_with_path(spec.observation), jax.tree.leaves(obs), strict=True
        )
        for (path, space), x in parts:
            fault = _outside(space, x)
            if fault:
                name = f"observation{jax.tree_util.keystr(path)}"
                yield f"{where} returns an {name} with {fault}: declare the space {space} wider"
    if not np.isfinite(after.reward).all():
        yield "rewards must be finite, not NaN or infinite"


def _outside(space: Space, x: np.ndarray) -> str | None:
    if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
        return "values that are NaN or infinite"
    sizes = getattr(space, "nvec", getattr(space, "n", 2))
    low, high = (space.low, space.high) if isinstance(space, Box) else (0, np.asarray(sizes) - 1)
    slack = 1e-5 * np.maximum(1, np.abs(np.nan_to_num(np.asarray(high, np.float64), posinf=0)))
    numbers = x.astype(np.float64)
    if (numbers < low - slack).any() or (numbers > high + slack).any():
        return f"values {x.min()} .. {x.max()}"
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
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
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
    mode = _autoreset_mode(env)
    if mode != "Disabled":
        yield f"its autoreset_mode is {mode}: make it with AutoresetMode.DISABLED"
        return
    runs = []
    for _ in range(2):
        vec_env = make_host_vec_env(env, NUM_ENVS)
        try:
            runs.append(_roll(vec_env, (), num_steps))
        finally:
            cast(Any, vec_env).close()
    first, (_, after) = runs[0]
    yield from _values(spec, first, after)
    if not _close(runs[0], runs[1], 0):
        yield "two runs with equal seeds differ: let everything depend on reset's seed"


def _autoreset_mode(env: HostEnvironment) -> str:
    envs = env.make(1)
    mode = getattr(envs, "metadata", {}).get("autoreset_mode", "Disabled")
    envs.close()
    return getattr(mode, "value", mode)
