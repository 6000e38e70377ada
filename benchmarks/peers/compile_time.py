"""Seconds to trace and compile a training program, beside other PPO libraries.

Every figure is of a process of its own, without a cache of compiled programs; processes of the
libraries take turns, so that whatever slows the machine meets them all. Two figures are kept:
seconds by the clock, from the first trace to the compiled program, and seconds of CPU time of the
whole process, imports included.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

from benchmarks.common.records import report
from benchmarks.common.shapes import SHAPES
from benchmarks.peers.peers import OURS, ArmPlan, Worker, WorkerError, arguments_of, plan


def measure(arms: dict[str, ArmPlan], processes: int, limit: float) -> dict[str, Any]:
    """Compiles the program of every arm in turn, in so many new processes of each.

    Args:
        arms: of one shape.
        processes: of each arm.
        limit: seconds for one answer.

    Returns:
        For each arm, seconds and their medians, and how many times those of ours.
    """
    seconds: dict[str, dict[str, list[float]]] = {
        name: {"compile_seconds": [], "cpu_seconds": []} for name in arms
    }
    failures: dict[str, str] = {}
    for i in range(processes):
        for name in list(arms)[:: 1 if i % 2 == 0 else -1]:
            if name in failures:
                continue
            worker = Worker(arms[name].python, arms[name].module, limit)
            try:
                hello = worker.ask(arms[name].job | {"compile_only": True})
                worker.end()
            except WorkerError as error:  # it has ended the process
                failures[name] = str(error)
                continue
            for kind, values in seconds[name].items():
                values.append(hello[kind])
    results: dict[str, Any] = {name: {"status": why} for name, why in failures.items()}
    for name in arms.keys() - failures.keys():
        medians = {kind: statistics.median(values) for kind, values in seconds[name].items()}
        results[name] = {"status": "ok", "medians": medians, "processes": seconds[name]}
    ours = results[OURS].get("medians")
    for name in arms.keys() - failures.keys() - {OURS} if ours else ():
        theirs = results[name]["medians"]
        results[name]["ours_over_peer"] = {kind: ours[kind] / theirs[kind] for kind in ours}
    return results


def main() -> None:
    """Measures every shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=5, help="of each library and shape")
    args = arguments_of(parser, ["rejax"], ["rejax"])
    results = {}
    for name in args.shapes:
        print(f"shape {name}", file=sys.stderr, flush=True)
        results[name] = measure(plan(name, SHAPES[name], args), args.processes, args.limit)
    report("compile_time", results, args.out)


if __name__ == "__main__":
    main()
