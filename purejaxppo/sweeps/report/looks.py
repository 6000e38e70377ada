"""What pictures of a study have in common: points, words, and places of choices."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from purejaxppo.report.plots import COLORS, INK
from purejaxppo.sweeps.dimensions import Dimension
from purejaxppo.sweeps.read import StudyResults
from purejaxppo.sweeps.trials import Result

PANEL = 2.9  # inches that a panel is high
LETTERS = 14  # of a choice's name below an axis
SPREAD = 0.3  # of the points of a choice, to both sides
POINT: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 5, "markeredgewidth": 0.9}
LOOKS: dict[str, dict[str, Any]] = {
    "done": POINT | {"color": COLORS[0], "alpha": 0.7},
    "stopped early": POINT | {"color": COLORS[0], "markerfacecolor": "none", "alpha": 0.7},
    "failed": POINT | {"color": COLORS[3], "marker": "x"},
    "best": POINT | {
        "color": COLORS[1], "marker": "*", "markersize": 13, "markeredgecolor": INK, "zorder": 5,
    },
}  # fmt: skip
"""What points look like, told apart by their shape too."""

NO_SCORE = "no trial has a score yet"


def columns_for(panels: int) -> int:
    """Returns how many panels stand in a row: as many as leave few places free.

    Args:
        panels: one or more.
    """
    return panels if panels < 4 else min((3, 4), key=lambda columns: -panels % columns)


def name_decades(axis: Axis, low: float, high: float) -> None:
    """Writes plain numbers beside a logarithmic axis.

    Args:
        axis: the axis.
        low: about the lowest number on it.
        high: about the highest.
    """
    # over few decades, some of the numbers between have names too
    decades = math.log10(high / low)
    subs = (1, 2, 5) if decades < 1.5 else (1, 3) if decades < 2.5 else (1,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(lambda x, _: f"{x:g}" if 0.01 <= x < 1e4 else _power(x))
    axis.set_minor_formatter(NullFormatter())


def _power(x: float) -> str:
    return f"{x:.0e}".replace("e-0", "e-").replace("e+0", "e")


def score_of(result: Result) -> float:
    """Returns the score of a trial; NaN where it has none.

    Args:
        result: of the trial.
    """
    return math.nan if result.score is None else result.score


def spread_of(result: Result) -> float:
    """Returns how far to a side the point of a choice stands, from -1 to 1, so that all are seen.

    Multiples of the golden section fill the width evenly, however many there are.

    Args:
        result: of the trial.
    """
    return 2 * (result.number * (math.sqrt(5) - 1) / 2 % 1) - 1


def place_of(dimension: Dimension, value: Any) -> float:
    """Returns the place of a choice, from 0; NaN for what is none.

    Args:
        dimension: with choices.
        value: one of them.
    """
    known = dimension.choices
    return float(known.index(value)) if value in known else math.nan


def measured_by(results: Iterable[Result], measure: str | None) -> list[Result]:
    """Returns results scored by something else that was measured.

    Args:
        results: of trials.
        measure: its name; None: they keep their scores.
    """
    if measure is None:
        return list(results)
    return [r._replace(score=r.measured.get(measure)) for r in results]


def score_words(study: StudyResults, measure: str | None = None) -> str:
    """Returns what scores are, to be read.

    Args:
        study: that trials are of.
        measure: what they are scored by; None: as the study does.
    """
    return (measure or study.measure).replace("_", " ")


def kinds_in(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Groups results by how they are drawn.

    Args:
        results: of trials.

    Returns:
        Those of each kind that there is: done, stopped early, failed.
    """
    kinds: dict[str, list[Result]] = {"done": [], "stopped early": [], "failed": []}
    for r in results:
        kind = "failed" if r.score is None else "stopped early" if r.status == "stopped" else "done"
        kinds[kind].append(r)
    return {kind: members for kind, members in kinds.items() if members}


def written(value: Any) -> str:
    """Returns a value to be read, as it is written on the command line.

    Args:
        value: of a setting.
    """
    if value is None:
        return "none"
    if isinstance(value, tuple | list):
        return ",".join(map(written, value))
    return f"{value:.4g}".replace("e-0", "e-") if isinstance(value, float) else str(value)


def say(axes: Axes, words: str, ticks: bool = False) -> None:
    """Says in the middle of axes why there is nothing to see.

    Args:
        axes: where.
        words: why.
        ticks: whether those of the axes stay.
    """
    if not ticks:
        axes.set(xticks=[], yticks=[])
        axes.xaxis.set_minor_locator(NullLocator())
    axes.annotate(words, (0.5, 0.5), xycoords="axes fraction", ha="center")
