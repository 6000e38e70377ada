# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""MuJoCo Playground: the DeepMind control suite on MJX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from mujoco_playground import dm_control_suite, registry

from purejaxppo.envs.interface import no_option
from purejaxppo.envs.suites.adapter import Adapter, RawEnv, anything, box, check_limit, limited
from purejaxppo.envs.wrappers.base import ResetReturn, StepReturn
from purejaxppo.errors import ConfigError
from purejaxppo.types import Action, Environment, EnvParams, EnvState, Obs


class Playground(Adapter):
    """A raw environment; where it shows a dictionary, the policy sees its `state` alone.

    The rest is privileged: what a critic may see in simulation, and no robot can.

    Args:
        env: MuJoCo Playground's.
    """

    def __init__(self, env: RawEnv):
        first = jax.eval_shape(env.reset, jax.random.key(0))
        super().__init__(env, anything(_seen(first)), box(-1.0, 1.0, (env.action_size,)))

    def reset_env(self, key: Array, params: EnvParams) -> ResetReturn:
        """Begins an episode: (obs, state)."""
        state = self.env.reset(key)
        return _seen(state), state

    def step_env(
        self, key: Array, state: EnvState, action: Action, params: EnvParams
    ) -> StepReturn:
        """Steps once: (obs, state, reward, terminated, info)."""
        state = self.env.step(state, action)
        return _seen(state), state, state.reward, state.done > 0.5, state.metrics

    def frames(self, states: Sequence[EnvState], params: EnvParams) -> Sequence[np.ndarray]:
        """Returns pictures of states, [H, W, 3] uint8, drawn by MuJoCo.

        Args:
            states: of the environment.
            params: none.
        """
        return self.env.render(list(states), height=300, width=400)


def _seen(state: EnvState) -> Obs:
    return state.obs["state"] if isinstance(state.obs, Mapping) else state.obs


def names() -> list[str]:
    """Returns the DeepMind control suite; other environments download models when made."""
    return list(dm_control_suite.ALL_ENVS)


def make_env(
    name: str, *, max_steps: int | None = None, impl: str = "jax", **options: Any
) -> tuple[Environment, EnvParams]:
    """Makes one environment and its parameters, of which there are none.

    Args:
        name: such as `CartpoleBalance`.
        max_steps: the time limit; None: that of its configuration (`episode_length`).
        impl: of MJX: jax, or warp on a GPU.
        **options: in place of those of its configuration.

    Raises:
        ConfigError: its configuration has no such entry, or a limit is given twice.
    """
    config = registry.get_default_config(name)
    for option in options:
        if option.partition(".")[0] not in config:
            known = [*config, "impl", "max_steps"]
            raise ConfigError(no_option(f"playground/{name}", option, known))
    check_limit(options, max_steps, "episode_length")
    limit = options.get("episode_length", config.episode_length) if max_steps is None else max_steps
    env = registry.load(name, config=config, config_overrides={"impl": impl, **options})
    return limited(Playground(env), int(limit))
