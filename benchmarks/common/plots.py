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
MOST_ROWS = 2**15
WIDE_OBSERVATIONS = ("Breakout-MinAtar",)
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


def curve(
    axes: Axes, by_size: dict[str, dict[str, float]], label: str | None = None, color: str = "C0"
) -> None:
    """Medians against sizes on doubly logarithmic axes, with whiskers from quartile to quartile."""
    heights, whiskers = medians(by_size.values())
    sizes = [int(size) for size in by_size]
    look: dict[str, Any] = dict(marker="o", markersize=4, capsize=2, label=label, color=color)
    axes.errorbar(sizes, heights, whiskers, **look)
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(sizes, [f"{n:,}" for n in sizes], rotation=45, fontsize=8)
    axes.set_xticks([], minor=True)


def is_bound(config: dict[str, Any]) -> bool:
    """Whether the products that were timed bound the speed of a configuration.

    They have the rows of a minibatch, and are square. Minibatches of very many rows go through the
    network in chunks, which multiply faster; and the first layer of a wide observation is no
    square.
    """
    rows = config["num_envs"] * config["num_steps"] // config["num_minibatches"]
    return rows <= MOST_ROWS and config["env"] not in WIDE_OBSERVATIONS


def throughput(results: dict[str, Any]) -> Figure | None:
    """The fraction of the roofline for the shapes, steps per second for each sweep."""
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
        # those without a roofline are drawn too: theirs are the sizes along the axis
        bounds = {n: p for n, p in points.items() if is_bound(p["config"])}
        roofline = {n: p["roofline_steps_per_second"] for n, p in bounds.items()}
        curve(axes, roofline, "matrix products alone", "C1")
        curve(axes, {n: p["steps_per_second"] for n, p in points.items()}, "training")
        axes.set(xlabel=SIZE_NAMES.get(sweep, sweep), ylabel="steps/s")
        axes.legend(fontsize=8)
    return figure


def shape_bars(axes: Axes, points: dict[str, Any]) -> None:
    """The fraction of the roofline, for the shapes that have one.

    Their steps per second are in `peers.json`, side by side with those of others.
    """
    bounds = {name: p for name, p in points.items() if is_bound(p["config"])}
    heights, whiskers = medians(p["fraction_of_roofline"] for p in bounds.values())
    bars = axes.bar(list(bounds), heights, yerr=whiskers, capsize=2, color="C0")
    axes.bar_label(bars, [f"{height:.2f}" for height in heights], fontsize=8, padding=2)
    axes.set(xlabel="shape", ylabel="fraction of the roofline", ylim=(0, 1))


def growth(results: dict[str, Any]) -> Figure | None:
    """Seconds per update against each size, and what would be fixed and proportional."""
    if not results:
        return None
    figure, row = new_figure(len(results))
    for axes, (kind, result) in zip(row, results.items(), strict=True):
        seconds, over = result["seconds_per_update"], result["fit"]["over_fit"]
        curve(axes, seconds, "measured")
        fitted = [r["median"] / over[n] for n, r in seconds.items()]
        sizes = [int(n) for n in seconds]
        axes.plot(sizes, fitted, "--", color="grey", label="fixed + proportional")
        axes.set(xlabel=SIZE_NAMES.get(kind, kind), ylabel="seconds per update")
        axes.legend(fontsize=8)
    return figure


