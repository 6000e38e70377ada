"""Draws the results of the other benchmarks: a PNG beside each JSON file that exists."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

RESULTS = Path(__file__).parents[1] / "results"
SIZE_NAMES = {"seeds": "seeds in one program", "width": "width", "widths": "width"}


def new_figure(
    columns: int, height: float = 3.6, width: float | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side; sizes in inches."""
    size = (width or 1.4 + 3.0 * columns, height)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    row = figure.subplots(1, columns, squeeze=False)[0].tolist()
    for axes in row:
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, row


def wide_figure(bars: int) -> tuple[Figure, list[Axes]]:
    """One panel for so many horizontal bars."""
    return new_figure(1, height=1.2 + 0.24 * bars, width=8.2)


def medians(rows: Iterable[dict[str, float]]) -> tuple[list[float], list[list[float]]]:
    """Medians of quartile records, and how far the quartiles lie below and above them."""
    rows = list(rows)
    below = [r["median"] - r["lower_quartile"] for r in rows]
    above = [r["upper_quartile"] - r["median"] for r in rows]
    return [r["median"] for r in rows], [below, above]


def curve(axes: Axes, by_size: dict[str, dict[str, float]], label: str | None = None) -> None:
    """Medians against sizes on doubly logarithmic axes, with whiskers from quartile to quartile."""
    heights, whiskers = medians(by_size.values())
    sizes = [int(size) for size in by_size]
    axes.errorbar(sizes, heights, whiskers, marker="o", markersize=4, capsize=2, label=label)
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(sizes, [f"{n:,}" for n in sizes], rotation=45, fontsize=8)
    axes.set_xticks([], minor=True)


def throughput(results: dict[str, Any]) -> Figure | None:
    """Steps per second: bars for the shapes, with their roofline, and a curve for each sweep."""
    sweeps = {
        sweep: {size: p for size, p in points.items() if "steps_per_second" in p}
        for sweep, points in results.items()
    }
    sweeps = {sweep: points for sweep, points in sweeps.items() if points}
    if not sweeps:
        return None
    figure, row = new_figure(len(sweeps))
    for axes, (sweep, points) in zip(row, sweeps.items(), strict=True):
        if sweep == "shapes":
            shape_bars(axes, points)
            continue
        curve(axes, {n: p["steps_per_second"] for n, p in points.items()}, "training")
        roofline = {n: p["roofline_steps_per_second"] for n, p in points.items()}
        curve(axes, roofline, "matrix products alone")
        axes.set(xlabel=SIZE_NAMES.get(sweep, sweep), ylabel="steps/s")
        axes.legend(fontsize=8)
    return figure


def shape_bars(axes: Axes, points: dict[str, Any]) -> None:
    """Steps per second of the shapes; above each bar the fraction of its roofline."""
    heights, whiskers = medians(p["steps_per_second"] for p in points.values())
    bars = axes.bar(list(points), heights, yerr=whiskers, capsize=2, color="C0")
    fractions = [f"{p['fraction_of_roofline']['median']:.0%}" for p in points.values()]
    axes.bar_label(bars, fractions, fontsize=8, padding=2)
    axes.set(xlabel="shape", ylabel="steps/s", title="with the fraction of the roofline")
    axes.title.set_fontsize(9)


def scaling(results: dict[str, Any]) -> Figure | None:
    """Seeds in one program over separate runs, and seconds per update against each size."""
    if not results:
        return None
    figure, row = new_figure(len(results))
    for axes, (kind, result) in zip(row, results.items(), strict=True):
        axes.set_xlabel(SIZE_NAMES.get(kind, kind))
        if kind == "seeds":
            curve(axes, {n: r["vmap_over_separate_seconds"] for n, r in result.items()})
            axes.axhline(1.0, color="grey", linewidth=1)
            axes.set(yscale="linear", ylim=(0, None), ylabel="seconds, one vmap / separate runs")
            continue
        curve(axes, result["seconds_per_update"], "measured")
        seconds, over = result["seconds_per_update"], result["fit"]["over_fit"]
        fitted = [r["median"] / over[n] for n, r in seconds.items()]
        sizes = [int(n) for n in seconds]
        axes.plot(sizes, fitted, "--", color="grey", label="fixed + proportional")
        axes.set_ylabel("seconds per update")
        axes.legend(fontsize=8)
    return figure


