"""What each command does and prints. Arguments are those after the command's name.

Heavy imports stand inside the commands, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from purejaxppo.cli.arguments import (
    CheckArgs,
    EvalOptions,
    ExportOptions,
    PlotOptions,
    RenderOptions,
    ReportOptions,
    parse,
    parse_train,
)
from purejaxppo.cli.devices import start_jax
from purejaxppo.config.coerce import parse_options
from purejaxppo.errors import ConfigError


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
    start_jax(options.seeds, options.devices)
    from purejaxppo.cli import train as console

    return console.train(config, options)


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
    from purejaxppo.run_folder.rows import evaluation_rows
    from purejaxppo.runs.agents import load_components
    from purejaxppo.runs.evaluate import LONGEST, NOT_FOR_TRAINING, evaluate_of

    # all agents of the run play the same first states, side by side
    components, agents = load_components(options.run, options.weights)
    play, close = evaluate_of(components, options.episodes, options.sampled)
    key = jax.random.fold_in(jax.random.key(options.seed), NOT_FOR_TRAINING)
    try:
        evaluation = jax.jit(spread_seeds(lambda one: play(one, key)))(agents)
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
    table = Table("seed", "return", "± std", "length", "episodes", box=None)
    for i, row in enumerate(rows):
        numbers = row["return_mean"], row["return_std"], row["length_mean"]
        table.add_row(str(i), *(f"{x:.1f}" for x in numbers), str(row["episodes"]))
    Console().print(table)
    print(f"{components.config.env}: mean return {np.mean(means):.1f} over {len(rows)} seeds")
    if unfinished:
        print(f"{unfinished} episodes did not end within {LONGEST:,} steps: counted as they stood")
    return 0


def plot(argv: Sequence[str]) -> int:
    """Draws the learning curves of one run or many: `purejaxppo plot RUN...`.

    Args:
        argv: the arguments.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: bad input, a folder holds no run, or the file cannot be written.
    """
    options = parse(PlotOptions, argv, "plot")
    from purejaxppo.report.plots import METADATA, plot_runs
    from purejaxppo.report.results import read_all
    from purejaxppo.run_folder.paths import new_file

    if Path(options.out).suffix not in METADATA:
        raise ConfigError(f"out={options.out!r} must end in {', '.join(METADATA)}: use curves.png")
    runs, path = read_all(options.runs), new_file(options.out, options.overwrite)
    plot_runs(path, runs, overwrite=options.overwrite)
    print(f"saved in {path}")
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
    print(f"return {episode.returns[-1]:z.1f} in {steps} steps{going_on}, {path} ({size:,.0f} kB)")
    return 0


def report(argv: Sequence[str]) -> int:
    """Puts one run or many on a page: `purejaxppo report RUN...`.

    Args:
        argv: the arguments.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: bad input, a folder holds no run, or the file cannot be written.
    """
    options = parse(ReportOptions, argv, "report")
    from purejaxppo.report.page import make_page
    from purejaxppo.report.results import read_all
    from purejaxppo.run_folder.files import write_new
    from purejaxppo.run_folder.paths import new_file

    runs, path = read_all(options.runs), new_file(options.out, options.overwrite)
    text = make_page(runs, path.parent)
    # names of files may hold bytes that are no text
    write_new(path, options.overwrite, lambda file: file.write(text.encode("utf-8", "replace")))
    print(f"saved in {path}")
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
    from purejaxppo.export.formats import USES
    from purejaxppo.run_folder.read import read_run

    path = export_policy(
        options.run, options.format, out=options.out, agent=options.agent,
        weights=options.weights, overwrite=options.overwrite,
    )  # fmt: skip
    use = USES[options.format]
    memory = read_run(options.run)[0].core != "none"
    print(f"wrote {path}: the most probable action, statistics frozen")
    print("    " + use.load.format(path=str(path), module=path.stem))
    print("    " + (use.act_with_memory if memory else use.act))
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
    if argv in (["-h"], ["--help"]):
        print("usage: purejaxppo envs [SUITE]\n\nList the environments that can be trained.")
        return 0
    start_jax()  # some suites compute when they are imported
    from purejaxppo.config import presets
    from purejaxppo.envs import registry

    if len(argv) > 1 or set(argv) - set(registry.SUITES):
        suites = ", ".join(filter(None, registry.SUITES))
        raise ConfigError(f"envs takes one suite or none, not {' '.join(argv)!r}: use {suites}")
    tuned = presets.names()
    for name in registry.names(*argv):
        print(f"{name}  (preset: {', '.join(presets.tables(name))})" if name in tuned else name)
    for suite, what in registry.missing(*argv).items():
        print(f"{suite}/...  ({what})")
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
    return 0
