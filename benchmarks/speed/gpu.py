"""Training on a GPU: speed, seconds to a score, memory and where the time goes, in ten minutes.

    python -m benchmarks.speed.gpu --out benchmarks/results/gpu.json
    python -m benchmarks.speed.gpu --quick --platform cpu    # to try it out where there is none

Steps per second, rollout and update together, are of the program that `fit` calls, the median of
several calls after one that warms up. Beside other libraries they are of a whole training run of
each, in turn (see `peers.peers`); those whose environments are not in `--envs-dir` are named, and
`--make-envs` makes them, with the JAX of this interpreter. Where the time goes is summed from a
profile of one update, compiled without CUDA graphs, so that every kernel has the name of its
instruction: what the whole takes beyond that sum, kernels have waited for.

Every figure comes from a process of its own, the most important ones first. What the seconds were
too few for is in `left_out`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks.common.child import does_not_fit, result_of
from benchmarks.common.programs import Training, available_bytes, peak_bytes, predicted_bytes
from benchmarks.common.records import report
from benchmarks.common.shapes import CNN, SHAPES, Shape
from benchmarks.common.timing import interleaved_seconds, quartiles, seconds_of
from benchmarks.common.traces import profile
from benchmarks.peers import peers
from benchmarks.peers.peer_envs import CACHE, is_made, place_of, python_of
from benchmarks.peers.peer_table import PEERS
from purejaxppo import PPOConfig, fit


class Score(NamedTuple):
    """A return to reach: the configuration that does, and the steps between evaluations."""

    config: PPOConfig
    target: float
    eval_every: int


class Task(NamedTuple):
    """What is trained.

    Attributes:
        config: with any number of environments.
        fresh: a K of so many environments is reset at a time; None: all of them, at every step.
        shape: its name in the table of peers, where others are measured on it too.
        score: what is trained until it is reached.
    """

    config: PPOConfig
    fresh: int | None = None
    shape: str | None = None
    score: Score | None = None

    def sized(self, num_envs: int, updates: int = 1) -> PPOConfig:
        """Its configuration, with so many environments and updates."""
        return self.config.replace(
            num_envs=num_envs,
            total_timesteps=updates * num_envs * self.config.num_steps,
            reset_batch=self.fresh and max(1, num_envs // self.fresh),
        )


_CARTPOLE = PPOConfig.preset("CartPole-v1")
# those that compile fast come first
TASKS = {
    "CartPole-v1": Task(
        SHAPES["c"].config, shape="c", score=Score(_CARTPOLE, 475.0, 20_000)
    ),
    "Breakout-MinAtar": Task(CNN, score=Score(CNN, 20.0, 250_000)),
    "CartPole-v1, gru": Task(
        SHAPES["c"].config.replace(core="gru"),
        score=Score(_CARTPOLE.replace(core="gru"), 475.0, 20_000),
    ),
    "brax/ant": Task(
        PPOConfig(
            env="brax/ant", env_options=("backend=spring",), num_steps=16, num_minibatches=8,
            hidden_sizes=(256, 256), learning_rate=3e-4, normalize_observations=True,
        ),
        fresh=16, shape="ant",
    ),
    "Craftax-Classic": Task(
        PPOConfig.preset("craftax/Craftax-Classic-Symbolic-v1", num_steps=16), fresh=16
    ),
}  # fmt: skip
SIZES, QUICK = [4096, 65_536, 1024, 16_384], [16]
"""Environments, the first of them those that are profiled."""

BESIDE = ["purejaxrl", "rejax", "brax"]
SECONDS_PER_CALL = 0.3
SECONDS_PER_POINT = 15


class Job(NamedTuple):
    """What one process measures: `speed`, `score`, `profile` or, of several processes, `peers`.

    Attributes:
        kind: one of these.
        task: a name in TASKS.
        num_envs: 0 for a score, which has those of its configuration.
        quick: with few steps.
    """

    kind: str
    task: str
    num_envs: int = 0
    quick: bool = False

    @property
    def config(self) -> PPOConfig:
        """Its task's, for one update."""
        config = TASKS[self.task].sized(self.num_envs)
        return quick(config) if self.quick else config


# -- measured in a process of its own -------------------------------------------------------------


