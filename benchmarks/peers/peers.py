"""Training speed beside other PPO libraries: rejax, SBX, Stable-Baselines3, Brax and PureJaxRL.

The same work with matched hyperparameters, as far as a library allows; `differs` says what it does
not. Each arm is a process of its own, in its own virtual environment, and compiles before anything
is timed. Then the arms train in turn, in an order that alternates, so that whatever slows the
machine meets them all. Ratios are taken round by round: ours / theirs, in steps per second.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common.records import report
from benchmarks.common.shapes import SHAPES, Shape
from benchmarks.common.timing import quartiles
from benchmarks.peers.peer_envs import CACHE, python_of
from benchmarks.peers.peer_table import PEERS

WORKER = Path(__file__).parent / "worker.py"
OURS = "ours"


class WorkerError(Exception):
    """A worker that gave no answer; the message says how it ended."""


class Worker:
    """The parent's end of a process that runs peers/worker.py."""

    def __init__(self, python: str, module: str, limit: float):
        # without a cache of compiled programs, for compile_seconds
        env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
        self._limit = limit
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the process)
        self._process = subprocess.Popen(
            [python, str(WORKER), module],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=env,
        )  # fmt: skip

    def ask(self, message: dict) -> dict:
        """Sends a line and waits for the answer; a worker that gives none is ended."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(json.dumps(message) + "\n")
            stdin.flush()
        except BrokenPipeError:
            pass  # it has died: the answer is empty
        ready, _, _ = select.select([stdout], [], [], self._limit)
        answer = stdout.readline() if ready else ""
        if answer:
            return json.loads(answer)
        self._errors.seek(0)
        last = (self._errors.read().strip().splitlines() or ["no message"])[-1]
        self.end()
        raise WorkerError(f"failed: {last}" if ready else f"hung: no answer in {self._limit:g} s")

    def end(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()


class ArmPlan(NamedTuple):
    """One arm of one shape: what runs it, and the job that it is sent."""

    python: str
    module: str
    job: dict[str, Any]
    differs: list[str]

    @property
    def timesteps(self) -> int:
        """Environment steps of one call, over all seeds."""
        return self.job["config"]["total_timesteps"] * self.job["seeds"]


def job(name: str, shape: Shape, total_timesteps: int | None, updates: int | None) -> dict:
    """What a worker is told: the shape's configuration, with as many steps as are asked for."""
    config = shape.config
    wanted = max(1, (total_timesteps or config.total_timesteps) // config.batch_size)
    wanted = min(wanted, updates or wanted)
    config = config.replace(total_timesteps=wanted * config.batch_size)
    return {"shape": name, "config": config.to_dict(), "seeds": shape.seeds}


def plan(
    name: str, shape: Shape, args: argparse.Namespace, beside: bool = False
) -> dict[str, ArmPlan]:
    """The arms of a shape.

    Args:
        name: under which the table of peers has it.
        shape: its sizes, perhaps others than it has by that name.
        args: what was asked for, see `arguments_of`.
        beside: with the packages of this interpreter, see `python_of`.
    """
    own = job(name, shape, args.total_timesteps, None)
    arms = {OURS: ArmPlan(sys.executable, "arm_ours", own, [])}
    for peer_name in dict.fromkeys(args.peers):
        peer = PEERS.get(peer_name)
        if peer is None or name not in peer.updates:
            continue
        told = job(name, shape, args.total_timesteps, peer.updates[name])
        told |= {"peer": peer_name, "checkout": args.purejaxrl and str(args.purejaxrl)}
        python = python_of(peer.env, args.envs_dir, beside) if peer.env else sys.executable
        arms[peer_name] = ArmPlan(python, peer.module, told, peer.differences(name))
    return arms


def measure(arms: dict[str, ArmPlan], rounds: int, limit: float) -> dict[str, Any]:
    """Compiles every arm, then times them in turn; returns what there is to report."""
    workers: dict[str, Worker] = {}
    hello, failures = {}, {}
    seconds: dict[str, list[float]] = {name: [] for name in arms}

    def ask(name, message):
        try:
            return workers[name].ask(message)
        except WorkerError as error:
            failures[name] = str(error)
            return None

    try:
        for name, arm in arms.items():
            workers[name] = Worker(arm.python, arm.module, limit)
            hello[name] = ask(name, arm.job)
        for i in range(rounds):
            for name in list(arms)[:: 1 if i % 2 == 0 else -1]:
                answer = ask(name, {"seed": i + 2}) if name not in failures else None
                if answer:
                    seconds[name].append(answer["seconds"])
    finally:
        for worker in workers.values():
            worker.end()
    return {
        name: {"status": failures[name]}
        if name in failures
        else summary(arms[name], arms[OURS], seconds[name], seconds[OURS]) | hello[name]
        for name in arms
    }


def summary(arm: ArmPlan, ours: ArmPlan, seconds: list[float], our_seconds: list[float]) -> dict:
    """Speed of an arm, and of ours over it, over the rounds that both have run."""
    speeds = [arm.timesteps / s for s in seconds]
    our_speeds = [ours.timesteps / s for s in our_seconds]
    result = {
        "status": "ok",
        "timesteps_per_call": arm.timesteps,
        "steps_per_second": quartiles(speeds),
    }
    if arm is not ours and len(our_speeds) == len(speeds):
        ratios = [a / b for a, b in zip(our_speeds, speeds, strict=True)]
        result |= {"ours_over_peer": quartiles(ratios), "differs": arm.differs}
    return result


def arguments_of(
    parser: argparse.ArgumentParser, known: Iterable[str], default: list[str]
) -> argparse.Namespace:
    """Reads the arguments that say what is measured beside which peers, and a benchmark's own.

    Args:
        parser: has those of its own.
        known: peers that can be measured.
        default: those that are where none is named.
    """
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--peers", nargs="*", choices=[*known, "none"], default=default)
    parser.add_argument("--purejaxrl", type=Path, help="a checkout of PureJaxRL, measured too")
    parser.add_argument("--total-timesteps", type=int, help="about this many, not the shape's")
    parser.add_argument("--limit", type=float, default=300, help="seconds for one answer")
    parser.add_argument("--envs-dir", type=Path, default=CACHE, help="where environments are kept")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    if args.purejaxrl:
        args.purejaxrl = args.purejaxrl.resolve()
        args.peers = [*args.peers, "purejaxrl"]
    elif "purejaxrl" in args.peers:
        parser.error("--peers purejaxrl: say where its checkout is, with --purejaxrl")
    return args


def main() -> None:
    """Measures every shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each arm, at least 2")
    args = arguments_of(parser, PEERS, ["rejax", "sbx", "sb3", "brax"])
    if args.rounds < 2:
        parser.error(f"--rounds {args.rounds}: quartiles take at least 2")
    plans = {name: plan(name, SHAPES[name], args) for name in args.shapes}  # makes the environments
    results = {}
    for name, arms in plans.items():
        print(f"shape {name}", file=sys.stderr, flush=True)
        results[name] = measure(arms, args.rounds, args.limit)
    report("peers", results, args.out)


if __name__ == "__main__":
    main()
