"""Worker: Brax's PPO on gymnax's environments, and on its own.

`ppo.train` compiles anew whenever it is called, so it is called once, for more steps than will ever
be timed, and held up between its epochs, of which each does the steps of one timed call.
"""
# pyright: reportMissingImports=false

import functools
import os
import threading
import traceback
from typing import Any, cast

import gymnax
import jax
import jax.numpy as jnp
from arm import Arm
from brax import envs
from brax.envs.base import Env, State
from brax.training.agents.ppo import train as ppo
from brax.training.agents.ppo.networks import make_ppo_networks

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
    # removed from jax 0.10, and still called by Brax 0.14.2
    jax.device_put_replicated = lambda tree, devices: jax.tree.map(
        lambda x: jnp.stack([x] * len(devices)), tree
    )
    sizes = tuple(config["hidden_sizes"])
    ppo.train(
        make_env(config["env"], config["env_options"]),
        num_timesteps=EPOCHS * config["total_timesteps"],
        num_evals=EPOCHS + 1,
        run_evals=False,
        progress_fn=lambda step, metrics: after_epoch(),
        episode_length=EPISODES.get(config["env"], 1000),
        num_envs=config["num_envs"],
        unroll_length=config["num_steps"],
        batch_size=config["num_envs"] // config["num_minibatches"],  # in rollouts
        num_minibatches=config["num_minibatches"],
        num_updates_per_batch=config["num_epochs"],
        learning_rate=config["learning_rate"],
        entropy_cost=config["entropy_coef"],
        discounting=config["gamma"],
        gae_lambda=config["gae_lambda"],
        clipping_epsilon=config["clip_eps"],
        clipping_epsilon_value=config["value_clip_eps"],
        vf_loss_coefficient=config["value_coef"],
        max_grad_norm=config["max_grad_norm"],
        normalize_observations=config["normalize_observations"],
        network_factory=functools.partial(
            make_ppo_networks,
            policy_hidden_layer_sizes=sizes,
            value_hidden_layer_sizes=sizes,
            activation=jnp.tanh,
        ),
    )
