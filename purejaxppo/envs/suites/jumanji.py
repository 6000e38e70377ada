"""Jumanji: puzzles, packing and routing, most with masks of the legal actions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jumanji import registration, specs

from purejaxppo.envs.interface import arguments_of
from purejaxppo.envs.suites.adapter import (
    Adapter,
    RawEnv,
    anything,
    box,
    check_limit,
    downloading,
    limited,
)
from purejaxppo.envs.wrappers.base import Remembered, ResetReturn, StepReturn, Wrapper
from purejaxppo.errors import ConfigError
from purejaxppo.spaces import (
    MASKS,
    Box,
    DeclaredSpace,
    Discrete,
    MultiDiscrete,
    SpaceTree,
    fields,
    mask_of,
)
from purejaxppo.types import Action, Environment, EnvParams, EnvState, Obs, PyTree

NEVER = 2**30
_DOWNLOADS = ("Sokoban-v0",)


class Jumanji(Adapter):
    """A Jumanji environment, its time limit taken out of what it calls the end.

    Args:
        env: Jumanji's.
    """

    def __init__(self, env: RawEnv):
        # read before the limit goes, by which counts of steps are bounded
        observation = _space(env.observation_spec)
        action, self._dtype = _space(env.action_spec), env.action_spec.dtype
        if isinstance(action, Box) and np.issubdtype(action.dtype, np.integer):
            # whole numbers are choices, not amounts; only the mask says how many there are
            mask: SpaceTree = mask_of(observation)
            agents, choices = mask.shape
            action = MultiDiscrete((choices,) * agents)
        super().__init__(env, observation, action)
        if hasattr(env, "time_limit"):
            env.time_limit = NEVER

    def reset_env(self, key: Array, params: EnvParams) -> ResetReturn:
        """Begins an episode: (obs, state)."""
        state, timestep = self.env.reset(key)
        return self._seen(timestep.observation), Remembered(state, jnp.bool_(False))

    def step_env(
        self, key: Array, state: EnvState, action: Action, params: EnvParams
    ) -> StepReturn:
        """Steps once: (obs, state, reward, terminated, info)."""
        env_state, timestep = self.env.step(state.env_state, action.astype(self._dtype))
        # the last step of an episode has discount 0 where the task ended it, else 1
        terminated = timestep.last() & (timestep.discount == 0)
        state = Remembered(env_state, timestep.last() & ~terminated)
        seen, info = self._seen(timestep.observation), timestep.extras or {}
        return seen, state, timestep.reward, terminated, info

    def is_truncated(self, state: EnvState, params: EnvParams) -> Array:
        """Says whether Jumanji cut the episode off; its time limit is left to `TimeLimit`."""
        return state.memory

    def frames(self, states: Sequence[EnvState], params: EnvParams) -> Iterator[np.ndarray]:
        """Returns pictures of states, [H, W, 3] uint8, drawn by Jumanji with matplotlib.

        Args:
            states: of the environment.
            params: none.
        """
        import matplotlib.pyplot as plt

        for state in states:
            with plt.rc_context({"figure.dpi": 40}), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that there is no window to show
                self.env.render(jax.device_put(state.env_state))
            canvas: Any = plt.gcf().canvas
            canvas.draw()
            yield np.array(canvas.buffer_rgba())[..., :3]
        plt.close()

    def _seen(self, observation: Obs) -> Obs:
        """Returns an observation with the names of its parts, in the dtypes that were declared."""
        return jax.tree.map(
            lambda space, x: jnp.asarray(x, space.dtype), self._observation, _named(observation)
        )


class JointActions(Wrapper):
    """One choice among all combinations, where a mask allows or forbids them as combinations.

    A mask of the shape `nvec` cannot be kept to by choices made one by one.
    """

    def action_space(self, params: EnvParams) -> Discrete:
        """Describes the actions: as many choices as there are combinations."""
        return Discrete(math.prod(self.env.action_space(params).nvec))

    def observation_space(self, params: EnvParams) -> SpaceTree:
        """Describes the observations, the mask as a vector."""
        flat = lambda mask: box(0, 1, (math.prod(mask.shape),), bool)  # noqa: E731
        return self._flat(self.env.observation_space(params), flat)

    def reset_env(self, key: Array, params: EnvParams) -> ResetReturn:
        """Begins an episode: (obs, state)."""
        obs, state = self.env.reset_env(key, params)
        return self._flat(obs, jnp.ravel), state

    def step_env(
        self, key: Array, state: EnvState, action: Action, params: EnvParams
    ) -> StepReturn:
        """Steps once: (obs, state, reward, terminated, info)."""
        parts = jnp.unravel_index(action, self.env.action_space(params).nvec)
        obs, *rest = self.env.step_env(key, state, jnp.stack(parts), params)
        return self._flat(obs, jnp.ravel), *rest

    def _flat(self, obs: dict[str, PyTree], ravel: Callable[..., PyTree]) -> dict[str, PyTree]:
        return {name: ravel(x) if name in MASKS else x for name, x in obs.items()}


def _named(observation: Obs) -> Obs:
    """Returns records as dictionaries, at every depth."""
    parts = fields(observation)
    return {name: _named(part) for name, part in parts.items()} if parts else observation


def _space(spec: DeclaredSpace, name: str = "") -> SpaceTree:
    """Returns our spaces for a specification; a count of steps is a number, not a name."""
    if isinstance(spec, specs.MultiDiscreteArray):
        return MultiDiscrete(tuple(int(n) for n in np.ravel(spec.num_values)))
    if isinstance(spec, specs.DiscreteArray):
        n = int(spec.num_values)
        return box(0, n, (), spec.dtype) if name == "step_count" else Discrete(n)
    if isinstance(spec, specs.BoundedArray):
        return box(spec.minimum, spec.maximum, spec.shape, spec.dtype)
    if isinstance(spec, specs.Array):
        return anything(spec)
    return {part: _space(inner, part) for part, inner in spec._specs.items()}


def names() -> list[str]:
    """Returns the environments that Jumanji registers."""
    return sorted(registration.registered_environments())


def options_of(name: str) -> list[str]:
    """Returns what the constructor of an environment takes."""
    return arguments_of(registration.load(registration._REGISTRY[name].entry_point))


def make_env(
    name: str, *, max_steps: int | None = None, **options: Any
) -> tuple[Environment, EnvParams]:
    """Makes one environment and its parameters, of which there are none.

    Args:
        name: as Jumanji registers it, such as `Snake-v1`.
        max_steps: the time limit; None: that of the environment, if it has one.
        **options: of its constructor.

    Raises:
        ConfigError: a limit is given twice, its rewards are those of several agents, or its data
            cannot be downloaded.
    """
    check_limit(options, max_steps, "time_limit")
    if max_steps is not None and "time_limit" in options_of(name):
        options["time_limit"] = max_steps  # by which it makes what it remembers of an episode
    with downloading(f"jumanji/{name}", name in _DOWNLOADS):
        raw = registration.make(name, **options)
    if raw.reward_spec.shape:
        raise ConfigError(
            f"jumanji/{name} pays {raw.reward_spec.shape[0]} agents, one reward each: train on one "
            "with a single reward, such as jumanji/Snake-v1"
        )
    # taken before `Jumanji` switches the limit off
    limit = getattr(raw, "time_limit", None) if max_steps is None else max_steps
    env = Jumanji(raw)
    space, mask = env.action_space(()), mask_of(env.observation_space(()))
    if isinstance(space, MultiDiscrete) and mask is not None and mask.shape == space.nvec:
        env = JointActions(env)
    return limited(env, limit)
