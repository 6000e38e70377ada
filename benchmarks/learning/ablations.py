"""What each implementation detail of PPO is worth: all of them, and all but one, on four tasks.

The details are those that papers list beside the algorithm (Engstrom et al. 2020, arXiv:2005.12729;
Andrychowicz et al. 2021, arXiv:2006.05990; Huang et al. 2022, "The 37 Implementation Details of
PPO"). Returns are those of `benchmarks.common.returns`; their interquartile means over seeds have
95% bootstrap intervals.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import jax

from benchmarks.common.records import asked_for, measured_before, quickened, record, report
from benchmarks.common.returns import compared, returns_of, shortened
from benchmarks.common.shapes import FLAT
from purejaxppo import ADVANTAGES, PPOConfig, use_cores
from purejaxppo.components import make_components
from purejaxppo.types import Array, Estimate, Params, Policy, Rollout

TASKS: dict[str, PPOConfig] = {
    "CartPole-v1": PPOConfig.preset("CartPole-v1", total_timesteps=200_000),
    "Pendulum-v1": PPOConfig.preset("Pendulum-v1", total_timesteps=300_000),
    "MountainCarContinuous-v0": PPOConfig.preset(
        "MountainCarContinuous-v0", total_timesteps=300_000
    ),
    "Breakout-MinAtar": FLAT,
}
"""Sizes and learning rates, in runs that are short enough for differences to be seen."""

DETAILS: dict[str, Any] = {
    "advantage_normalization": "minibatch", "value_loss": "clipped", "max_grad_norm": 0.5,
    "learning_rate_final_scale": 0.0, "normalize_observations": True, "normalize_rewards": True,
    "adam_eps": 1e-5, "shared_torso": False,
}  # fmt: skip
"""All of those that are fields; the others are always on."""

NOT_THERE = {"Breakout-MinAtar": ("normalize_observations",)}  # its observations are bits
"""Details that a task cannot have."""

WITHOUT: dict[str, dict[str, Any]] = {
    "all details": {},
    "no advantage normalisation": {"advantage_normalization": "none"},
    "no value clipping": {"value_loss": "squared"},
    "no gradient clipping": {"max_grad_norm": None},
    "no annealing": {"learning_rate_final_scale": 1.0},
    "no observation normalisation": {"normalize_observations": False},
    "no reward normalisation": {"normalize_rewards": False},
    "Adam's epsilon 1e-8": {"adam_eps": 1e-8},
    "one torso for both": {"shared_torso": True},
    "Flax's initialisation, heads too": {},
    "no bootstrap at time limits": {},
}
"""What is changed of the fields when a detail is off; the last two are parts, see `parts_of`."""


def scaled_by_inputs(policy: Policy) -> Policy:
    """Returns a policy whose kernels begin as Flax's do, N(0, 1 / inputs), those of heads too."""
    draw = jax.nn.initializers.lecun_normal()

    def init(key: Array) -> Params:
        params = policy.init(key)
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves))
        drawn = [
            draw(k, x.shape, x.dtype) if x.ndim > 1 else x
            for k, x in zip(keys, leaves, strict=True)
        ]
        return jax.tree.unflatten(tree, drawn)

    return policy._replace(init=init)


def as_if_terminated(rollout: Rollout, hyperparams: Any, config: Any) -> Estimate:
    """Estimates advantages as if an episode that runs out of time had ended by the task."""
    ended = rollout.terminated | rollout.truncated
    return ADVANTAGES["gae"](rollout.replace(terminated=ended), hyperparams, config)


def parts_of(detail: str, config: PPOConfig) -> dict[str, Any]:
    """Returns what takes the place of a part of the algorithm, where a detail is no field."""
    if detail == "Flax's initialisation, heads too":
        return {"policy": scaled_by_inputs(make_components(config).policy)}
    if detail == "no bootstrap at time limits":
        return {"advantage": as_if_terminated}
    return {}


def measure(task: str, detail: str, seeds: int, steps: int | None, plain: Any) -> dict[str, Any]:
    """Trains a task without one detail; returns what there is to report."""
    fields = {**DETAILS, **WITHOUT[detail]}
    there = {name: x for name, x in fields.items() if name not in NOT_THERE.get(task, ())}
    config = shortened(TASKS[task].replace(**there), steps)
    found = compared(returns_of(config, seeds, **parts_of(detail, config)), plain)
    return {"config": config.to_dict(), **found}


def main() -> None:
    """Trains every task without each of the details."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--details", nargs="*", choices=WITHOUT, default=list(WITHOUT))
    parser.add_argument("--seeds", type=int, default=8, help="agents per run, in one program")
    parser.add_argument("--total-timesteps", type=int, help="about this many, not the task's own")
    parser.add_argument("--quick", action="store_true", help="CartPole-v1, 4 seeds, 50,000 steps")
    parser.add_argument("--out", type=Path, help="JSON file to write, or to go on with")
    args = parser.parse_args()
    if args.quick:
        args = quickened(parser, tasks=args.tasks[:1], seeds=4, total_timesteps=50_000)
    use_cores(args.seeds)
    # what an earlier process has measured stays, and each detail is kept as soon as it is
    asked = asked_for(args)
    results = measured_before(args.out, parser, asked)
    for task in args.tasks:
        there = results.setdefault(task, {})
        for detail in dict.fromkeys(["all details", *args.details]):
            cannot = any(name in NOT_THERE.get(task, ()) for name in WITHOUT[detail])
            if detail in there or cannot:
                continue
            print(task, detail, file=sys.stderr, flush=True)
            plain = there.get("all details")
            there[detail] = measure(task, detail, args.seeds, args.total_timesteps, plain)
            record("ablations", results, args.out, asked)
    report("ablations", results, args.out, asked)


if __name__ == "__main__":
    main()
