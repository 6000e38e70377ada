"""What `purejaxppo train` does around `fit`, and what it prints."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from purejaxppo.cli.arguments import RunOptions
from purejaxppo.cli.progress.display import Display
from purejaxppo.cli.signals import saying
from purejaxppo.cli.words import counted
from purejaxppo.components import make_components
from purejaxppo.config.coerce import check_said_once, parse_options
from purejaxppo.config.schema import PPOConfig
from purejaxppo.envs.registry import find_env
from purejaxppo.parallel import ENVS, SEEDS
from purejaxppo.processes import is_first, of_first, process_count
from purejaxppo.run_folder.begin import check_free, create_run_dir, is_run
from purejaxppo.run_folder.env_params import with_numbers
from purejaxppo.runs.beginning import read_beginning
from purejaxppo.runs.callbacks import Callback
from purejaxppo.runs.fit import FitResult, fit_of
from purejaxppo.runs.loggers import CSVLogger, TensorBoard, WandB, import_extra
from purejaxppo.runs.memory import in_bytes
from purejaxppo.runs.options import FitOptions
from purejaxppo.runs.plan import Plan, plan_for
from purejaxppo.runs.summary import in_words
from purejaxppo.tuning import check_compiles, keep_compiled_programs
from purejaxppo.types import EnvParams, Logger

RESUMED_OPTIONS = [
    "checkpoint_every", "keep_checkpoints", "eval_every", "eval_episodes", "eval_sampled",
    "target_return", "init_from", "init_weights", "init_agent", "init_optimizer", "env_params",
    "csv", "tensorboard", "wandb",
]  # fmt: skip
"""Options that a resumed run takes from the one that it goes on with, in `run.json`."""

NO_LOGGERS: dict[str, Any] = {"csv": False, "tensorboard": False, "wandb": None}


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
    if not is_first():  # of several processes that one prints and logs
        options = dataclasses.replace(options, quiet=True, json=False, **NO_LOGGERS)
    if options.run_dir is not None and not options.resume:
        of_first(partial(check_free, options.run_dir))
    if options.compilation_cache:
        keep_compiled_programs()
    else:  # not in a folder that JAX was given either
        jax.config.update("jax_enable_compilation_cache", False)
    for extra, wanted in {"tensorboard": options.tensorboard, "wandb": options.wandb}.items():
        if wanted:
            import_extra(extra)
    display.announce("building the environment")
    components = make_components(config, env_params=params_of(config, options.env_params))
    plan = plan_for(components, options)
    beginning = of_first(lambda: read_beginning(components, options))

    run_dir = of_first(lambda: Path(options.run_dir or create_run_dir(None, config.env)))
    if not options.quiet:
        lines = [describe_plan(plan, config, options.seeds) + describe_mesh(plan.mesh, config)]
        if beginning is not None:
            lines.append(f"begins with {beginning.words}")
        for line in lines:  # words are not cut at the end of a terminal's line
            print(textwrap.fill(line, Console().width) if sys.stdout.isatty() else line)
        sys.stdout.flush()  # progress goes to stderr: it must not come first

    # the run itself
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(FitOptions)}
    given["run_dir"] = str(run_dir)
    kept = {name: getattr(options, name) for name in RESUMED_OPTIONS}
    about = {"algorithm": options.algorithm, "options": kept}
    with saying(lambda what: when_ended(what, config.env, run_dir, options.devices)):
        called = [*make_loggers(options, run_dir), display]
        result = fit_of(
            components, FitOptions(**given), called, about,
            beginning=beginning, announce=display.announce, plan=plan,
        )  # fmt: skip
    display.close()
    print_results(run_dir, options, result)
    if result.stopped is not None:
        return 128 + result.stopped
    return 1 if result.problems else 0


def params_of(config: PPOConfig, given: Sequence[str]) -> EnvParams:
    """Returns the parameters of an environment with numbers that were given; None: its defaults.

    Args:
        config: names it.
        given: numbers as name=value.

    Raises:
        ConfigError: it has no such number, an option gives it too, or the environment cannot be
            made.
    """
    if not given:
        return None
    options, numbers = parse_options(config.env_options), parse_options(given, "env_params")
    check_said_once(options, numbers)
    return with_numbers(numbers, find_env(config.env, **options)[1])


def make_loggers(options: RunOptions, run_dir: Path) -> list[Callback | Logger]:
    """Makes the loggers that are asked for.

    Args:
        options: say which.
        run_dir: the run folder.

    Returns:
        None, one or several.

    Raises:
        ConfigError: the package of one is not installed.
    """
    loggers: list[Callback | Logger] = []
    if options.csv:
        loggers.append(CSVLogger(run_dir))
    if options.tensorboard:
        loggers.append(TensorBoard(run_dir))
    if options.wandb is not None:
        loggers.append(WandB(run_dir, options.wandb))
    return loggers


def describe_plan(plan: Plan, config: PPOConfig, seeds: int) -> str:
    """Describes in one line what will be done.

    Args:
        plan: sizes of the run.
        config: what is trained.
        seeds: agents side by side.
    """
    total, turns = config.total_timesteps, ""
    if plan.at_once is not None:
        turns = f", {plan.at_once * plan.mesh.shape[SEEDS]:,} at a time"
    per_device = " per device" if plan.mesh.size > 1 else ""
    asked = "" if plan.timesteps == total else f" ({total:,} were asked for)"
    return (
        f"{config.env}: {plan.updates:,} updates of {config.batch_size:,} steps = "
        f"{plan.timesteps:,} steps{asked} for each of {counted(seeds, 'seed')}{turns}; "
        f"{plan.parameters:,} parameters, about {in_bytes(plan.bytes_per_device)} of memory"
        f"{per_device}"
    )


def describe_mesh(mesh: Mesh, config: PPOConfig) -> str:
    """Describes in a clause what is trained where; of the only device there is nothing to say.

    Args:
        mesh: the devices.
        config: what is trained.
    """
    shares, found = mesh.shape[ENVS], jax.device_count()
    if found == 1:
        return ""
    used = counted(found, "device") if mesh.size == found else f"{mesh.size} of {found} devices"
    each = f", {config.num_envs // shares} environments of an agent on each" if shares > 1 else ""
    of = f" of {process_count()} processes" if process_count() > 1 else ""
    return f"; on {used}{of}{each}"


def print_results(run_dir: Path, options: RunOptions, result: FitResult) -> None:
    """Prints what a run has reached, and how to go on with one that was stopped.

    Args:
        run_dir: the run folder, where it is now.
        options: say what is printed.
        result: what `fit` returned.
    """
    summary = result.summary
    if not options.quiet:
        if result.resumed_at == result.metrics.episodes.shape[1] and result.stopped is None:
            print(f"nothing was left to do in {run_dir}")
        Console().print(results_table(summary))
    if result.stopped is not None and is_first():
        steps = f"{summary['timesteps']:,} steps of each seed"
        go_on = how_to_go_on(summary["env"], run_dir, options.devices)
        print(f"stopped after {steps}, saved; {go_on}", file=sys.stderr)
    if options.json:
        print(json.dumps(summary))


def how_to_go_on(env: str, run_dir: Path, devices: int | Literal["all"] | None) -> str:
    """Returns the command that resumes a run on as many devices, in a clause.

    Args:
        env: what is trained on.
        run_dir: the run folder.
        devices: that were asked for; None: none were.
    """
    words = ["purejaxppo", "train", env, "--resume", "--run-dir", str(run_dir)]
    words += [] if devices is None else ["--devices", str(devices)]
    return f"go on with: {shlex.join(words)}"


def when_ended(
    what: str, env: str, run_dir: Path, devices: int | Literal["all"] | None = None
) -> str:
    """Returns what is true of a run that a signal, or the loss of a process, ends at once.

    Args:
        what: has ended it.
        env: what is trained on.
        run_dir: the run folder.
        devices: that were asked for.
    """
    rows = run_dir / "metrics.jsonl"
    trained = rows.exists() and rows.stat().st_size > 0
    what += ": what was saved stays" if trained else ": nothing was trained yet"
    return f"{what}; {how_to_go_on(env, run_dir, devices)}" if is_run(run_dir) else what


def results_table(summary: Mapping[str, Any]) -> Table:
    """Returns the results as a table to read.

    Args:
        summary: the results.
    """
    table = Table(show_header=False, box=None)
    for name, value in in_words(summary).items():
        table.add_row(name, value)
    return table
