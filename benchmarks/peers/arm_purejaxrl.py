"""Worker: PureJaxRL, from a checkout that is left as it is.

Its continuous agent is tied to Brax environments; here it is given gymnax's Pendulum-v1 in their
place, and so Brax and Navix, which the checkout imports, need not be installed.
"""
# pyright: reportMissingImports=false

import importlib
import sys
import types
from typing import Any

import flax.linen as nn
import gymnax
import jax.numpy as jnp
from arm import Arm, jax_arm
from flax.linen import initializers
from gymnax.environments import spaces


class Pendulum:
    """gymnax's Pendulum-v1 with the methods of the checkout's BraxGymnaxWrapper."""

    def __init__(self, name: str):
        env: Any
        env, self._params = gymnax.make(name)
        self._env = env

    def reset(self, key, params=None):
        """A new episode."""
        return self._env.reset(key, self._params)

    def step(self, key, state, action, params=None):
        """One step; actions come clipped to -1 .. 1."""
        torque = action * self._params.max_torque
        obs, state, reward, done, _ = self._env.step(key, state, torque, self._params)
        return obs, state, jnp.squeeze(reward), done, {}

    def observation_space(self, params):
        """As gymnax has it."""
        return self._env.observation_space(self._params)

    def action_space(self, params):
        """Between -1 and 1."""
        return spaces.Box(-1.0, 1.0, (1,))


UNUSED = ("brax", "brax.envs", "brax.envs.wrappers", "brax.envs.wrappers.training", "navix")


class Empty(types.ModuleType):
    """A module that has every name, and nothing behind it."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):  # what the import system asks for
            raise AttributeError(name)


def load(name: str, checkout: str, normal_init: bool) -> Any:
    """A module of the checkout."""
    sys.modules |= {unused: Empty(unused) for unused in UNUSED}
    # some modules import `wrappers`, others `purejaxrl.wrappers`
    sys.path[:0] = [checkout, f"{checkout}/purejaxrl"]
    if normal_init:
        initializers.orthogonal = lambda scale: initializers.normal(0.1 * float(scale))
    return importlib.import_module(f"purejaxrl.{name}")


def make(job: dict) -> Arm:
    """The discrete or the continuous agent with the shape's sizes."""
    config = job["config"]
    continuous = config["env"] == "Pendulum-v1"
    # a vmapped QR decomposition can hang XLA's thread pool on few cores
    normal_init = job["seeds"] > 1
    name = "ppo_continuous_action" if continuous else "ppo"
    module = load(name, job["checkout"], normal_init)
    if continuous:
        width = config["hidden_sizes"][0]

        def dense(features, **kwargs):
            return nn.Dense(width if features == 256 else features, **kwargs)

        module.BraxGymnaxWrapper = Pendulum
        module.nn = types.SimpleNamespace(**vars(nn) | {"Dense": dense})
    train = module.make_train(
        {
            "ENV_NAME": config["env"],
            "LR": config["learning_rate"],
            "ANNEAL_LR": config["learning_rate_final_scale"] == 0,
            "NUM_ENVS": config["num_envs"],
            "NUM_STEPS": config["num_steps"],
            "TOTAL_TIMESTEPS": config["total_timesteps"],
            "UPDATE_EPOCHS": config["num_epochs"],
            "NUM_MINIBATCHES": config["num_minibatches"],
            "GAMMA": config["gamma"],
            "GAE_LAMBDA": config["gae_lambda"],
            "CLIP_EPS": config["clip_eps"],
            "ENT_COEF": config["entropy_coef"],
            "VF_COEF": config["value_coef"],
            "MAX_GRAD_NORM": config["max_grad_norm"],
            "ACTIVATION": config["activation"],
            "NORMALIZE_ENV": config["normalize_observations"],
            "DEBUG": False,
        }
    )
    return jax_arm(train, job["seeds"])
