"""Studies on one page of HTML that needs nothing beside itself."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from purejaxppo.report.differences import algorithm_of
from purejaxppo.report.listing import shortened
from purejaxppo.report.markup import Html, cards_of, joined, table, tag, titled, whole_page
from purejaxppo.report.overview import UNKNOWN, number
from purejaxppo.report.page import configuration
from purejaxppo.report.plots import inline_svg, svg_of
from purejaxppo.sweeps.dimensions import Dimension
from purejaxppo.sweeps.read import StudyResults
from purejaxppo.sweeps.report.curves import runs_of
from purejaxppo.sweeps.report.importance import importances
from purejaxppo.sweeps.report.looks import kinds_in, score_of, score_words, written
from purejaxppo.sweeps.report.pictures import (
    draw_costs,
    draw_lineage,
    draw_parallel,
    draw_tradeoffs,
    lineage_size,
)
from purejaxppo.sweeps.report.slices import draw_slices, slices_size
from purejaxppo.sweeps.retrain import spread_over_seeds
from purejaxppo.sweeps.trials import Result

BEST = 10  # settings in the table of the best
CURVES = 5  # trials whose learning curves are drawn


def make_study_page(studies: Sequence[StudyResults]) -> str:
    """Returns a page with all about each study.

    Args:
        studies: one or more.
    """
    titles = list(dict.fromkeys(study.config.env for study in studies))
    trials = sum(len(study.results) for study in studies)
    several = f"{len(studies)} studies, " if len(studies) > 1 else ""
    words = f"{several}{trials:,} trial{'s' * (trials != 1)}"
    parts = [_study(study) for study in studies]
    return whole_page(f"Sweep: {', '.join(titles)}", words, parts)


def _study(study: StudyResults) -> Html:
    """Returns all about one study."""
    told = list(study.results.values())
    head = tag("h2", tag("span", study.config.env, class_="soft"), " ", study.name)
    parts = [
        head,
        tag("p", _progress(study), " ", tag("code", study.folder), class_="soft"),
        _cards(study),
        _best(study),
        _retrained(study),
    ]
    if told:
        parts += [
            _importance(study),
            _parallel(study),
            _costs(study),
            _tradeoffs(study),
            _curves(study),
        ]  # fmt: skip
    parts += [_lineage(study), _trials(study), _configuration(study), _again(study)]
    return tag("section", *parts)


def _progress(study: StudyResults) -> str:
    """Says how far a study is, and how its trials ended."""
    told, planned = len(study.results), study.about["trials"]
    kinds = kinds_in(study.results.values())
    ended = ", ".join(f"{len(members):,} {kind}" for kind, members in kinds.items())
    of = "" if planned <= told else f" of {planned:,}"
    words = {"finished": "Finished", "running": "Running", "stopped": "Stopped before the end"}
    state = words.get(study.state, study.state)
    return f"{state}: {told:,}{of} trial{'s' * (told != 1)}{': ' * bool(ended)}{ended}."


def _cards(study: StudyResults) -> Html:
    """Returns the numbers to see first."""
    options, best = study.about["options"], study.ranked[:1]
    seeds = options.get("seeds", 1)
    over = f"mean over {seeds} seeds" if seeds > 1 else "of one seed"
    score = number(score_of(best[0])) if best else UNKNOWN
    words = f"trial {best[0].number}, {over}" if best else ""
    cards: list[tuple[str, object, object]]
    cards = [(f"best {score_words(study)} of the sweep", score, words)]
    if study.retrained is not None and study.retrained.ranked:
        again = study.retrained.ranked[0]
        words = f"trial {again.number}, {_interval(again)}"
        cards.append(("best on fresh seeds", number(score_of(again)), words))
    told = study.results.values()
    seconds = sum(r.seconds for r in told)
    steps = sum(r.steps * max(1, len(r.scores)) for r in told)
    cards += [
        ("seconds of all trials", f"{seconds:,.0f}", f"{steps:,} steps"),
        ("settings from", str(options.get("sampler")), f"scheduler {options.get('scheduler')}"),
        ("begun", study.about["created"][:16].replace("T", " "), ""),
    ]
    return cards_of(cards)


def _best(study: StudyResults) -> Html:
    """Returns a table of the best settings."""
    best = study.ranked[:BEST]
    if not best:
        words = "No trial has a score." if study.results else "No trial has ended yet."
        return tag("p", words)
    names = [d.name for d in study.dimensions]
    rows = [
        [r.number, _score(r), *(_value(r, name) for name in names), f"{r.steps:,}", _seconds(r)]
        for r in best
    ]
    head = ["trial", score_words(study), *names, "steps of a seed", "seconds"]
    return joined(tag("h3", "The best settings"), table(head, rows))


def _retrained(study: StudyResults) -> Html:
    """Returns a table of scores in the sweep beside those on fresh seeds."""
    if study.retrained is None:
        return Html()
    rows = []
    for again in study.retrained.ranked + [r for r in _told(study.retrained) if r.score is None]:
        spread, before = spread_over_seeds(again), study.results.get(again.number)
        chosen = float("nan") if before is None else score_of(before)
        rows.append(
            [
                again.number, number(chosen), number(spread.mean), number(spread.std),
                _interval(again), number(spread.mean - chosen), len(again.scores),
            ]
        )  # fmt: skip
    head = ["trial", "in the sweep", "fresh seeds, mean", "std", "95% interval of the mean"]
    words = (
        "Scores by which settings were chosen are too high on average, as they were chosen for "
        "their luck too; those on fresh seeds are not."
    )
    return joined(
        tag("h3", "The best settings on fresh seeds"),
        tag("p", words, class_="soft"),
        table([*head, "difference", "seeds"], rows),
    )


def _importance(study: StudyResults) -> Html:
    """Shows the importance of what was varied, and scores against each of it."""
    found = importances(study.results.values(), [d.name for d in study.dimensions])
    known = [one for one in found if one.share is not None]
    rest = max(0.0, 1 - sum(one.share or 0.0 for one in known))
    words = "Too few trials have a score to say what matters."
    if known:
        names = ", ".join(one.name for one in known if one.certain) or "none"
        words = (
            "Importance is the share of the variance of scores that a dimension explains by "
            f"itself. Told apart from luck: {names}. The rest, {rest:.0%}, is what dimensions do "
            "together, and the luck of seeds."
        )
    drawing = svg_of(
        lambda figure: draw_slices(figure, study), slices_size(study),
        "importance of what was varied, and scores against each of it",
    )  # fmt: skip
    return joined(
        tag("h3", "What matters"),
        tag("p", words, class_="soft"),
        tag("figure", Html(drawing)),
    )


def _parallel(study: StudyResults) -> Html:
    """Shows each trial as a line over all that was varied."""
    drawing = svg_of(
        lambda figure: draw_parallel(figure, study), (10, 3.9),
        "each trial as a line over what was varied, and its score",
    )  # fmt: skip
    return _figure("All that was varied at once", drawing)


def _costs(study: StudyResults) -> Html:
    """Shows scores against what they cost."""
    drawing = svg_of(
        lambda figure: draw_costs(figure, study), (10, 3.4), "scores against seconds and steps"
    )
    return _figure("Score against cost", drawing)


def _tradeoffs(study: StudyResults) -> Html:
    """Shows what trials are scored by together, if that is more than one thing."""
    others = study.about["options"]["score"][1:]
    if not others:
        return Html()
    drawing = svg_of(
        lambda figure: draw_tradeoffs(figure, study), (5 * max(2, len(others)), 3.6),
        "scores against each other",
    )  # fmt: skip
    return _figure("One score against another", drawing)


def _curves(study: StudyResults) -> Html:
    """Shows learning curves of the best trials, in the sweep and on fresh seeds."""
    parts = []
    for title, one in (
        ("Learning curves of the best trials", study),
        ("Learning curves on fresh seeds", study.retrained),
    ):
        best = [] if one is None else one.ranked[:CURVES]
        if one is None or not best:
            continue
        runs, missing = runs_of(one, best)
        parts.append(tag("h3", title))
        if runs:
            parts.append(tag("figure", Html(inline_svg(runs, f"{study.config.env}: {title}"))))
        kept = [words for words in missing if runs or not words.endswith("has kept no run")]
        kept = kept or ["The runs of these trials were not kept."] * (not runs)
        parts += [tag("p", words, class_="soft") for words in kept]
    return joined(*parts)


def _lineage(study: StudyResults) -> Html:
    """Shows who took over from whom in a population."""
    if not study.lineage:
        return Html()
    drawing = svg_of(
        lambda figure: draw_lineage(figure, study), lineage_size(study),
        "lines of descent of a population, and its settings by generation",
    )  # fmt: skip
    return _figure("The population", drawing)


def _trials(study: StudyResults) -> Html:
    """Returns tables of the trials that failed, and of all, folded where they are many."""
    names, parts = [d.name for d in study.dimensions], []
    failed = [r for r in _told(study) if r.score is None]
    if failed:
        rows = [[r.number, *(_value(r, name) for name in names), r.why or ""] for r in failed]
        parts.append(titled("Trials that failed", ["trial", *names, "why"], rows))
    if study.results:
        measured = list(dict.fromkeys(name for r in _told(study) for name in r.measured))
        rows = [
            [
                r.number, "failed" if r.score is None else r.status, _score(r),
                *(_value(r, name) for name in names),
                *(_measured(r, name) for name in measured), f"{r.steps:,}", _seconds(r),
            ]
            for r in _told(study)
        ]  # fmt: skip
        columns = [name.replace("_", " ") for name in measured]
        head = ["trial", "ended", "score", *names, *columns, "steps of a seed", "seconds"]
        parts.append(titled("All trials", head, rows))
    return joined(*parts)


def _configuration(study: StudyResults) -> Html:
    """Says what was varied, and over what."""
    rows = [[d.name, _range(d)] for d in study.dimensions]
    options = {k: x for k, x in study.about["options"].items() if x is not None}
    rest = [[name, ", ".join(x) if isinstance(x, list) else x] for name, x in options.items()]
    own = [[kind, what] for kind, what in study.about["own"].items()]
    return joined(
        tag("h3", "What was varied"),
        table(["name", "values"], rows, "text"),
        configuration(study.config, algorithm_of(study.config, {"seeds": 1})),
        table(["in place of what is configured", ""], own, "text") if own else "",
        tag("details", tag("summary", "options"), table(["option", "value"], rest, "text")),
        tag("h3", "Versions"),
        tag("p", ", ".join(f"{k} {v}" for k, v in study.about["versions"].items())),
    )


def _again(study: StudyResults) -> Html:
    """Returns the command that trains the best setting."""
    if study.winner is None:
        return Html()
    path = study.folder / "best.toml"
    command = ["purejaxppo", "train", "--config", os.fspath(path), "--seeds", "8"]
    return joined(tag("h3", "Train the best"), tag("pre", tag("code", shlex.join(command))))


# -- cells -----------------------------------------------------------------------------------------


def _figure(title: str, drawing: str) -> Html:
    return joined(tag("h3", title), tag("figure", Html(drawing)))


def _told(study: StudyResults) -> list[Result]:
    return sorted(study.results.values(), key=lambda r: r.number)


def _score(result: Result) -> str:
    """Returns the score of a trial, with its deviation over seeds."""
    std = spread_over_seeds(result).std
    return number(score_of(result)) + (f" ± {number(std)}" if std == std else "")


def _interval(result: Result) -> str:
    spread = spread_over_seeds(result)
    if spread.low != spread.low:
        return "of one seed"
    return f"{number(spread.low)} to {number(spread.high)}"


def _value(result: Result, name: str) -> str:
    """Returns what a setting has; a dash for what has no effect in it."""
    return shortened(written(result.setting[name]), 24) if name in result.setting else UNKNOWN


def _measured(result: Result, name: str) -> str:
    value = result.measured.get(name)
    return UNKNOWN if value is None else number(value)


def _seconds(result: Result) -> str:
    return f"{result.seconds:.3g}"


def _range(dimension: Dimension) -> str:
    if dimension.choices:
        return " | ".join(map(written, dimension.choices))
    kind = "log " * dimension.log + "whole " * dimension.integer
    return f"{kind}{written(dimension.low)} .. {written(dimension.high)}"
