"""Runs on one page of HTML that needs nothing beside itself."""

from __future__ import annotations

import base64
import html
import os
import string
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from purejaxppo.report.aggregate import (
    bootstrap_interval,
    common_levels,
    iqm,
    learning_curves,
    share_has_reached,
    steps_to_reach,
)
from purejaxppo.report.markup import UNKNOWN, Html, joined, number, table, tag, titled
from purejaxppo.report.plots import inline_svg
from purejaxppo.report.results import (
    FIELDS,
    Results,
    by_env,
    changes,
    command,
    labels,
    plain,
    read_all,
)
from purejaxppo.runs.checkpoint import write_new
from purejaxppo.runs.options import ReportOptions

ENVS_IN_A_TITLE = 3
SHARES = np.array([0.25, 0.5, 0.75, 0.9, 1.0])  # of the way from the lowest to the highest return


def main(options: ReportOptions) -> int:
    """`purejaxppo report`: returns the exit code."""
    path = Path(options.out)
    text = report(read_all(options.runs), path.parent)
    # names of files may hold bytes that are no text
    write_new(path, options.overwrite, lambda file: file.write(text.encode("utf-8", "replace")))
    print(f"saved in {path}")
    return 0


def report(runs: Sequence[Results], folder: Path) -> str:
    """The page.

    Args:
        runs: one or many, of one environment or many.
        folder: where the page will be, for its links.
    """
    groups = by_env(runs)
    named = [
        (run, label, f"run-{env_at}-{at}")
        for env_at, members in enumerate(groups.values(), 1)
        for at, (run, label) in enumerate(zip(members, labels(members), strict=True), 1)
    ]
    parts = [_overview(named)] if len(runs) > 1 else []
    parts += [_comparison(env, members) for env, members in groups.items() if len(members) > 1]
    parts += [
        _run(*each, alone=len(groups[each[0].config.env]) == 1, page=folder) for each in named
    ]
    title = ", ".join(groups) if len(groups) <= ENVS_IN_A_TITLE else f"{len(groups)} environments"
    template = Path(__file__).with_name("page.html").read_text("utf-8")
    agents = sum(run.seeds for run in runs)
    count = f"{len(runs)} run{'s' * (len(runs) > 1)}, {agents} agent{'s' * (agents > 1)}"
    body = joined(tag("h1", title), tag("p", count, class_="soft"), *parts)
    return string.Template(template).substitute(title=html.escape(title), body=body)


def _overview(named: Sequence[tuple[Results, str, str]]) -> Html:
    """A line for each run."""
    rows = []
    for run, label, anchor in named:
        final = run.final_returns
        link = tag("a", label, href=f"#{anchor}")
        scores = [number(float(iqm(final))), _interval(final), _mean_and_std(final)]
        rows.append([link, run.config.env, run.seeds, f"{run.steps:,}", *scores, _speed(run)])
    head = ["run", "environment", "seeds", "steps", "final return, IQM", "95% interval"]
    return tag("section", tag("h2", "Runs"), table([*head, "mean ± std", "steps/s"], rows))


def _comparison(env: str, runs: Sequence[Results]) -> Html:
    """Runs on one environment."""
    return tag("section", tag("h2", env), _picture(runs), _efficiency(runs))


def _run(run: Results, label: str, anchor: str, *, alone: bool, page: Path) -> Html:
    """All about one run; how soon it reached returns, if no comparison says so."""
    parts = [
        tag("h2", tag("span", run.config.env, class_="soft"), " ", label),
        tag("p", _progress(run), " ", tag("code", run.folder), class_="soft"),
        _cards(run),
        _picture([run]),
        _efficiency([run]) if alone else "",
        _film(run, page),
        tag("div", _evaluations(run), _seeds(run), class_="columns"),
        _configuration(run),
        tag("h3", "Versions"),
        tag("p", ", ".join(f"{k} {v}" for k, v in run.about["versions"].items())),
        tag("h3", "Train it again"),
        tag("pre", tag("code", command(run))),
    ]
    return tag("section", *parts, id=anchor)


def _progress(run: Results) -> str:
    total = run.config.total_timesteps
    if run.summary is not None and run.steps == total:
        return "Finished."
    state = "still under way, or cut off" if run.summary is None else "stopped"
    return f"{run.steps:,} of {total:,} steps: {state}."


