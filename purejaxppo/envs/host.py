"""Environments on the host: N of them as one Python object, in NumPy.

They run in Python, one step of all N at a time; `envs.host_program` steps them in a program.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing.connection
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from purejaxppo.envs.declared import check_actions, forms_of, spaces_of
from purejaxppo.envs.info import at_ends
from purejaxppo.envs.interface import kind_of, making
from purejaxppo.errors import ConfigError, HostError, RunWarning
from purejaxppo.spaces import MASKS, Arrays, EnvSpec, Space, from_start, mask_of, only, starts
from purejaxppo.types import Action, EnvParams, EnvStep, Obs

MAKES = (
    "make(num_envs) returns a gymnasium.vector.VectorEnv of num_envs, such as "
    "SyncVectorEnv([make_one] * num_envs, autoreset_mode=AutoresetMode.DISABLED)"
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
        numbered: `make` is `(num_envs, first) -> VectorEnv`, for environments that differ: it is
            told the number of the first one among those of all devices.

    Raises:
        ConfigError: `make` cannot be called.
    """

    default_params: EnvParams = ()

    def __init__(
        self,
        make: Callable[..., Any],
        name: str = "env",
        clip_rewards: bool = False,
        numbered: bool = False,
    ):
        if not callable(make):
            raise ConfigError(
                f"HostEnvironment({type(make).__name__}) must be given a function: {MAKES}"
            )
        self.make, self.name, self.clip_rewards = make, name, clip_rewards
        self.numbered = numbered
        self._inspected: tuple[EnvSpec, Arrays] | None = None

    def make_share(self, num_envs: int, first: int = 0) -> Any:
        """Makes the environments of a device.

        Args:
            num_envs: of the device.
            first: number of the first among those of all devices.
        """
        return self.make(num_envs, first) if self.numbered else self.make(num_envs)

    @property
    def spec(self) -> EnvSpec:
        """Returns what one environment sees and does; the first time, one is made to find out.

        Raises:
            ConfigError: it cannot be made, is no vector environment, resets by itself, or has a
                space that is not supported.
        """
        return self._inspect()[0]

    @property
    def forms(self) -> Arrays:
        """Returns the form of each part of an action, in which the environments take it."""
        return self._inspect()[1]

    def _inspect(self) -> tuple[EnvSpec, Arrays]:
        """Makes one environment, the first time, and reads its spaces."""
        if self._inspected is None:
            with making(self.name, {}):
                envs = self.make_share(1)
            spaces = ("single_observation_space", "single_action_space")
            if not all(hasattr(envs, name) for name in spaces):
                raise ConfigError(f"{self.name} is made as a {type(envs).__name__}: {MAKES}")
            try:
                # an enumeration in gymnasium, a plain string in what imitates it
                mode = (getattr(envs, "metadata", None) or {}).get("autoreset_mode", "Disabled")
                mode = getattr(mode, "value", mode)
                if mode != "Disabled":
                    raise ConfigError(
                        f"{self.name} resets by itself (autoreset_mode {mode}), which hides the "
                        "last observations of episodes: make it with AutoresetMode.DISABLED"
                    )
                if getattr(envs, "num_envs", 1) != 1:
                    raise ConfigError(
                        f"{self.name} has {envs.num_envs} environments, not 1: {MAKES}"
                    )
                observation = spaces_of(envs.single_observation_space, "observation", shifted=True)
                action = spaces_of(envs.single_action_space, shifted=True)
                forms = forms_of(envs.single_action_space)
            finally:
                envs.close()
            check_actions(action)
            self._inspected = EnvSpec(observation, action), forms
        return self._inspected


def _tell_of_masks(env: HostEnvironment, info: Any) -> None:
    """Warns of an action mask in the info, if the observation has none: nothing reads it there."""
    found = [name for name in MASKS if isinstance(info, Mapping) and name in info]
    if found and mask_of(env.spec.observation) is None:
        warnings.warn(
            f"{env.name} has {found[0]} in its info, which is not read on the host: have it "
            f"observed, as {{'observation': obs, {found[0]!r}: mask}}",
            RunWarning,
            stacklevel=2,
        )