def speed(job: Job) -> dict[str, Any]:
    """Speed and memory."""
    started = time.perf_counter()
    training = Training(job.config)
    program = training.compile_any()
    compile_seconds = time.perf_counter() - started
    needed = predicted_bytes(program)
    memory: dict[str, Any] = {"compiled_bytes": needed}
    if needed > available_bytes():
        return does_not_fit(f"the compiler asks for {needed / 1e9:.1f} GB") | {"memory": memory}

    # as many updates in a call as take a while, and as many calls as there is time for
    states = training.states()
    memory["peak_bytes"], memory["measured_by"] = peak_bytes(lambda: program(states, 1))
    seconds = seconds_of(lambda: program(states, 1))
    updates = 1 if job.quick else max(1, math.ceil(SECONDS_PER_CALL / seconds))
    rounds = 2 if job.quick else max(3, min(7, int(SECONDS_PER_POINT / (seconds * updates))))
    (taken,) = interleaved_seconds([lambda: program(states, updates)], rounds)
    return {
        "steps_per_second": quartiles([updates * job.config.batch_size / s for s in taken]),
        "seconds_per_update": quartiles([s / updates for s in taken]),
        "rounds": rounds,
        "updates_per_call": updates,
        "compile_seconds": compile_seconds,
        "memory": memory,
        "config": job.config.to_dict(),
    }


def where_time_goes(job: Job) -> dict[str, Any]:
    """The kernels of one update."""
    training = Training(job.config)
    program, states = training.compile_any(xla_gpu_enable_command_buffer=""), training.states()
    return profile(program, lambda: program(states, 1))


def quick(config: PPOConfig) -> PPOConfig:
    """The same program with few steps and a small network, for a run that shows that it works."""
    steps = 8
    return config.replace(
        num_steps=steps, num_minibatches=2, num_epochs=1, hidden_sizes=(16,),
        total_timesteps=config.num_envs * steps * config.num_updates,
    )  # fmt: skip


def score(job: Job) -> dict[str, Any]:
    """Seconds from the first trace to a mean return of 16 evaluation episodes."""
    goal = TASKS[job.task].score
    assert goal is not None
    config, target, eval_every = goal
    if job.quick:  # reached by the first evaluation
        config = config.replace(total_timesteps=4 * config.batch_size)
        target, eval_every = 0.0, config.batch_size
    result = fit(config, eval_every=eval_every, target_return=target)
    best = float(result.best.returns[0])
    return {
        "target_return": target,
        "reached": best >= target,
        "return": best,
        "timesteps": result.summary["timesteps"],
        "compile_seconds": result.compile_seconds,
        "run_seconds": result.run_seconds,
        "seconds": result.compile_seconds + result.run_seconds,
        "config": config.to_dict(),
    }


# -- all of it ------------------------------------------------------------------------------------


def jobs_of(args: argparse.Namespace) -> Iterator[Job]:
    """What is to be measured, the most important first."""
    first, *others = args.envs
    for name in args.tasks:
        yield Job("speed", name, first, args.quick)
        if TASKS[name].shape:
            yield Job("peers", name, first, args.quick)
        if TASKS[name].score:
            yield Job("score", name, quick=args.quick)
        yield Job("profile", name, first, args.quick)
    yield from (Job("speed", name, n, args.quick) for n in others for name in args.tasks)
    beside = [name for name in args.tasks if TASKS[name].shape]
    yield from (Job("peers", name, n, args.quick) for n in others for name in beside)


def beside_peers(job: Job, args: argparse.Namespace, ours: dict, limit: float) -> dict[str, Any]:
    """Trains ours and others in turn, each for about as many seconds as a call of ours takes."""
    task = TASKS[job.task]
    assert task.shape is not None
    known = [name for name in args.peers if task.shape in PEERS[name].updates]
    absent = {name: why for name in known if (why := missing(name, args))}
    seconds = ours["seconds_per_update"]["median"] if "seconds_per_update" in ours else 1.0
    updates = 1 if job.quick else max(1, math.ceil(SECONDS_PER_CALL / seconds))
    config = task.sized(job.num_envs, updates)
    shape = Shape(quick(config) if job.quick else config)
    present = argparse.Namespace(**vars(args) | {"peers": [n for n in known if n not in absent]})
    found: dict[str, Any] = {name: {"status": f"missing: {why}"} for name, why in absent.items()}
    if present.peers:
        arms = peers.plan(task.shape, shape, present, beside=True)
        # an answer waits for compilation at most; training takes a few seconds
        found |= peers.measure(arms, 2 if job.quick else 5, limit / len(arms))
    return found


