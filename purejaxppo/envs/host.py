"""Environments on the host: N of them as one Python object, stepped by a callback of the program.

They run in Python, one step of all N at a time, in the order that the program asks for; everything
else stays compiled. Inside the callback there is nothing but NumPy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.experimental import io_callback

from purejaxppo.envs.declared import action_spaces, check_actions, observation_spaces
from purejaxppo.errors import ConfigError, HostError
from purejaxppo.spaces import DeclaredSpace, EnvSpec, to_bounds
from purejaxppo.types import (
    Action,
    Array,
    EnvParams,
    EnvState,
    EnvStep,
    Obs,
    PyTree,
    VecEnv,
)

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

    default_params: EnvParams = ()

    def __init__(self, make: Callable[[int], Any], name: str = "env", clip_rewards: bool = False):
        self.make, self.name, self.clip_rewards = make, name, clip_rewards
        self._spec: EnvSpec | None = None

    @property
    def spec(self) -> EnvSpec:
        """Returns what one environment sees and does; the first time, one is made to find out.

        Raises:
            ConfigError: it cannot be made, resets by itself, or has a space that is not supported.
        """
        if self._spec is None:
            # whatever a simulator raises, of files, drivers or options, is about the configuration
            try:
                envs = self.make(1)
            except Exception as error:
                words = " ".join(f"{type(error).__name__}: {error}".split())
                raise ConfigError(f"{self.name} cannot be made: {words}") from error
            try:
                # an enumeration in gymnasium, a plain string in what imitates it
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
            self._spec = EnvSpec(observation, action)
        return self._spec


class Host:
    """The environments of a run, and the episodes that they are in.

    `where` below is [2] int32: the number of the reset, and of the steps since. The program carries
    it as the state of the environments, so that a state from the past can be recognised.

    Args:
        env: what to make.
        num_envs: N.
    """

    def __init__(self, env: HostEnvironment, num_envs: int):
        self.env, self.num_envs = env, num_envs
        self.envs: Any = None  # what `env.make` returns
        self.run = self.clock = 0
        self.error: Exception | None = None

    def reset(self, seed: int | np.ndarray) -> tuple[np.ndarray, Obs]:
        """Makes the environments anew and begins their episodes.

        Args:
            seed: () int32.

        Returns:
            Where they are, and observations [N, *O].
        """
        self._end()
        self.error = None
        with self._keeping_errors():
            envs = self.envs = self.env.make(self.num_envs)
            obs, _ = envs.reset(seed=int(seed))
            self.run, self.clock = self.run + 1, 0
            self.returns = np.zeros(self.num_envs, np.float64)
            self.lengths = np.zeros(self.num_envs, np.int32)
            return self._where(), self._copied(obs)

    def step(self, where: np.ndarray, action: Action) -> tuple[np.ndarray, EnvStep]:
        """Steps all environments, and resets those whose episode ends.

        Args:
            where: they are, as the last call returned it.
            action: [N, *A].

        Returns:
            Where they are, and an `EnvStep` of NumPy arrays.

        Raises:
            RuntimeError: they are not there any more.
        """
        envs = self.envs
        if envs is None or where.tolist() != [self.run, self.clock]:
            raise RuntimeError(
                "environments on the host cannot go back: they were closed, reset, or stepped on "
                "since this state; go on from the last one, or begin with init"
            )
        with self._keeping_errors():
            action = _as_declared(envs.single_action_space, action)
            obs, reward, terminated, truncated, _ = envs.step(action)
            # the last observations are copied before a reset, which may write over them
            final = self._copied(obs)
            done = terminated | truncated
            if done.any():
                obs = self._copied(envs.reset(options={"reset_mask": np.array(done)})[0])
            else:
                obs = final
            # returns are those of the environment, whatever is learned from
            self.returns += reward
            self.lengths += 1
            counted = self.returns.astype(np.float32), self.lengths.copy()
            self.returns[done], self.lengths[done] = 0, 0
            if self.env.clip_rewards:
                reward = np.clip(reward, -1, 1)
            # an episode that ends in both ways has ended by the task
            flags = np.array(terminated), truncated & ~terminated
            numbers: Any = (np.array(reward, np.float32), *flags, *counted)
            self.clock = (self.clock + 1) % 2**31
            return self._where(), EnvStep(obs, final, *numbers)

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

    @contextlib.contextmanager
    def _keeping_errors(self) -> Iterator[None]:
        """Keeps what is raised for `close`: the program reports it as an error of JAX's own."""
        try:
            yield
        except Exception as error:
            self.error = error
            with contextlib.suppress(Exception):  # of what is broken already
                self._end()
            raise

    def _where(self) -> np.ndarray:
        return np.array([self.run, self.clock], np.int32)

    def _copied(self, obs: Obs) -> Obs:
        """Copies observations: the environments may write the next ones where these are."""
        return jax.tree.map(lambda s, x: np.array(x, s.dtype), self.env.spec.observation, obs)


def make_host_vec_env(env: HostEnvironment, num_envs: int) -> VecEnv:
    """Makes N environments of the host, stepped inside the compiled program.

    Args:
        env: what to make.
        num_envs: N.

    Returns:
        N environments as one, to be closed when a run ends.

    Raises:
        ConfigError: a space is not supported; or later, the program is vmapped.
    """
    spec, host = env.spec, Host(env, num_envs)

    def of(dtype: np.typing.DTypeLike, shape: tuple[int, ...] = ()) -> Any:
        return jax.ShapeDtypeStruct((num_envs, *shape), dtype)

    # a callback needs the shapes and dtypes of what it returns
    obs = jax.tree.map(lambda space: of(space.dtype, space.shape), spec.observation)
    where: Any = jax.ShapeDtypeStruct((2,), jnp.int32)
    numbers = map(of, (jnp.float32, bool, bool, jnp.float32, jnp.int32))
    after = EnvStep(obs, obs, *numbers)

    # ordered: without it XLA may drop a call, or swap two
    def reset(key: Array, params: EnvParams) -> tuple[EnvState, Obs]:
        seed = alone(jax.random.bits(key) >> 1)  # seeds are counted up from it, as int32
        return io_callback(host.reset, (where, obs), seed, ordered=True)

    def step(
        draws: PyTree, state: EnvState, action: Action, params: EnvParams
    ) -> tuple[EnvState, EnvStep]:
        args = alone((state, to_bounds(spec.action, action)))
        return io_callback(host.step, (where, after), *args, ordered=True)

    return VecEnv(reset, lambda key, params: (), step, spec, host.close)


@custom_vmap
def alone(x: PyTree) -> PyTree:
    """Returns `x`, in a program that is not vmapped.

    Args:
        x: any pytree of arrays.

    Raises:
        ConfigError: the program is vmapped, which N environments of one run cannot follow.
    """
    return x


@alone.def_vmap
def _refuse(axis_size: int, in_batched: PyTree, x: PyTree) -> PyTree:
    raise ConfigError(ONE_AT_A_TIME)


def _as_declared(space: DeclaredSpace, action: Action) -> Action:
    """Returns actions in NumPy, in the dtypes and bounds that the environments declare."""
    inner = getattr(space, "spaces", None)
    if inner is None:
        action = np.asarray(action, space.dtype)
        # a float32 bound may lie outside of the float64 one that it was rounded from
        return np.clip(action, space.low, space.high) if hasattr(space, "low") else action
    if isinstance(action, dict):
        return {name: _as_declared(inner[name], part) for name, part in action.items()}
    return tuple(map(_as_declared, inner, action))
