"""Timing of functions in turn, so that what else a machine does is shared by all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import jax


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
