"""What `purejaxppo train` does around `fit`, and what it prints."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import sys
import textwrap
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from purejaxppo.cli.arguments import RunOptions
from purejaxppo.cli.progress.display import Display
from purejaxppo.cli.signals import saying
from purejaxppo.cli.words import counted
from purejaxppo.components import make_components
from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.run_folder.begin import check_free, create_run_dir, is_run
from purejaxppo.run_folder.files import write_json
from purejaxppo.run_folder.read import read_summary
from purejaxppo.run_folder.rows import final_returns
from purejaxppo.runs.fit import FitResult, fit_of
from purejaxppo.runs.identity import versions
from purejaxppo.runs.loggers import TensorBoard, WandB, import_extra
from purejaxppo.runs.options import FitOptions
from purejaxppo.runs.plan import Plan, plan_of
from purejaxppo.runs.problems import Problems
from purejaxppo.tuning import check_compiles, keep_compiled_programs
from purejaxppo.types import Logger

RESUMED_OPTIONS = [
    "checkpoint_every", "keep_checkpoints", "eval_every", "eval_episodes", "eval_sampled",
    "target_return", "tensorboard", "wandb",
]  # fmt: skip
"""Options that a resumed run takes from the one that it goes on with, in `run.json`."""


def train(config: PPOConfig, options: RunOptions, display: Display) -> int:
    """Trains, writes the run folder and prints the results.

    Args:
        config: what to train.
        options: seeds, where results go, and what is printed.
        display: what is shown until the results are printed.

    Returns:
        The exit code: 0; 1 if something could not be written; 128 and the signal that stopped it.

    Raises:
        ConfigError: it cannot be trained, a package is missing, or the folder cannot be used.
        HostError: an environment on the host failed.
    """
    # all that can be refused is refused before anything is made
    check_compiles()
    if options.run_dir is not None and not options.resume:
        check_free(options.run_dir)
    if options.compilation_cache:
        keep_compiled_programs()
    else:  # not in a folder that JAX was given either
        jax.config.update("jax_enable_compilation_cache", False)
    for extra, wanted in {"tensorboard": options.tensorboard, "wandb": options.wandb}.items():
        if wanted:
            import_extra(extra)
    display.announce("building the environment")
    components = make_components(config)
    plan = plan_of(components, options.seeds)

    run_dir = Path(options.run_dir or create_run_dir(None, config.env))
    if not options.quiet:
        text = describe_plan(plan, config, options.seeds)
        # words are not cut at the end of a terminal's line
        print(textwrap.fill(text, Console().width) if sys.stdout.isatty() else text)
        sys.stdout.flush()  # progress goes to stderr: it must not come first

    # the run itself
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(FitOptions)}
    given["run_dir"] = str(run_dir)
    kept = {name: getattr(options, name) for name in RESUMED_OPTIONS}
    about = {"algorithm": options.algorithm, "options": kept}
    with saying(lambda: when_interrupted(config.env, run_dir)):
        loggers = [*make_loggers(config, options, run_dir), display]
        result = fit_of(components, FitOptions(**given), loggers, about, announce=display.announce)
        display.announce("writing the results")
        summary = summarize(config, options, plan, result, str(run_dir))
        problems = write_results(run_dir, config, result, summary)
    display.close()
    print_results(run_dir, options, result, summary)
    if result.stopped is not None:
        return 128 + result.stopped
    return 1 if problems else 0


def make_loggers(config: PPOConfig, options: RunOptions, run_dir: Path) -> list[Logger]:
    """Makes the loggers that are asked for.

    Args:
        config: shown beside the curves.
        options: say which.
        run_dir: the run folder.

    Returns:
        None, one or both.

    Raises:
        ConfigError: the package of one is not installed.
    """
    loggers: list[Logger] = []
    if options.tensorboard:
        loggers.append(TensorBoard(run_dir))
    if options.wandb is not None:
        loggers.append(WandB(run_dir, options.wandb, config.to_dict()))
    return loggers


def describe_plan(plan: Plan, config: PPOConfig, seeds: int) -> str:
    """Describes in one line what will be done.

    Args:
        plan: sizes of the run.
        config: what is trained.
        seeds: agents side by side.
    """
    return (
        f"{config.env}: {plan.updates:,} updates of {config.batch_size:,} steps = "
        f"{plan.timesteps:,} steps for each of {counted(seeds, 'seed')}; "
        f"{plan.parameters:,} parameters, about {plan.bytes_per_seed / 1e6:.1f} MB per seed"
    )


def summarize(
    config: PPOConfig, options: RunOptions, plan: Plan, result: FitResult, run_dir: str
) -> dict[str, Any]:
    """Returns the results as plain values, ready for JSON (None where a seed ended no episode).

    Args:
        config: what was trained.
        options: its seeds and algorithm.
        plan: sizes of the run.
        result: what `fit` returned.
        run_dir: the run folder.
    """
    # a seed that ended no episode has no return, and does not count in the means
    returns = final_returns(result.metrics)
    finite = returns[np.isfinite(returns)]
    best = np.asarray(result.best.returns)

    # of a resumed run, times are those of what was done now; those of a run that was finished
    # before are not known
    updates = int(result.metrics.episodes.shape[1])
    steps_now = options.seeds * (updates - result.resumed_at) * config.batch_size
    times = {
        "steps_per_second": steps_now / result.run_seconds,
        "compile_seconds": result.compile_seconds,
        "run_seconds": result.run_seconds,
    }
    if result.resumed_at and not steps_now:
        times = dict.fromkeys(times)
    return {
        "env": config.env,
        "algorithm": options.algorithm,
        "seeds": options.seeds,
        "total_timesteps": plan.timesteps,
        "timesteps": updates * config.batch_size,
        "final_returns": [float(r) if np.isfinite(r) else None for r in returns],
        "final_return_mean": float(finite.mean()) if finite.size else None,
        "final_return_std": float(finite.std()) if finite.size else None,
        "best_evaluations": [float(x) if np.isfinite(x) else None for x in best],
        "episodes": int(result.metrics.episodes.sum()),
        **times,
        "run_dir": run_dir,
        "parameters": plan.parameters,
        "problems": result.problems,
        "versions": versions(),
        "device": jax.devices()[0].device_kind,
    }


def write_results(
    run_dir: Path, config: PPOConfig, result: FitResult, summary: dict[str, Any]
) -> list[str]:
    """Writes the curve and the summary into the run folder.

    Of a run that was finished before, the results stay, and `summary` becomes them; where they are
    damaged or missing, they are made anew.

    Args:
        run_dir: the run folder.
        config: what was trained.
        result: what `fit` returned.
        summary: the results; problems of writing them are added.

    Returns:
        All problems of the run, a line each.
    """
    problems, path = Problems(result.problems), run_dir / "summary.json"
    nothing_done = result.resumed_at == summary["timesteps"] // config.batch_size
    written = None
    if nothing_done:
        with contextlib.suppress(ConfigError):
            written = read_summary(run_dir, summary["seeds"])
    if written is not None and written["timesteps"] == summary["timesteps"]:
        summary |= written
        return problems

    # a picture is no reason to lose the exit code of a run, whatever matplotlib raises: it wants
    # folders of its own already when it is imported
    try:
        from purejaxppo.report.plots import plot_curve

        plot_curve(run_dir / "curve.png", result.metrics, config)
    except Exception as error:
        problems.report(f"curve.png could not be drawn: {type(error).__name__}: {error}")
    summary["problems"] = [*problems]
    with problems.attempt("summary.json"):
        write_json(path, summary)
    return problems


def print_results(
    run_dir: Path, options: RunOptions, result: FitResult, summary: dict[str, Any]
) -> None:
    """Prints what a run has reached, and how to go on with one that was stopped.

    Args:
        run_dir: the run folder, where it is now.
        options: say what is printed.
        result: what `fit` returned.
        summary: the results.
    """
    if not options.quiet:
        if result.resumed_at == result.metrics.episodes.shape[1] and result.stopped is None:
            print(f"nothing was left to do in {run_dir}")
        Console().print(results_table(summary))
    if result.stopped is not None:
        steps = f"{summary['timesteps']:,} steps of each seed"
        go_on = how_to_go_on(summary["env"], run_dir)
        print(f"stopped after {steps}, saved; {go_on}", file=sys.stderr)
    if options.json:
        print(json.dumps(summary))


def how_to_go_on(env: str, run_dir: Path) -> str:
    """Returns the command that resumes a run, in a clause.

    Args:
        env: what is trained on.
        run_dir: the run folder.
    """
    words = ["purejaxppo", "train", env, "--resume", "--run-dir", str(run_dir)]
    return f"go on with: {shlex.join(words)}"


def when_interrupted(env: str, run_dir: Path) -> str:
    """Returns what is true of a run that a signal ends at once.

    Args:
        env: what is trained on.
        run_dir: the run folder.
    """
    rows = run_dir / "metrics.jsonl"
    trained = rows.exists() and rows.stat().st_size > 0
    what = "interrupted: " + ("what was saved stays" if trained else "nothing was trained yet")
    return f"{what}; {how_to_go_on(env, run_dir)}" if is_run(run_dir) else what


def results_table(summary: dict[str, Any]) -> Table:
    """Returns the results as a table to read.

    Args:
        summary: the results.
    """
    mean, spread = summary["final_return_mean"], summary["final_return_std"]
    # seeds that ended no episode do not count, and one alone has no spread
    ended = sum(x is not None for x in summary["final_returns"])
    seeds = counted(summary["seeds"], "seed")
    over = seeds if ended == summary["seeds"] else f"{ended} of {seeds}"
    final = "no episode ended" if mean is None else f"{mean:.1f}  ({over})"
    if ended > 1:
        final = f"{mean:.1f} ± {spread:.1f}  (mean ± std over {over})"
    best = [x for x in summary["best_evaluations"] if x is not None]
    rows = {
        "final return": final,
        "best evaluation": f"{np.mean(best):.1f}" if best else "",
        "episodes": f"{summary['episodes']:,}",
        "steps/s": _known(summary["steps_per_second"], ",.0f"),
        "compile": _known(summary["compile_seconds"], ".1f", " s"),
        "run": _known(summary["run_seconds"], ".1f", " s"),
        "saved in": summary["run_dir"],
    }
    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    return table


def _known(x: float | None, how: str, unit: str = "") -> str:
    """Writes down a number with its unit; nothing where it is not known."""
    return "" if x is None else f"{x:{how}}{unit}"
