"""Importance of what was varied, and scores against each of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from purejaxppo.report.listing import shortened
from purejaxppo.report.plots import COLORS, INK, save, style
from purejaxppo.run_folder.files import write_new
from purejaxppo.sweeps.dimensions import Dimension
from purejaxppo.sweeps.read import StudyResults
from purejaxppo.sweeps.report.importance import Importance, groups_of, importances
from purejaxppo.sweeps.report.looks import (
    LETTERS,
    LOOKS,
    NO_SCORE,
    PANEL,
    SPREAD,
    columns_for,
    kinds_in,
    measured_by,
    name_decades,
    place_of,
    say,
    score_of,
    score_words,
    spread_of,
    written,
)
from purejaxppo.sweeps.trials import Result

CHOICES = 8  # more of them are written upright


def plot_slices(
    path: Path, studies: Sequence[StudyResults], *, measure: str | None, title: str | None,
    overwrite: bool,
) -> None:  # fmt: skip
    """Draws studies: the importance of what was varied, and scores against each of it.

    Args:
        path: the picture: .png, .svg or .pdf.
        studies: one or more.
        measure: what trials measured by; None: the score of each study.
        title: what stands above; None: the environment.
        overwrite: write over a file that exists.

    Raises:
        ConfigError: it exists, or it cannot be written.
    """
    heights = [slices_size(study)[1] + 0.3 for study in studies]
    with style():
        figure = Figure(figsize=(10, sum(heights)), layout="constrained")
        rows = figure.subfigures(len(studies), 1, squeeze=False, height_ratios=heights)[:, 0]
        for row, study in zip(rows, studies, strict=True):
            draw_slices(row, study, measure)
            name = study.config.env if len(studies) == 1 else f"{study.config.env}: {study.name}"
            row.suptitle(title if title and len(studies) == 1 else name)
        if title and len(studies) > 1:
            figure.suptitle(title, weight="bold")
        write_new(path, overwrite, lambda file: save(figure, file, path.suffix))


def slices_size(study: StudyResults) -> tuple[float, float]:
    """Returns the size of what `draw_slices` draws, in inches.

    Args:
        study: of which it is drawn.
    """
    panels = len(study.dimensions) + 1
    return 10, PANEL * math.ceil(panels / columns_for(panels)) + 0.4


def draw_slices(
    figure: Figure | SubFigure, study: StudyResults, measure: str | None = None
) -> None:
    """Draws the importance of each dimension, and scores against each, the most important first.

    Args:
        figure: on which it is drawn.
        study: its trials.
        measure: what is drawn in place of the score; None: the score.
    """
    results = measured_by(study.results.values(), measure)
    found = importances(results, [d.name for d in study.dimensions])
    by_name = {d.name: d for d in study.dimensions}
    columns = columns_for(len(found) + 1)
    rows = math.ceil((len(found) + 1) / columns)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    draw_importance(panels[0], found)

    # the panels of scores have one axis of scores
    words = score_words(study, measure)
    best = study.winner if measure is None else None
    for i, (axes, one) in enumerate(zip(panels[1:], found, strict=False)):
        if i:
            axes.sharey(panels[1])
        draw_slice(axes, by_name[one.name], results, best)
        share = "" if one.share is None else f" ({one.share:.0%})"
        axes.set_title(f"{one.name}{share}")
        # behind the importance, or first in its row
        axes.set_ylabel(words if i == 0 or (i + 1) % columns == 0 else "")
    for axes in panels[len(found) + 1 :]:
        axes.remove()
    kinds = kinds_in(results)
    handles = [Line2D([], [], label=name, **LOOKS[name]) for name in kinds]
    if best is not None:
        handles.append(Line2D([], [], label=f"trial {best.number}", **LOOKS["best"]))
    handles.append(Line2D([], [], color=INK, linewidth=1.6, label="mean of a group"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)


def draw_importance(axes: Axes, found: Sequence[Importance]) -> None:
    """Draws the share of the scores' variance that each dimension explains, as bars.

    Args:
        axes: where.
        found: importances, the largest first.
    """
    axes.set_title("importance: share of the variance")
    known = [one for one in found if one.share is not None]
    if not known:
        say(axes, "too few trials to say, or all alike")
        return
    places = range(len(known))
    for place, one in zip(places, known, strict=True):
        share = one.share or 0.0
        (bar,) = axes.barh(place, share, height=0.6, color=COLORS[0], edgecolor=COLORS[0])
        if not one.certain:
            bar.set(facecolor="none", hatch="////")
        words = f"{share:.0%}" + ", may be luck" * (not one.certain and share >= 0.005)
        axes.annotate(words, (share, place), xytext=(4, 0), textcoords="offset points", va="center")
    axes.set_yticks(places, [shortened(one.name, 22) for one in known])
    axes.set(xlim=(0, 1), ylim=(len(known) - 0.4, -0.6))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    axes.grid(axis="y", visible=False)


def draw_slice(
    axes: Axes, dimension: Dimension, results: Sequence[Result], best: Result | None
) -> None:
    """Draws scores against one dimension: a point for each trial, and the mean of each group.

    Args:
        axes: where.
        dimension: what was varied.
        results: of trials; those without a score stand at the bottom.
        best: the trial that is marked; None: none is.
    """
    there = [r for r in results if dimension.name in r.setting]
    where = dict(zip([r.number for r in there], _along(dimension, there), strict=True))
    for kind, members in kinds_in(there).items():
        x = [where[r.number] for r in members]
        if kind == "failed":  # a score that is none stands at the bottom
            axes.plot(x, [0.03] * len(x), transform=axes.get_xaxis_transform(), **LOOKS[kind])
        else:
            axes.plot(x, [score_of(r) for r in members], **LOOKS[kind])
    if best is not None and best.number in where:
        mine = next(r for r in there if r.number == best.number)
        axes.plot(where[best.number], score_of(mine), **LOOKS["best"])
    _draw_means(axes, dimension, [r for r in there if r.score is not None], where)
    _name_values(axes, dimension)
    if not any(r.score is not None for r in there):
        say(axes, NO_SCORE, ticks=True)


def _along(dimension: Dimension, results: Sequence[Result]) -> list[float]:
    """Returns where trials stand along a dimension; those of a choice are spread a little."""
    values = [r.setting[dimension.name] for r in results]
    if not dimension.choices:
        return [float(x) for x in values]
    return [
        place_of(dimension, x) + SPREAD * spread_of(r) for r, x in zip(results, values, strict=True)
    ]


def _draw_means(
    axes: Axes, dimension: Dimension, results: Sequence[Result], where: dict[int, float]
) -> None:
    """Draws the mean score of each group that importance is computed from."""
    if len(results) < 2:
        return
    groups = groups_of([r.setting[dimension.name] for r in results])
    for group in range(groups.max() + 1):
        members = [r for r, g in zip(results, groups, strict=True) if g == group]
        x = [where[r.number] for r in members]
        mean = float(np.mean([score_of(r) for r in members]))
        if dimension.choices:
            middle = round(float(np.mean(x)))
            x = [middle - SPREAD, middle + SPREAD]
        marker = "_" if min(x) == max(x) else None
        axes.plot([min(x), max(x)], [mean, mean], color=INK, linewidth=1.6, marker=marker)


def _name_values(axes: Axes, dimension: Dimension) -> None:
    """Sets the scale of a dimension, or writes its choices below the axis."""
    if dimension.choices:
        names = [shortened(written(x), LETTERS) for x in dimension.choices]
        upright = len(names) > CHOICES or sum(map(len, names)) > 26
        axes.set_xticks(range(len(names)), names, rotation=90 if upright else 0)
        axes.set_xlim(-0.6, len(names) - 0.4)
        axes.grid(axis="x", visible=False)
    elif dimension.log:
        axes.set_xscale("log")
        name_decades(axes.xaxis, dimension.low, dimension.high)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=dimension.integer))
