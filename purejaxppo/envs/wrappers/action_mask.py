"""Action masks that an environment gives in its `info`, moved to where policies read them."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from purejaxppo.envs.declared import spaces_of
from purejaxppo.envs.wrappers.base import ResetReturn, StepReturn, Wrapper
from purejaxppo.errors import ConfigError
from purejaxppo.spaces import MASKS, Box, DeclaredSpace, SpaceTree, fields, mask_of, zeros
from purejaxppo.types import Action, Environment, EnvParams, EnvState, Obs, PyTree


class MaskInObservation(Wrapper):
    """Moves `info`'s action mask into the observation: {"observation": ..., "action_mask": ...}.

    Args:
        env: one environment, whose `reset_env` returns (obs, state, info).
        name: of the mask in `info`.
        mask: its space, or spaces.
    """

    def __init__(self, env: Environment, name: str, mask: SpaceTree):
        super().__init__(env)
        self.name, self.mask = name, mask

    def reset_env(self, key: Array, params: EnvParams) -> ResetReturn:
        """Begins an episode: (obs, state)."""
        obs, state, info = self.env.reset_env(key, params)
        return self._both(obs, info), state

    def step_env(
        self, key: Array, state: EnvState, action: Action, params: EnvParams
    ) -> StepReturn:
        """Steps once: (obs, state, reward, terminated, info)."""
        obs, state, reward, terminated, info = self.env.step_env(key, state, action, params)
        return self._both(obs, info), state, reward, terminated, info

    def observation_space(self, params: EnvParams) -> dict[str, DeclaredSpace]:
        """Describes both by name."""
        return {"observation": self.env.observation_space(params), "action_mask": self.mask}

    def _both(self, obs: Obs, info: Mapping[str, PyTree]) -> dict[str, PyTree]:
        mask = jax.tree.map(lambda x: jnp.asarray(x, bool), info[self.name])
        return {"observation": obs, "action_mask": mask}


def mask_in_observation(env: Environment, env_params: EnvParams) -> Environment:
    """Returns the environment, with an action mask that `info` holds in the observation instead.

    Such a mask must be known from the first observation on: `reset_env` returns
    `(obs, state, info)`.

    Args:
        env: one environment.
        env_params: its parameters.

    Returns:
        The environment itself where its observations have a mask, or its `info` has none.

    Raises:
        ConfigError: `step_env` gives a mask and `reset_env` none.
    """
    with jax.ensure_compile_time_eval():  # bounds are numbers, also while a program is traced
        action = spaces_of(env.action_space(env_params))

    def once(key: Array) -> tuple[PyTree, ...]:
        # protocols say that a reset returns no info; gymnasium's habit is that it does
        obs, state, *infos = env.reset_env(key, env_params)
        *_, info = env.step_env(key, state, zeros(action), env_params)
        masks = ({n: m for n, m in fields(x).items() if n in MASKS} for x in (*infos, info))
        return obs, *masks

    obs, *infos, info = jax.eval_shape(once, jax.random.key(0))
    # a mask that policies can read already takes precedence
    if mask_of(obs) is not None or not info:
        return env
    name = next(iter(info))
    if not infos or name not in infos[0]:
        raise ConfigError(
            f"step_env's info holds {name!r}, but nothing says what is allowed in an episode's "
            "first step: return (obs, state, info) from reset_env too"
        )
    bits = lambda x: Box(np.zeros(x.shape), np.ones(x.shape), x.shape, np.dtype(bool))  # noqa: E731
    return MaskInObservation(env, name, jax.tree.map(bits, info[name]))