def _told_once(record: logging.LogRecord) -> bool:
    """Says whether JAX is to report what a callback raised; `Host.close` tells of HostErrors."""
    return not (record.exc_info and isinstance(record.exc_info[1], HostError))


logging.getLogger("jax._src.callback").addFilter(_told_once)


class Host:
    """The environments of a run, and the episodes that they are in.

    `where` below is [2] int32: the number of the reset, and of the steps since. The program carries
    it as the state of the environments, so that a state from the past can be recognised.

    Args:
        env: what to make.
        num_envs: N.
        info_metrics: names of numbers in the info, which steps return too.
        entries: names of the parts of an observation that are shown; none: all are.
        first: number of the first one among those of all devices.
    """

    def __init__(
        self,
        env: HostEnvironment,
        num_envs: int,
        info_metrics: Sequence[str] = (),
        entries: Sequence[str] = (),
        first: int = 0,
    ):
        self.env, self.num_envs, self._info_metrics = env, num_envs, info_metrics
        self.first = first
        # taken apart once, for a step of N cheap environments takes as long as a few walks of trees
        self._entries, seen = entries, only(env.spec.observation, entries)
        self._spaces, self._seen = jax.tree.flatten(seen)
        self._shapes = [(num_envs, *space.shape) for space in self._spaces]
        self._actions, self._acted = jax.tree.flatten(env.spec.action)
        self._forms = self._acted.flatten_up_to(env.forms)
        self.info: Any = {}  # of the last step
        self.envs: Any = None  # what `env.make` returns
        self.run = self.clock = 0
        self.error: HostError | None = None

    def reset(self, seed: int | np.ndarray) -> tuple[np.ndarray, Obs]:
        """Makes the environments anew and begins their episodes.

        Args:
            seed: () int32.

        Returns:
            Where they are, and observations [N, *O].
        """
        self.end()
        self.error = None
        self.run, self.clock = self.run + 1, 0
        with self._keeping_errors():
            envs = self.envs = self.env.make_share(self.num_envs, self.first)
            obs, info = envs.reset(seed=int(seed))
            if self.run == 1:
                _tell_of_masks(self.env, info)
            self.masked = False  # whether a reset of some, not all, has been looked at
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
            obs, *paid, self.info = envs.step(self._formed(action))
            # the last observations are copied before a reset, which may write over them
            final = self._copied(obs)
            if self.clock == 0:  # later steps return such numbers too, if as many
                for x in paid:
                    self._check_numbers(x)
            kinds = float, bool, bool
            reward, terminated, truncated = numbers = [
                np.array(x, kind) for x, kind in zip(paid, kinds, strict=True)
            ]
            for x, given in zip(numbers, paid, strict=True):
                if x.shape != (self.num_envs,):
                    self._check_numbers(given)
            done = terminated | truncated
            told = at_ends(self.info, self._info_metrics, done)
            obs = final
            if done.any():
                obs = self._copied(envs.reset(options={"reset_mask": done.copy()})[0])
                self._check_mask(done, final, obs)
            # returns are those of the environment, whatever is learned from
            self.returns += reward
            self.lengths += 1
            counted = self.returns.astype(np.float32), self.lengths.copy()
            self.returns[done], self.lengths[done] = 0, 0
            if self.env.clip_rewards:
                reward = np.clip(reward, -1, 1)
            # an episode that ends in both ways has ended by the task
            flags = terminated, truncated & ~terminated
            self.clock = (self.clock + 1) % 2**31
            after: Any = (obs, final, reward.astype(np.float32), *flags, *counted, told)
            return self._where(), EnvStep(*after)

    def close(self) -> None:
        """Closes the environments.

        Raises:
            HostError: a step has failed; its own message.
        """
        self.end()
        error, self.error = self.error, None
        if error is not None:
            raise HostError(str(error)) from error.__cause__

    def end(self, **how: Any) -> None:
        """Closes the environments, whatever has become of them.

        Args:
            **how: arguments of their own `close`.
        """
        envs, self.envs = self.envs, None
        if envs is not None:
            envs.close(**how)

    def _check_mask(self, done: np.ndarray, before: Obs, after: Obs) -> None:
        """Checks, once in a run, that a reset of some environments left the others alone.

        Args:
            done: [N] bool, which were to be reset.
            before: observations [N, *O] of the step.
            after: the same, of the reset.

        Raises:
            HostError: it did not.
        """
        if self.masked or done.all():
            return
        self.masked = True
        for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            if not np.array_equal(x[~done], y[~done], equal_nan=x.dtype.kind == "f"):
                raise HostError(
                    "a reset of some environments changed others: reset(options={'reset_mask': "
                    "mask}) must begin episodes where the mask is True and nowhere else, as "
                    "vector environments with AutoresetMode.DISABLED do"
                )

    @contextlib.contextmanager
    def _keeping_errors(self) -> Iterator[None]:
        """Keeps what is raised for `close`: the program reports it as an error of JAX's own."""
        try:
            yield
        except Exception as error:
            workers = getattr(self.envs, "processes", ())
            self.error = HostError(f"{self.env.name}: {_words(error, workers)}")
            with contextlib.suppress(Exception):  # of what is broken already
                # workers that live would be asked to close, and one that died to answer
                self.end(**({"terminate": True} if workers else {}))
            raise self.error from error

    def _where(self) -> np.ndarray:
        return np.array([self.run, self.clock], np.int32)

    def _check_numbers(self, x: Any) -> None:
        """Raises ValueError unless rewards or flags are a number for each environment."""
        numbers = np.array(x)
        if numbers.shape != (self.num_envs,) or numbers.dtype.kind not in "biuf":
            raise ValueError(
                f"step returns {kind_of(x)} {list(numbers.shape)} among rewards, terminated and "
                f"truncated: it must be {self.num_envs} numbers"
            )

    def _check_observation(self, path: tuple, space: Space, x: np.ndarray) -> None:
        """Raises ValueError unless a part of the observations has the shape that is declared."""
        shape = (self.num_envs, *space.shape)
        if x.shape != shape:
            raise ValueError(
                f"observation{jax.tree_util.keystr(path)} of {self.num_envs} environments has "
                f"shape {list(x.shape)}, its space says {list(shape)}"
            )

    def _formed(self, action: Action) -> Arrays:
        """Returns actions as the environments count and take them, in arrays of their own."""
        parts = zip(self._actions, self._forms, self._acted.flatten_up_to(action), strict=True)
        formed = [form(from_start(space, x) if starts(space) else x) for space, form, x in parts]
        return jax.tree.unflatten(self._acted, formed)

    def _copied(self, obs: Obs) -> Obs:
        """Copies observations: the environments may write the next ones where these are."""
        parts = self._seen.flatten_up_to(only(obs, self._entries))
        copies = [
            # integers are counted from 0 inside
            np.array(np.subtract(x, space.start) if starts(space) else x, space.dtype)
            for space, x in zip(self._spaces, parts, strict=True)
        ]
        copied = jax.tree.unflatten(self._seen, copies)
        if [x.shape for x in copies] != self._shapes:
            spaces = jax.tree.unflatten(self._seen, self._spaces)
            jax.tree.map_with_path(self._check_observation, spaces, copied)
        return copied


def _words(error: Exception, workers: Sequence[Any] = ()) -> str:
    """Says in one line what went wrong.

    Args:
        error: what was raised.
        workers: processes that the environments run in.
    """
    if isinstance(error, HostError | ConfigError):
        return str(error)
    words = " ".join(f"{type(error).__name__}: {error}".split())
    # a pipe ends where the process at its other end does
    if not isinstance(error, EOFError | ConnectionError):
        return words
    multiprocessing.connection.wait([worker.sentinel for worker in workers], timeout=5)
    codes = [worker.exitcode for worker in workers if worker.exitcode]
    how = f"exit code {codes[0]}" if codes else words
    if codes and codes[0] < 0:
        how = f"signal {signal.Signals(-codes[0]).name}"
    return f"a worker process died ({how}): try processes=False, which says more"
