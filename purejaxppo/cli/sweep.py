"""What `purejaxppo sweep` does around `sweep`, and what it prints."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from purejaxppo.cli.arguments import SweepRun
from purejaxppo.cli.progress.trials import TrialsDisplay, value_in_short
from purejaxppo.cli.signals import saying
from purejaxppo.cli.train import params_of
from purejaxppo.cli.words import counted
from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.run_folder.find import is_study
from purejaxppo.run_folder.paths import given_path
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.read import ranked, read_results
from purejaxppo.sweeps.samplers import FIXED, count_of, drawn
from purejaxppo.sweeps.shapes import LENGTH, shape_of
from purejaxppo.sweeps.space import Space
from purejaxppo.sweeps.study import create_study_dir
from purejaxppo.sweeps.sweep import SweepResult, sweep_of
from purejaxppo.sweeps.trials import Result
from purejaxppo.tuning import check_compiles, keep_compiled_programs

MOST_ROWS = 10
"""Trials that are shown at the end."""


def sweep(
    config: PPOConfig, space: Space, options: SweepRun, display: TrialsDisplay, argv: Sequence[str]
) -> int:
    """Trains what is varied, and prints the best.

    Args:
        config: of the sweep.
        space: what is varied.
        options: trials, where results go, and what is printed.
        display: what is shown until the results are printed.
        argv: the arguments of the command, which go on with the study.

    Returns:
        The exit code: 0; 1 if something could not be written, or no trial has a score; 128 and the
        signal that stopped it.

    Raises:
        ConfigError: it cannot be trained, or the folder holds another study.
        HostError: an environment on the host failed.
    """
    check_compiles()
    if options.compilation_cache:
        keep_compiled_programs()
    else:  # not in a folder that JAX was given either
        jax.config.update("jax_enable_compilation_cache", False)
    count = count_of(space, config, options)
    params = params_of(config, options.env_params)
    custom = {} if params is None else {"env_params": params}
    plan = [] if options.quiet else [describe(config, space, options, count)]

    def announce(phase: str) -> None:
        while plan:  # which comes first, once nothing can be refused any more
            line = plan.pop()
            print(textwrap.fill(line, Console().width) if sys.stdout.isatty() else line, flush=True)
        display.announce(phase)

    # the sweep itself
    named = options.study_dir
    there = None if named is None else given_path(named, "study_dir")
    earlier = read_results(there) if there is not None and is_study(there) else {}
    display.announce("planning")
    display.begin(count, [*earlier.values()])
    folder = create_study_dir(named, config.env)
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(SweepOptions)}
    own = SweepOptions(**{**given, "study_dir": str(folder)})
    go_on = how_to_go_on(argv, named, folder)
    try:
        with saying(lambda what: f"{what}: what was tried stays; {go_on}"):
            result = sweep_of(config, space, own, custom, announce, display)
    except ConfigError:
        if named is None:  # it has claimed a name, and there is nothing in it
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    display.close()
    if result.stopped is None and not display.told:
        print(f"nothing was left to do in {folder}")
    print_results(result, space, options, folder)
    if result.stopped is not None:
        print(f"stopped after {counted(len(result.results), 'trial')}; {go_on}", file=sys.stderr)
        return 128 + result.stopped
    return 1 if result.problems or result.best is None else 0


def describe(config: PPOConfig, space: Space, options: SweepRun, count: int) -> str:
    """Describes in one line what will be tried.

    Args:
        config: of the sweep.
        space: what is varied.
        options: of the sweep.
        count: trials, or agents of a population.
    """
    how, programs = options.sampler, ""
    steps = count * options.seeds * config.timesteps
    if options.scheduler != "none":
        how = options.scheduler if options.scheduler == "pbt" else f"{how}, {options.scheduler}"
    elif options.sampler in FIXED:
        # what is fixed beforehand says what has to be compiled
        trials = drawn(space, config, options).ask(count)
        able = [trial for trial in trials if trial.why is None]
        steps = options.seeds * sum(trial.config.timesteps for trial in able)
        programs = f" as {counted(len({shape_of(trial.config) for trial in able}), 'program')}"
        if len(able) < count:
            programs += f", but {count - len(able):,} that cannot be trained"
    what = "agent" if options.scheduler == "pbt" else "trial"
    seeds = "" if options.seeds == 1 else f" with {options.seeds:,} seeds each"
    most = "at most " if options.scheduler in ("halving", "asha") else ""
    total = f"; {most}{steps:,} steps in all"
    if LENGTH in space.names and options.sampler not in FIXED:
        total = ""  # it depends on what comes of the first ones
    names = ", ".join(space.names)
    return f"{config.env}: {counted(count, what)} ({how}){seeds}{programs} over {names}{total}"


def how_to_go_on(argv: Sequence[str], study_dir: str | None, folder: Path) -> str:
    """Returns the command that goes on with a study, in a clause.

    Args:
        argv: the arguments of the command.
        study_dir: the folder in them; None: none.
        folder: of the study.
    """
    named = [] if study_dir is not None else ["--study-dir", str(folder)]
    return f"go on with: {shlex.join(['purejaxppo', 'sweep', *argv, *named])}"


def print_results(result: SweepResult, space: Space, options: SweepRun, folder: Path) -> None:
    """Prints the best trials, and where everything is.

    Args:
        result: of the sweep.
        space: what was varied.
        options: say what is printed.
        folder: of the study.
    """
    best = ranked(result.results)
    failed = [r for r in result.results if r.status == "failed"]
    where = folder if result.folder is None else result.folder
    again = result.winner if options.retrain and result.stopped is None else None
    if not options.quiet:
        if best:
            Console().print(results_table(best[:MOST_ROWS], space, options))
        if failed:
            print(f"{counted(len(failed), 'trial')} failed, the first of them: {failed[0].why}")
        if again is not None:
            words = f"{again.score:.6g} over {counted(len(again.scores), 'seed')}"
            print(f"on fresh seeds trial {again.number} is the best: {words}")
        print(f"saved in {where}")
        if result.best is not None:
            config = shlex.quote(str(where / "best.toml"))
            print(f"train the best with: purejaxppo train --config {config}")
    for problem in result.problems:
        print(f"purejaxppo: {problem}", file=sys.stderr)
    if options.json:
        about = {"trials": len(result.results), "failed": len(failed), "score": options.score[0]}
        about |= {"best": best[0]._asdict() if best else None, "study_dir": str(where)}
        if again is not None:
            about |= {"on_fresh_seeds": again._asdict()}
        print(json.dumps({**about, "problems": result.problems}))


def results_table(best: Sequence[Result], space: Space, options: SweepRun) -> Table:
    """Returns the best trials as a table to read, the best one first.

    Args:
        best: trials that have a score.
        space: what was varied.
        options: say what the score is.
    """
    table = Table("trial", options.score[0], *space.names, box=None)
    for result in best:
        values = [
            value_in_short(result.setting[name]) if name in result.setting else "-"
            for name in space.names
        ]
        table.add_row(str(result.number), f"{result.score:.6g}", *values)
    return table
