"""Pgx: its games for one player, with masks of the legal actions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pgx

from purejaxppo.envs.suites.adapter import Adapter, anything, box, paint
from purejaxppo.spaces import Discrete


class Pgx(Adapter):
    """A game for one player."""

    def __init__(self, env: Any):
        first = jax.eval_shape(env.init, jax.random.key(0))
        (actions,) = first.legal_action_mask.shape
        observation = {
            "observation": anything(first.observation),
            "legal_action_mask": box(False, True, (actions,), bool),
        }
        super().__init__(env, observation, Discrete(actions))

    def reset_env(self, key: jax.Array, params: Any) -> tuple[Any, Any]:
        """A new episode: (obs, state)."""
        state = self.env.init(key)
        return _seen(state), state

    def step_env(self, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
        """One step: (obs, state, reward, terminated, info)."""
        state = self.env.step(state, action, key)
        terminated = state.terminated & ~_out_of_time(state)
        return _seen(state), state, state.rewards[0], terminated, {}

    def is_truncated(self, state: Any, params: Any) -> jax.Array:
        """Whether pgx says so, or Freeway's clock, its only end, has run out."""
        return state.truncated | _out_of_time(state)

    def frames(self, states: Sequence[Any], params: Any) -> Iterator[np.ndarray]:
        """Pictures of states, [H, W, 3] uint8."""
        return (paint(state.observation) for state in states)


def _out_of_time(state: Any) -> jax.Array:
    return getattr(state, "_terminate_timer", jnp.int32(0)) < 0


def _seen(state: Any) -> dict[str, Any]:
    return {"observation": state.observation, "legal_action_mask": state.legal_action_mask}


def names() -> list[str]:
    """The games for one player."""
    return [n for n in pgx.available_envs() if n == "2048" or n.startswith("minatar-")]


def make_env(name: str) -> tuple[Any, Any]:
    """One game."""
    make: Any = pgx.make
    env = Pgx(make(name))
    return env, env.default_params
