# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""EnvPool: many suites stepped by a pool of C++ threads, on the host, by its NumPy interface."""

from __future__ import annotations

import warnings
from typing import Any

import envpool
import jax
import numpy as np
from gymnasium.spaces import Box

from purejaxppo.envs.host import HostEnvironment
from purejaxppo.envs.interface import making
from purejaxppo.envs.suites.adapter import with_limit
from purejaxppo.types import Action, EnvParams, Obs

DRAWN = {"render_mode": "rgb_array"}  # options of environments that are to be filmed


class Pool:
    """A pool as a vector environment that waits to be reset; made when its seed is known.

    Args:
        name: as in `envpool.make`.
        num_envs: N.
        options: as in `envpool.make`.
    """

    def __init__(self, name: str, num_envs: int, options: dict[str, Any]):
        self._name, self._options = name, dict(num_envs=num_envs, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about bounds that lose digits
            # the specification has the spaces, without a pool, whose seed is fixed when it is made
            spec = envpool.make_spec(name, seed=0, **self._options)
            space, self.single_action_space = (
                spec.gymnasium_observation_space,
                spec.gymnasium_action_space,
            )
        # EnvPool shows images [channels, height, width], networks here read channels last
        self._frames_first = (
            isinstance(space, Box) and len(space.shape) == 3 and space.dtype == np.uint8
            and space.shape[0] < min(space.shape[1:])
        )  # fmt: skip
        if self._frames_first:
            space = Box(0, 255, (*space.shape[1:], space.shape[0]), np.uint8)
        self.single_observation_space = space
        self._pool: Any = None

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Obs, dict]:
        """Begins episodes; with options, those of the environments in `reset_mask` only."""
        if options is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._pool = envpool.make_gymnasium(self._name, seed=seed, **self._options)
            self._obs = self._out(self._pool.reset()[0])
        else:
            ended = np.flatnonzero(options["reset_mask"]).astype(np.int32)
            fresh = self._out(self._pool.reset(ended)[0])
            self._obs = jax.tree.map(lambda x, new: _placed(x, ended, new), self._obs, fresh)
        return self._obs, {}

    def step(self, actions: Action) -> tuple[Any, ...]:
        """Steps each environment with its action."""
        obs, *rest = self._pool.step(actions)
        self._obs = self._out(obs)
        return self._obs, *rest

    def render(self) -> np.ndarray:
        """Returns pictures of the environments as they are, [N, H, W, 3] uint8."""
        return self._pool.render()

    def close(self) -> None:
        """Ends the pool's threads."""
        if self._pool is not None:
            self._pool.close()
        self._pool = None

    def _out(self, obs: Obs) -> Obs:
        """Returns observations, images with their channels last."""
        return np.moveaxis(obs, 1, -1) if self._frames_first else obs


def _placed(x: np.ndarray, where: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Returns a copy of `x` with the rows `where` replaced: the last step's must stay."""
    x = x.copy()
    x[where] = new
    return x


def names() -> list[str]:
    """Returns the environments that EnvPool registers."""
    return envpool.list_all_envs()


def _options_of(name: str) -> list[str]:
    """Returns what a pool is made with, by `make_env` and by EnvPool."""
    return ["max_steps", "reward_clip", *envpool.make_spec(name, seed=0).config._fields]


def make_env(
    name: str, *, max_steps: int | None = None, reward_clip: bool = False, **options: Any
) -> tuple[HostEnvironment, EnvParams]:
    """Makes one environment, N at a time.

    Args:
        name: such as `HalfCheetah-v4` or `Pong-v5`.
        max_steps: a time limit in place of the environment's own.
        reward_clip: learn from rewards within -1 .. 1; returns are still those of the environment.
        **options: as in `envpool.make`, such as `num_threads=2`.
    """
    options = with_limit(options, max_steps, "max_episode_steps")

    def make(num_envs: int) -> Pool:
        with making(f"envpool/{name}", options, lambda: _options_of(name)):
            return Pool(name, num_envs, options)

    env = HostEnvironment(make, f"envpool/{name}", clip_rewards=reward_clip)
    return env, env.default_params
