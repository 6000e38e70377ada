"""What `plot` and `report` make of runs, and of studies."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from purejaxppo.cli.arguments import PlotOptions, ReportOptions
from purejaxppo.errors import ConfigError
from purejaxppo.report.curves import CAUTION, LEARNING, Drawn, few_seeds, named_metric, with_metric
from purejaxppo.report.markup import write_page
from purejaxppo.report.page import make_page
from purejaxppo.report.plots import METADATA, plot_runs
from purejaxppo.report.results import Results, read_all, with_labels
from purejaxppo.run_folder.find import named_studies
from purejaxppo.run_folder.paths import free_file, given_path, new_file
from purejaxppo.sweeps.read import StudyResults, read_study
from purejaxppo.sweeps.report.curves import runs_of
from purejaxppo.sweeps.report.page import CURVES, make_study_page
from purejaxppo.sweeps.report.slices import plot_slices


def draw(options: PlotOptions) -> Path:
    """Draws learning curves of runs, or of the best trials of studies, or all their trials.

    Args:
        options: of the command.

    Returns:
        The picture.

    Raises:
        ConfigError: bad input, a folder holds no run and no study, none has the metric, or the
            file cannot be written.
    """
    out = options.out
    if out is not None and Path(out).suffix not in METADATA:
        raise ConfigError(f"out={out!r} must end in {', '.join(METADATA)}: use curves.png")
    studies = [read_study(path) for path in named_studies(options.runs)]
    if not studies:
        return plot_curves(read_all(options.runs), [], options)
    measured = {name for study in studies for r in study.results.values() for name in r.measured}
    if options.metric is None or options.metric in measured:
        return plot_trials(studies, options)
    return plot_curves(*_best_runs(studies), options)


def plot_trials(studies: Sequence[StudyResults], options: PlotOptions) -> Path:
    """Draws scores of trials against what was varied.

    Args:
        studies: one or more.
        options: of the command, whose metric is what trials are measured by, or None.

    Returns:
        The picture.

    Raises:
        ConfigError: an option that has no effect, or the file cannot be written.
    """
    for name in ("x", "labels", "single"):
        value = getattr(options, name)
        if value != getattr(PlotOptions, name):
            raise ConfigError(
                f"{name}={value} has no effect on the scores of trials: draw curves, with "
                "--metric episode_return"
            )
    path = file_to_write(options.out, "slices.png", options.overwrite)
    plot_slices(
        path, studies, measure=options.metric, title=options.title, overwrite=options.overwrite
    )
    return path


def _best_runs(studies: Sequence[StudyResults]) -> tuple[list[Results], list[str]]:
    """Returns the runs of the best trials of a study, or of the best of each of several.

    Returns:
        The runs, and in words which are not there.

    Raises:
        ConfigError: none of them has kept a run.
    """
    found: list[Results] = []
    lacking: list[str] = []
    several = len(studies) > 1
    for study in studies:
        runs, missing = runs_of(study, study.ranked[: 1 if several else CURVES], several)
        found += runs
        lacking += [f"{study.folder}: {words}" for words in missing]
    if not found:
        raise ConfigError(
            f"no run of the best trials of {str(studies[0].folder)!r} is there "
            f"({'; '.join(lacking[:1]) or 'none has a score'}): draw scores, without --metric"
        )
    return found, lacking


def plot_curves(found: Sequence[Results], lacking: Sequence[str], options: PlotOptions) -> Path:
    """Draws learning curves, and says on stderr what they do not show.

    Args:
        found: results of runs.
        lacking: in words which are not there.
        options: of the command.

    Returns:
        The picture.

    Raises:
        ConfigError: labels that do not fit, no run has the metric, or the file cannot be written.
    """
    runs = with_labels(found, options.labels)
    path = file_to_write(options.out, "curves.png", options.overwrite)
    metric = LEARNING.metric if options.metric is None else options.metric
    drawn = Drawn(named_metric(metric, runs), options.x)

    # what the picture cannot show, or should not be taken for
    runs, without = with_metric(runs, drawn.metric)
    for words in lacking:
        print(f"purejaxppo: {words}", file=sys.stderr)
    for run in without:
        print(f"purejaxppo: {run.folder} is left out: it has no {drawn.metric}", file=sys.stderr)
    if few := few_seeds(runs):
        where = f"{few[0].folder} has {few[0].seeds} seeds"
        print(f"purejaxppo: {where}: {CAUTION}", file=sys.stderr)

    plot_runs(
        path, runs, overwrite=options.overwrite, drawn=drawn, single=options.single,
        title=options.title,
    )  # fmt: skip
    return path


def write_report(options: ReportOptions) -> Path:
    """Writes a page of runs or of studies, once or while they go on.

    Args:
        options: of the command.

    Returns:
        The page.

    Raises:
        ConfigError: bad input, a folder holds no run and no study, or the file cannot be written.
    """
    folder = given_path(options.out or "report.html", "out").parent

    def look() -> tuple[str, bool]:
        studies = [read_study(path) for path in named_studies(options.runs)]
        runs = [] if studies else read_all(options.runs)
        text = make_study_page(studies) if studies else make_page(runs, folder)
        return text, any(one.state == "running" for one in [*runs, *studies])

    # what cannot be read is said before what cannot be written
    text, _ = look()
    path = file_to_write(options.out, "report.html", options.overwrite)
    if options.watch is None:
        write_page(path, text, options.overwrite)
    else:
        from purejaxppo.cli.watch import watch

        watch(look, path, options.watch, options.overwrite)
    return path


def file_to_write(out: str | None, name: str, overwrite: bool) -> Path:
    """Returns the file that a command is to write: the one named, else the next one that is free.

    Args:
        out: the one named; None: none is.
        name: of one that may be free.
        overwrite: whether it may exist.

    Raises:
        ConfigError: it exists and may not, or cannot be written.
    """
    free = name if overwrite else free_file(name)
    return new_file(free if out is None else out, overwrite)
