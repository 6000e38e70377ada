"""What `purejaxppo train` does around `fit`, and what it prints."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from purejaxppo.cli.display import Display
from purejaxppo.config.schema import PPOConfig
from purejaxppo.parallel import use_cores
from purejaxppo.report.plots import plot_curve
from purejaxppo.runs import folder as store
from purejaxppo.runs import loggers
from purejaxppo.runs.about import versions
from purejaxppo.runs.cache import keep_compiled_programs
from purejaxppo.runs.checkpoint import write_json
from purejaxppo.runs.fit import FitResult, fit
from purejaxppo.runs.metric_rows import final_returns
from purejaxppo.runs.options import FitOptions, RunOptions
from purejaxppo.runs.plan import Plan, make_plan
from purejaxppo.runs.problems import Problems
from purejaxppo.runs.signals import at_once
from purejaxppo.runs.writer import Callback


def train(config: PPOConfig, options: RunOptions) -> int:
    """Trains, writes the run folder and prints the results.

    Returns:
        The exit code: 0; 1 if something could not be written; 128 and the signal that stopped it.
    """
    if options.run_dir is not None and not options.resume:
        store.check_free(options.run_dir)
    use_cores(options.seeds)
    if options.compilation_cache:
        keep_compiled_programs()
    else:  # not in a folder that JAX was told of either
        jax.config.update("jax_enable_compilation_cache", False)
    for extra, wanted in {"tensorboard": options.tensorboard, "wandb": options.wandb}.items():
        if wanted:
            loggers.module(extra)
    plan = make_plan(config, options.seeds)
    run_dir = Path(options.run_dir or store.create_run_dir(None, config.env))
    say = (lambda *args: None) if options.quiet else print
    say(plan_line(plan, config, options.seeds))
    sys.stdout.flush()

    names = [field.name for field in dataclasses.fields(FitOptions)]
    given: dict[str, Any] = {name: getattr(options, name) for name in names}
    given["run_dir"] = str(run_dir)
    about = {"algorithm": options.algorithm, "options": {n: getattr(options, n) for n in KEPT}}
    with contextlib.ExitStack() as stack:
        stack.enter_context(at_once())
        callbacks = extra_loggers(config, options, run_dir)
        if not options.quiet:
            callbacks.append(stack.enter_context(Display(config, options.seeds)))
        result = fit(config, callbacks=callbacks, about=about, **given)

    summary = summarize(config, options, plan, result, str(run_dir))
    problems = leave(run_dir, config, result, summary)
    if result.resumed_at == result.metrics.episodes.shape[1] and result.stopped is None:
        say(f"nothing was left to do in {run_dir}")
    if not options.quiet:
        Console().print(table(summary))
    if result.stopped is not None:
        how = shlex.join(["purejaxppo", "train", config.env, "--resume", "--run-dir", str(run_dir)])
        steps = f"{summary['timesteps']:,} steps of each seed"
        print(f"stopped after {steps}, saved; go on with: {how}", file=sys.stderr)
    if options.json:
        print(json.dumps(summary))
    if result.stopped is not None:
        return 128 + result.stopped
    return 1 if problems else 0


KEPT = [
    "checkpoint_every", "keep_checkpoints", "eval_every", "eval_episodes", "eval_sampled",
    "target_return", "tensorboard", "wandb",
]  # fmt: skip
"""Options that a resumed run takes from the one that it goes on with."""


def extra_loggers(config: PPOConfig, options: RunOptions, run_dir: Path) -> list[Callback]:
    """Those that were asked for."""
    found: list[Callback] = []
    if options.tensorboard:
        found.append(loggers.TensorBoard(run_dir))
    if options.wandb is not None:
        found.append(loggers.WandB(run_dir, options.wandb, config.to_dict()))
    return found


def leave(
    run_dir: Path, config: PPOConfig, result: FitResult, summary: dict[str, Any]
) -> list[str]:
    """Leaves the curve and the results in the folder; returns all problems of the run.

    Of a run that was finished before, the results stay, and `summary` becomes them.
    """
    problems, path = Problems(result.problems), run_dir / "summary.json"
    nothing_done = result.resumed_at == summary["timesteps"] // config.batch_size
    if nothing_done and path.exists():
        summary |= json.loads(path.read_text(encoding="utf-8"))
        return problems
    try:
        plot_curve(run_dir / "curve.png", result.metrics, config)
    except Exception as error:
        problems.report(f"curve.png could not be drawn: {type(error).__name__}: {error}")
    summary["problems"] = [*problems]
    with problems.attempt("summary.json"):
        write_json(path, summary)
    return problems


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
    updates = int(result.metrics.episodes.shape[1])
    timesteps = updates * config.batch_size
    best = [float(x) if np.isfinite(x) else None for x in np.asarray(result.best.returns)]
    return {
        "env": config.env,
        "algorithm": options.algorithm,
        "seeds": options.seeds,
        "total_timesteps": plan.timesteps,
        "timesteps": timesteps,
        "final_returns": [float(r) if np.isfinite(r) else None for r in returns],
        "final_return_mean": float(finite.mean()) if finite.size else None,
        "final_return_std": float(finite.std()) if finite.size else None,
        "best_evaluations": best,
        "episodes": int(result.metrics.episodes.sum()),
        "steps_per_second": options.seeds
        * (updates - result.resumed_at)
        * config.batch_size
        / result.run_seconds,
        "compile_seconds": result.compile_seconds,
        "run_seconds": result.run_seconds,
        "run_dir": run_dir,
        "parameters": plan.parameters,
        "problems": result.problems,
        "versions": versions(),
        "device": jax.devices()[0].device_kind,
    }


def table(summary: dict[str, Any]) -> Table:
    """The results for reading."""
    mean, spread = summary["final_return_mean"], summary["final_return_std"]
    final = "no episode ended" if mean is None else f"{mean:.1f} ± {spread:.1f}"
    seeds = f"{summary['seeds']} seed" + "s" * (summary["seeds"] > 1)
    best = [x for x in summary["best_evaluations"] if x is not None]
    rows = {
        "final return": f"{final}  (mean ± std over {seeds})",
        "best evaluation": f"{np.mean(best):.1f}" if best else "",
        "episodes": f"{summary['episodes']:,}",
        "steps/s": f"{summary['steps_per_second']:,.0f}",
        "compile": f"{summary['compile_seconds']:.1f} s",
        "run": f"{summary['run_seconds']:.1f} s",
        "saved in": summary["run_dir"],
    }
    result = Table(show_header=False, box=None)
    for name, value in rows.items():
        if value:
            result.add_row(name, value)
    return result
