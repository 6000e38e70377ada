"""Wrappers that change what is observed."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from purejaxppo.envs.declared import observation_spaces, spaces_of
from purejaxppo.envs.wrappers.base import (
    ObservationWrapper,
    Remembered,
    RememberingWrapper,
    ResetReturn,
    StepReturn,
    Wrapper,
    box_of,
    check_count,
)
from purejaxppo.errors import ConfigError
from purejaxppo.spaces import (
    Box,
    Discrete,
    MultiDiscrete,
    Space,
    SpaceTree,
    fields,
    mask_of,
    one_hot,
    without_mask,
    zeros,
)
from purejaxppo.types import Action, Environment, EnvParams, EnvState, Obs, PyTree

UNBOUNDED = 1e30
"""Bounds from here on count as infinite: some environments declare the largest float32."""


class HideIndices(ObservationWrapper):
    """Leaves some entries out of a vector observation.

    `HideIndices(env, [1, 3])` hides the velocities of CartPole-v1, so that they must be remembered
    from one position to the next.

    Args:
        env: one environment that shows a vector.
        indices: of the entries to leave out, from 0.

    Raises:
        ConfigError: the observation is not a vector, or has no such entries.
    """

    def __init__(self, env: Environment, indices: Sequence[int]):
        super().__init__(env)
        shape = box_of(env, env.default_params, "HideIndices").shape
        if len(shape) != 1 or shape[0] < 2:
            raise ConfigError(
                f"HideIndices needs a vector of two numbers or more, not {list(shape)}: wrap in "
                "FlattenObservation first"
            )
        self.indices, everything = tuple(indices), set(range(shape[0]))
        if not self.indices or not set(self.indices) < everything:
            raise ConfigError(
                f"indices {self.indices} must be some, not all, of 0 .. {shape[0] - 1}: use (0,)"
            )
        self._kept = np.array(sorted(everything - set(self.indices)))

    def observe(self, obs: Obs, params: EnvParams) -> Obs:
        """Returns the entries of a vector that are left."""
        return obs[self._kept]

    def observation_space(self, params: EnvParams) -> Box:
        """Describes the entries that are left."""
        space = box_of(self.env, params, "HideIndices")
        low, high = (np.broadcast_to(b, space.shape)[self._kept] for b in (space.low, space.high))
        return Box(low, high, low.shape, np.dtype(space.dtype))


class FlattenObservation(ObservationWrapper):
    """Makes one float32 vector of all parts of an observation, with names one-hot.

    An action mask stays beside it: {"observation": ..., "action_mask": ...}.

    Args:
        env: one environment.
    """

    def __init__(self, env: Environment):
        super().__init__(env)
        self._kinds = without_mask(observed_spaces(env, env.default_params))

    def observe(self, obs: Obs, params: EnvParams) -> Obs:
        """Returns the parts side by side, in the order of the pytree's leaves."""
        flat = jax.tree.map(_flat, self._kinds, without_mask(obs))
        # masks are read by name: within the vector no policy would find one
        vector, mask = jnp.concatenate(jax.tree.leaves(flat)), mask_of(obs)
        return vector if mask is None else {"observation": vector, "action_mask": mask}

    def observation_space(self, params: EnvParams) -> SpaceTree:
        """Describes the vector by one Box, and the mask beside it."""
        parts = observed_spaces(self.env, params)
        bounds = list(map(_flat_bounds, jax.tree.leaves(without_mask(parts))))
        low, high = (np.concatenate(side).astype(np.float32) for side in zip(*bounds, strict=True))
        box, mask = Box(low, high, low.shape, np.dtype(np.float32)), mask_of(parts)
        return box if mask is None else {"observation": box, "action_mask": mask}


def observed_spaces(env: Environment, params: EnvParams) -> SpaceTree:
    """Returns the spaces of what an environment shows, structured as it is shown.

    Args:
        env: one environment.
        params: its parameters.

    Raises:
        ConfigError: they are not those of what is shown.
    """
    with jax.ensure_compile_time_eval():  # bounds are numbers, also while a program is traced
        # parameters stay what they are: shapes may follow from them
        first = jax.eval_shape(lambda key: env.reset_env(key, params), jax.random.key(0))[0]
        return observation_spaces(env.observation_space(params), first)


