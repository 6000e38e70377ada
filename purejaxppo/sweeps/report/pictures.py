"""All that was varied at once, what scores cost, and lines of descent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from purejaxppo.report.listing import shortened
from purejaxppo.report.plots import COLORS, INK, PAPER
from purejaxppo.sweeps.dimensions import Dimension
from purejaxppo.sweeps.read import LineageLine, StudyResults
from purejaxppo.sweeps.report.looks import (
    LETTERS,
    LOOKS,
    NO_SCORE,
    PANEL,
    SPREAD,
    columns_for,
    kinds_in,
    name_decades,
    place_of,
    say,
    score_of,
    score_words,
    spread_of,
    written,
)
from purejaxppo.sweeps.trials import Result

NO_EFFECT = -0.16
"""Where lines pass an axis of which they have no value."""


def draw_parallel(figure: Figure, study: StudyResults) -> None:
    """Draws each trial as a line over an axis for each dimension and one for the score.

    The best tenth stand out in colour, the others are faint.

    Args:
        figure: on which it is drawn.
        study: its trials.
    """
    axes = figure.subplots()
    axes.axis("off")
    ordered = study.ranked
    if not ordered:
        say(axes, NO_SCORE)
        return
    scores = [score_of(r) for r in ordered]
    low, high = min(scores), max(scores)
    dimensions = study.dimensions
    best = max(1, math.ceil(len(ordered) / 10))
    for rank, result in reversed(list(enumerate(ordered))):
        y = [_height(d, result) for d in dimensions]
        y.append((scores[rank] - low) / (high - low) if high > low else 0.5)
        look: dict[str, Any] = dict(color=COLORS[0], alpha=0.9, linewidth=1.5, zorder=3)
        if rank >= best:
            look = dict(color=INK, alpha=0.18, linewidth=0.9, zorder=2)
        axes.plot(range(len(y)), y, solid_joinstyle="round", **look)

    # an axis each, with the values at its ends, or its choices
    ends = [_ends(d) for d in dimensions] + [[(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")]]
    names = [d.name for d in dimensions] + [score_words(study)]
    missing = any(d.name not in r.setting for d in dimensions for r in ordered)
    for x, (name, marks) in enumerate(zip(names, ends, strict=True)):
        axes.plot([x, x], [0, 1], color=INK, linewidth=1, alpha=0.6, zorder=1)
        axes.annotate(
            shortened(name, 22), (x, 1), xytext=(0, 18), textcoords="offset points", ha="center",
            weight="bold",
        )  # fmt: skip
        for y, words in marks:
            if x < len(dimensions) and dimensions[x].choices:  # beside the axis, else at its ends
                side: dict[str, Any] = dict(xytext=(5, 0), ha="left", va="center")
            else:
                side = dict(xytext=(0, 5 if y else -5), ha="center", va="bottom" if y else "top")
            behind = dict(facecolor=PAPER, edgecolor="none", alpha=0.75, pad=1)
            axes.annotate(
                words, (x, y), textcoords="offset points", fontsize=8, zorder=6, bbox=behind, **side
            )
    if missing:
        axes.annotate(
            "no effect", (0, NO_EFFECT), xytext=(-6, 0), textcoords="offset points", ha="right",
            va="center", fontsize=8,
        )  # fmt: skip
    axes.set(xlim=(-0.25, len(names) - 0.75), ylim=(NO_EFFECT - 0.04 if missing else -0.06, 1.12))
    count = f"best {best} of {len(ordered)}"
    handles = [Line2D([], [], color=COLORS[0], label=count if best > 1 else "best")]
    if len(ordered) > best:
        handles.append(Line2D([], [], color=INK, alpha=0.3, label="others"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)


def _height(dimension: Dimension, result: Result) -> float:
    """Returns where a trial crosses the axis of a dimension."""
    if dimension.name not in result.setting:
        return NO_EFFECT
    value = result.setting[dimension.name]
    if dimension.choices:
        place = place_of(dimension, value)
        return (place + 0.5 + SPREAD * spread_of(result)) / len(dimension.choices)
    low, high = dimension.low, dimension.high
    if dimension.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _ends(dimension: Dimension) -> list[tuple[float, str]]:
    """Returns the heights on the axis of a dimension that have a name."""
    if dimension.choices:
        count = len(dimension.choices)
        names = [shortened(written(x), LETTERS) for x in dimension.choices]
        return [((i + 0.5) / count, name) for i, name in enumerate(names)]
    return [(0.0, written(dimension.low)), (1.0, written(dimension.high))]


# -- what scores cost ------------------------------------------------------------------------------


def draw_costs(figure: Figure, study: StudyResults) -> None:
    """Draws scores against the seconds, and the steps if they differ, of each trial and of all.

    Args:
        figure: on which it is drawn.
        study: its trials.
    """
    told = list(study.results.values())
    scored = [r for r in told if r.score is not None]
    several = len({r.steps for r in scored}) > 1
    costs: list[tuple[str, Callable[[Result], float]]] = [("seconds", lambda r: r.seconds)]
    if several:
        costs.append(("environment steps", lambda r: float(r.steps)))
    panels = figure.subplots(1, len(costs) + 1, sharey=True, squeeze=False)[0]
    panels[0].set_ylabel(score_words(study))
    if not scored:
        for axes in panels:
            say(axes, NO_SCORE)
        return
    for axes, (name, cost) in zip(panels, costs, strict=False):
        for kind, members in kinds_in(scored).items():
            axes.plot([cost(r) for r in members], [score_of(r) for r in members], **LOOKS[kind])
        x, y = staircase([(cost(r), score_of(r)) for r in scored])
        axes.plot(x, y, color=COLORS[1], linewidth=1.8, drawstyle="steps-post", zorder=4)
        axes.set_title(f"{name} of each trial")
        axes.set_xlabel(f"{name} of a trial")
    handles = [Line2D([], [], label=name, **LOOKS[name]) for name in kinds_in(scored)]
    handles.append(Line2D([], [], color=COLORS[1], label="the best up to there"))

    # the trials in the order in which they were told
    spent = np.cumsum([r.seconds for r in told])
    so_far = np.maximum.accumulate([-np.inf if r.score is None else r.score for r in told])
    known = np.isfinite(so_far)
    x, y = spent[known], so_far[known]
    marker = "o" if len(x) == 1 else None
    look: dict[str, Any] = dict(color=COLORS[1], drawstyle="steps-post", marker=marker)
    panels[-1].plot(x, y, linewidth=1.8, **look)
    panels[-1].set_title("the best as trials ended")
    panels[-1].set_xlabel("seconds of all trials together")
    for axes in panels:
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_major_locator(MaxNLocator(5))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)


def staircase(points: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Returns the best score at each cost, where it grows, and the largest cost at the end.

    Args:
        points: cost and score of each trial, at least one.

    Returns:
        Costs, growing, and scores, growing but for the last, which is that before it.
    """
    x, y = [], []
    ordered = sorted(points, key=lambda p: (p[0], -p[1]))
    for cost, score in ordered:
        if not y or score > y[-1]:
            x.append(cost)
            y.append(score)
    return [*x, ordered[-1][0]], [*y, y[-1]]


