"""What a fresh episode for every environment at every step costs, where resets are expensive.

The same run, to the bit, is trained with `reset_batch` None (a reset for every environment at every
step) and with several K (only as many resets as episodes ended, K at a time), timed in turn.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.common.programs import Training
from benchmarks.common.records import report
from benchmarks.common.timing import interleaved_seconds, quartiles
from purejaxppo import PPOConfig


def measure(config: PPOConfig, batches: list[int | None], rounds: int) -> dict:
    """Steps per second for each K, and over those without batches."""
    runs = []
    for batch in batches:
        training = Training(config.replace(reset_batch=batch))
        program, states = training.compile(config.num_updates), training.states()
        runs.append(lambda program=program, states=states: program(states))
    seconds = interleaved_seconds(runs, rounds)
    speeds = [[config.timesteps / s for s in taken] for taken in seconds]
    ratios = [[a / b for a, b in zip(taken, speeds[0], strict=True)] for taken in speeds]
    return {
        "none" if batch is None else str(batch): {
            "steps_per_second": quartiles(speed),
            "over_none": quartiles(ratio),
        }
        for batch, speed, ratio in zip(batches, speeds, ratios, strict=True)
    }


def main() -> None:
    """Measures one environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="craftax/Craftax-Classic-Symbolic-v1")
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--num-steps", type=int, default=16)
    parser.add_argument("--updates", type=int, default=4, help="in one timed call")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4, 16], help="K")
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    config = PPOConfig(
        env=args.env,
        num_envs=args.num_envs,
        num_steps=args.num_steps,
        total_timesteps=args.num_envs * args.num_steps * args.updates,
    )
    report("resets", {args.env: measure(config, [None, *args.batches], args.rounds)}, args.out)


if __name__ == "__main__":
    main()
