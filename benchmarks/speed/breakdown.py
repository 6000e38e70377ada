"""Where an update spends its time.

Its parts are the rollout, the values of final observations, the advantages, the shuffle and the
gradient steps. Each runs alone, many times in one compiled program, on what the parts before it
made, and is timed in turn with the whole update. `rest` is what the whole takes beyond their sum
(statistics, metrics; below 0 where the compiler runs parts of an update side by side).
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from benchmarks.common.records import report
from benchmarks.common.shapes import SHAPES, Shape
from benchmarks.common.timing import interleaved_seconds, seconds_of
from purejaxppo import ADVANTAGES, PPOConfig, compiler_options
from purejaxppo.components import make_components
from purejaxppo.ppo.minibatches import as_batch
from purejaxppo.ppo.normalize import normalize
from purejaxppo.ppo.rollout import collect, values_of
from purejaxppo.ppo.shuffle import minibatch_indices
from purejaxppo.ppo.update import optimize
from purejaxppo.train import learner_of, loss_of, minibatches_of

SECONDS_PER_CALL = 0.1


def make_parts(config: PPOConfig) -> dict[str, tuple[Callable, Any]]:
    """The parts of one seed's update: (function from its input to the next one, key to input)."""
    parts = make_components(config)
    env_params, policy, critic = parts.env_params, parts.policy, parts.critic
    vec_env = parts.vectorize(config.num_envs)
    learner, hyper = learner_of(parts), config.hyperparams()

    def roll(loop):
        state, _ = loop
        key, key_roll = jax.random.split(state.key)
        state = state.replace(key=key)
        return collect(policy, critic, vec_env, config.num_steps, state, env_params, key_roll)

    def rolled(key):
        state = learner.init(key)
        return collect(policy, critic, vec_env, config.num_steps, state, env_params, key)

    def values(loop):
        state, rollout = loop
        norms, obs = state.normalizers, rollout.obs + 1e-6 * rollout.value.mean()
        value = values_of(policy, critic, state.params, norms, rollout.carry, obs)
        return state, rollout.replace(value=value)

    def advantages(loop):
        state, rollout = loop
        advantage, target = ADVANTAGES[config.advantage](rollout, hyper, config)
        return state, rollout.replace(value=0.5 * advantage, next_value=0.5 * target)

    def shuffle(loop):
        key, _ = loop
        key, key_now = jax.random.split(key)
        return key, minibatch_indices(
            key_now, config.batch_size, config.num_epochs, config.num_minibatches
        )

    def start_of_steps(key):
        state, rollout = rolled(key)
        advantage, target = ADVANTAGES[config.advantage](rollout, hyper, config)
        obs = normalize(state.normalizers.obs, rollout.obs)
        return state, as_batch(rollout, obs, advantage, target)

    def steps(loop):
        state, batch = loop
        key, key_now = jax.random.split(state.key)
        params, opt_state, _ = optimize(
            loss_of(parts, hyper, state.objective_state), parts.optimizer, hyper,
            minibatches_of(parts, state.params, batch), state.params, state.opt_state, batch,
            key_now,
        )  # fmt: skip
        return state.replace(params=params, opt_state=opt_state, key=key), batch

    return {
        "update": (lambda state: learner.update(state)[0], learner.init),
        "rollout": (roll, rolled),
        "values": (values, rolled),
        "advantages": (advantages, rolled),
        "shuffle": (shuffle, lambda key: shuffle((key, None))),
        "steps": (steps, start_of_steps),
    }


def repeat(part: Callable, start: Any) -> tuple[Callable, int]:
    """A compiled program that does a part as often as takes SECONDS_PER_CALL, and how often."""

    def compiled(times):
        def program(loop):
            return jax.lax.scan(lambda loop, _: (part(loop), None), loop, length=times)[0]

        run = jax.jit(program, compiler_options=compiler_options()).lower(start).compile()
        return lambda: run(start)

    few = compiled(4)
    jax.block_until_ready(few())
    times = max(4, min(10_000, math.ceil(4 * SECONDS_PER_CALL / seconds_of(few))))
    return (few if times == 4 else compiled(times)), times


def measure(shape: Shape, rounds: int) -> dict[str, Any]:
    """Microseconds of each part per update, all seeds together."""
    config, seeds = shape
    keys = jax.random.split(jax.random.key(0), seeds)
    functions, times, names = [], [], []
    for name, (part, make_input) in make_parts(config).items():
        start = jax.jit(jax.vmap(make_input) if seeds > 1 else make_input)
        many = jax.vmap(part) if seeds > 1 else part
        function, count = repeat(many, start(keys if seeds > 1 else keys[0]))
        functions.append(function)
        times.append(count)
        names.append(name)
    taken = interleaved_seconds(functions, rounds)
    us = {
        name: 1e6 * statistics.median(seconds) / count
        for name, seconds, count in zip(names, taken, times, strict=True)
    }
    update = us.pop("update")
    us["rollout"] -= us["values"]
    us["steps"] -= us["shuffle"]
    us["rest"] = update - sum(us.values())
    return {"microseconds": us, "update_microseconds": update, "rounds": rounds, "seeds": seeds}


def main() -> None:
    """Takes every shape apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=11, help="timed calls of each part")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    report(
        "breakdown", {name: measure(SHAPES[name], args.rounds) for name in args.shapes}, args.out
    )


if __name__ == "__main__":
    main()