def ratio_bars(axes: Axes, ratios: dict[str, dict[str, float]]) -> None:
    """Horizontal bars from 1 to each ratio, whiskers quartile to quartile, the first on top."""
    widths, whiskers = medians(ratios.values())
    bars = axes.barh(list(ratios), [w - 1.0 for w in widths], left=1.0, xerr=whiskers, capsize=2)
    axes.bar_label(bars, [f"{w:.3g}" for w in widths], fontsize=8, padding=4)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.1, y=0.02)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.tick_params(labelsize=8)


def peers(results: dict[str, Any]) -> Figure | None:
    """Our speed over that of other libraries, shape by shape."""
    ratios = {
        f"{shape}  {name}": arm["ours_over_peer"]
        for shape, arms in results.items()
        for name, arm in arms.items()
        if "ours_over_peer" in arm
    }
    if not ratios:
        return None
    figure, (axes,) = wide_figure(len(ratios))
    ratio_bars(axes, ratios)
    axes.set(xlabel="our steps/s over theirs (above 1: ours is faster)")
    return figure


def time_to_score(results: dict[str, Any]) -> Figure | None:
    """Seconds from the start of a process to a score, for everything that reached it."""
    runs = {
        f"{env}  {name}, {cache}": summary
        for env, arms in results.items()
        for name, caches in arms.items()
        for cache, summary in (caches.items() if isinstance(caches, dict) else ())
        if isinstance(summary, dict) and "reached" in summary
    }
    if not runs:
        return None
    figure, (axes,) = wide_figure(len(runs))
    widths, whiskers = medians(drawn(summary["seconds"]) for summary in runs.values())
    bars = axes.barh(list(runs), widths, xerr=whiskers, capsize=2)
    labels = [
        f"{f'{width:.1f} s' if width else 'most never'}, "
        f"{summary['reached']} of {len(summary['runs'])} seeds"
        for width, summary in zip(widths, runs.values(), strict=True)
    ]
    axes.bar_label(bars, labels, fontsize=8, padding=4)
    axes.invert_yaxis()
    axes.margins(x=0.25)
    axes.set(xlabel="seconds from the start of the process to the score")
    return figure


def drawn(record: dict[str, float | None]) -> dict[str, float]:
    """Quartiles in which None stands for never: no bar without a median, no whisker beyond it."""
    low, median, high = (record[n] for n in ("lower_quartile", "median", "upper_quartile"))
    if low is None or median is None:
        low = median = high = 0.0
    return {
        "lower_quartile": low,
        "median": median,
        "upper_quartile": median if high is None else high,
    }


def breakdown(results: dict[str, Any]) -> Figure | None:
    """Where an update's time goes: parts of each shape, stacked, as shares of their sum.

    A part below zero (compiled together, parts can take less than alone) is left out, and the
    others then reach beyond 1.
    """
    shapes = {name: r["microseconds"] for name, r in results.items() if r.get("microseconds")}
    if not shapes:
        return None
    parts = list(dict.fromkeys(part for r in shapes.values() for part in r))
    figure, (axes,) = wide_figure(len(shapes) + 4)
    left = dict.fromkeys(shapes, 0.0)
    for part in parts:
        shares = {n: max(r.get(part, 0.0), 0.0) / sum(r.values()) for n, r in shapes.items()}
        axes.barh(list(shapes), list(shares.values()), left=list(left.values()), label=part)
        left = {name: left[name] + shares[name] for name in shapes}
    axes.invert_yaxis()
    axes.set(xlabel="share of the time", ylabel="shape", xlim=(0, None))
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG of 64 colours, a third of the size of one in full colour."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    image = Image.open(buffer).convert("RGB").quantize(64)
    image.save(path, optimize=True)


PLOTS: dict[str, Callable[[dict[str, Any]], Figure | None]] = {
    "throughput": throughput,
    "scaling": scaling,
    "peers": peers,
    "time_to_score": time_to_score,
    "breakdown": breakdown,
}


def main() -> None:
    """Draws what there is; files that are missing are named on stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where the JSON files are")
    parser.add_argument("--out", type=Path, help="folder for the PNG files; else beside the JSON")
    args = parser.parse_args()
    out = args.out or args.folder
    for name, plot in PLOTS.items():
        path = args.folder / f"{name}.json"
        if not path.exists():
            print(f"{path}: not there, passed over", file=sys.stderr)
            continue
        figure = plot(json.loads(path.read_text(encoding="utf-8"))["results"])
        if figure is None:
            print(f"{path}: nothing in it to draw, passed over", file=sys.stderr)
            continue
        out.mkdir(parents=True, exist_ok=True)
        save(figure, out / f"{name}.png")
        print(out / f"{name}.png")


if __name__ == "__main__":
    main()
