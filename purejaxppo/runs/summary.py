"""What a run has reached, in plain values: its curve and `summary.json`, and words about it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.report.overview import number
from purejaxppo.run_folder.files import write_json
from purejaxppo.run_folder.read import read_summary
from purejaxppo.run_folder.rows import final_returns
from purejaxppo.runs.agents import Best
from purejaxppo.runs.identity import versions
from purejaxppo.runs.problems import Problems
from purejaxppo.types import LearnerState, Metrics


def summarize(
    config: PPOConfig,
    state: LearnerState,
    metrics: Metrics,
    best: Best,
    about: Mapping[str, Any],
    times: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the results as plain values, ready for JSON (None where a seed ended no episode).

    Args:
        config: what was trained.
        state: the learners at the end, with a leading axis of seeds.
        metrics: every field [seeds, updates done].
        best: the agents that evaluations scored highest.
        about: of the run: `env`, `run_dir`, `problems`, and `algorithm`, `own`, `init_from` and
            `vary`, which are left out where they say nothing.
        times: `resumed_at`, `compile_seconds` and `run_seconds`.
    """
    # a seed that ended no episode has no return, and does not count in the means
    returns, scores = final_returns(metrics), np.asarray(best.returns)
    finite = returns[np.isfinite(returns)]
    seeds, updates = metrics.episodes.shape

    # of a resumed run, times are those of what was done now; those of a run that was finished
    # before are not known
    steps_now = seeds * (updates - times["resumed_at"]) * config.batch_size
    measured = {
        "steps_per_second": steps_now / times["run_seconds"],
        "compile_seconds": times["compile_seconds"],
        "run_seconds": times["run_seconds"],
    }
    if times["resumed_at"] and not steps_now:
        measured = dict.fromkeys(measured)
    first, last = (
        {name: about[name] for name in names if about.get(name)}
        for names in (["algorithm"], ["own", "init_from", "vary"])
    )
    return {
        "env": about["env"],
        **first,
        "seeds": seeds,
        "total_timesteps": config.timesteps,
        "timesteps": updates * config.batch_size,
        "final_returns": [float(r) if np.isfinite(r) else None for r in returns],
        "final_return_mean": float(finite.mean()) if finite.size else None,
        "final_return_std": float(finite.std(ddof=finite.size > 1)) if finite.size else None,
        "best_evaluations": [float(x) if np.isfinite(x) else None for x in scores],
        "episodes": int(metrics.episodes.sum()),
        **measured,
        "run_dir": about.get("run_dir"),
        "parameters": sum(x.size // seeds for x in jax.tree.leaves(state.params)),
        "problems": [*about["problems"]],
        "versions": versions(),
        "device": jax.devices()[0].device_kind,
        **last,
    }


def write_results(
    run_dir: Path,
    config: PPOConfig,
    metrics: Metrics,
    summary: dict[str, Any],
    resumed_at: int,
    problems: Problems,
) -> None:
    """Writes the curve and the summary into the run folder.

    Of a run that was finished before, the results stay, and `summary` becomes them; where they are
    damaged or missing, they are made anew.

    Args:
        run_dir: the run folder.
        config: what was trained.
        metrics: every field [seeds, updates done].
        summary: the results; problems of writing them are added.
        resumed_at: updates that were done before.
        problems: of the run, to which those of writing are added.
    """
    written = None
    if resumed_at == summary["timesteps"] // config.batch_size:  # nothing was done
        with contextlib.suppress(ConfigError):
            written = read_summary(run_dir, summary["seeds"])
    same = ("timesteps", "total_timesteps")
    if written is not None and all(written.get(n, summary[n]) == summary[n] for n in same):
        summary |= {**written, "run_dir": summary["run_dir"]}  # it may have been moved
        return

    # a picture is no reason to lose a run, whatever matplotlib raises: it wants folders of its own
    # already when it is imported
    try:
        from purejaxppo.report.plots import plot_curve

        with problems.attempt("curve.png"):
            plot_curve(run_dir / "curve.png", metrics, config, summary["env"])
    except Exception as error:
        problems.report(f"curve.png could not be drawn: {type(error).__name__}: {error}")
    summary["problems"] = [*problems]
    with problems.attempt("summary.json"):
        write_json(run_dir / "summary.json", summary)
    summary["problems"] = [*problems]


def in_words(summary: Mapping[str, Any]) -> dict[str, str]:
    """Returns the results in words by what they are called; what is not known is left out.

    Args:
        summary: the results, as `summarize` returns them.
    """
    mean, spread, seeds = (
        summary[name] for name in ("final_return_mean", "final_return_std", "seeds")
    )
    # seeds that ended no episode do not count, and one alone has no spread
    ended = sum(x is not None for x in summary["final_returns"])
    over = f"{seeds} seed{'s' * (seeds > 1)}" if ended == seeds else f"{ended} of {seeds} seeds"
    final = "no episode ended" + ", or a return is not finite" * (summary["episodes"] > 0)
    if ended:
        final = f"{number(mean)}  ({over})"
    if ended > 1:
        final = f"{number(mean)} ± {number(spread)}  (mean ± std over {over})"
    best = float(np.mean([x for x in summary["best_evaluations"] if x is not None] or [np.nan]))
    words = {
        "final return": final,
        "best evaluation": "" if np.isnan(best) else number(best),
        "episodes": f"{summary['episodes']:,}",
        "steps/s": _known(summary["steps_per_second"], ",.0f"),
        "compile": _known(summary["compile_seconds"], ".1f", " s"),
        "run": _known(summary["run_seconds"], ".1f", " s"),
        "begun with": summary.get("init_from", ""),
        "saved in": summary["run_dir"] or "",
    }
    return {name: text for name, text in words.items() if text}


def _known(x: float | None, how: str, unit: str = "") -> str:
    """Writes down a number with its unit; nothing where it is not known."""
    return "" if x is None else f"{x:{how}}{unit}"
