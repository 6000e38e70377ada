"""What the benchmarks share: paired timing, and results as JSON with versions, device and date."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from purejaxppo.runs.identity import versions

SIZES = ("seeds", "seed", "total_timesteps", "episodes")
"""Arguments that change figures; all others choose which of them are measured."""


def paired_seconds(first: Callable, second: Callable, pairs: int) -> list[tuple[float, float]]:
    """Seconds of two functions called in turn, A B B A ..., after one call each to warm up."""
    for function in (first, second):
        jax.block_until_ready(function())
    result = []
    for i in range(pairs):
        order = [(0, first), (1, second)] if i % 2 == 0 else [(1, second), (0, first)]
        taken = [0.0, 0.0]
        for place, function in order:
            started = time.perf_counter()
            jax.block_until_ready(function())
            taken[place] = time.perf_counter() - started
        result.append((taken[0], taken[1]))
    return result


def quartiles(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"lower_quartile": low, "median": median, "upper_quartile": high}


def report(name: str, results: Any, out: Path | None, asked: dict[str, Any] | None = None) -> None:
    """Prints a benchmark's results as JSON, and writes them where asked; see `record`."""
    print(record(name, results, out, asked))


def asked_for(args: argparse.Namespace) -> dict[str, Any]:
    """Returns what all figures of a file have in common: the sizes that a command line asks for."""
    return {name: value for name, value in vars(args).items() if name in SIZES}


def results_in(file: Path | None) -> dict[str, Any]:
    """Returns the results in a file; none where there is none."""
    if file is None or not file.exists():
        return {}
    return json.loads(file.read_text(encoding="utf-8"))["results"]


def measured_before(
    out: Path | None, parser: argparse.ArgumentParser, asked: dict[str, Any]
) -> dict[str, Any]:
    """Returns the results in a file that is to be gone on with; none where there is none.

    Args:
        out: the file.
        parser: which says where the file has figures of other sizes, and exits with code 2.
        asked: the sizes that are asked for now, see `asked_for`.
    """
    if out is not None and out.exists():
        there = json.loads(out.read_text(encoding="utf-8")).get("asked", asked)
        names = [name for name in asked if there.get(name) != asked[name]]
        if names:
            before, now = ({name: sizes.get(name) for name in names} for sizes in (there, asked))
            parser.error(f"--out {out}: its figures are of {before}, not {now}: name another file")
    return results_in(out)


def record(name: str, results: Any, out: Path | None, asked: dict[str, Any] | None = None) -> str:
    """Writes a benchmark's results where asked; returns the JSON.

    Args:
        name: of the script.
        results: what it found.
        out: a file; None: nothing is written.
        asked: sizes that all figures have in common, of a file that can be gone on with.
    """
    record = {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": jax.devices()[0].device_kind,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
        **({} if asked is None else {"asked": asked}),
        "results": results,
    }
    text = json.dumps(record, indent=2)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")
    return text


def interleaved_seconds(functions: list[Callable], rounds: int) -> list[list[float]]:
    """Seconds of functions called in turn, A B C C B A ..., after one call each to warm up.

    Args:
        functions: what to call; what they return is waited for.
        rounds: timed calls of each.

    Returns:
        For each function, its seconds round by round.
    """
    for function in functions:
        jax.block_until_ready(function())
    taken: list[list[float]] = [[] for _ in functions]
    for i in range(rounds):
        for place in range(len(functions))[:: 1 if i % 2 == 0 else -1]:
            started = time.perf_counter()
            jax.block_until_ready(functions[place]())
            taken[place].append(time.perf_counter() - started)
    return taken


def seconds_of(function: Callable) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - started
