"""What a critic that sees more than the actor is worth: the same tasks and actors with and without.

CartPole-v1 without its two velocities has an actor and a critic with a memory each, a GRU; the
privileged critic sees the velocities. In Pendulum-v1 with a gravity of its own in every episode,
which nothing shows, neither has a memory; the privileged critic sees the gravity. The mean return
of a seed is that over all of its updates, each of the episodes that ended in it, and its final
return that of the last tenth of the updates; actions are sampled.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import scipy.stats

from benchmarks.common.records import asked_for, measured_before, quickened, record, report
from benchmarks.common.returns import shortened
from purejaxppo import PPOConfig, fit, make_env, use_cores
from purejaxppo.envs.wrappers.base import ObservationWrapper, Remembered, RememberingWrapper
from purejaxppo.run_folder.rows import final_returns
from purejaxppo.spaces import Box

GRAVITY = (2.0, 18.0)  # of which Pendulum-v1 has 10


class VelocitiesApart(ObservationWrapper):
    """CartPole-v1 with positions and velocities under names of their own."""

    def observe(self, obs: Any, params: Any) -> dict[str, Any]:
        """Returns every second number under each name."""
        return {"positions": obs[0::2], "velocities": obs[1::2]}

    def observation_space(self, params: Any) -> dict[str, Box]:
        """Describes both."""
        high = np.full(2, np.finfo(np.float32).max)
        box = Box(-high, high, (2,), np.dtype(np.float32))
        return {"positions": box, "velocities": box}


class UnknownGravity(RememberingWrapper):
    """Pendulum-v1 with a gravity that is drawn for each episode, and shown apart."""

    def reset_env(self, key: Any, params: Any) -> Any:
        """Begins an episode: (obs, state)."""
        key_gravity, key = jax.random.split(key)
        gravity = jax.random.uniform(key_gravity, (1,), minval=GRAVITY[0], maxval=GRAVITY[1])
        obs, state, *_ = self.env.reset_env(key, params)
        return {"state": obs, "gravity": gravity}, Remembered(state, gravity)

    def step_env(self, key: Any, state: Remembered, action: Any, params: Any) -> Any:
        """Steps once: (obs, state, reward, terminated, info)."""
        params = params.replace(g=state.memory[0])
        obs, env_state, *rest = self.env.step_env(key, state.env_state, action, params)
        shown = {"state": obs, "gravity": state.memory}
        return shown, Remembered(env_state, state.memory), *rest

    def observation_space(self, params: Any) -> dict[str, Any]:
        """Describes both."""
        low, high = (np.full(1, bound, np.float32) for bound in GRAVITY)
        gravity = Box(low, high, (1,), np.dtype(np.float32))
        return {"state": self.env.observation_space(params), "gravity": gravity}


def hidden_velocities() -> tuple[Any, PPOConfig, str]:
    """Environment, configuration without the critic's privilege, and what is hidden."""
    config = PPOConfig(
        env="CartPole-v1", num_envs=32, num_steps=128, total_timesteps=4096 * 64,
        num_minibatches=8, learning_rate=1e-3, learning_rate_final_scale=0.0, hidden_sizes=(64,),
        core="gru", normalize_rewards=True, actor_observation=("positions",),
        critic_observation=("positions",),
    )  # fmt: skip
    return VelocitiesApart(make_env("CartPole-v1")[0]), config, "velocities"


def hidden_gravity() -> tuple[Any, PPOConfig, str]:
    """Environment, configuration without the critic's privilege, and what is hidden."""
    config = PPOConfig.preset(
        "Pendulum-v1", normalize_observations=True, actor_observation=("state",),
        critic_observation=("state",),
    )  # fmt: skip
    return UnknownGravity(make_env("Pendulum-v1")[0]), config, "gravity"


TASKS = {
    "CartPole-v1, velocities hidden, GRU": hidden_velocities,
    "Pendulum-v1, gravity hidden": hidden_gravity,
}


def measure(task: str, seeds: int, total_timesteps: int | None) -> dict[str, Any]:
    """Trains one task with both critics, and compares them."""
    env, config, hidden = TASKS[task]()
    config = shortened(config, total_timesteps)
    seen = {"alike": config.critic_observation, "privileged": (*config.critic_observation, hidden)}
    found: dict[str, Any] = {}
    for name, entries in seen.items():
        print(task, name, file=sys.stderr, flush=True)
        critic = config.replace(critic_observation=entries)
        result = fit(critic, seeds=seeds, env=env)
        metrics, tenth = result.metrics, max(1, config.num_updates // 10)
        explained = np.asarray(metrics.explained_variance)[:, -tenth:].mean(1)
        means = np.nanmean(np.asarray(metrics.episode_return), 1)
        found[name] = {
            "mean_return": figures(means),
            "final_return": figures(final_returns(metrics)),
            "explained_variance": figures(explained),
            "run_seconds": result.run_seconds,
            "config": critic.to_dict(),
        }
    pair = (found[name]["mean_return"]["values"] for name in ("privileged", "alike"))
    found["gain"] = difference(*pair)
    return found


def figures(values: Any) -> dict[str, Any]:
    """Values of the seeds, their mean, and how far its 95% interval reaches (Student's t)."""
    values = np.asarray(values, np.float64)
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * scipy.stats.sem(values)
    return {"values": values.tolist(), "mean": float(values.mean()), "half_width": float(half)}


def difference(more: list[float], less: list[float]) -> dict[str, Any]:
    """How far apart the means of two samples are, with a 95% interval (Welch)."""
    test = scipy.stats.ttest_ind(more, less, equal_var=False)
    interval = test.confidence_interval(0.95)
    return {
        "mean": float(np.mean(more) - np.mean(less)),
        "interval": [float(interval.low), float(interval.high)],
    }


def main() -> None:
    """Trains every task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=8, help="agents per run, in one program")
    parser.add_argument("--total-timesteps", type=int, help="about this many, not the task's own")
    parser.add_argument("--quick", action="store_true", help="2 seeds of 10,000 steps: a trial")
    parser.add_argument("--out", type=Path, help="JSON file to write, or to go on with")
    args = parser.parse_args()
    if args.quick:
        args = quickened(parser, seeds=2, total_timesteps=10_000)
    use_cores(args.seeds)
    asked = asked_for(args)
    results = measured_before(args.out, parser, asked)
    for task in args.tasks:
        if task not in results:
            results[task] = measure(task, args.seeds, args.total_timesteps)
            record("privileged", results, args.out, asked)
    report("privileged", results, args.out, asked)


if __name__ == "__main__":
    main()