def draw_tradeoffs(figure: Figure, study: StudyResults) -> None:
    """Draws the score against what else trials are scored by, and those that none betters in both.

    Args:
        figure: on which it is drawn.
        study: whose trials have several scores.
    """
    others = study.about["options"]["score"][1:]
    scored = [r for r in study.results.values() if r.score is not None]
    panels = figure.subplots(1, len(others), sharey=True, squeeze=False)[0]
    panels[0].set_ylabel(score_words(study))
    for axes, name in zip(panels, others, strict=True):
        axes.set_xlabel(name.replace("_", " "))
        values = {r.number: r.measured.get(name) for r in scored}
        there = [r for r in scored if values[r.number] is not None]
        if not there:
            say(axes, NO_SCORE)
            continue
        for kind, members in kinds_in(there).items():
            axes.plot([values[r.number] for r in members], [*map(score_of, members)], **LOOKS[kind])
        # the best score of all that have at least so much of the other
        x, y = staircase([(-(values[r.number] or 0.0), score_of(r)) for r in there])
        look: dict[str, Any] = dict(color=COLORS[1], drawstyle="steps-post", zorder=4)
        axes.plot([-value for value in x], y, linewidth=1.8, **look)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    handles = [Line2D([], [], label=name, **LOOKS[name]) for name in kinds_in(scored)]
    handles.append(Line2D([], [], color=COLORS[1], label="better in one is worse in the other"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)


# -- a population ----------------------------------------------------------------------------------


def lineage_size(study: StudyResults) -> tuple[float, float]:
    """Returns the size of what `draw_lineage` draws, in inches.

    Args:
        study: of which it is drawn.
    """
    panels = len(_evolved(study)) + 1
    return 10, PANEL * math.ceil(panels / columns_for(panels)) + 0.4


def _evolved(study: StudyResults) -> list[Dimension]:
    """Returns the dimensions that agents of a population have, which are numbers."""
    return [d for d in study.dimensions if d.name in study.lineage[0]["setting"]]


def draw_lineage(figure: Figure, study: StudyResults) -> None:
    """Draws who took over from whom in a population, and how settings changed.

    The line of descent of the best agent of the last generation stands out.

    Args:
        figure: on which it is drawn.
        study: with a lineage.
    """
    lines = study.lineage
    by_place = {(line["generation"], line["agent"]): line for line in lines}
    last = max(line["generation"] for line in lines)
    ends = [line for line in lines if line["generation"] == last and line["score"] is not None]
    best = max(ends, key=lambda line: line["score"] or 0.0, default=None)
    descent = {(x["generation"], x["agent"]) for x in descent_of(best, by_place)}

    evolved = _evolved(study)
    columns = columns_for(len(evolved) + 1)
    rows = math.ceil((len(evolved) + 1) / columns)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    values: list[tuple[str, Callable[[LineageLine], float]]]
    values = [("agent", lambda line: line["agent"])]
    values += [(d.name, lambda line, n=d.name: line["setting"].get(n, math.nan)) for d in evolved]
    for axes, (name, value) in zip(panels, values, strict=False):
        for line in lines:
            before = before_it(line, by_place)
            if before is None:
                continue
            ours = (line["generation"], line["agent"]) in descent
            look: dict[str, Any] = dict(color=INK, alpha=0.22, linewidth=0.9, zorder=2)
            if ours:
                look = dict(color=COLORS[0], alpha=1.0, linewidth=2.2, zorder=3)
            x = [before["generation"], line["generation"]]
            axes.plot(x, [value(before), value(line)], **look)
        axes.set_title("lines of descent" if name == "agent" else name)
        axes.set_xlabel("generation")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    panels[0].set_ylabel("agent")
    panels[0].yaxis.set_major_locator(MaxNLocator(8, integer=True))
    for axes, dimension in zip(panels[1:], evolved, strict=False):
        if dimension.log:
            axes.set_yscale("log")
            name_decades(axes.yaxis, *axes.get_ylim())
    for axes in panels[len(values) :]:
        axes.remove()
    handles = [
        Line2D([], [], color=COLORS[0], linewidth=2.2, label="ancestors of the best at the end"),
        Line2D([], [], color=INK, alpha=0.4, label="others"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)


def before_it(
    line: LineageLine, by_place: dict[tuple[int, int], LineageLine]
) -> LineageLine | None:
    """Returns what an agent of a generation goes back to: itself before, or its parent.

    Args:
        line: of the agent.
        by_place: all lines, by generation and agent.
    """
    parent = line["agent"] if line["parent"] is None else line["parent"]
    return by_place.get((line["generation"] - 1, parent))


def descent_of(
    line: LineageLine | None, by_place: dict[tuple[int, int], LineageLine]
) -> list[LineageLine]:
    """Returns an agent and its ancestors, the newest first; none of no agent.

    Args:
        line: of the agent.
        by_place: all lines, by generation and agent.
    """
    found = []
    while line is not None:
        found.append(line)
        line = before_it(line, by_place)
    return found
