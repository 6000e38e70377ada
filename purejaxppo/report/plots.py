"""Learning curves, and how soon returns were reached."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from purejaxppo.config.schema import PPOConfig
from purejaxppo.report.aggregate import (
    Curve,
    bootstrap_interval,
    common_levels,
    iqm,
    learning_curves,
    share_has_reached,
    steps_to_reach,
)
from purejaxppo.report.axes import AXES
from purejaxppo.report.curves import (
    CAUTION,
    FEW,
    LEARNING,
    RETURNS,
    Drawn,
    along,
    curves_of,
    few_seeds,
)
from purejaxppo.report.results import Results, by_env, labels
from purejaxppo.run_folder.files import write_new, write_whole
from purejaxppo.types import Metrics

# Okabe and Ito's, distinct for the colour-blind; without those lost on white or on black
COLORS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9")
LINES = ("-", "-.", ":")  # for more runs than colours; dashes are evaluations
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.3,
    "text.parse_math": False,  # a folder's name may hold dollars
    "svg.hashsalt": "purejaxppo",  # equal calls, equal files
}
# files are not dated, so that equal calls give equal ones
METADATA = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
NO_EPISODE = "no episode has ended yet"
INK = "#010203"  # stands for the colour of a page's text
PAPER = "#fffefd"  # and this for what is behind it
INKED = (
    "grid.color",
    "text.color",
    "axes.labelcolor",
    "axes.edgecolor",
    "xtick.color",
    "ytick.color",
)


def plot_curve(path: Path, metrics: Metrics, config: PPOConfig, env: str | None = None) -> None:
    """Draws return against steps: the interquartile mean over seeds, and its 95% interval.

    Args:
        path: the picture: .png, .svg or .pdf.
        metrics: every field [seeds, updates].
        config: what was trained.
        env: the name of what it was trained on; None: by the configuration.

    Raises:
        OSError: it cannot be written.
    """
    # the file is written within the style too: some of it counts only then
    (curve,) = learning_curves([(metrics, config.batch_size)])
    with style():
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.subplots()
        _draw_curve(axes, curve, color=COLORS[0])
        axes.set(xlabel=AXES["steps"], ylabel=_words("episode_return"))
        axes.set_title(f"{env or config.env} ({_seeds(len(curve.returns))})")
        _caution(axes, len(curve.returns) in FEW)
        _finish(axes, axes.xaxis, NO_EPISODE if np.isnan(curve.mean).all() else "")
        write_whole(path, lambda file: save(figure, file, path.suffix))


def plot_runs(
    path: Path,
    runs: Sequence[Results],
    *,
    overwrite: bool = False,
    drawn: Drawn = LEARNING,
    single: bool = False,
    title: str | None = None,
) -> None:
    """Draws a comparison of runs: for each environment, learning curves and sample efficiency.

    Args:
        path: the picture: .png, .svg or .pdf.
        runs: one or many, of one environment or many, whose rows have the metric.
        overwrite: write over a file that exists.
        drawn: metric and axis. Sample efficiency is drawn of returns alone.
        single: draw the curves alone.
        title: what stands above them; None: the environment.

    Raises:
        ConfigError: it exists, it cannot be written, or a run does not know its seconds.
    """
    groups = by_env(runs)
    single = single or drawn.metric not in RETURNS
    with style():
        size = (7 if single else 10, 3.9 * len(groups))
        figure = Figure(figsize=size, layout="constrained")
        rows = figure.subfigures(len(groups), 1, squeeze=False)[:, 0]
        for row, (env, members) in zip(rows, groups.items(), strict=True):
            _draw_env(row, members, drawn, single)
            row.suptitle(title if title and len(groups) == 1 else env)
        if title and len(groups) > 1:
            figure.suptitle(title, weight="bold")
        write_new(path, overwrite, lambda file: save(figure, file, path.suffix))


def inline_svg(runs: Sequence[Results], title: str) -> str:
    """Draws runs on one environment as an SVG element in a page's colours: its text's, `--accent`.

    Args:
        runs: one or many, of one environment.
        title: for those who cannot see it.

    Returns:
        The element `<svg>`.
    """
    return svg_of(lambda figure: _draw_env(figure, runs), (10, 3.9), title)


def svg_of(draw: Callable[[Figure], object], size: tuple[float, float], title: str) -> str:
    """Draws an SVG element in a page's colours: for `INK`, `PAPER`, and the first of `COLORS`.

    Args:
        draw: `(figure)`, draws on it.
        size: inches.
        title: for those who cannot see it.

    Returns:
        The element `<svg>`.
    """
    # lines and words are drawn in a colour that stands for the one of the page
    inked = dict.fromkeys(INKED, INK)
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    file = io.BytesIO()
    with style({**inked, "grid.alpha": 0.15, "svg.fonttype": "none"}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)

    # the size is the page's business: of the head, only the box stays
    head, rest = file.getvalue().decode().split("<svg", 1)[1].split(">", 1)
    box = re.findall(r'viewBox="[^"]*"', head)[0]
    rest = rest.replace(INK, "currentColor").replace(COLORS[0], "var(--accent)")
    rest = rest.replace(PAPER, "var(--paper)")
    # ids of groups, which nothing refers to, would not be unique on a page of several
    rest = re.sub(r'<g id="\w+">', "<g>", rest)
    return f'<svg role="img" aria-label="{html.escape(title)}" {box}>{rest}'


def _draw_env(
    row: Figure | SubFigure, runs: Sequence[Results], drawn: Drawn = LEARNING, single: bool = False
) -> None:
    """Draws learning curves to the left, sample efficiency to the right, their legend below."""
    curves = curves_of(runs, drawn)
    levels = common_levels(curves, np.linspace(0, 1, 60))
    left, *right = row.subplots(1, 1 if single else 2, squeeze=False)[0]
    evaluated = drawn.metric == "episode_return" and any(run.eval_steps.size for run in runs)

    # a run looks the same on both sides
    handles = []
    for i, (run, curve, label) in enumerate(zip(runs, curves, labels(runs), strict=True)):
        look = dict(
            color=COLORS[i % len(COLORS)], linestyle=LINES[i // len(COLORS) % len(LINES)],
            label=f"{label} ({_seeds(run.seeds)})",
        )  # fmt: skip
        handles.append(_draw_curve(left, curve, **look))
        if evaluated and run.eval_steps.size:
            dashes = {**look, "linestyle": "--", "linewidth": 1}
            _line(left, along(run, run.eval_steps, drawn.x), iqm(run.eval_returns), **dashes)
        for axes in right:
            _draw_efficiency(axes, curve, levels, **look)
    if evaluated:
        handles.append(Line2D([], [], color="0.5", linestyle="--", label="evaluations"))

    # a single seed has no interval and no quartiles
    many = any(run.seeds > 1 for run in runs)
    what, against = _words(drawn.metric), AXES[drawn.x]
    name = "Learning curve" if drawn.metric in RETURNS else what.capitalize()
    left.set_title(name + ": interquartile mean, 95% interval" * many)
    left.set(xlabel=against, ylabel=what)
    _caution(left, bool(few_seeds(runs)))
    nothing = NO_EPISODE if drawn.metric in RETURNS else "nothing to draw yet"
    nothing = "" if levels.size else nothing
    _finish(left, left.xaxis, nothing)
    for axes in right:
        axes.set_title("Sample efficiency" + ": median seed, quartiles" * many)
        axes.set(xlabel=what, ylabel=f"{against.partition(',')[0]} to reach it")
        _finish(axes, axes.yaxis, nothing)
    row.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)


def _draw_curve(axes: Axes, curve: Curve, **look: Any) -> Line2D:
    """Draws interquartile mean and interval, which a single seed has not; returns the line."""
    if len(curve.returns) > 1:
        low, high = bootstrap_interval(curve.returns)
        axes.fill_between(curve.steps, low, high, color=look["color"], alpha=0.2, linewidth=0)
    return _line(axes, curve.steps, curve.mean, **look)


def _draw_efficiency(axes: Axes, curve: Curve, levels: np.ndarray, **look: Any) -> None:
    """Draws steps over returns; the line ends where too few seeds get there."""
    times = steps_to_reach(curve.steps, curve.returns, levels)
    low, middle, high = (share_has_reached(times, share) for share in (0.25, 0.5, 0.75))
    axes.fill_between(levels, low, high, color=look["color"], alpha=0.2, linewidth=0)
    _line(axes, levels, middle, **look)


def _line(axes: Axes, x: np.ndarray, y: np.ndarray, **look: Any) -> Line2D:
    """Draws a line, or a point where that is all there is."""
    marker = "o" if np.isfinite(y).sum() == 1 else None
    return axes.plot(x, y, **{"linewidth": 1.8, "marker": marker, **look})[0]


def _finish(axes: Axes, steps: Axis, nothing: str) -> None:
    """Labels steps in thousands and millions; where nothing was drawn, says so without ticks."""
    steps.set_major_formatter(EngFormatter(sep=""))
    if steps is axes.xaxis:  # only once all is drawn: a limit that is set stays
        axes.set_xlim(left=0)
    else:
        axes.set_ylim(bottom=0)
    if nothing:
        axes.set(xticks=[], yticks=[])
        axes.annotate(nothing, (0.5, 0.5), xycoords="axes fraction", ha="center")


def _caution(axes: Axes, few: bool) -> None:
    """Says in a corner what intervals of few seeds are worth."""
    if few:
        axes.annotate(
            CAUTION, (1, 0), xycoords="axes fraction", xytext=(-3, 3), textcoords="offset points",
            ha="right", va="bottom", fontsize=7, alpha=0.7,
        )  # fmt: skip


def _seeds(count: int) -> str:
    return f"{count} seed" + "s" * (count > 1)


def _words(metric: str) -> str:
    """Returns a metric's name to read."""
    words = metric.replace("_", " ")
    return f"{words.removeprefix('eval ')} of evaluations" if metric[:5] == "eval_" else words


def save(figure: Figure, file: IO[bytes], suffix: str) -> None:
    """Writes a figure; within `style`, as some of it counts only then.

    Args:
        figure: what is drawn.
        file: open for bytes.
        suffix: .png, .svg or .pdf.
    """
    figure.savefig(file, format=suffix[1:], dpi=120, metadata=METADATA[suffix])


@contextmanager
def style(more: Mapping[Any, Any] | None = None) -> Iterator[None]:
    """Sets the style within the block; a script that the font lacks is no reason to warn.

    Args:
        more: settings of matplotlib over those of the style.
    """
    with matplotlib.rc_context({**STYLE, **(more or {})}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield
