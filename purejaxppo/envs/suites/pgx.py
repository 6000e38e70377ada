"""Pgx: its games for one player, with masks of the legal actions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pgx
from jax import Array

from purejaxppo.envs.suites.adapter import Adapter, RawEnv, anything, box, limited, paint
from purejaxppo.envs.wrappers.base import ResetReturn, StepReturn
from purejaxppo.spaces import Discrete
from purejaxppo.types import Action, Environment, EnvParams, EnvState


class Pgx(Adapter):
    """A game of pgx for one player.

    Args:
        env: pgx's.
    """

    def __init__(self, env: RawEnv):
        first = jax.eval_shape(env.init, jax.random.key(0))
        (actions,) = first.legal_action_mask.shape
        observation = {
            "observation": anything(first.observation),
            "legal_action_mask": box(False, True, (actions,), bool),
        }
        super().__init__(env, observation, Discrete(actions))

    def reset_env(self, key: Array, params: EnvParams) -> ResetReturn:
        """Begins an episode: (obs, state)."""
        state = self.env.init(key)
        return _seen(state), state

    def step_env(
        self, key: Array, state: EnvState, action: Action, params: EnvParams
    ) -> StepReturn:
        """Steps once: (obs, state, reward, terminated, info)."""
        state = self.env.step(state, action, key)
        # pgx reports the end of Freeway's clock as the end of the task
        terminated = state.terminated & ~_out_of_time(state)
        return _seen(state), state, state.rewards[0], terminated, {}

    def is_truncated(self, state: EnvState, params: EnvParams) -> Array:
        """Says whether pgx says so, or Freeway's clock, its only end, has run out."""
        return state.truncated | _out_of_time(state)

    def frames(self, states: Sequence[EnvState], params: EnvParams) -> Iterator[np.ndarray]:
        """Returns pictures of states, [H, W, 3] uint8."""
        return (paint(state.observation) for state in states)


def _out_of_time(state: EnvState) -> Array:
    """Says whether Freeway's clock has run out; other games have none."""
    return getattr(state, "_terminate_timer", jnp.int32(0)) < 0


def _seen(state: EnvState) -> dict[str, Array]:
    return {"observation": state.observation, "legal_action_mask": state.legal_action_mask}


def names() -> list[str]:
    """Returns the games for one player."""
    return [n for n in pgx.available_envs() if n == "2048" or n.startswith("minatar-")]


def make_env(name: str, *, max_steps: int | None = None) -> tuple[Environment, EnvParams]:
    """Makes one game and its parameters, of which there are none.

    Args:
        name: as pgx lists it, such as `minatar-breakout`.
        max_steps: a time limit; None: that of the game, if it has one.
    """
    make: RawEnv = pgx.make  # annotated for literal names alone
    return limited(Pgx(make(name)), max_steps)