def missing(peer: str, args: argparse.Namespace) -> str | None:
    """What a library lacks to be measured."""
    env = PEERS[peer].env
    if peer == "purejaxrl" and args.purejaxrl is None:
        return "no checkout, give one with --purejaxrl"
    if env and not is_made(place_of(env, args.envs_dir, beside=True)):
        return f"no environment in {args.envs_dir}, make it with --make-envs"
    return None


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measures what there is time for."""
    started = time.monotonic()
    kinds = ("speed", "score", "peers", "profile")
    results: dict[str, Any] = {kind: {} for kind in kinds} | {"left_out": []}
    for job in jobs_of(args):
        name = f"{job.kind}, {job.task}" + (f", {job.num_envs:,}" if job.num_envs else "")
        left = args.seconds - (time.monotonic() - started)
        if left < 0.05 * args.seconds:
            results["left_out"].append(f"{name}: no time left")
            continue
        print(f"{name} ({left:.0f} s left)", file=sys.stderr, flush=True)
        if job.kind == "peers":
            ours = results["speed"].get(job.task, {}).get(str(job.num_envs), {})
            found = beside_peers(job, args, ours, left)
        else:
            found = result_of(["-m", "benchmarks.speed.gpu", "--job", json.dumps(job)], left)
        if "out_of_time" in found:
            results["left_out"].append(f"{name}: {found['out_of_time']}")
        elif job.num_envs:
            results[job.kind].setdefault(job.task, {})[str(job.num_envs)] = found
        else:
            results[job.kind][job.task] = found
    results["seconds"] = time.monotonic() - started
    return results


def card() -> dict[str, Any]:
    """What the figures are of: the device, what it is driven by, and how much memory it has."""
    device = jax.devices()[0]
    asked = "name,driver_version,memory.total,clocks.max.sm"
    said = None
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
        said = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return {
        "platform": device.platform,
        "name": device.device_kind,
        "platform_version": device.client.platform_version,
        "nvidia_smi": said,
        "bytes": (device.memory_stats() or {}).get("bytes_limit"),
    }


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--envs", nargs="*", type=int, help="environments, in turn")
    parser.add_argument("--seconds", type=float, default=540, help="for all of it")
    parser.add_argument("--peers", nargs="*", choices=[*BESIDE, "none"], default=BESIDE)
    parser.add_argument("--purejaxrl", type=Path, help="a checkout of PureJaxRL")
    parser.add_argument("--envs-dir", type=Path, default=CACHE, help="where environments are kept")
    parser.add_argument("--make-envs", action="store_true", help="make those of peers, and end")
    parser.add_argument("--platform", choices=["gpu", "cpu"], default="gpu")
    parser.add_argument("--quick", action="store_true", help="few small steps: shows that it runs")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.peers = [name for name in args.peers if name != "none"]
    args.purejaxrl = args.purejaxrl and args.purejaxrl.resolve()
    args.total_timesteps = None  # the task's: see `peers.plan`
    args.envs = args.envs or (QUICK if args.quick else SIZES)
    return args


def main() -> None:
    """Measures in order, or one point in this process."""
    # processes of several libraries share the card's memory: none takes all of it at once
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    args = arguments()
    if args.job:
        job = Job(*json.loads(args.job))
        kinds = {"speed": speed, "score": score, "profile": where_time_goes}
        print(json.dumps(kinds[job.kind](job)))
        return
    if args.make_envs:
        for name in {env for peer in args.peers if (env := PEERS[peer].env)}:
            print(python_of(name, args.envs_dir, beside=True))
        return
    if args.platform == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
        jax.config.update("jax_platforms", "cpu")
    if jax.default_backend() != args.platform:
        print("gpu.py: JAX finds no GPU; --quick --platform cpu tries it out", file=sys.stderr)
        sys.exit(2)
    results = {"card": card(), "quick": args.quick} | measure(args)
    report("gpu", results, args.out)
    by_envs = [*results["speed"].values(), *results["profile"].values()]
    found = [*results["score"].values(), *(x for sizes in by_envs for x in sizes.values())]
    sys.exit(any("failed" in result for result in found))


if __name__ == "__main__":
    main()
