"""Environments on the host in a compiled program: N of them as one, stepped by callbacks.

Each call takes where the environments are and returns where they are then: what must come before
what follows from the data, also in programs over several devices, in which JAX orders no callbacks.
Everything else stays compiled.

On a mesh each device has its share of them, which other devices wait for. A share that fails may
therefore not end its program alone: it goes on with zeros until all devices know of it, and end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.experimental import io_callback
from jax.experimental.buffer_callback import buffer_callback
from jax.sharding import Mesh

from purejaxppo.envs.host import Host, HostEnvironment
from purejaxppo.errors import ConfigError, HostError
from purejaxppo.parallel import ENVS
from purejaxppo.spaces import only, to_bounds
from purejaxppo.tuning import platform_in_use
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
FAILED_ELSEWHERE = "environments of another process have failed, which says how"


class Shares:
    """The environments that the devices of this process have, each device its share.

    Args:
        make: `(number of its first environment) -> Host`, of each share.
        num_envs: of each share.
        here: devices of this process; None: one in all, which nobody waits for.
    """

    def __init__(self, make: Callable[[int], Host], num_envs: int, here: int | None):
        self._make, self._num_envs = make, num_envs
        self._alone, self._all = here is None, threading.Barrier(here or 1)
        self._making = threading.Lock()
        self._hosts: dict[int, Host] = {}
        self._errors: dict[int, Exception] = {}  # by share; -1: of another process

    def reset(
        self, blank: PyTree, share: np.ndarray, seed: np.ndarray, ready: np.ndarray
    ) -> tuple[Any, Obs]:
        """Makes the environments of a share anew and begins their episodes.

        Args:
            blank: what is returned if they fail.
            share: () int32, which.
            seed: () int32, of the first environment of share 0; they are counted up from it.
            ready: what all devices have summed, which is not looked at.

        Returns:
            Where they are, and observations.
        """
        self._errors.pop(int(share), None)
        self._errors.pop(-1, None)
        # one at a time: processes that are begun by two threads at once may never come to life
        with self._making:
            return self._try(blank, share, "reset", int(seed) + int(share) * self._num_envs)

    def step(
        self, blank: PyTree, share: np.ndarray, where: np.ndarray, action: Action
    ) -> tuple[Any, EnvStep]:
        """Steps the environments of a share.

        Args:
            blank: what is returned if they fail.
            share: () int32, which.
            where: they are.
            action: of each.

        Returns:
            Where they are then, and what they return.
        """
        return self._try(blank, share, "step", where, action)

    def meet(self, where: np.ndarray) -> np.ndarray:
        """Waits for the other shares of this process, without an end: a rollout may take long.

        Args:
            where: the environments are, which is not looked at.

        Returns:
            () bool, whether one of them has failed.
        """
        self._all.wait()
        return np.array(bool(self._errors))

    def tell(self, where: np.ndarray) -> np.ndarray:
        """Raises what one of the shares has failed with, on every device.

        Args:
            where: the environments are.

        Raises:
            HostError: they have failed.
            RuntimeError: they were asked to go back.
        """
        if not self._errors:
            self._errors[-1] = HostError(FAILED_ELSEWHERE)
        raise next(iter(self._errors.values()))

    def close(self) -> None:
        """Closes all environments of this process.

        Raises:
            HostError: one has failed; its own message.
        """
        failed = [error for error in self._errors.values() if isinstance(error, HostError)]
        self._errors.clear()
        for host in self._hosts.values():
            host.end()
        if failed:
            raise HostError(str(failed[0])) from failed[0].__cause__

    def _try(self, blank: PyTree, share: np.ndarray, method: str, *args: Any) -> Any:
        """Calls a method of a share; what it raises is kept, and raised at once if it is alone."""
        if int(share) not in self._hosts:
            self._hosts[int(share)] = self._make(int(share) * self._num_envs)
        try:
            return getattr(self._hosts[int(share)], method)(*args)
        except Exception as error:
            self._errors.setdefault(int(share), error)
            if self._alone:
                raise
            return blank


def make_host_vec_env(
    env: HostEnvironment,
    num_envs: int,
    info_metrics: Sequence[str] = (),
    mesh: Mesh | None = None,
    entries: Sequence[str] = (),
) -> VecEnv:
    """Makes N environments of the host, stepped inside the compiled program.

    Args:
        env: what to make.
        num_envs: N, of each device.
        info_metrics: names of numbers in the info, which steps return too.
        mesh: devices that the program runs on, each with N of its own; None: one.
        entries: names of the parts of an observation that are shown; none: all are.

    Returns:
        N environments as one, to be closed when a run ends.

    Raises:
        ConfigError: a space is not supported; or later, the program is vmapped.
    """
    spec = env.spec._replace(observation=only(env.spec.observation, entries))

    def make(first: int) -> Host:
        return Host(env, num_envs, info_metrics, entries, first)

    shares = Shares(make, num_envs, _here(mesh))

    # a callback needs the shapes and dtypes of what it returns
    def of(dtype: np.typing.DTypeLike, shape: tuple[int, ...] = ()) -> Any:
        return np.zeros((num_envs, *shape), dtype)

    obs = jax.tree.map(lambda space: of(space.dtype, space.shape), spec.observation)
    numbers = map(of, (np.float32, bool, bool, np.float32, np.int32))
    after = EnvStep(obs, obs, *numbers, info={name: of(np.float32) for name in info_metrics})
    # environments are never there, and episodes that have failed are over
    where: Any = np.zeros(2, np.int32)
    begun, stepped = (where, obs), (where, after.replace(terminated=~after.terminated))

    def call(method: Callable[..., Any], returned: Any, *args: Any) -> Any:
        return call_host(method, jax.tree.map(_shape, returned), *alone(args))

    def share() -> Array:
        return jnp.int32(0) if mesh is None else jax.lax.axis_index(ENVS)

    def reset(key: Array, params: EnvParams) -> tuple[EnvState, Obs]:
        # seeds are counted up from it, as int32
        seed = jax.random.bits(key, dtype=jnp.uint32) >> 1
        # processes first meet within 30 seconds or not at all, and making may take longer
        ready = seed if mesh is None else jax.lax.psum(seed, ENVS)
        state, obs = call(partial(shares.reset, begun), begun, share(), seed, ready)
        return agree(state), obs

    def step(
        draws: PyTree, state: EnvState, action: Action, params: EnvParams
    ) -> tuple[EnvState, EnvStep]:
        action = to_bounds(spec.action, action)
        return call(partial(shares.step, stepped), stepped, share(), state, action)

    def agree(state: EnvState) -> EnvState:
        if mesh is None:
            return state
        failed = jax.lax.psum(call(shares.meet, np.bool_(), state).astype(jnp.int32), ENVS)
        return jax.lax.cond(failed > 0, lambda: call(shares.tell, where, state), lambda: state)

    return VecEnv(reset, lambda key, params, env_state=None: (), step, spec, shares.close, agree)


def call_host(function: Callable[..., Any], shapes: PyTree, *args: Any) -> Any:
    """Calls a function of the host when the program comes by, every time and in turn.

    Args:
        function: takes and returns pytrees of NumPy arrays.
        shapes: of what it returns, `jax.ShapeDtypeStruct`s.
        *args: any pytrees of arrays.

    Returns:
        What it returns.
    """
    if platform_in_use() != "cpu":
        return io_callback(function, shapes, *args)

    # on a CPU the program's memory is the host's, and copying a few numbers takes far less time
    # than the arrays of JAX that `io_callback` makes of them
    leaves, tree = jax.tree.flatten(shapes)

    def fill(context: Any, results: list[Any], *args: PyTree) -> None:
        returned = function(*jax.tree.map(lambda x: np.asarray(x).copy(), args))
        for result, x in zip(results, jax.tree.leaves(returned), strict=True):
            np.asarray(result)[...] = x

    filled = buffer_callback(fill, leaves, has_side_effect=True)(*args)
    return jax.tree.unflatten(tree, filled)


def _here(mesh: Mesh | None) -> int | None:
    """Returns how many devices of a mesh are of this process; None without a mesh."""
    return None if mesh is None else len(mesh.local_devices)


def _shape(x: np.ndarray) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


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
