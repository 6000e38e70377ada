"""Processes that train one agent at a time each: for environments that run on the host."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import signal
import traceback
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError, HostError
from purejaxppo.parallel import cores
from purejaxppo.runs.options import FitOptions
from purejaxppo.runs.signals import StopRequests
from purejaxppo.sweeps.scores import measured

K = TypeVar("K", bound=Hashable)

SECONDS_BETWEEN_LOOKS = 0.2


class Job(NamedTuple):
    """One agent to train; it is sent to a process, and so are the parts of the user's own.

    Attributes:
        config: what to train.
        options: of its run.
        custom: what takes the place of what the configuration describes.
    """

    config: PPOConfig
    options: FitOptions
    custom: Mapping[str, Any]


class Outcome(NamedTuple):
    """What has come of a job.

    Attributes:
        values: [1] of every measure, by name; see `scores.measured`.
        steps: environment steps.
        seconds: that it took, compilation included.
        problems: what went wrong on the way, a line each.
        why: it could not be trained, in words.
        stopped: number of the signal that has ended it.
        fault: a traceback of what should not have happened.
    """

    values: dict[str, np.ndarray] = {}  # noqa: RUF012 (never changed)
    steps: int = 0
    seconds: float = 0.0
    problems: tuple[str, ...] = ()
    why: str | None = None
    stopped: int | None = None
    fault: str | None = None


class Workers:
    """As many processes as there are cores, or jobs if they are fewer; closed at the end.

    Args:
        jobs: how many there will be.

    Attributes:
        stopped: number of the signal that this process has received, or None.
    """

    def __init__(self, jobs: int):
        self._count = max(1, min(jobs, cores()))
        self.stopped: int | None = None

    def __enter__(self) -> Workers:
        """Starts the processes; signals are theirs from here on."""
        start = multiprocessing.get_context("spawn")
        self._jobs, self._outcomes = start.Queue(), start.Queue()
        threads = max(1, cores() // self._count)
        self._processes = [
            start.Process(target=_work, args=(self._jobs, self._outcomes, threads), daemon=True)
            for _ in range(self._count)
        ]
        self._stop = StopRequests()
        for process in self._processes:
            process.start()
        self._stop.begin()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends them."""
        self._stop.end()
        for process in self._processes:
            process.terminate()
            process.join()

    def train(self, jobs: Mapping[K, Job]) -> Iterator[tuple[K, Outcome]]:
        """Trains agents, each in one of the processes.

        A signal ends all of them, saved; those that have not begun are left.

        Args:
            jobs: by any name.

        Yields:
            Name and outcome of each, as they end.

        Raises:
            ConfigError: a part of the user's own cannot be sent to a process.
            RuntimeError: something happened in a process that should not have.
        """
        for item in jobs.items():
            try:
                pickle.dumps(item)
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise ConfigError(
                    f"what was passed cannot be sent to another process ({error}): name the "
                    "environment, or pass functions that stand in a module"
                ) from error
            self._jobs.put(item)
        waiting: set[K] = {*jobs}
        running: dict[int, K] = {}
        while waiting:
            if self._stop.received and self.stopped is None:
                self._end_jobs()
            try:
                who, name, outcome = self._outcomes.get(timeout=SECONDS_BETWEEN_LOOKS)
            except queue.Empty:
                for who, name in self._lost(running):
                    waiting.discard(name)
                    if not self._stop.received:  # which ends it, wherever it is
                        yield name, Outcome(why=f"its process has ended ({who.exitcode})")
                if self.stopped is not None and not running:
                    return
                if not any(process.is_alive() for process in self._processes):
                    yield from ((name, Outcome(why="no process is left")) for name in waiting)
                    return
                continue
            if outcome is None:  # begun
                running[who] = name
                continue
            del running[who]
            waiting.discard(name)
            if outcome.fault is not None:
                raise RuntimeError(outcome.fault)
            if outcome.stopped is None:
                yield name, outcome

    def _end_jobs(self) -> None:
        """Passes a signal on to all processes, and takes the jobs that are left."""
        self.stopped = self._stop.received[0]
        while True:
            try:
                self._jobs.get_nowait()
            except queue.Empty:
                break
        for process in self._processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGTERM)

    def _lost(self, running: dict[int, K]) -> Iterator[tuple[Any, K]]:
        """Yields processes that have ended in the middle of a job, and its name."""
        for process in self._processes:
            if process.pid in running and not process.is_alive():
                yield process, running.pop(process.pid)


def _work(jobs: Any, outcomes: Any, threads: int) -> None:
    """Trains what comes, until the process is ended."""
    os.environ.setdefault("NPROC", str(threads))  # read when JAX finds its devices
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is for the first process to pass on
    while True:
        name, job = jobs.get()
        outcomes.put((os.getpid(), name, None))
        outcomes.put((os.getpid(), name, _outcome(job)))


def _outcome(job: Job) -> Outcome:
    """Trains one agent, and says what has come of it."""
    from purejaxppo.components import make_components
    from purejaxppo.runs.fit import fit_of

    try:
        result = fit_of(make_components(job.config, **job.custom), job.options)
    except (ConfigError, HostError) as error:
        return Outcome(why=str(error))
    except Exception:
        return Outcome(fault=traceback.format_exc())
    rate = result.summary["steps_per_second"] or np.nan
    return Outcome(
        measured(result, rate), result.summary["timesteps"],
        result.compile_seconds + result.run_seconds, tuple(result.problems), None, result.stopped,
    )  # fmt: skip
