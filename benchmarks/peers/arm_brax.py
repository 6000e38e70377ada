"""Worker: Brax's PPO on gymnax's environments, and on its own.

`ppo.train` compiles anew whenever it is called, so it is called once, for more steps than will ever
be timed, and held up between its epochs, of which each does the steps of one timed call.
"""
# pyright: reportMissingImports=false

import os
import threading
import traceback
from typing import Any, cast

import brax_ppo
import gymnax
import jax
import jax.numpy as jnp
from arm import Arm
from brax import envs
from brax.envs.base import Env, State

EPOCHS = 1_000_000


class FromGymnax(Env):
    """A gymnax environment with Brax's interface; its actions lie between -1 and 1."""

    def __init__(self, name: str):
        env: Any
        env, self._params = gymnax.make(name)
        self._env, self._name = env, name

    def reset(self, rng: jax.Array) -> State:
        """A new episode."""
        key, carried = jax.random.split(rng)
        obs, state = self._env.reset_env(key, self._params)
        state = jax.tree.map(jnp.asarray, (state, carried))
        return State(state, obs, jnp.float32(0), jnp.float32(0))

    def step(self, state: State, action: jax.Array) -> State:
        """One step, with no time limit: Brax's own wrapper has one."""
        env_state, carried = cast(Any, state.pipeline_state)
        key, carried = jax.random.split(carried)
        if self._name == "Pendulum-v1":
            action = action * self._params.max_torque
        else:
            action = (action[0] > 0).astype(jnp.int32)  # Brax knows no discrete actions
        obs, env_state, reward, done, _ = self._env.step_env(key, env_state, action, self._params)
        return cast(Any, state).replace(
            pipeline_state=(env_state, carried),
            obs=obs,
            reward=jnp.float32(reward),
            done=jnp.float32(done),
        )

    @property
    def observation_size(self) -> int:
        """Length of an observation."""
        return self._env.observation_space(self._params).shape[0]

    @property
    def action_size(self) -> int:
        """Length of an action."""
        return 1

    @property
    def backend(self) -> str:
        """None of Brax's engines."""
        return "gymnax"


def make_env(name: str, options: list[str]) -> Env:
    """One of Brax's own, named `brax/...`, or one of gymnax's."""
    if not name.startswith("brax/"):
        return FromGymnax(name)
    changes: dict[str, Any] = dict(option.split("=") for option in options)
    return envs.get_environment(name.removeprefix("brax/"), **changes)


EPISODES = {"CartPole-v1": 500, "Pendulum-v1": 200}
"""Time limits; Brax's own environments have 1,000 steps."""


def make(job: dict) -> Arm:
    """Training in a thread of its own, which waits for `train` and `train` for it."""
    go, done = threading.Semaphore(0), threading.Semaphore(0)

    def run():
        go.acquire()
        try:
            train_brax(job["config"], lambda: (done.release(), go.acquire()))
        except Exception:
            traceback.print_exc()
            os._exit(1)

    threading.Thread(target=run, daemon=True).start()
    return Arm(lambda seed: (go.release(), done.acquire()))


def train_brax(config: dict, after_epoch) -> None:
    """Calls `ppo.train` with the shape's sizes; `after_epoch()` is called after every epoch."""
    brax_ppo.train(
        make_env(config["env"], config["env_options"]),
        config,
        num_timesteps=EPOCHS * config["total_timesteps"],
        num_evals=EPOCHS + 1,
        run_evals=False,
        progress_fn=lambda step, metrics: after_epoch(),
        episode_length=EPISODES.get(config["env"], 1000),
    )
