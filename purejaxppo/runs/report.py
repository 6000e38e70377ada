"""What `purejaxppo train` shows: the plan, the progress, the table at the end, the JSON line."""

from __future__ import annotations

import json
import platform
import signal
import sys
import time
from importlib import metadata
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from purejaxppo.config import PPOConfig
from purejaxppo.ppo.records import Metrics
from purejaxppo.runs import store
from purejaxppo.runs.cache import keep_compiled_programs
from purejaxppo.runs.devices import use_cores
from purejaxppo.runs.fit import FitResult, final_returns, fit
from purejaxppo.runs.options import RunOptions
from purejaxppo.runs.plan import Plan, make_plan
from purejaxppo.runs.plots import plot_curve

SECONDS_BETWEEN_LINES = 10.0


class Display:
    """Steps, return, speed and time left: a bar on a terminal, else a line now and then."""

    def __init__(self, config: PPOConfig, seeds: int):
        self._config, self._seeds = config, seeds
        self._console = Console(stderr=True)
        self._first: tuple[int, float] | None = None  # steps and time when the first chunk ended
        self._last_line = 0.0
        self._bar = Progress(
            TextColumn("{task.completed:,.0f} steps"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("train", total=config.total_timesteps, text="compiling")

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, first: int, metrics: Metrics) -> None:
        """Shows a chunk of updates, whose first has the index `first`."""
        steps = (first + metrics.episodes.shape[1]) * self._config.batch_size
        now = time.perf_counter()
        if self._first is None:
            self._first, self._last_line = (steps, now), now
            return
        speed = (steps - self._first[0]) * self._seeds / (now - self._first[1])
        text = f"return {_mean_return(metrics)}  {speed:,.0f} steps/s"
        self._bar.update(self._task, completed=steps, text=text)
        if not self._console.is_terminal and now - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = (self._config.total_timesteps - steps) * self._seeds / speed
            print(f"{steps:,} steps  {text}  {left:.0f} s left", file=sys.stderr, flush=True)


def _mean_return(metrics: Metrics) -> str:
    episodes = metrics.episodes.sum()
    return f"{metrics.return_sum.sum() / episodes:.1f}" if episodes else "-"


def versions() -> dict[str, str]:
    """Versions of what a figure depends on."""
    names = ("purejaxppo", "jax", "flax", "optax", "gymnax", "numpy")
    return {"python": platform.python_version()} | {n: metadata.version(n) for n in names}


def run_and_report(config: PPOConfig, options: RunOptions) -> int:
    """Trains, writes the run folder and prints the results; returns the exit code."""
    if options.run_dir is not None:
        store.check_free(options.run_dir)
    use_cores(options.seeds)
    if options.compilation_cache:
        keep_compiled_programs()
    else:  # not in a folder that JAX was told of either
        jax.config.update("jax_enable_compilation_cache", False)
    plan = make_plan(config, options.seeds)
    run_dir = store.create_run_dir(options.run_dir, config.env)
    config.to_toml(run_dir / "config.toml")
    print(plan_line(plan, config, options.seeds), flush=True)

    display = Display(config, options.seeds)
    with display, open(run_dir / "metrics.jsonl", "w", encoding="utf-8") as file:

        def on_chunk(first: int, metrics: Metrics) -> None:
            store.write_metrics(file, first, metrics, config)
            display.show(first, metrics)

        result = fit(config, seeds=options.seeds, seed=options.seed, on_chunk=on_chunk)

    store.save_agents(run_dir / "agents.npz", result.state)
    plot_curve(run_dir / "curve.png", result.metrics, config)
    summary = summarize(config, options, plan, result, str(run_dir))
    Console().print(table(summary))
    if result.interrupted:
        print(f"stopped after {summary['timesteps']:,} steps per seed; saved in {run_dir}")
    if options.json:
        print(json.dumps(summary))
    return 128 + signal.SIGINT if result.interrupted else 0


def plan_line(plan: Plan, config: PPOConfig, seeds: int) -> str:
    """What will be done, in one line."""
    return (
        f"{config.env}: {plan.updates:,} updates of {config.batch_size:,} steps = "
        f"{plan.timesteps:,} steps for each of {seeds} seed{'s' * (seeds > 1)}; "
        f"{plan.parameters:,} parameters, about {plan.bytes_per_seed / 1e6:.1f} MB per seed"
    )


def summarize(
    config: PPOConfig, options: RunOptions, plan: Plan, result: FitResult, run_dir: str
) -> dict[str, Any]:
    """The results as plain values, ready for JSON (None where a seed ended no episode)."""
    returns = final_returns(result.metrics, config.num_updates)
    finite = returns[np.isfinite(returns)]
    timesteps = int(result.metrics.episodes.shape[1]) * config.batch_size
    return {
        "env": config.env,
        "algorithm": options.algorithm,
        "seeds": options.seeds,
        "total_timesteps": plan.timesteps,
        "timesteps": timesteps,
        "final_returns": [float(r) if np.isfinite(r) else None for r in returns],
        "final_return_mean": float(finite.mean()) if finite.size else None,
        "final_return_std": float(finite.std()) if finite.size else None,
        "episodes": int(result.metrics.episodes.sum()),
        "steps_per_second": options.seeds * timesteps / result.run_seconds,
        "compile_seconds": result.compile_seconds,
        "run_seconds": result.run_seconds,
        "run_dir": run_dir,
        "parameters": plan.parameters,
        "versions": versions(),
        "device": jax.devices()[0].device_kind,
    }


def table(summary: dict[str, Any]) -> Table:
    """The results for reading."""
    mean, spread = summary["final_return_mean"], summary["final_return_std"]
    final = "no episode ended" if mean is None else f"{mean:.1f} ± {spread:.1f}"
    seeds = f"{summary['seeds']} seed" + "s" * (summary["seeds"] > 1)
    rows = {
        "final return": f"{final}  (mean ± std over {seeds})",
        "episodes": f"{summary['episodes']:,}",
        "steps/s": f"{summary['steps_per_second']:,.0f}",
        "compile": f"{summary['compile_seconds']:.1f} s",
        "run": f"{summary['run_seconds']:.1f} s",
        "saved in": summary["run_dir"],
    }
    result = Table(show_header=False, box=None)
    for name, value in rows.items():
        result.add_row(name, value)
    return result
