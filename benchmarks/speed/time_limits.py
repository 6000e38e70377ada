"""What right time limits cost: training speed with and without V(final observation).

Without, no value is computed for the observations that the actions led to, and their rows are not
even stored: the fastest a rollout can be, and wrong at every truncation and rollout end. The two
programs are compiled first, then timed in turn.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp

from benchmarks.common.records import report
from benchmarks.common.timing import paired_seconds, quartiles
from purejaxppo import PPOConfig, compiler_options, make_train
from purejaxppo.ppo import rollout

SHAPES = {
    "preset": PPOConfig.preset("CartPole-v1", total_timesteps=50_000),
    "4 x 128": PPOConfig(num_envs=4, num_steps=128, total_timesteps=512 * 100),
    "64 x 128": PPOConfig(num_envs=64, num_steps=128, total_timesteps=8192 * 6),
}


def no_final_values(policy, critic, params, norms, carry, final_obs, parts):
    """Stands in for `rollout.final_values`: nothing is computed or kept."""
    return jnp.zeros(final_obs.shape[:2])


def measure(config: PPOConfig, pairs: int) -> dict:
    """Steps per second with and without, and the slowdown in percent, pair by pair."""
    key = jax.random.key(0)
    options = compiler_options()  # as the command line compiles
    on = jax.jit(make_train(config), compiler_options=options).lower(key).compile()
    with mock.patch.object(rollout, "final_values", no_final_values):
        off = jax.jit(make_train(config), compiler_options=options).lower(key).compile()
    seconds = paired_seconds(lambda: on(key), lambda: off(key), pairs)
    return {
        "steps_per_second_with": quartiles([config.timesteps / a for a, _ in seconds]),
        "steps_per_second_without": quartiles([config.timesteps / b for _, b in seconds]),
        "slowdown_percent": quartiles([100 * (a / b - 1) for a, b in seconds]),
        "pairs": pairs,
    }


def main() -> None:
    """Measures every shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=101, help="timed pairs per shape")
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--total-timesteps", type=int, help="in place of each shape's own")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    results = {}
    for name in args.shapes:
        config = SHAPES[name]
        if args.total_timesteps:
            config = config.replace(total_timesteps=args.total_timesteps)
        results[name] = measure(config, args.pairs)
    report("time_limits", results, args.out)


if __name__ == "__main__":
    main()
