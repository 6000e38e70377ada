"""The work that the benchmarks measure: configurations of a few well-known sizes, a to f."""

from __future__ import annotations

from typing import NamedTuple

from purejaxppo import PPOConfig


class Shape(NamedTuple):
    """A configuration and how many agents are trained side by side.

    Attributes:
        config: total_timesteps is what one timed call trains, per seed.
        seeds: agents in one vmap; 1: no vmap.
    """

    config: PPOConfig
    seeds: int = 1

    @property
    def timesteps(self) -> int:
        """Environment steps of one call, over all seeds."""
        return self.config.timesteps * self.seeds


CNN = PPOConfig(
    env="Breakout-MinAtar", torso="cnn", hidden_sizes=(128,), activation="relu", shared_torso=True,
    num_envs=64, num_steps=128, num_minibatches=8, total_timesteps=610 * 8192,
    learning_rate=2.5e-3, learning_rate_final_scale=0.0, entropy_coef=0.01,
)  # fmt: skip
"""A convolutional network for actor and critic; learns Breakout in 5 million steps."""

FLAT = CNN.replace(
    torso="mlp", hidden_sizes=(64, 64), shared_torso=False, total_timesteps=64 * 8192
)
"""The same, laid out flat and short: what a CPU does in a minute, a twentieth of the time."""

_CLASSIC = PPOConfig(
    num_envs=4, num_steps=128, total_timesteps=200 * 512,
    learning_rate_final_scale=0.0, value_loss="clipped", entropy_coef=0.01,
)  # fmt: skip
_MINATAR = _CLASSIC.replace(
    env="Breakout-MinAtar", torso="mlp", activation="relu",
    num_envs=64, num_minibatches=8, total_timesteps=12 * 8192,
)  # fmt: skip
_PENDULUM = _CLASSIC.replace(
    env="Pendulum-v1", num_envs=64, num_minibatches=8, total_timesteps=12 * 8192,
    entropy_coef=0.0, normalize_observations=True, normalize_rewards=True,
)  # fmt: skip

SHAPES = {
    "a": Shape(_CLASSIC),
    "b": Shape(_CLASSIC.replace(num_envs=64, total_timesteps=12 * 8192)),
    "c": Shape(_CLASSIC.replace(num_envs=2048, total_timesteps=2 * 262_144)),
    "d": Shape(_MINATAR),
    "e": Shape(
        _PENDULUM.replace(
            num_envs=2048,
            num_steps=10,
            num_minibatches=32,
            hidden_sizes=(256, 256),
            total_timesteps=3 * 20_480,
        )
    ),
    "e64": Shape(_PENDULUM),
    "f": Shape(_CLASSIC.replace(total_timesteps=20 * 512), seeds=16),
}
"""Unless said: two layers of 64 tanh units, actor and critic apart, 4 epochs of 4 minibatches.

a    CartPole-v1, 4 environments x 128 steps
b    64 x 128
c    2048 x 128
d    Breakout-MinAtar as a flat vector, 64 x 128, 8 minibatches, relu
e    Pendulum-v1, 2048 x 10, 32 minibatches, 256 wide, observations and rewards normalised
e64  Pendulum-v1, 64 x 128, 8 minibatches, both normalised
f    16 seeds of a, vmapped
"""
