"""The shuffle beside `jax.random.permutation`: time, and what is learned with either.

Learning is compared over the same seeds, by the final return and by the mean return of all episodes
of the run (which tells more where every seed ends at the maximum); p is that of a two-sided
Mann-Whitney test, small where the two differ.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import scipy.stats

from benchmarks.common.records import quickened, report
from benchmarks.common.returns import shortened, spread
from benchmarks.common.timing import interleaved_seconds, quartiles
from purejaxppo import PPOConfig, compiler_options, fit, use_cores
from purejaxppo.ppo import update
from purejaxppo.ppo.shuffle import minibatch_indices
from purejaxppo.run_folder.rows import final_returns

ROWS = [512, 8192, 262_144]


def sorted_indices(key, batch_size: int, num_epochs: int, num_minibatches: int):
    """`minibatch_indices` by sorting random numbers: exactly uniform permutations."""
    keys = jax.random.split(key, num_epochs)
    order = jax.vmap(lambda key: jax.random.permutation(key, batch_size))(keys)
    return order.reshape(num_epochs * num_minibatches, batch_size // num_minibatches)


def seconds(rows: int, rounds: int) -> dict[str, Any]:
    """Seconds for the minibatches of 4 epochs."""
    key = jax.random.key(0)
    programs = [
        jax.jit(lambda key, f=f: f(key, rows, 4, 4), compiler_options=compiler_options())
        for f in (minibatch_indices, sorted_indices)
    ]
    taken = interleaved_seconds([lambda p=p: p(key) for p in programs], rounds)
    return dict(zip(("shuffle", "permutation"), map(quartiles, taken), strict=True))


def returns(config: PPOConfig, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Final return, and mean return over the run, of each seed."""
    metrics = fit(config, seeds=seeds).metrics
    mean = np.asarray(metrics.return_sum.sum(1) / metrics.episodes.sum(1))
    return final_returns(metrics), mean


def learning(config: PPOConfig, seeds: int) -> dict[str, Any]:
    """Returns with either, and whether they can be told apart."""
    ours = returns(config, seeds)
    with mock.patch.object(update, "minibatch_indices", sorted_indices):
        theirs = returns(config, seeds)
    result = {}
    for name, a, b in zip(("final_return", "mean_return"), ours, theirs, strict=True):
        result[name] = {
            "shuffle": spread(a.tolist()),
            "permutation": spread(b.tolist()),
            "p": float(scipy.stats.mannwhitneyu(a, b).pvalue),
        }
    return result | {"seeds": seeds, "config": config.to_dict()}


def main() -> None:
    """Times both, then trains with both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="*", default=["CartPole-v1", "Acrobot-v1"])
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--total-timesteps", type=int, help="about this many, not the preset's")
    parser.add_argument("--rounds", type=int, default=11, help="timed calls")
    parser.add_argument("--quick", action="store_true", help="one preset, 4 seeds, 50,000 steps")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    if args.quick:
        args = quickened(parser, presets=args.presets[:1], seeds=4, total_timesteps=50_000)
    use_cores(args.seeds)
    results = {"seconds": {rows: seconds(rows, args.rounds) for rows in ROWS}, "learning": {}}
    for name in args.presets:
        config = shortened(PPOConfig.preset(name), args.total_timesteps)
        results["learning"][name] = learning(config, args.seeds)
    report("shuffle", results, args.out)


if __name__ == "__main__":
    main()
