# pyright: reportMissingImports=false
"""The Arcade Learning Environment: Atari games by ale-py's vector environment, on the host."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ale_py.roms import get_all_rom_ids
from ale_py.vector_env import AtariVectorEnv
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from purejaxppo.envs.host import HostEnvironment
from purejaxppo.envs.interface import arguments_of, making
from purejaxppo.envs.suites.adapter import with_limit
from purejaxppo.types import Action, EnvParams, Obs


class Atari(VectorWrapper):
    """Frames as channels, and a game that waits to be reset.

    ale-py resets within the step that ends an episode, and gives the last observation apart: here
    the step shows the last one, and `reset` the first of the next.

    Args:
        envs: ale-py's, whose autoreset_mode is SAME_STEP.
    """

    def __init__(self, envs: AtariVectorEnv):
        super().__init__(envs)
        self.metadata = {**envs.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        declared: Any = envs.single_observation_space.shape
        frames, height, width, *colours = declared
        shape = (height, width, frames * math.prod(colours))
        self._single_observation_space = Box(0, 255, shape, np.uint8)
        self._first = self._shown = np.empty(0)

    def reset(self, *, seed: Any = None, options: dict | None = None) -> tuple[Obs, dict]:
        """Begins new games; with options, shows those of the environments whose game has ended.

        Args:
            seed: of the first environment, as ale-py counts on from it.
            options: None, or anything: ale-py has reset those whose game has ended already.
        """
        if options is None:
            self._first = self.env.reset(seed=seed)[0]
        self._shown = self._first
        return self._out(self._first), {}

    def step(self, actions: Action) -> tuple[Any, ...]:
        """Steps each environment with its action."""
        # where a game ended, these are the first observations of the next
        self._first, reward, terminated, truncated, info = self.env.step(actions)
        obs, done = self._first, terminated | truncated
        if done.any():
            obs = obs.copy()
            obs[done] = info["final_obs"][done]
        self._shown = obs
        return self._out(obs), reward, terminated, truncated, {}

    def render(self) -> Any:
        """Returns the newest frame of each, as the agent sees it: [N, H, W, 3] uint8."""
        newest = self._shown[:, -1]
        return newest if newest.ndim == 4 else np.stack([newest] * 3, -1)

    def _out(self, obs: np.ndarray) -> np.ndarray:
        """Returns frames [N, F, H, W, ...] as channels, [N, H, W, C]."""
        shape: Any = self.single_observation_space.shape
        return np.moveaxis(obs, 1, -1).reshape(len(obs), *shape)


_OPTIONS = ["max_steps", *arguments_of(AtariVectorEnv)]


def names() -> list[str]:
    """Returns the games whose ROMs come with ale-py, as Gymnasium names them."""
    return [_name(rom) for rom in sorted(get_all_rom_ids() or ())]


def _name(rom: str) -> str:
    return rom.title().replace("_", "") + "-v5"


def make_env(
    name: str,
    *,
    max_steps: int | None = None,
    reward_clipping: bool = True,
    repeat_action_probability: float = 0.25,
    **options: Any,
) -> tuple[HostEnvironment, EnvParams]:
    """Makes one game, N at a time, with sticky actions as in Gymnasium's v5.

    It shows the last 4 grey frames of 84 x 84, one in four of those that the game draws.

    Args:
        name: such as `Pong-v5`.
        max_steps: a time limit in place of ale-py's 108,000 frames, at `frameskip` of them a step.
        reward_clipping: learn from rewards within -1 .. 1; returns are still the game's score.
        repeat_action_probability: of the last action in place of the next (arXiv:1709.06009).
        **options: as in `ale_py.vector_env.AtariVectorEnv`.
    """
    (rom,) = (rom for rom in get_all_rom_ids() or () if _name(rom) == name)
    options |= {
        "repeat_action_probability": repeat_action_probability,
        "reward_clipping": False,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    frames = options.get("frameskip", 4)
    options = with_limit(options, max_steps, "max_num_frames_per_episode", frames)

    def make(num_envs: int) -> VectorEnv:
        with making(f"ale/{name}", options, lambda: _OPTIONS):
            return Atari(AtariVectorEnv(rom, num_envs, **options))

    env = HostEnvironment(make, f"ale/{name}", clip_rewards=reward_clipping)
    return env, env.default_params