def scaling(results: dict[str, Any]) -> Figure | None:
    """Speed over that of one device, against the number of devices or processes."""
    if not results:
        return None
    figure, row = new_figure(2)
    titles = {"strong": "the same environments, shared out", "weak": "as many more environments"}
    for axes, (kind, title) in zip(row, titles.items(), strict=True):
        counts = {1}
        for color, (shape, arms) in enumerate(results.items()):
            for what, line in (("devices", "-"), ("processes", ":")):
                found = {
                    arm["devices"]: arm["over_one_device"]["median"]
                    for name, arm in arms.items()
                    if name.startswith(kind) and name.endswith(what)
                }
                counts |= set(found)
                points = {1: 1.0, **found}
                axes.plot(
                    list(points), list(points.values()), line, marker="o", markersize=4,
                    color=f"C{color}", label=shape if what == "devices" else None,
                )  # fmt: skip
        axes.axhline(1.0, color="grey", linewidth=1)
        axes.set_xticks(sorted(counts))
        axes.set(
            title=title, xlabel="devices (dotted: processes of one each)", ylim=(0, None),
            ylabel="steps/s over one device",
        )  # fmt: skip
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

    Each is timed alone. Where the compiler runs some side by side, they take longer so than the
    whole update does, nothing is left over as rest, and the bar says how much longer.
    """
    shapes = {
        name: {part: max(x, 0.0) for part, x in r["microseconds"].items()}
        for name, r in results.items() if r.get("microseconds")
    }  # fmt: skip
    if not shapes:
        return None
    parts = list(dict.fromkeys(part for r in shapes.values() for part in r))
    figure, (axes,) = wide_figure(len(shapes) + 4)
    left, bars = dict.fromkeys(shapes, 0.0), []
    for part in parts:
        shares = {n: r.get(part, 0.0) / sum(r.values()) for n, r in shapes.items()}
        widths, starts = list(shares.values()), list(left.values())
        bars.append(axes.barh(list(shapes), widths, left=starts, label=part))
        left = {name: left[name] + shares[name] for name in shapes}
    over = [sum(r.values()) / results[name]["update_microseconds"] for name, r in shapes.items()]
    longer = [f"{x:.2f} x the update" if x > 1.005 else "" for x in over]
    axes.bar_label(bars[-1], longer, fontsize=8, padding=4)
    axes.invert_yaxis()
    axes.set(xlabel="share of the time of all parts, each alone", ylabel="shape", xlim=(0, 1.2))
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def gpu(results: dict[str, Any]) -> Figure | None:
    """Speed against environments, our speed over that of others, and where an update's time goes.

    Shares are those of the whole update; kernels wait for the rest of it, where there is one.
    """
    speeds = {
        task: {n: x["steps_per_second"] for n, x in by_envs.items() if "steps_per_second" in x}
        for task, by_envs in results["speed"].items()
    }
    speeds = {task: dict(sorted(x.items(), key=lambda y: int(y[0]))) for task, x in speeds.items()}
    ratios = {
        f"{task}, {int(n):,}  {peer}": arm["ours_over_peer"]
        for task, by_envs in results["peers"].items()
        for n, arms in by_envs.items()
        for peer, arm in arms.items()
        if "ours_over_peer" in arm
    }
    if not any(speeds.values()):
        return None
    figure, (speed, share, *over) = new_figure(3 if ratios else 2, width=15 if ratios else 10)
    for color, (task, by_envs) in enumerate(speeds.items()):
        if by_envs:
            curve(speed, by_envs, task, f"C{color}")
    sizes = sorted({int(n) for by_envs in speeds.values() for n in by_envs})
    speed.set_xticks(sizes, [f"{n:,}" for n in sizes], rotation=45, fontsize=8)
    speed.set(xlabel="environments", ylabel="steps/s")
    speed.legend(fontsize=8)
    shares = shares_of_updates(results)
    left = dict.fromkeys(shares, 0.0)
    for part in dict.fromkeys(part for row in shares.values() for part in row):
        widths = [row.get(part, 0.0) for row in shares.values()]
        share.barh(list(shares), widths, left=list(left.values()), label=part)
        left = {name: left[name] + row.get(part, 0.0) for name, row in shares.items()}
    share.invert_yaxis()
    share.set(xlabel="share of an update", xlim=(0, 1.4))
    share.legend(fontsize=8)
    for axes in over:
        ratio_bars(axes, ratios)
        axes.set(xlabel="our steps/s over theirs (above 1: ours is faster)")
    return figure


def ablations(results: dict[str, Any]) -> Figure | None:
    """Interquartile means of the return over the run, without one detail at a time."""
    tasks = {task: found for task, found in results.items() if "all details" in found}
    if not tasks:
        return None
    details = list(dict.fromkeys(detail for found in tasks.values() for detail in found))
    figure, row = new_figure(len(tasks), height=1.2 + 0.26 * len(details))
    for axes, (task, found) in zip(row, tasks.items(), strict=True):
        for place, detail in enumerate(details):
            if detail in found:
                returns = found[detail]["mean_returns"]
                low, high = returns["iqm_95"]
                color = "C1" if detail == "all details" else "C0"
                axes.plot([low, high], [place, place], color=color, linewidth=2)
                axes.plot(returns["iqm"], place, "o", color=color, markersize=4)
        axes.axvline(found["all details"]["mean_returns"]["iqm"], color="C1", linewidth=0.8)
        axes.set_yticks(range(len(details)), details if axes is row[0] else [], fontsize=8)
        axes.invert_yaxis()
        axes.set_title(task, fontsize=9)
        axes.set_xlabel("mean return over the run", fontsize=8)
    return figure


def table1(results: dict[str, Any]) -> Figure | None:
    """Learning curves of each task: the mean over seeds for every setting."""
    tasks = results["tasks"]
    if not tasks:
        return None
    settings = list(results["settings"])
    figure, row = new_figure(len(tasks), width=1.0 + 2.3 * len(tasks))
    for axes, (task, found) in zip(row, tasks.items(), strict=True):
        for setting, runs in found["runs"].items():
            curves = [run["curve"] for run in runs.values()]
            # None where no episode has ended
            known = [[x for x in at if x is not None] for at in zip(*curves, strict=True)]
            steps = next(iter(runs.values()))["steps"]
            points = [(x, sum(at) / len(at)) for x, at in zip(steps, known, strict=True) if at]
            color = f"C{settings.index(setting)}"
            axes.plot(*zip(*points, strict=True), color=color, linewidth=1, label=setting)
        axes.set_title(task, fontsize=9)
        axes.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
        axes.tick_params(labelsize=7)
        axes.set_xlabel("steps", fontsize=8)
    row[0].set_ylabel("return", fontsize=8)
    handles = {str(h.get_label()): h for axes in row for h in axes.get_lines()}
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=4, fontsize=8
    )  # fmt: skip
    return figure


def control_suite(results: dict[str, Any]) -> Figure | None:
    """Evaluations of each task against steps: every seed, their mean, and Brax as published."""
    tasks = {task: found for task, found in results.items() if "ours" in found}
    if not tasks:
        return None
    figure, row = new_figure(len(tasks))
    for axes, (task, found) in zip(row, tasks.items(), strict=True):
        for arm, label, color in (("ours", "ours", "C0"), ("brax", "Brax PPO, our sizes", "C1")):
            if arm in found:
                steps, curves = found[arm]["steps"], found[arm]["returns"]
                for curve in curves:
                    axes.plot(steps, curve, color=color, linewidth=0.6, alpha=0.5)
                means = [sum(at) / len(at) for at in zip(*curves, strict=True)]
                axes.plot(steps, means, color=color, label=label)
        steps, means, deviations = zip(*found["published"], strict=True)
        look: dict[str, Any] = dict(color="C2", marker="o", markersize=4, capsize=2)
        axes.errorbar(steps, means, deviations, label="Brax PPO, published sizes", **look)
        axes.set_title(task, fontsize=9)
        axes.set_xlabel("steps", fontsize=8)
        axes.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
    row[0].set_ylabel("return")
    labels = {}
    for axes in row:
        handles, names = axes.get_legend_handles_labels()
        labels |= dict(zip(names, handles, strict=True))
    figure.legend(list(labels.values()), list(labels), loc="outside lower center", ncols=3)
    return figure


def shares_of_updates(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What each part of an update takes of all of it, and how long kernels wait, by task."""
    shares = {}
    for task, by_envs in results["profile"].items():
        for n, found in by_envs.items():
            whole = results["speed"].get(task, {}).get(n, {})
            if not found.get("parts") or "seconds_per_update" not in whole:
                continue
            taken = {part: row["microseconds"] for part, row in found["parts"].items()}
            # kernels may take longer while they are profiled
            busy, update = sum(taken.values()), 1e6 * whole["seconds_per_update"]["median"]
            taken["waiting"] = max(update - busy, 0.0)
            shares[task] = {part: us / max(update, busy) for part, us in taken.items()}
    return shares


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG of 64 colours, a third of the size of one in full colour."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    image = Image.open(buffer).convert("RGB").quantize(64)
    image.save(path, optimize=True)


PLOTS: dict[str, Callable[[dict[str, Any]], Figure | None]] = {
    "throughput": throughput,
    "growth": growth,
    "scaling": scaling,
    "peers": peers,
    "time_to_score": time_to_score,
    "breakdown": breakdown,
    "gpu": gpu,
    "ablations": ablations,
    "table1": table1,
    "control_suite": control_suite,
}


def main() -> None:
    """Draws what there is; files that are missing are named on stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where the JSON files are")
    parser.add_argument("--out", type=Path, help="folder for the PNG files; else beside the JSON")
    args = parser.parse_args()
    draw_all(args.folder, args.out or args.folder)


def draw_all(folder: Path, out: Path) -> None:
    """Draws what there is in a folder, into another one."""
    for name, plot in PLOTS.items():
        path = folder / f"{name}.json"
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
