"""Runs on one page of HTML that needs nothing beside itself."""

from __future__ import annotations

import base64
import os
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from purejaxppo.config.schema import Algorithm, PPOConfig
from purejaxppo.report.aggregate import (
    bootstrap_interval,
    common_levels,
    iqm,
    learning_curves,
    share_has_reached,
    steps_to_reach,
)
from purejaxppo.report.curves import CAUTION, few_seeds
from purejaxppo.report.differences import FIELDS, changes, defaults_of
from purejaxppo.report.markup import Html, cards_of, joined, table, tag, titled, whole_page
from purejaxppo.report.overview import UNKNOWN, number
from purejaxppo.report.plots import inline_svg
from purejaxppo.report.results import Results, by_env, given_in_python, labels, train_command
from purejaxppo.run_folder.files import read_bytes

ENVS_IN_A_TITLE = 3
SHARES = np.array([0.25, 0.5, 0.75, 0.9, 1.0])  # of the way from the lowest to the highest return


def make_page(runs: Sequence[Results], folder: Path) -> str:
    """Returns the page: an overview, comparisons on each environment, and all about each run.

    Args:
        runs: one or many, of one environment or many.
        folder: where the page will be, for its links.
    """
    # runs are compared within an environment; each has an anchor that the overview links to
    groups = by_env(runs)
    named = [
        (run, label, f"run-{env_at}-{at}")
        for env_at, members in enumerate(groups.values(), 1)
        for at, (run, label) in enumerate(zip(members, labels(members), strict=True), 1)
    ]

    # what compares runs comes first, and is left out where there is nothing to compare
    parts = [_overview(named)] if len(runs) > 1 else []
    parts += [_comparison(env, members) for env, members in groups.items() if len(members) > 1]
    parts += [_run(*each, alone=len(groups[each[0].env]) == 1, page=folder) for each in named]

    title = ", ".join(groups) if len(groups) <= ENVS_IN_A_TITLE else f"{len(groups)} environments"
    agents = sum(run.seeds for run in runs)
    count = f"{len(runs)} run{'s' * (len(runs) > 1)}, {agents} agent{'s' * (agents > 1)}"
    return whole_page(title, count, parts)


def _overview(named: Sequence[tuple[Results, str, str]]) -> Html:
    """Returns a table with a line for each run."""
    rows = []
    for run, label, anchor in named:
        final = run.final_returns
        link = tag("a", label, href=f"#{anchor}")
        scores = [number(float(iqm(final))), _interval(final), _mean_and_std(final)]
        rows.append([link, run.env, run.seeds, f"{run.steps:,}", *scores, _speed(run)])
    head = ["run", "environment", "seeds", "steps", "final return, IQM", "95% interval"]
    caution = tag("p", CAUTION, class_="soft") if few_seeds([run for run, _, _ in named]) else ""
    whole = table([*head, "mean ± std", "steps/s"], rows)
    return tag("section", tag("h2", "Runs"), whole, caution)


def _comparison(env: str, runs: Sequence[Results]) -> Html:
    """Returns a comparison of runs on one environment."""
    return tag("section", tag("h2", env), _picture(runs), _efficiency(runs))


def _run(run: Results, label: str, anchor: str, *, alone: bool, page: Path) -> Html:
    """Returns all about one run; how soon it reached returns, if no comparison says so."""
    parts = [
        tag("h2", tag("span", run.env, class_="soft"), " ", label),
        tag("p", _progress(run), " ", tag("code", run.folder), class_="soft"),
        _cards(run),
        _picture([run]),
        _efficiency([run]) if alone else "",
        _film(run, page),
        tag("div", _evaluations(run), _seeds(run), class_="columns"),
        configuration(run.config, run.algorithm),
        tag("h3", "Versions"),
        tag("p", ", ".join(f"{k} {v}" for k, v in run.about["versions"].items())),
        tag("h3", "Train it again"),
        tag("pre", tag("code", train_command(run))),
        *_not_said(run),
    ]
    return tag("section", *parts, id=anchor)


def _progress(run: Results) -> str:
    """Says whether a run is finished."""
    if run.state == "finished":
        return "Finished."
    words = {"killed": "killed, or under way on another machine"}.get(run.state, run.state)
    return f"{run.steps:,} of {run.total_steps:,} steps: {words}."