def _flat(space: Space, x: Array) -> Array:
    """Returns one part of an observation as a vector, float32."""
    if isinstance(space, Discrete | MultiDiscrete):
        return one_hot(space, x)
    return jnp.ravel(x).astype(jnp.float32)


def _flat_bounds(space: Space) -> tuple[np.ndarray, np.ndarray]:
    """Returns the bounds (low, high) of such a vector; of one-hot names and bits, 0 and 1."""
    if isinstance(space, Box):
        return np.ravel(space.low), np.ravel(space.high)
    n = _flat(space, zeros(space)).size
    return np.zeros(n), np.ones(n)


class NormalizeObservation(ObservationWrapper):
    """Shows (obs - mean) / std, by default -1 .. 1 over the space's bounds, in float32.

    Running statistics over all environments are an option of training
    (`PPOConfig.normalize_observations`).

    Args:
        env: one environment with bounded observations, or with both numbers given.
        mean: broadcast to an observation; None: the middle of the bounds (of `default_params`).
        std: broadcast to an observation; None: half their distance.

    Raises:
        ConfigError: bounds that are needed are infinite, or numbers that do not fit.
    """

    def __init__(
        self, env: Environment, mean: ArrayLike | None = None, std: ArrayLike | None = None
    ):
        super().__init__(env)
        # what is not given comes from the bounds, which must then be there
        space = box_of(env, env.default_params, "NormalizeObservation")
        low, high = (np.asarray(b, np.float64) for b in (space.low, space.high))
        if (mean is None or std is None) and not (np.abs([low, high]) < UNBOUNDED).all():
            raise ConfigError(
                f"NormalizeObservation needs finite bounds, not those of {space}: give mean and "
                "std, or train with normalize_observations=True"
            )
        mean = (low + high) / 2 if mean is None else mean
        std = np.where(high > low, (high - low) / 2, 1.0) if std is None else std  # 1 for constants
        # broadcast now, so that numbers that do not fit are named here and not in a trace
        try:
            self._mean, self._std = (
                np.broadcast_to(np.asarray(x, np.float32), space.shape) for x in (mean, std)
            )
        except ValueError as error:
            raise ConfigError(
                f"mean={mean} and std={std} must be numbers, or arrays of the shape "
                f"{list(space.shape)}"
            ) from error
        if not (self._std > 0).all():
            raise ConfigError(f"std={std} must be greater than 0: use 1.0")

    def observe(self, obs: Obs, params: EnvParams) -> Array:
        """Returns the observation, shifted and scaled."""
        return (jnp.asarray(obs, jnp.float32) - self._mean) / self._std

    def observation_space(self, params: EnvParams) -> Box:
        """Describes the observation by its bounds, shifted and scaled."""
        space = box_of(self.env, params, "NormalizeObservation")
        bounds = (np.asarray(b, np.float64) for b in (space.low, space.high))
        low, high = (((b - self._mean) / self._std).astype(np.float32) for b in bounds)
        return Box(low, high, space.shape, np.dtype(np.float32))


class FrameStack(RememberingWrapper):
    """Shows the last observations together, the newest last; at the start the first one n times.

    [D] becomes [n D], an image [H, W] becomes [H, W, n] and [H, W, C] becomes [H, W, n C].

    Args:
        env: one environment that shows a single array.
        num_frames: n.

    Raises:
        ConfigError: num_frames is not a whole number from 2, or there are several arrays.
    """

    def __init__(self, env: Environment, num_frames: int):
        super().__init__(env)
        box_of(env, env.default_params, "FrameStack")
        self.num_frames = check_count("num_frames", num_frames, 2, 4)

    def reset_env(self, key: Array, params: EnvParams) -> ResetReturn:
        """Begins an episode: (obs, state), and an info if the environment gives one."""
        obs, state, *info = self.env.reset_env(key, params)
        frame = _frame(obs)
        stack = jnp.concatenate([frame] * self.num_frames, -1)
        return stack, Remembered(state, stack), *info

    def step_env(
        self, key: Array, state: Remembered, action: Action, params: EnvParams
    ) -> StepReturn:
        """Steps once: (obs, state, reward, terminated, info)."""
        obs, env_state, *rest = self.env.step_env(key, state.env_state, action, params)
        # the oldest frame goes, the newest is added at the end
        frame = _frame(obs)
        stack = jnp.concatenate([state.memory[..., frame.shape[-1] :], frame], -1)
        return stack, Remembered(env_state, stack), *rest

    def observation_space(self, params: EnvParams) -> Box:
        """Describes the stack by the bounds of one observation, n times."""
        space = box_of(self.env, params, "FrameStack")
        low, high = (np.broadcast_to(b, space.shape) for b in (space.low, space.high))
        low, high = (np.concatenate([_frame(b)] * self.num_frames, -1) for b in (low, high))
        return Box(low, high, low.shape, np.dtype(space.dtype))


