"""Plays one episode of a trained policy, and keeps what there is to see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.act import Actor
from purejaxppo.envs.host import Host, HostEnvironment
from purejaxppo.envs.wrappers.action_mask import mask_in_observation
from purejaxppo.envs.wrappers.episodes import counts
from purejaxppo.errors import ConfigError
from purejaxppo.spaces import fields
from purejaxppo.types import Array, EnvParams, EnvState


class Episode(NamedTuple):
    """One episode, or its first steps."""

    scenes: Sequence[Any]  # T + 1 states, or pictures where the host draws
    returns: np.ndarray  # [T + 1], undiscounted, so far
    over: bool  # False: cut off after max_steps


def play(
    actor: Actor,
    env: Any,
    params: EnvParams,
    key: Array,
    max_steps: int,
    inside: Callable[[EnvState], EnvState] = lambda state: state,
) -> Episode:
    """Plays an episode of an environment that is written in JAX, as one program.

    Args:
        actor: the policy.
        env: one environment.
        params: its parameters.
        key: consumed.
        max_steps: steps at most.
        inside: what is kept of a state.

    Returns:
        The episode, on the host.
    """
    env = mask_in_observation(env, params)

    def step(loop: Any, key: Array) -> tuple[Any, Any]:
        state, obs, start, carry, so_far = loop
        key_act, key_step = jax.random.split(key)
        carry, action = actor.act(key_act, carry, obs, start)
        obs, state, reward, terminated, info = env.step_env(key_step, state, action, params)
        # an environment that counts for itself does so before rewards are changed, as in training
        counted = fields(info).get("episode_return") if counts(env) else None
        so_far = so_far + reward if counted is None else counted
        over = jnp.asarray(terminated, bool) | env.is_truncated(state, params)
        return (state, obs, jnp.bool_(False), carry, so_far), (inside(state), so_far, over)

    @jax.jit
    def run(key: Array) -> tuple[Any, Any]:
        key_reset, key = jax.random.split(key)
        obs, state, *_ = env.reset_env(key_reset, params)
        loop = state, obs, jnp.bool_(True), actor.initial_carry(()), jnp.float32(0)
        # the types that a step gives: some resets give Python numbers
        types = jax.eval_shape(step, loop, key)[0]
        loop = jax.tree.map(lambda x, t: jnp.asarray(x, t.dtype), loop, types)
        return inside(loop[0]), jax.lax.scan(step, loop, jax.random.split(key, max_steps))[1]

    # every step is computed, and what comes after the end is cut off here
    first, (states, returns, overs) = jax.device_get(run(key))
    length = int(overs.argmax()) + 1 if overs.any() else max_steps
    later = [jax.tree.map(lambda x: x[t], states) for t in range(length)]  # noqa: B023
    return Episode([first, *later], np.append(0, returns[:length]), bool(overs.any()))


def play_on_host(actor: Actor, env: HostEnvironment, seed: int, max_steps: int) -> Episode:
    """Plays an episode of an environment that runs in Python, which draws every state as it comes.

    Args:
        actor: the policy.
        env: one environment.
        seed: of the episode.
        max_steps: steps at most.

    Returns:
        The episode, its scenes as pictures [H, W, 3] uint8.

    Raises:
        ConfigError: it gives no pictures.
        HostError: it fails.
    """
    act, key = jax.jit(actor.act), jax.random.key(0)  # which deterministic actions do not use
    host = Host(HostEnvironment(lambda n: Camera(env.make_share(n)), env.name), 1)
    try:
        # whether it can draw is seen at the first state
        where, obs = host.reset(seed)
        if host.envs.pictures[0] is None:
            raise ConfigError(
                f"{env.name} gives no pictures: make it with render_mode='rgb_array', if it can"
            )

        start, carry, returns, over = np.ones(1, bool), actor.initial_carry((1,)), [0.0], False
        while not over and len(returns) <= max_steps:
            carry, action = act(key, carry, obs, start)
            where, after = host.step(where, action)
            obs, start = after.final_obs, np.zeros(1, bool)
            returns.append(float(after.episode_return[0]))
            over = bool((after.terminated | after.truncated)[0])
        return Episode(host.envs.pictures, np.array(returns), over)
    finally:
        host.close()


class Camera:
    """A vector environment of one that keeps a picture of each state until the episode ends."""

    def __init__(self, envs: Any):
        self.envs = envs
        self.pictures: list[np.ndarray | None] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.envs, name)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, Any]:
        """Begins an episode; with options, the one after it, which is not filmed.

        Args:
            seed: as of the environment.
            options: as of the environment.

        Returns:
            What the environment returns.
        """
        obs, info = self.envs.reset(seed=seed, options=options)
        if options is None:
            self._take()
        return obs, info

    def step(self, actions: Any) -> tuple[Any, ...]:
        """Takes one action.

        Args:
            actions: as of the environment.

        Returns:
            What the environment returns.
        """
        after = self.envs.step(actions)
        self._take()
        return after

    def _take(self) -> None:
        """Keeps a picture of the state as it is, None where the environment gives none."""
        pictures = self.envs.render()
        picture = None if pictures is None else pictures[0]
        self.pictures.append(None if picture is None else np.array(picture))