def _cards(run: Results) -> Html:
    """Returns the numbers to see first."""
    final, device = run.final_returns, run.about["device"]
    seeds = f"--seeds {run.seeds} --seed {run.about['seed']}"
    begun = run.about.get("created", "")[:16].replace("T", " ")
    summary = run.summary or {"compile_seconds": None, "run_seconds": None}
    compiled, ran = (
        UNKNOWN if seconds is None else number(seconds)
        for seconds in (summary["compile_seconds"], summary["run_seconds"])
    )
    # a single seed has no interval, no deviation, and one mean
    scores = [("final return", _mean_and_std(final), "")]
    if run.seeds > 1:
        scores = [
            ("final return, interquartile mean", number(float(iqm(final))), _interval(final)),
            ("final return, mean ± std over seeds", _mean_and_std(final), ""),
        ]
    cards = [
        *scores,
        ("steps of each seed", f"{run.steps:,}", seeds),
        ("steps/s, all seeds together", _speed(run), ""),
        ("compiled in", f"{compiled} s", f"then ran {ran} s"),
        ("device", f"{device['count']} {device['kind']}", begun),
    ]
    return cards_of(cards)


def _picture(runs: Sequence[Results]) -> Html:
    title = f"{runs[0].env}: learning curves and sample efficiency"
    return tag("figure", Html(inline_svg(runs, title)))


def _efficiency(runs: Sequence[Results]) -> Html:
    """Says how soon returns were reached: by the median seed, and by how many seeds at all."""
    curves = learning_curves([(run.metrics, run.config.batch_size) for run in runs])
    levels = common_levels(curves, SHARES)
    if not levels.size:
        return Html()

    # a column for each run, a row for each return
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
    """Shows the policy at work, if it was filmed: a GIF on the page, a viewer as a link."""
    gif, viewer = run.folder / "policy.gif", run.folder / "policy.html"
    parts = []
    if gif.exists():
        data = base64.b64encode(read_bytes(gif)).decode()
        film = tag("img", src=f"data:image/gif;base64,{data}", alt="an episode of the policy")
        parts.append(tag("figure", film))
    if viewer.exists():
        where = urllib.parse.quote(os.fsencode(os.path.relpath(viewer, page)))
        parts.append(tag("p", tag("a", "An episode in the viewer", href=where)))
    return joined(tag("h3", "The policy at work"), *parts) if parts else Html()


def _evaluations(run: Results) -> Html:
    """Returns a table of the evaluations, each over all seeds."""
    if not run.eval_steps.size:
        return Html()
    rows = [
        [f"{step:,}", _mean_and_std(x), number(np.fmin.reduce(x)), number(np.fmax.reduce(x))]
        for step, x in zip(run.eval_steps, run.eval_returns.T, strict=True)
    ]
    if run.seeds == 1:
        return titled("Evaluations", ["steps", "return"], [row[:2] for row in rows])
    return titled("Evaluations", ["steps", "mean ± std over seeds", "lowest", "highest"], rows)


def _seeds(run: Results) -> Html:
    """Returns a table of the seeds, each by itself."""
    head, rows = ["seed", "final return"], [[i, number(x)] for i, x in enumerate(run.final_returns)]
    if run.eval_steps.size:
        head += ["last evaluation", "best evaluation", "after steps"]
        best = np.where(np.isnan(run.eval_returns), -np.inf, run.eval_returns).argmax(axis=1)
        for row, returns, at in zip(rows, run.eval_returns, best, strict=True):
            row += [number(returns[-1]), number(returns[at]), f"{run.eval_steps[at]:,}"]
    return titled("Seeds", head, rows)


def configuration(config: PPOConfig, algorithm: Algorithm) -> Html:
    """Says what differs from the algorithm's defaults, and folded below it all the rest.

    Args:
        config: what is trained.
        algorithm: whose defaults.
    """
    base = defaults_of(config, algorithm)
    changed = changes(config, base)
    rows = [[name, value, getattr(base, name)] for name, value in changed.items()]
    rest = [[name, getattr(base, name)] for name in FIELDS if name not in changed]
    return joined(
        tag("h3", f"Configuration: what differs from the defaults of {algorithm}"),
        table(["field", "value", "default"], rows, "text"),
        tag("details", tag("summary", "as by default"), table(["field", "value"], rest, "text")),
    )


def _not_said(run: Results) -> list[Html]:
    """Returns a line for what the command leaves out."""
    own = given_in_python(run)
    words = f"It was given in Python, and is not in this command: {', '.join(own)}."
    return [tag("p", words, class_="soft")] if own else []


def _mean_and_std(returns: np.ndarray) -> str:
    known = returns[~np.isnan(returns)]
    if known.size < 2:  # one number has no deviation
        return number(float(known[0])) if known.size else UNKNOWN
    return f"{number(known.mean())} ± {number(known.std(ddof=1))}"


def _interval(returns: np.ndarray) -> str:
    """Returns the interval of the interquartile mean as text; a single seed has none."""
    low, high = bootstrap_interval(returns)
    return f"{number(float(low))} to {number(float(high))}" if len(returns) > 1 else ""


def _speed(run: Results) -> str:
    speed = run.summary["steps_per_second"] if run.summary else None
    return UNKNOWN if speed is None else f"{speed:,.0f}"
