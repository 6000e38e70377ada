"""Environments on the host: N of them as one Python object, stepped by a callback of the program.

They run in Python, one step of all N at a time, in the order that the program asks for; everything
else stays compiled. Inside the callback there is nothing but NumPy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.experimental import io_callback

from purejaxppo.errors import ConfigError, HostError
from purejaxppo.spaces import (
    Box,
    EnvSpec,
    action_spaces,
    check_actions,
    observation_spaces,
    to_bounds,
)
from purejaxppo.types import EnvStep, VecEnv

ONE_AT_A_TIME = (
    "environments on the host cannot be vmapped, over seeds or hyperparameters: train one seed "
    "after the other (--seeds 1 --seed 0, then 1), or use an environment that is written in JAX"
)


class HostEnvironment:
    """An environment that runs in Python, in place of a pure one.

    `make_train(config, env=HostEnvironment(make))` trains on what `make(num_envs)` returns: a
    `gymnasium.vector.VectorEnv` whose `autoreset_mode` is DISABLED, and whose `reset` takes the
    option `reset_mask`, as those of gymnasium 1.3 do. It is made when a run begins and closed when
    it ends.

    Args:
        make: `(num_envs) -> VectorEnv`.
        name: for messages.
        clip_rewards: learn from rewards within -1 .. 1; returns are still those of the environment.
    """

    default_params: Any = ()

    def __init__(self, make: Callable[[int], Any], name: str = "env", clip_rewards: bool = False):
        self.make, self.name, self.clip_rewards = make, name, clip_rewards
        self._spec: EnvSpec | None = None

    @property
    def spec(self) -> EnvSpec:
        """What one environment sees and does; found by making one, the first time.

        Raises:
            ConfigError: it cannot be made, resets by itself, or has a space that is not supported.
        """
        if self._spec is None:
            try:
                envs = self.make(1)
            except Exception as error:
                words = " ".join(f"{type(error).__name__}: {error}".split())
                raise ConfigError(f"{self.name} cannot be made: {words}") from error
            try:
                mode = getattr(envs, "metadata", {}).get("autoreset_mode", "Disabled")
                mode = getattr(mode, "value", mode)
                if mode != "Disabled":
                    raise ConfigError(
                        f"{self.name} resets by itself (autoreset_mode {mode}), which hides the "
                        "last observations of episodes: make it with AutoresetMode.DISABLED"
                    )
                space = envs.single_observation_space
                observation = observation_spaces(space, space.sample())
                action = action_spaces(envs.single_action_space)
            finally:
                envs.close()
            check_actions(action)
            self._spec = EnvSpec(*jax.tree.map(_on_device, (observation, action)))
        return self._spec


class Host:
    """The environments of a run, and the episodes that they are in."""

    def __init__(self, env: HostEnvironment, num_envs: int):
        self.env, self.num_envs = env, num_envs
        self.envs: Any = None
        self.run = self.clock = 0
        self.error: Exception | None = None

    def reset(self, seed: Any) -> tuple[Any, Any]:
        """New environments: (where they are, obs)."""
        self._end()
        self.error = None
        return self._guarded(self._reset, seed)

    def step(self, where: Any, action: Any) -> tuple[Any, EnvStep]:
        """One step of all: (where they are, an `EnvStep` of NumPy arrays)."""
        if self.envs is None or where.tolist() != [self.run, self.clock]:
            raise RuntimeError(
                "environments on the host cannot go back: they were closed, reset, or stepped on "
                "since this state; go on from the last one, or begin with init"
            )
        return self._guarded(self._step, action)

    def close(self) -> None:
        """Closes the environments.

        Raises:
            HostError: a step has failed; its own message.
        """
        self._end()
        error, self.error = self.error, None
        if error is not None:
            raise HostError(f"{self.env.name}: {type(error).__name__}: {error}") from error

    def _end(self) -> None:
        envs, self.envs = self.envs, None
        if envs is not None:
            envs.close()

    def _guarded(self, function: Callable, *args: Any) -> Any:
        try:
            return function(*args)
        except Exception as error:
            self.error = error
            with contextlib.suppress(Exception):  # of what is broken already
                self._end()
            raise

    def _reset(self, seed: Any) -> tuple[Any, Any]:
        self.envs = self.env.make(self.num_envs)
        obs, _ = self.envs.reset(seed=int(seed))
        self.run, self.clock = self.run + 1, 0
        self.returns = np.zeros(self.num_envs, np.float64)
        self.lengths = np.zeros(self.num_envs, np.int32)
        return self._where(), self._out(obs)

    def _step(self, action: Any) -> tuple[Any, EnvStep]:
        space = self.envs.single_action_space
        obs, reward, terminated, truncated, _ = self.envs.step(_as_declared(space, action))
        final = self._out(obs)
        done = terminated | truncated
        if done.any():
            obs = self._out(self.envs.reset(options={"reset_mask": np.array(done)})[0])
        else:
            obs = final
        self.returns += reward
        self.lengths += 1
        counted: Any = self.returns.astype(np.float32), self.lengths.copy()
        self.returns[done], self.lengths[done] = 0, 0
        if self.env.clip_rewards:
            reward = np.clip(reward, -1, 1)
        flags = np.array(terminated), truncated & ~terminated
        paid: Any = np.array(reward, np.float32), *flags
        self.clock = (self.clock + 1) % 2**31
        return self._where(), EnvStep(obs, final, *paid, *counted)

    def _where(self) -> Any:
        return np.array([self.run, self.clock], np.int32)

    def _out(self, obs: Any) -> Any:
        """A copy: the environments may write the next observation where this one is."""
        return jax.tree.map(lambda s, x: np.array(x, s.dtype), self.env.spec.observation, obs)


def make_host_vec_env(env: HostEnvironment, num_envs: int) -> VecEnv:
    """N environments of the host as one, stepped inside the compiled program.

    Args:
        env: what to make.
        num_envs: N.

    Raises:
        ConfigError: a space is not supported; or later, the program is vmapped.
    """
    spec, host = env.spec, Host(env, num_envs)

    def of(dtype: Any, shape: tuple[int, ...] = ()) -> Any:
        return jax.ShapeDtypeStruct((num_envs, *shape), dtype)

    obs = jax.tree.map(lambda space: of(space.dtype, space.shape), spec.observation)
    where: Any = jax.ShapeDtypeStruct((2,), jnp.int32)
    numbers = map(of, (jnp.float32, bool, bool, jnp.float32, jnp.int32))
    after = EnvStep(obs, obs, *numbers)

    def reset(key, params):
        seed = alone(jax.random.bits(key) >> 1)  # seeds are counted up from it, as int32
        return io_callback(host.reset, (where, obs), seed, ordered=True)

    def step(draws, state, action, params):
        args = alone((state, to_bounds(spec.action, action)))
        return io_callback(host.step, (where, after), *args, ordered=True)

    return VecEnv(reset, lambda key, params: (), step, spec, host.close)


@custom_vmap
def alone(x: Any) -> Any:
    """`x`, in a program that is not vmapped."""
    return x


@alone.def_vmap
def _refuse(axis_size: int, in_batched: Any, x: Any) -> Any:
    raise ConfigError(ONE_AT_A_TIME)


def _on_device(space: Any) -> Any:
    """The space in the dtype that JAX has for it: float32 for float64."""
    if not isinstance(space, Box):
        return space
    dtype = np.dtype(jax.dtypes.canonicalize_dtype(space.dtype))
    low, high = space.low, space.high
    if np.issubdtype(dtype, np.integer):
        low, high = (np.clip(b, np.iinfo(dtype).min, np.iinfo(dtype).max) for b in (low, high))
    with np.errstate(over="ignore"):  # the largest float64 is as good as infinite
        return Box(low.astype(dtype), high.astype(dtype), space.shape, dtype)


def _as_declared(space: Any, action: Any) -> Any:
    """Actions as the environments want them, in NumPy, their own dtypes and their own bounds."""
    inner = getattr(space, "spaces", None)
    if inner is None:
        action = np.asarray(action, space.dtype)
        return np.clip(action, space.low, space.high) if hasattr(space, "low") else action
    if isinstance(action, dict):
        return {name: _as_declared(inner[name], part) for name, part in action.items()}
    return tuple(map(_as_declared, inner, action))
