"""What `fit` costs: chunks, logs, checkpoints and progress against one compiled program.

Both train the same agents, to the bit, in turn; compilation is not counted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks.common.records import report
from benchmarks.common.timing import quartiles
from purejaxppo import PPOConfig, compiler_options, fit, make_train
from purejaxppo.cli.progress.display import Display
from purejaxppo.tuning import keep_compiled_programs


def measure(config: PPOConfig, checkpoints: int, rounds: int) -> dict:
    """Seconds of both, and of `fit` over those of the single program."""
    key = jax.random.split(jax.random.key(0), 1)[0]
    train = jax.jit(make_train(config), compiler_options=compiler_options()).lower(key).compile()
    every = max(config.batch_size, config.timesteps // checkpoints)

    def single() -> tuple[float, jax.Array]:
        started = time.perf_counter()
        output = jax.block_until_ready(train(key))
        return time.perf_counter() - started, output.metrics.return_sum

    def driven() -> tuple[float, jax.Array]:
        with tempfile.TemporaryDirectory() as folder, Display(config.timesteps, 1) as display:
            result = fit(
                config, run_dir=Path(folder) / "run", checkpoint_every=every, callbacks=[display]
            )
        return result.run_seconds, result.metrics.return_sum[0]

    seconds: list[tuple[float, float]] = []
    for i in range(rounds):
        first, second = (single, driven) if i % 2 == 0 else (driven, single)
        (a, one), (b, other) = first(), second()
        np.testing.assert_array_equal(one, other)
        seconds.append((a, b) if i % 2 == 0 else (b, a))
    return {
        "total_timesteps": config.timesteps,
        "checkpoint_every": every,
        "single_seconds": quartiles([a for a, _ in seconds]),
        "fit_seconds": quartiles([b for _, b in seconds]),
        "fit_over_single": quartiles([b / a for a, b in seconds]),
    }


def main() -> None:
    """Measures CartPole."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-envs", type=int, default=4)
    parser.add_argument("--num-steps", type=int, default=128)
    parser.add_argument("--total-timesteps", type=int, default=512 * 10_000, help="about 30 s")
    parser.add_argument("--checkpoints", type=int, default=10, help="in a run")
    parser.add_argument("--rounds", type=int, default=5, help="of each, in turn")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    keep_compiled_programs()
    config = PPOConfig(
        num_envs=args.num_envs,
        num_steps=args.num_steps,
        total_timesteps=args.total_timesteps,
    )
    report("driver", measure(config, args.checkpoints, args.rounds), args.out)


if __name__ == "__main__":
    main()
