"""What each command does and prints. Arguments are those after the command's name.

Heavy imports stand inside the commands, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence

from purejaxppo.cli.arguments import (
    CheckArgs,
    CompletionArgs,
    EnvsArgs,
    EvalOptions,
    ExportOptions,
    ListOptions,
    PlotOptions,
    RenderOptions,
    ReportOptions,
    with_value,
)
from purejaxppo.cli.completion import remember_environments, script_of
from purejaxppo.cli.devices import join, start_jax
from purejaxppo.cli.progress.display import Display
from purejaxppo.cli.progress.trials import TrialsDisplay
from purejaxppo.cli.reading import parse
from purejaxppo.cli.starts import parse_sweep, parse_train
from purejaxppo.cli.words import counted
from purejaxppo.config.coerce import parse_options
from purejaxppo.errors import ConfigError
from purejaxppo.sweeps.space import of_environment, read_space

RENEWED = "10"  # seconds, where --watch says none


def train(argv: Sequence[str]) -> int:
    """Trains agents: `purejaxppo train ENV`.

    Args:
        argv: the arguments.

    Returns:
        The exit code: 0; 1 if something could not be written; 128 and the signal that stopped it.

    Raises:
        ConfigError: bad input, or what it asks for cannot be trained.
        HostError: an environment on the host failed.
    """
    options, config = parse_train(argv)
    # something is shown from here on: the imports take seconds already
    evaluated = options.eval_every is not None
    with Display(config.timesteps, options.seeds, evaluated, options.quiet) as display:
        if not join(options.coordinator, options.num_processes, options.process_id):
            display.close()
        start_jax(options.seeds, options.devices, config)
        from purejaxppo.cli import train as console
        from purejaxppo.processes import together

        with together():
            return console.train(config, options, display)


def sweep(argv: Sequence[str]) -> int:
    """Trains many settings, and prints the best: `purejaxppo sweep ENV --vary NAME=VALUES...`.

    Args:
        argv: the arguments.

    Returns:
        The exit code: 0; 1 if something could not be written, or no trial has a score; 128 and the
        signal that stopped it.

    Raises:
        ConfigError: bad input, or what it asks for cannot be trained.
        HostError: an environment on the host failed.
    """
    options, config, given = parse_sweep(argv)
    # a space of fields alone is checked at once; others need the environment, and so jax
    space = None if of_environment(given) else read_space(given, config)
    with TrialsDisplay(options.quiet) as display:
        start_jax(1, "all" if options.devices is None else options.devices)
        from purejaxppo.cli import sweep as console

        space = read_space(given, config) if space is None else space
        return console.sweep(config, space, options, display, argv)


def evaluate(argv: Sequence[str]) -> int:
    """Plays whole episodes with what a run has trained, and prints returns: `purejaxppo eval RUN`.

    Args:
        argv: the arguments.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: bad input, or the folder holds no such agents.
        HostError: an environment on the host failed.
    """
    options = parse(EvalOptions, argv, "eval")
    start_jax()
    import jax
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from purejaxppo.parallel import spread_seeds
    from purejaxppo.report.overview import number
    from purejaxppo.run_folder.read import read_run
    from purejaxppo.run_folder.rows import evaluation_rows
    from purejaxppo.runs.agents import load_components, tell_of_defaults
    from purejaxppo.runs.evaluate import LONGEST, NOT_FOR_TRAINING, evaluate_of
    from purejaxppo.runs.plan import seeds_played_at_once
    from purejaxppo.runs.vary import kept_own

    # all agents of the run play the same first states, side by side, each in its environment
    components, agents = load_components(options.run, options.weights)
    tell_of_defaults(options.run, read_run(options.run)[1])
    own = kept_own(options.run, components.env_params)
    play, close = evaluate_of(components, options.episodes, options.sampled)
    key = jax.random.fold_in(jax.random.key(options.seed), NOT_FOR_TRAINING)
    try:
        at_once = seeds_played_at_once(components, agents, options.episodes)
        together = spread_seeds(
            lambda one: play(one[0], key, one[1].params(components.env_params)), at_once=at_once
        )
        evaluation = jax.jit(together)((agents, own._replace(hyper={})))
        evaluation = jax.tree.map(np.asarray, evaluation)
    finally:
        if close is not None:
            close()

    # for programs: one object
    rows, unfinished = evaluation_rows(evaluation), int((~evaluation.ended).sum())
    means = [row["return_mean"] for row in rows]
    if options.json:
        about = {"run": options.run, "env": components.config.env, "weights": options.weights}
        about |= {"return_mean": float(np.mean(means)), "unfinished": unfinished}
        print(json.dumps(about | {"seeds": rows}))
        return 0

    # for people: a line for each seed, and one for all
    several = options.episodes > 1  # one alone has no spread
    table = Table("seed", "return", *["± std"] * several, "length", "episodes", box=None)
    for i, row in enumerate(rows):
        returns = [row["return_mean"], *[row["return_std"]] * several]
        length, episodes = f"{row['length_mean']:.1f}", str(row["episodes"])
        table.add_row(str(i), *map(number, returns), length, episodes)
    Console().print(table)
    over = counted(len(rows), "seed")
    mean = number(float(np.mean(means)))
    print(f"{components.config.env}: mean return {mean} over {over}")
    if unfinished:
        some = counted(unfinished, "episode")
        print(f"{some} did not end within {LONGEST:,} steps: counted as they stood")
    return 0


def plot(argv: Sequence[str]) -> int:
    """Draws the learning curves of runs, or the trials of studies: `purejaxppo plot RUN...`.

    Args:
        argv: the arguments.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: bad input, a folder holds no run, no run has the metric, or the file cannot be
            written.
    """
    options = parse(PlotOptions, argv, "plot")
    from purejaxppo.cli.pictures import draw

    print(f"saved in {draw(options)}")
    return 0


def runs(argv: Sequence[str]) -> int:
    """Lists the runs and studies below a folder: `purejaxppo runs [FOLDER]`.

    Args:
        argv: the arguments.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: bad input, or there is no such folder.
    """
    options = parse(ListOptions, argv, "runs")
    from purejaxppo.report.listing import table_of
    from purejaxppo.report.overview import list_runs
    from purejaxppo.run_folder.paths import given_path
    from purejaxppo.sweeps.report.listing import list_studies, table_of_studies

    lines, studies = list_runs(options.folder), list_studies(options.folder)
    if options.json:
        print(json.dumps([line.as_json() for line in [*lines, *studies]]))
        return 0
    folder, width = given_path(options.folder), shutil.get_terminal_size().columns
    tables = [table_of(lines, folder, width)] if lines else []
    tables += [table_of_studies(studies, folder, width)] if studies else []
    print("\n\n".join(tables) or f"there are no runs in {options.folder}")
    return 0


def render(argv: Sequence[str]) -> int:
    """Films a trained policy: `purejaxppo render RUN`.

    Args:
        argv: the arguments.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: bad input, the folder holds no such agent, or its environment is not drawn.
        HostError: an environment on the host failed.
    """
    options = parse(RenderOptions, argv, "render")
    start_jax()
    import matplotlib

    from purejaxppo.rendering.render import film

    matplotlib.use("agg")  # environments that draw with it must not open windows
    path, episode = film(options.run, options)
    steps, size = len(episode.returns) - 1, path.stat().st_size / 1e3
    going_on = "" if episode.over else " (not over yet: --max-steps shows more)"
    took = f"{episode.returns[-1]:z.1f} in {counted(steps, 'step')}"
    print(f"return {took}{going_on}, {path} ({size:,.0f} kB)")
    return 0


def report(argv: Sequence[str]) -> int:
    """Puts runs, or studies, on a page: `purejaxppo report RUN...`.

    Args:
        argv: the arguments.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: bad input, a folder holds no run, or the file cannot be written.
    """
    options = parse(ReportOptions, with_value(argv, "--watch", RENEWED), "report")
    from purejaxppo.cli.pictures import write_report

    print(f"saved in {write_report(options)}")
    return 0


def export(argv: Sequence[str]) -> int:
    """Exports a trained policy, and prints how the file is used: `purejaxppo export RUN`.

    Args:
        argv: the arguments.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: bad input, the folder holds no such agent, the format cannot express it, or
            the file cannot be written.
    """
    options = parse(ExportOptions, argv, "export")
    start_jax()
    from purejaxppo.export.export_policy import export_policy
    from purejaxppo.export.formats import FLOAT32_ALONE, use_of
    from purejaxppo.run_folder.read import read_run

    path = export_policy(
        options.run, options.format, out=options.out, agent=options.agent,
        weights=options.weights, overwrite=options.overwrite,
    )  # fmt: skip
    config = read_run(options.run)[0]
    other = options.format in FLOAT32_ALONE and config.compute_dtype != "float32"
    words = f", in float32 (trained in {config.compute_dtype})" if other else ""
    print(f"wrote {path}: the most probable action, statistics frozen{words}")
    for line in use_of(path, options.format, memory=config.core != "none"):
        print(f"    {line}")
    return 0


def envs(argv: Sequence[str]) -> int:
    """Lists the environments that can be trained: `purejaxppo envs [SUITE]`.

    Args:
        argv: the arguments.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: there is no such suite.
    """
    options = parse(EnvsArgs, argv, "envs")
    start_jax()  # some suites compute when they are imported
    from purejaxppo.config import presets
    from purejaxppo.envs import registry

    suites = [] if options.suite is None else [options.suite]
    if not registry.SUITES.keys() >= {*suites}:
        known = ", ".join(filter(None, registry.SUITES))
        raise ConfigError(f"envs takes one suite or none, not {options.suite!r}: use {known}")
    names, tuned = registry.names(*suites), presets.names()
    for name in names:
        print(f"{name}  (preset: {', '.join(presets.tables(name))})" if name in tuned else name)
    for suite, what in registry.missing(*suites).items():
        print(f"{suite}/...  ({what})")
    if not suites:
        remember_environments(names)
    return 0


def completion(argv: Sequence[str]) -> int:
    """Prints what completes commands and options in a shell: `purejaxppo completion SHELL`.

    Args:
        argv: the arguments.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: bad input.
    """
    print(script_of(parse(CompletionArgs, argv, "completion").shell), end="")
    return 0


def check_env(argv: Sequence[str]) -> int:
    """Checks what an environment does against what training needs: `purejaxppo check-env ENV`.

    Args:
        argv: the arguments.

    Returns:
        The exit code: 0; 1 if there are faults, which are printed.

    Raises:
        ConfigError: bad input, or the environment cannot be made.
    """
    args = parse(CheckArgs, argv, "check-env")
    start_jax()
    from purejaxppo import check
    from purejaxppo.envs import registry

    env, params = registry.find_env(args.env, **parse_options(args.env_options))
    try:
        spec = check.check_env(env, params, num_steps=args.num_steps)
    except ConfigError as faults:
        print(faults, file=sys.stderr)
        return 1
    print(f"{args.env}: no faults\nobservation  {spec.observation}\naction       {spec.action}")
    numbers = check.info_numbers(env, params)
    if numbers:
        print(f"info         {', '.join(numbers)}  (numbers that --info-metrics logs)")
    return 0