def _cards(run: Results) -> Html:
    """The figures to see first."""
    final, summary, device = run.final_returns, run.summary or {}, run.about["device"]
    seeds = f"--seeds {run.seeds} --seed {run.about['seed']}"
    begun = run.about.get("created", "")[:16].replace("T", " ")
    seconds = {name: summary.get(f"{name}_seconds", np.nan) for name in ("compile", "run")}
    cards = [
        ("final return, interquartile mean", number(float(iqm(final))), _interval(final)),
        ("final return, mean ± std over seeds", _mean_and_std(final), ""),
        ("steps of each seed", f"{run.steps:,}", seeds),
        ("steps/s, all seeds together", _speed(run), ""),
        ("compiled in", f"{number(seconds['compile'])} s", f"then ran {number(seconds['run'])} s"),
        ("device", f"{device['count']} {device['kind']}", begun),
    ]
    found = []
    for name, value, more in cards:
        lines = [tag("p", name), tag("p", value, class_="value"), tag("p", more)]
        found.append(tag("div", *lines, class_="card"))
    return tag("div", *found, class_="cards")


def _picture(runs: Sequence[Results]) -> Html:
    title = f"{runs[0].config.env}: learning curves and sample efficiency"
    return tag("figure", Html(inline_svg(runs, title)))


def _efficiency(runs: Sequence[Results]) -> Html:
    """How soon returns were reached: the median seed's steps, and how many seeds got there."""
    curves = learning_curves([(run.metrics, run.config.batch_size) for run in runs])
    levels = common_levels(curves, SHARES)
    if not levels.size:
        return Html()
    columns = []
    for curve in curves:
        times = steps_to_reach(curve.steps, curve.returns, levels)
        median, there = share_has_reached(times, 0.5), np.isfinite(times).sum(axis=0)
        steps = ["never" if np.isinf(m) else f"{m:,.0f}" for m in median]
        columns.append([f"{s} ({n}/{len(times)})" for s, n in zip(steps, there, strict=True)])
    rows = [[number(level), *cells] for level, *cells in zip(levels, *columns, strict=True)]
    head = labels(runs) if len(runs) > 1 else ["steps"]
    return titled(
        "Steps until half of the seeds had reached a return (and how many ever did)",
        ["return", *head],
        rows,
    )


def _film(run: Results, page: Path) -> Html:
    """The policy at work, if it was filmed."""
    gif, viewer = run.folder / "policy.gif", run.folder / "policy.html"
    parts = []
    if gif.exists():
        data = base64.b64encode(gif.read_bytes()).decode()
        film = tag("img", src=f"data:image/gif;base64,{data}", alt="an episode of the policy")
        parts.append(tag("figure", film))
    if viewer.exists():
        where = urllib.parse.quote(os.fsencode(os.path.relpath(viewer, page)))
        parts.append(tag("p", tag("a", "An episode in the viewer", href=where)))
    return joined(tag("h3", "The policy at work"), *parts) if parts else Html()


def _evaluations(run: Results) -> Html:
    """Step by step, over seeds."""
    if not run.eval_steps.size:
        return Html()
    rows = [
        [f"{step:,}", _mean_and_std(x), number(np.fmin.reduce(x)), number(np.fmax.reduce(x))]
        for step, x in zip(run.eval_steps, run.eval_returns.T, strict=True)
    ]
    return titled("Evaluations", ["steps", "mean ± std over seeds", "lowest", "highest"], rows)


def _seeds(run: Results) -> Html:
    """Each seed by itself."""
    head, rows = ["seed", "final return"], [[i, number(x)] for i, x in enumerate(run.final_returns)]
    if run.eval_steps.size:
        head += ["last evaluation", "best evaluation", "after steps"]
        best = np.where(np.isnan(run.eval_returns), -np.inf, run.eval_returns).argmax(axis=1)
        for row, returns, at in zip(rows, run.eval_returns, best, strict=True):
            row += [number(returns[-1]), number(returns[at]), f"{run.eval_steps[at]:,}"]
    return titled("Seeds", head, rows)


def _configuration(run: Results) -> Html:
    """What differs from the algorithm's defaults, and below it all the rest."""
    base = plain(run.config, run.algorithm)
    changed = changes(run.config, base)
    rows = [[name, value, getattr(base, name)] for name, value in changed.items()]
    rest = [[name, getattr(base, name)] for name in FIELDS if name not in changed]
    return joined(
        tag("h3", f"Configuration: what differs from the defaults of {run.algorithm}"),
        table(["field", "value", "default"], rows, "text"),
        tag("details", tag("summary", "as by default"), table(["field", "value"], rest, "text")),
    )


def _mean_and_std(returns: np.ndarray) -> str:
    known = returns[~np.isnan(returns)]
    return f"{number(known.mean())} ± {number(known.std())}" if known.size else UNKNOWN


def _interval(returns: np.ndarray) -> str:
    """Of the interquartile mean; a single seed has none."""
    low, high = bootstrap_interval(returns)
    return f"{number(float(low))} to {number(float(high))}" if len(returns) > 1 else ""


def _speed(run: Results) -> str:
    return f"{run.summary['steps_per_second']:,.0f}" if run.summary else UNKNOWN
