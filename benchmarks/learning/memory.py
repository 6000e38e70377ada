"""What a memory is worth: the same tasks without one and with each core.

MemoryChain-bsuite shows a bit in its first step and asks for it 32 steps later: a return of 1 is
perfect, of 0 chance, which no policy without a memory can exceed. CartPole-v1 without its two
velocities has to tell them from how positions change; 500 is perfect. Repeat shows one of 4 symbols
in each of 32 steps and asks for that of 4 steps before; 28 is perfect, 7 chance. The final return
of a seed is the mean return of the episodes that ended in the last tenth of its updates, actions
sampled.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.common.records import quickened, report
from benchmarks.common.returns import shortened, spread
from purejaxppo import PPOConfig, fit, make_env, use_cores
from purejaxppo.envs.wrappers import HideIndices
from purejaxppo.run_folder.rows import final_returns
from purejaxppo.spaces import Discrete

CORES = ("none", "gru", "lstm", "linear", "mingru", "gtrxl")
SYMBOLS, BEFORE, STEPS = 4, 4, 32


class Shown(NamedTuple):
    """The state of `Repeat`: [BEFORE + 1] int32, the symbols shown, the latest first; and time."""

    symbols: jax.Array
    time: jax.Array


class Repeat:
    """Shows a symbol drawn anew in each step; to name that of some steps before pays 1."""

    default_params = ()

    def reset_env(self, key, params):
        """Begins an episode."""
        symbols = jnp.zeros(BEFORE + 1, jnp.int32).at[0].set(_symbol(key))
        return symbols[0], Shown(symbols, jnp.int32(0))

    def step_env(self, key, state, action, params):
        """Pays for the action, and shows another symbol."""
        asked = state.time >= BEFORE
        reward = (asked & (action == state.symbols[BEFORE])).astype(jnp.float32)
        symbols = jnp.concatenate([_symbol(key)[None], state.symbols[:-1]])
        state = Shown(symbols, state.time + 1)
        return symbols[0], state, reward, state.time == STEPS, {}

    def is_truncated(self, state, params):
        """Never: the task ends."""
        return jnp.bool_(False)

    def observation_space(self, params):
        """Describes a symbol."""
        return Discrete(SYMBOLS)

    def action_space(self, params):
        """Describes a symbol."""
        return Discrete(SYMBOLS)


def _symbol(key: jax.Array) -> jax.Array:
    return jax.random.randint(key, (), 0, SYMBOLS)


def repeat() -> tuple[Any, Any, PPOConfig]:
    """Environment, its parameters and the configuration without a memory."""
    config = PPOConfig(
        env="Repeat", num_envs=32, num_steps=32, total_timesteps=1024 * 300, learning_rate=2e-3,
        hidden_sizes=(32,), entropy_coef=0.01, gamma=0.9,
    )  # fmt: skip
    return Repeat(), (), config


def memory_chain() -> tuple[Any, Any, PPOConfig]:
    """Environment, its parameters and the configuration without a memory."""
    env, params = make_env("MemoryChain-bsuite")
    config = PPOConfig(
        env="MemoryChain-bsuite", num_envs=32, num_steps=64, total_timesteps=2048 * 200,
        learning_rate=1e-3, hidden_sizes=(32,),
    )  # fmt: skip
    return env, params.replace(memory_length=32), config


def hidden_velocities() -> tuple[Any, Any, PPOConfig]:
    """Environment, its parameters and the configuration without a memory."""
    env, params = make_env("CartPole-v1")
    config = PPOConfig(
        env="CartPole-v1", num_envs=32, num_steps=128, total_timesteps=4096 * 200,
        num_minibatches=8, learning_rate=1e-3, learning_rate_final_scale=0.0,
        hidden_sizes=(64,), normalize_rewards=True,
    )  # fmt: skip
    return HideIndices(env, [1, 3]), params, config


TASKS = {
    "MemoryChain-bsuite, 32 steps": memory_chain,
    "CartPole-v1, velocities hidden": hidden_velocities,
    "Repeat, 4 steps": repeat,
}


# what a window has to hold; short sequences, for attention to be cheap
WINDOWS: dict[str, dict[str, Any]] = {
    "CartPole-v1, velocities hidden": dict(core_window=8, core_layers=1, sequence_length=16),
}


def measure(task: str, core: str, seeds: int, total_timesteps: int | None) -> dict:
    """Trains one core on one task; returns what there is to report."""
    env, env_params, config = TASKS[task]()
    if core != "none":
        options = WINDOWS.get(task, dict(core_window=32)) if core == "gtrxl" else {}
        config = config.replace(core=core, core_size=config.hidden_sizes[0], **options)
    config = shortened(config, total_timesteps)
    result = fit(config, seeds=seeds, env=env, env_params=env_params)
    returns = final_returns(result.metrics)
    return {
        "final_return": spread(returns.tolist()),
        "seeds": seeds,
        "run_seconds": result.run_seconds,
        "compile_seconds": result.compile_seconds,
        "steps_per_second": seeds * config.timesteps / result.run_seconds,
        "config": config.to_dict(),
    }


def main() -> None:
    """Trains every core on every task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--cores", nargs="*", choices=CORES, default=list(CORES))
    parser.add_argument("--seeds", type=int, default=8, help="agents per run, in one program")
    parser.add_argument("--total-timesteps", type=int, help="about this many, not the task's own")
    parser.add_argument("--quick", action="store_true", help="none and gru, 2 seeds, 20,000 steps")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    if args.quick:
        args = quickened(parser, cores=["none", "gru"], seeds=2, total_timesteps=20_000)
    use_cores(args.seeds)
    results = {
        task: {core: measure(task, core, args.seeds, args.total_timesteps) for core in args.cores}
        for task in args.tasks
    }
    report("memory", results, args.out)


if __name__ == "__main__":
    main()