def _frame(obs: Obs) -> Obs:
    """Returns one frame, with the axis that frames are put side by side along."""
    return obs[..., None] if obs.ndim in (0, 2) else obs


class LastActionReward(Wrapper):
    """Shows the last action and the last reward beside the observation, as RL^2 does.

    A memory then sees what it did and what that paid, and can learn within an episode:
    {"observation": ..., "last_action": ..., "last_reward": ...}. Where an observation has named
    parts already, an action mask among them, they keep their names and the two stand beside them.
    Integers are shown as bits, one-hot; other actions as the environment takes them. In an
    episode's first step all of it is 0. An episode here is a trial there: where a trial has several
    episodes, let the environment show that one has ended.

    Args:
        env: one environment.

    Raises:
        ConfigError: a part of the observation has one of the two names.

    Reference: Duan et al. 2016, arXiv:1611.02779, section 2.2; Wang et al. 2016, arXiv:1611.05763.
    """

    def __init__(self, env: Environment):
        super().__init__(env)
        with jax.ensure_compile_time_eval():  # bounds are numbers, also while a program is traced
            self._actions = spaces_of(env.action_space(env.default_params))
        taken = fields(observed_spaces(env, env.default_params)).keys()
        for name in ("last_action", "last_reward"):
            if name in taken:
                raise ConfigError(
                    f"the observation has a part {name!r} already: leave LastActionReward out, or "
                    "rename the part"
                )

    def reset_env(self, key: Array, params: EnvParams) -> ResetReturn:
        """Begins an episode: (obs, state), and an info if the environment gives one."""
        obs, *rest = self.env.reset_env(key, params)
        nothing = zeros(jax.tree.map(_shown_space, self._actions))
        return self._beside(obs, nothing, jnp.float32(0)), *rest

    def step_env(
        self, key: Array, state: EnvState, action: Action, params: EnvParams
    ) -> StepReturn:
        """Steps once: (obs, state, reward, terminated, info)."""
        obs, state, reward, *rest = self.env.step_env(key, state, action, params)
        shown = jax.tree.map(_shown, self._actions, action)
        return self._beside(obs, shown, jnp.asarray(reward, jnp.float32)), state, reward, *rest

    def observation_space(self, params: EnvParams) -> dict[str, SpaceTree]:
        """Describes all parts by name."""
        low, high = np.array(-np.inf, np.float32), np.array(np.inf, np.float32)
        reward = Box(low, high, (), np.dtype(np.float32))
        action = jax.tree.map(_shown_space, self._actions)
        return self._beside(observed_spaces(self.env, params), action, reward)

    def _beside(self, obs: PyTree, action: PyTree, reward: PyTree) -> dict[str, PyTree]:
        """Puts both beside an observation, or beside its space."""
        parts = fields(obs) or {"observation": obs}
        return {**parts, "last_action": action, "last_reward": reward}


def _shown(space: Space, action: Array) -> Array:
    """Returns a part of an action as a part of an observation."""
    if isinstance(space, Discrete | MultiDiscrete):
        return one_hot(space, action).astype(bool)
    return jnp.asarray(action, space.dtype)


def _shown_space(space: Space) -> Space:
    """Describes a part of an action that is shown: of integers, bits."""
    if not isinstance(space, Discrete | MultiDiscrete):
        return space
    shape = one_hot(space, zeros(space)).shape
    return Box(np.zeros(shape, bool), np.ones(shape, bool), shape, np.dtype(bool))
