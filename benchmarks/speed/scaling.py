"""What more devices and more processes are worth for one agent.

Strong scaling: the same environments on D devices, each with its share. Weak scaling: as many
environments on each device as one has alone. Devices are those of one process, or of as many
processes with one each, which find each other over the loopback. The number of
a CPU's devices is fixed at the start of a process, so that each arm is one, or several, of its own:
they compile, and then train in turn, round by round, in an order that alternates. All ratios are
those of environment steps per second over one device with the environments of the shape; on a CPU
that one device has all cores already.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common.records import report
from benchmarks.common.shapes import SHAPES
from benchmarks.common.timing import quartiles
from benchmarks.peers.worker import private_stdout
from purejaxppo.config.sizes import check_shares
from purejaxppo.errors import ConfigError

NAMES = ("a", "b", "c", "d", "e", "e64")
ALONE = "one device"


class Job(NamedTuple):
    """What each process of an arm has to do.

    Attributes:
        shape: name of the shape.
        num_envs: of all devices together.
        devices: of all processes together.
        processes: that have equally many devices.
        updates: of a call.
        coordinator: address that several processes find each other by.
        process: number of this one.
    """

    shape: str
    num_envs: int
    devices: int
    processes: int
    updates: int
    coordinator: str = ""
    process: int = 0


class Arm:
    """The processes of one arm, which train on request."""

    def __init__(self, job: Job):
        coordinator = f"127.0.0.1:{free_port()}"
        jobs = [job._replace(coordinator=coordinator, process=i) for i in range(job.processes)]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the processes)
        self._processes = [self._start(one) for one in jobs]
        self.steps = job.updates * job.num_envs * SHAPES[job.shape].config.num_steps

    def _start(self, job: Job) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.speed.scaling", "--worker", json.dumps(job)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            cwd=Path(__file__).parents[2],
            env=os.environ | {"JAX_NUM_CPU_DEVICES": str(job.devices // job.processes)},
        )  # fmt: skip

    def ready(self) -> None:
        """Waits until all processes have compiled."""
        self._answers()

    def train(self) -> float:
        """Seconds of one call, those of the slowest process."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        return max(self._answers())

    def _answers(self) -> list[float]:
        answers = []
        for process in self._processes:
            assert process.stdout is not None
            answer = process.stdout.readline()
            if not answer:
                self._errors.seek(0)
                raise SystemExit(f"a process ended: {self._errors.read()[-2000:]}")
            answers.append(float(answer))
        return answers

    def end(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            process.kill()
            process.communicate()
        self._errors.close()


def free_port() -> int:
    """A port of the loopback that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def work(job: Job) -> None:
    """Compiles a job, and trains once for every line of standard input."""
    out = private_stdout()  # Gloo prints too

    import jax

    from benchmarks.common.timing import seconds_of
    from purejaxppo import compiler_options, make_mesh, shard_environments
    from purejaxppo.processes import join_processes

    if job.processes > 1:
        join_processes(job.coordinator, job.processes, job.process)
    config = SHAPES[job.shape].config
    timesteps = job.updates * job.num_envs * config.num_steps
    config = config.replace(num_envs=job.num_envs, total_timesteps=timesteps)
    learner = shard_environments(config, make_mesh(devices=job.devices))
    state = jax.jit(learner.init)(jax.random.key(0))

    def train(state):
        return jax.lax.scan(lambda s, _: learner.update(s), state, length=job.updates)

    program = jax.jit(train, compiler_options=compiler_options()).lower(state).compile()

    def run():
        return jax.block_until_ready(program(state))

    print(seconds_of(run), file=out)  # the first warms up
    for _ in sys.stdin:
        print(seconds_of(run), file=out)


def jobs_of(name: str, counts: list[int], updates: int | None) -> dict[str, Job]:
    """The arms of a shape, by what they are; those whose shares are not whole are left out."""
    config = SHAPES[name].config
    updates = updates or config.num_updates
    jobs = {ALONE: Job(name, config.num_envs, 1, 1, updates)}
    for count in counts:
        for kind, envs in (("strong", config.num_envs), ("weak", count * config.num_envs)):
            try:
                sized = config.replace(
                    num_envs=envs, total_timesteps=updates * envs * config.num_steps
                )
                check_shares(sized, count)
            except ConfigError as error:
                print(f"{name}, {kind}, {count}: {error}", file=sys.stderr)
                continue
            jobs[f"{kind}, {count} devices"] = Job(name, envs, count, 1, updates)
            jobs[f"{kind}, {count} processes"] = Job(name, envs, count, count, updates)
    return jobs


def measure(jobs: dict[str, Job], rounds: int) -> dict[str, Any]:
    """Speeds of all arms of a shape, and what they are over one device's, round by round."""
    arms: dict[str, Arm] = {}
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    try:
        for name, job in jobs.items():
            print(f"{job.shape}: {name}", file=sys.stderr, flush=True)
            arms[name] = Arm(job)
            arms[name].ready()
        for i in range(rounds):
            for name in list(arms)[:: 1 if i % 2 == 0 else -1]:
                seconds[name].append(arms[name].train())
    finally:
        for arm in arms.values():
            arm.end()
    speeds = {name: [arm.steps / s for s in seconds[name]] for name, arm in arms.items()}
    return {
        name: {
            "num_envs": jobs[name].num_envs,
            "devices": jobs[name].devices,
            "processes": jobs[name].processes,
            "steps_per_second": quartiles(speed),
            "over_one_device": quartiles(
                [a / b for a, b in zip(speed, speeds[ALONE], strict=True)]
            ),
        }
        for name, speed in speeds.items()
    }


def main() -> None:
    """Measures shape by shape."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cores = os.cpu_count() or 1
    powers = [2**n for n in range(1, 8) if 2**n <= cores]
    parser.add_argument("--shapes", nargs="*", choices=NAMES, default=list(NAMES))
    parser.add_argument("--devices", nargs="*", type=int, default=powers, help="as many as cores")
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each, at least 2")
    parser.add_argument("--updates", type=int, help="of a call; else the shape's own")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker is not None:
        work(Job(*json.loads(args.worker)))
        return
    results = {
        name: measure(jobs_of(name, args.devices, args.updates), args.rounds)
        for name in args.shapes
    }
    report("scaling", results, args.out)


if __name__ == "__main__":
    main()
