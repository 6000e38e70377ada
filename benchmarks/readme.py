"""Fills the figures of the READMEs from the results that are kept, and draws the pictures of them.

Every table and sentence with figures stands between two comments, of which the first names it:

    <!-- figures: scores -->
    ...
    <!-- end of figures -->

What stands between them is made here, from the files in `results/` alone.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.plots import RESULTS, draw_all, is_bound, shares_of_updates
from benchmarks.common.returns import chance_of, holm
from benchmarks.learning.scores import BASELINES, CLEANRL, REFERENCES

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md", "benchmarks/README.md", "purejaxppo/envs/README.md",
    "purejaxppo/policies/README.md", "purejaxppo/runs/README.md", "purejaxppo/sweeps/README.md",
)  # fmt: skip
MARKED = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)
COLUMNS = 120

SHAPES = {
    "a": "CartPole-v1, 4 envs x 128 steps", "b": "CartPole-v1, 64 x 128",
    "c": "CartPole-v1, 2048 x 128", "d": "Breakout-MinAtar, 64 x 128",
    "e": "Pendulum-v1, 2048 x 10, 256 wide", "e64": "Pendulum-v1, 64 x 128", "f": "16 seeds of a",
}  # fmt: skip
GROWN = {
    "environments": "environments of b, with 8 steps of each", "seeds": "seeds of a in one vmap",
    "steps": "steps of each environment of b", "width": "width of b's two layers",
}  # fmt: skip
PEERS = {
    "purejaxrl": "PureJaxRL", "rejax": "rejax", "brax": "Brax PPO", "sbx": "SBX", "sb3": "SB3",
}  # fmt: skip
FIRST_PAGE = (
    "CartPole-v1", "CartPole-v1, A2C", "Acrobot-v1", "Pendulum-v1", "MountainCar-v0",
    "MountainCarContinuous-v0", "Breakout-MinAtar", "SpaceInvaders-MinAtar", "Asterix-MinAtar",
    "Freeway-MinAtar", "brax/hopper", "gymnasium/Hopper-v5",
)  # fmt: skip


def read(name: str) -> dict[str, Any]:
    """The results in a file."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["results"]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of Markdown."""
    lines = [" | ".join(map(str, line)) for line in (head, *rows)]
    rule = "|".join(["---"] * len(head))
    return "\n".join([f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])


def paragraph(text: str) -> str:
    """Words in lines of the pages' width."""
    wrap = textwrap.TextWrapper(COLUMNS, break_long_words=False, break_on_hyphens=False)
    return wrap.fill(" ".join(text.split()))


def digits_of(value: float) -> int:
    """Decimals of a return: large ones have none, small ones two."""
    return 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 2


def mean_and_std(found: dict[str, Any]) -> str:
    """Mean and deviation over seeds."""
    digits = digits_of(found["mean"])
    return f"{found['mean']:,.{digits}f} ± {found['std']:,.{digits}f}"


def steps_of(run: dict[str, Any]) -> int:
    """Steps of each seed."""
    return run["config"]["total_timesteps"]


def first_page() -> str:
    """Scores and speed of some presets."""
    found = read("scores")
    rows = [
        (name, f"{steps_of(run):,}", mean_and_std(run["evaluation"]), run["seeds"],
         f"{run['steps_per_second']:,.0f}")
        for name, run in ((name, found[name]) for name in FIRST_PAGE if name in found)
    ]  # fmt: skip
    return table(["preset", "steps", "return", "seeds", "steps/s"], rows)


def scores() -> str:
    """Scores of all presets that were trained, beside those of others."""
    rows = []
    for name, run in read("scores").items():
        others = "; ".join(
            f"{other['score']} ({', '.join(filter(None, (other['steps'], other['source'])))})"
            for other in run["references"]
        )
        found = run["evaluation"]
        (low, high), digits = found["iqm_95"], digits_of(found["iqm"])
        iqm = f"{found['iqm']:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"
        final = mean_and_std(run["final_return"])
        row = (name, f"{steps_of(run):,}", others, mean_and_std(found), iqm, final)
        rows.append((*row, run["seeds"], f"{run['run_seconds']:,.0f}"))
    heads = ["steps", "others", "return", "interquartile mean (95%)", "while training"]
    return table(["preset", *heads, "seeds", "seconds"], rows)


def spread_of(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation, 0 of one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def speed() -> str:
    """Steps per second and what they are over those of others; the share of the roofline."""
    peers, shapes = read("peers"), read("throughput")["shapes"]
    rows = []
    for name, words in SHAPES.items():
        ratios = [
            peers[name].get(peer, {}).get("ours_over_peer", {}).get("median") for peer in PEERS
        ]
        over = ["" if r is None else f"{r:.0f}" if r >= 10 else f"{r:.2f}" for r in ratios]
        share = f"{shapes[name]['fraction_of_roofline']['median']:.2f}"
        share = share if is_bound(shapes[name]["config"]) else ""
        ours = peers[name]["ours"]["steps_per_second"]["median"]
        rows.append((f"{name}: {words}", f"{ours:,.0f}", share, *over))
    # seeds that are spread over the cores are not what others' one program is
    alone = shapes["f"]["steps_per_second"]["median"]
    over = {x: alone / peers["f"][x]["steps_per_second"]["median"] for x in ("purejaxrl", "rejax")}
    heads = ["shape", "steps/s", "of roofline", *(f"over {x}" for x in PEERS.values())]
    return (
        table(heads, rows)
        + "\n\n"
        + paragraph(f"""
        Of f ours is spread over the two cores, as `vmap_over_devices` does, and others are one
        program each: as one program ours trains {alone:,.0f} steps/s, {over["purejaxrl"]:.2f} times
        PureJaxRL's and {over["rejax"]:.2f} times rejax's.
    """)
    )


def compile_time() -> str:
    """Seconds to a compiled program, beside those of rejax."""
    kinds, rows = ("compile_seconds", "cpu_seconds"), []
    for name, found in read("compile_time").items():
        row = [f"{name}: {SHAPES[name]}"]
        for kind in kinds:
            row += [f"{found[arm]['medians'][kind]:.1f}" for arm in ("ours", "rejax")]
            row.append(f"{found['rejax']['ours_over_peer'][kind]:.2f}")
        rows.append(row)
    head = ["shape", "seconds", "rejax", "ratio", "CPU seconds", "rejax", "ratio"]
    return table(head, rows)


def scaling() -> str:
    """What devices and processes are worth for one agent: speeds over that of one device."""
    found = read("scaling")
    alone = "one device"
    arms = list(dict.fromkeys(name for arms in found.values() for name in arms if name != alone))
    rows = []
    for shape, measured in found.items():
        over = (f"{measured[x]['over_one_device']['median']:.2f}" if x in measured else ""
                for x in arms)  # fmt: skip
        speed = measured[alone]["steps_per_second"]["median"]
        rows.append((f"{shape}: {SHAPES[shape]}", f"{speed:,.0f}", *over))
    return table(["shape", "steps/s, one device", *arms], rows)


def growth() -> str:
    """Speed from the smallest size to the largest."""
    rows = []
    for kind, found in read("growth").items():
        speeds = {int(n): x["median"] for n, x in found["steps_per_second"].items()}
        first, last, best = min(speeds), max(speeds), max(speeds, key=lambda n: speeds[n])
        memory = found["predicted_bytes"][str(last)]
        rows.append(
            (GROWN[kind], f"{first:,}: {speeds[first]:,.0f}", f"{best:,}: {speeds[best]:,.0f}",
             f"{last:,}: {speeds[last]:,.0f}", f"{memory / 1e6:,.0f} MB")
        )  # fmt: skip
    return table(["grows", "smallest: steps/s", "fastest", "largest", "its memory"], rows)


def breakdown() -> str:
    """How much longer the parts of an update take alone than together."""
    over = {}
    for name, shape in read("breakdown").items():
        alone = sum(x for part, x in shape["microseconds"].items() if part != "rest")
        over[name] = alone / shape["update_microseconds"] - 1
    longer = [f"{100 * x:.0f}% on {name}" for name, x in over.items() if x > 0]
    return paragraph(f"""
        `speed.breakdown` takes an update apart, and times each part alone: on large shapes the
        matrix products of the gradient steps are nearly all there is. Shares are those of the sum
        of the parts, as the compiler runs some side by side: alone, they take longer than the
        whole update, {" and ".join(longer)}. `peers.time_to_score` counts the seconds from the
        start of a process to a mean return of 475 on CartPole-v1.
    """)


def shuffle() -> str:
    """What is learned with the shuffle and with a permutation."""
    learning = read("shuffle")["learning"]
    cartpole, acrobot = learning["CartPole-v1"], learning["Acrobot-v1"]
    return paragraph(f"""
        Learning with the keyed permutation cannot be distinguished from learning with a true one
        over {cartpole["seeds"]} seeds: p is {cartpole["mean_return"]["p"]:.2f} for the mean return
        on CartPole-v1 and {acrobot["final_return"]["p"]:.2f} for the final return on Acrobot-v1
        (`learning.shuffle`, [figures](results/shuffle.json)).
    """)


def time_limits() -> str:
    """What right time limits cost."""
    found = read("time_limits")
    names = {
        "preset": "with the preset", "4 x 128": "with 4 environments x 128 steps",
        "64 x 128": "with 64 x 128",
    }  # fmt: skip
    costs = {name: found[name]["slowdown_percent"]["median"] for name in names}
    *most, last = [f"{costs[name]:.1f}% {words}" for name, words in names.items()]
    pairs = found["preset"]["pairs"]
    return paragraph(f"""
        Right time limits cost about {statistics.median(costs.values()):.0f}% of training speed on
        CartPole-v1: medians of {pairs} timed pairs are {", ".join(most)} and {last}, on two CPU
        cores with jax 0.10.2 (`python -m benchmarks.speed.time_limits --pairs {pairs}`,
        [figures](results/time_limits.json)).
    """)


def memory() -> str:
    """What a memory is worth, in as many steps as said if they are not those of the column."""
    tasks = read("memory")
    names = ("MemoryChain-bsuite", "CartPole-v1, hidden velocities", "Repeat")
    columns = list(zip(names, tasks.values(), (2, 1, 1), strict=True))
    rows = []
    for core in dict.fromkeys(core for _, runs, _ in columns for core in runs):
        cells = []
        for _, runs, digits in columns:
            if core not in runs:
                cells.append("")
                continue
            run = runs[core]
            mean, std = run["final_return"]["mean"], run["final_return"]["std"]
            fewer = "" if steps_of(run) == steps_of(runs["gru"]) else f" ({_thousands(run)})"
            cells.append(f"{mean:z.{digits}f} ± {std:.{digits}f}{fewer}")
        rows.append((f"`{core}`", *cells))
    heads = [f"{name}, {_thousands(runs['gru'])} steps" for name, runs, _ in columns]
    return table(["`core=`", *heads], rows)


def _thousands(run: dict) -> str:
    return f"{steps_of(run) / 1000:.0f}k"


def to_hundredths(found: dict[str, Any]) -> str:
    """Mean and standard deviation of returns that are small."""
    return f"{found['mean']:z.2f} ± {found['std']:.2f}"


def exploration() -> str:
    """What a bonus for the new is worth."""
    rows = []
    for name, runs in read("exploration").items():
        for bonus, run in runs.items():
            returns = to_hundredths(run["final_return"])
            found = f"{run['seeds_that_found_it']} of {run['seeds']}"
            rows.append((name, f"`{bonus}`", f"{steps_of(run):,}", returns, found))
    heads = ["task", "`exploration=`", "steps", "final return", "seeds that found the reward"]
    return table(heads, rows)


def precision() -> str:
    """What is learned in each dtype."""
    rows = []
    for name, runs in read("precision").items():
        returns = (to_hundredths(run["final_return"]) for run in runs.values())
        rows.append((name, f"{steps_of(runs['float32']):,}", *returns))
    return table(["task", "steps", "`float32`", "`bfloat16`"], rows)


def privileged() -> str:
    """What a critic that sees more than the actor is worth."""
    rows = []
    for task, found in read("privileged").items():
        row = [task, f"{steps_of(found['alike']):,}"]
        for name in ("alike", "privileged"):
            mean, final = found[name]["mean_return"], found[name]["final_return"]
            row.append(f"{mean['mean']:.1f} ± {mean['half_width']:.1f}, {final['mean']:.1f}")
        low, high = found["gain"]["interval"]
        rows.append((*row, f"{found['gain']['mean']:+.1f} ({low:+.1f} .. {high:+.1f})"))
    heads = ["sees as much", "sees what is hidden", "gain (95%)"]
    return table(["task", "steps", *heads], rows)


def over_plain(run: dict[str, Any]) -> str:
    """Mean return over the run, and the interval of what it adds to that of the plain setting."""
    returns = run["mean_returns"]
    text = f"{returns['mean']:.1f} ± {returns['std']:.1f}"
    if not returns.get("over_plain_95"):
        return text
    low, high = returns["over_plain_95"]
    return f"{text} ({low:+.1f} to {high:+.1f})"


def methods() -> str:
    """Returns with each method, and how far they are from the plain setting's."""
    found = read("methods")
    rows = []
    for name in next(iter(found.values()))["methods"]:
        row = [f"`{name}`"]
        for task in found.values():
            run = task["methods"].get(name)
            if run is None:
                row.append("")
                continue
            row.append(f"{over_plain(run)}, {run['final_returns']['mean']:.1f}")
        rows.append(row)
    heads = [
        f"{name}, {task['config']['total_timesteps'] / 1000:.0f}k steps"
        for name, task in found.items()
    ]
    differences = {
        f"`{name}` on {task}": (run, found[task]["methods"]["plain"])
        for task in found
        for name, run in found[task]["methods"].items() if name != "plain"
    }  # fmt: skip
    return table(["method", *heads], rows) + "\n\n" + clear_ones(differences)


def control_suite() -> str:
    """Returns on Playground's tasks beside those of Brax's PPO."""
    rows = []
    for task, found in read("control_suite").items():
        last = {arm: mean_and_std(found[arm]["last"]) for arm in ("ours", "brax") if arm in found}
        published = [f"{mean:,.1f} ± {std:,.1f}" for _, mean, std in found["published"][1:]]
        low, high = found["ours"]["last"]["iqm_95"]
        iqm = f"{found['ours']['last']['iqm']:,.1f} ({low:,.1f} to {high:,.1f})"
        rows.append((
            task, last["ours"], iqm, found["ours"]["seeds"],
            f"{found['ours']['run_seconds']:,.0f}", last.get("brax", ""), *published,
        ))  # fmt: skip
    steps = f"{next(iter(read('control_suite').values()))['steps'] / 1e6:.1f}M"
    published = [f"published, {x}" for x in ("10.5M", "21.1M")]
    heads = [f"ours, {steps}", "interquartile mean (95%)", "seeds", "seconds"]
    return table(["task", *heads, f"Brax, our sizes, {steps}", *published], rows)


def table1() -> str:
    """The paper's scores of its settings beside ours, and our returns beside those of others."""
    found = read("table1")
    tasks = list(found["tasks"])
    rows = []
    for setting, scores in found["settings"].items():
        low, high = scores["interval"]
        seeds = max(map(len, scores["by_task"].values()))
        each = [scores["by_task"].get(task) for task in tasks]
        by_task = [f"{statistics.fmean(x):.2f}" if x else "" for x in each]
        ours = f"{scores['score']:.2f} ({low:.2f} to {high:.2f})"
        rows.append((setting, f"{scores['paper']:.2f}", ours, seeds, *by_task))
    heads = [task.removesuffix("-v5") for task in tasks]
    settings = table(["setting", "paper", "here (95%)", "seeds", *heads], rows)

    rows = []
    for task, cells in found["tasks"].items():
        scores = [run["score"] for run in cells["runs"].get("clipping, 0.2", {}).values()]
        if not scores:
            continue
        ours = mean_and_std(dict(zip(("mean", "std"), spread_of(scores), strict=True)))
        others = {of.source: of.score for of in REFERENCES[f"gymnasium/{task}"]}
        known = [others.get(source, "") for source in (BASELINES, CLEANRL)]
        rows.append((task, *known, ours, len(scores), f"{cells['random']:,.1f}"))
    heads = [BASELINES, CLEANRL, "here, clipping at 0.2", "seeds"]
    returns = table(["task", *heads, "random actions"], rows)
    return f"{settings}\n\n{returns}\n\n![learning curves](results/table1.png)"


def clear_ones(differences: dict[str, tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """Which of many differences from a plain setting are more than chance, all tests together."""
    chances = [
        chance_of(run["mean_returns"]["values"], plain["mean_returns"]["values"])
        for run, plain in differences.values()
    ]
    adjusted = zip(differences, holm(chances), strict=True)
    clear = [f"{name} ({chance:.2g})" for name, chance in adjusted if chance < 0.05]
    return paragraph(f"""
        Of {len(chances)} differences in the table {len(clear)} are significant at 5% together
        (Holm's correction, adjusted p in brackets): {"; ".join(clear)}.
    """)


def ablations() -> str:
    """What each detail is worth."""
    found = read("ablations")
    differences = {
        f"{detail} on {task}": (run, runs["all details"])
        for task, runs in found.items()
        for detail, run in runs.items() if detail != "all details"
    }  # fmt: skip
    rows = []
    for detail in next(iter(found.values())):
        row = [detail]
        for task in found.values():
            row.append(over_plain(task[detail]) if detail in task else "")
        rows.append(row)
    return table(["", *found], rows) + "\n\n" + clear_ones(differences)


def presets() -> str:
    """Presets beside what their sweeps find."""
    rows = []
    for name, run in read("presets").items():
        setting = ", ".join(
            f"`{field}` {value:.4g}" if isinstance(value, float) else f"`{field}` {value}"
            for field, value in run["setting"].items()
        )
        returns = [mean_and_std(run[who]["mean_returns"]) for who in ("preset", "found")]
        difference = run["found"]["mean_returns"].get("over_plain_95")
        digits = max(1, digits_of(run["preset"]["mean_returns"]["mean"]))
        apart = " to ".join(f"{end:+.{digits}f}" for end in difference or ())
        rows.append((name, setting, *returns, apart))
    heads = ["found", "preset", "found", "found over preset (95%)"]
    return table(["preset", *heads], rows)


def sweep() -> str:
    """A sweep beside as many runs."""
    found = read("sweep")
    trials = found["trials"]
    rounds, times = found["rounds"], sorted(x["times_as_fast"] for x in found["rounds"])
    each = found["runs_would_take"] / trials
    return paragraph(f"""
        `purejaxppo sweep` with {trials} settings of {found["steps_of_a_trial"]:,} steps
        takes {found["sweep_seconds"]:.0f} seconds, compilation included
        ({found["sweep_steps_per_second"]:,.0f} steps/s). As many commands `purejaxppo train`, one
        after the other, would take {found["runs_would_take"]:,.0f}: {each:.1f} seconds each, the
        median of {len(rounds[0]["runs_seconds"])}, their programs being compiled already. That is
        {found["times_as_fast"]:.1f} times as long, the median of {len(rounds)} measurements
        ({times[0]:.1f} to {times[-1]:.1f}); two commands side by side, which trains an agent on
        each of the two cores, would at best take half of it.
    """)


def sweeps() -> str:
    """What samplers and a population find for one budget."""
    rows = []
    for env, found in read("sweeps").items():
        for method, figures in found["summary"].items():
            row = [env, {"random": "random", "tpe": "TPE", "pbt": "population"}[method]]
            row.append(str(len(found["runs"][method])))
            for figure in ("agent", "setting"):
                entry = figures.get(figure)
                if entry is None:
                    row += ["", ""]
                    continue
                spread = statistics.stdev(entry["values"])
                row.append(f"{entry['mean']:.1f} ± {spread:.1f}")
                if "over_random" in entry:
                    low, high = entry["over_random_95"]
                    row.append(f"{entry['over_random']:+.1f} ({low:+.1f} to {high:+.1f})")
                else:
                    row.append("")
            rows.append(row)
    head = ["environment", "search", "repetitions", "best agent again", "over random (95%)",
            "best setting, 8 fresh seeds", "over random (95%)"]  # fmt: skip
    return table(head, rows)


def population() -> str:
    """The best of a population beside the best of as many random settings, where there are few."""
    apart, close = [], []
    for name, found in read("sweeps").items():
        env, trials = name.split(", ")
        if trials != "16 trials":
            continue
        entry, count = found["summary"]["pbt"]["agent"], len(found["runs"]["pbt"])
        low, high = entry["over_random_95"]
        difference = f"{env} {entry['over_random']:+.1f} (95%: {low:+.1f} to {high:+.1f}; {count})"
        (apart if low > 0 else close).append(difference)
    return paragraph(f"""
        The best of 16 agents beside the best of 16 random settings that take as many steps
        together, six hyperparameters in wide ranges, mean return over new episodes (in brackets the
        interval, and the repetitions): {"; ".join(apart)}. Within their intervals:
        {"; ".join(close)}. With 64 of each, random settings find nearly what there is to be found
        ([all figures](../../benchmarks/README.md#sweeps)).
    """)


def memory_plan() -> str:
    """What is estimated beside what is compiled, and what turns cost."""
    found, words = (
        read("memory_plan"),
        SHAPES | {"cnn": "Breakout-MinAtar with a convolution", "gru": "b with a GRU"},
    )
    rows = []
    for name, run in found["shapes"].items():
        sizes = (
            "held_bytes_per_seed",
            "working_bytes_per_seed",
            "estimated_bytes",
            "compiled_bytes",
        )
        over = f"{run['estimated_over_compiled']:.2f}"
        rows.append((f"{name}: {words[name]}", *(f"{run[s] / 1e6:.2f}" for s in sizes), over))
    head = ["shape", "held, MB", "working, MB", "estimated, MB", "compiled, MB", "ratio"]
    whole, *_ = found["turns"].values()
    costs = " and ".join(
        f"{size} at a time {run['over_all_at_once']['median']:.2f} times the CPU time, in "
        f"{run['compiled_bytes'] / whole['compiled_bytes']:.2f} of the memory"
        for size, run in list(found["turns"].items())[1:]
    )
    cost = paragraph(f"""
        Of {next(iter(found["turns"]))} small agents in turns, beside all of them together: {costs}.
    """)
    return f"{table(head, rows)}\n\n{cost}"


def resets() -> str:
    """What few resets are worth where each is expensive."""
    ((_, found),) = read("resets").items()
    every, one = (found[name]["steps_per_second"]["median"] for name in ("none", "1"))
    return paragraph(f"""
        Craftax-Classic trains {found["1"]["over_none"]["median"]:.0f} times faster with K = 1 than
        with a reset for each of 64 environments at every step: {one:,.0f} steps per second against
        {every:,.0f} (medians of 5 rounds in turn; `python -m benchmarks.speed.resets --updates 8`,
        [figures](../../benchmarks/results/resets.json); two cores, 2026-11-21).
    """)


def driver() -> str:
    """What `fit` costs."""
    found = read("driver")
    low, middle, high = (
        100 * (found["fit_over_single"][name] - 1)
        for name in ("lower_quartile", "median", "upper_quartile")
    )
    saved = found["total_timesteps"] // found["checkpoint_every"]
    return paragraph(f"""
        All of it happens on the host while the device works on the next updates, and costs
        {middle:.1f}% against the single compiled program (median of 5 pairs, quartiles {low:.1f}%
        and {high:.1f}%; CartPole, {found["total_timesteps"] / 1e6:.1f} million steps in
        {found["single_seconds"]["median"]:.0f} seconds, {saved} checkpoints, two cores; `python -m
        benchmarks.speed.driver`, [figures](../../benchmarks/results/driver.json)).
    """)


def first_run() -> str:
    """What it takes from a checkout to trained agents."""
    found = read("first_run")
    install, first, second = found["install"], found["first"], found["another learning rate"]
    return paragraph(f"""
        The first line installs {install["bytes"] / 1e9:.1f} GB, most of it jax, in
        {install["seconds"]:.0f} seconds from a fast package index, and trains an agent in
        {first["seconds"]:.0f} more. Training with another learning rate takes
        {second["seconds"]:.1f}, as compiled programs are cached
        ({second["cache_bytes"] / 1e6:.1f} MB). Two cores; `python -m
        benchmarks.speed.first_run`.
    """)


def launches() -> str:
    """What an update launches on an H100."""
    rows = []
    for name, found in read("launches")["programs"].items():
        loops = [loop for loop in found["loops"] if loop["turns"] > 1]
        words = ", ".join(f"{loop['turns']:,} x {loop['launches']}" for loop in loops)
        counts = (found[n] for n in ("outside", "graphs", "collectives"))
        rows.append((name, f"{found['launches']:,}", *counts, words))
    head = [
        "program", "launches", "outside of graphs", "graphs", "collectives",
        "in loops: turns x launches",
    ]  # fmt: skip
    return table(head, rows)


IN_GRAPH, OUTSIDE, GRAPH = 1.0, 2.5, 5.0
"""Microseconds of a launch in a graph, of one outside, and of the launch of a graph: a model."""


def gpu() -> str:
    """What a card has shown; until one has, what the model says."""
    return measured_gpu(read("gpu")) if (RESULTS / "gpu.json").exists() else modelled_gpu()


def modelled_gpu() -> str:
    """What the launches that are counted would take."""
    launched = {
        name: IN_GRAPH * (found["launches"] - found["outside"])
        + OUTSIDE * found["outside"]
        + GRAPH * found["graphs"]
        for name, found in read("launches")["programs"].items()
    }
    words = "; ".join(f"{name}, {us / 1000:.1f} ms" for name, us in launched.items())
    return paragraph(f"""
        It has not been run on a card yet. Until then there is a model of what the launches above
        take in an update: {IN_GRAPH:g} us for one in a graph, {OUTSIDE:g} outside, and {GRAPH:g}
        for the launch of a graph. {words}.
    """)


def measured_gpu(found: dict[str, Any]) -> str:
    """Speeds and memory by task and size, where the time goes, scores, and other libraries."""
    card, speed = found["card"], found["speed"]
    sizes = sorted({int(n) for by_envs in speed.values() for n in by_envs})
    rows = []
    for task, by_envs in speed.items():
        ran = {int(n): x for n, x in by_envs.items() if "steps_per_second" in x}
        speeds = {n: f"{x['steps_per_second']['median']:,.0f}" for n, x in ran.items()}
        memory = max((x["memory"]["peak_bytes"] for x in ran.values()), default=0)
        rows.append((task, *(speeds.get(n, "") for n in sizes), f"{memory / 1e9:.1f} GB"))
    heads = [f"steps/s, {n:,} environments" for n in sizes]
    speeds = table(["task", *heads, "most memory"], rows)
    parts = [
        (task, f"{profile['launches']:,}",
         ", ".join(f"{part} {100 * x:.0f}%" for part, x in shares.items()))
        for task, shares in shares_of_updates(found).items()
        for profile in found["profile"][task].values()
    ]  # fmt: skip
    times = table(["an update", "launches", "shares of its time"], parts)
    scores = ", ".join(
        f"{x['target_return']:g} on {task} after {x['seconds']:.0f} seconds, of which "
        f"{x['compile_seconds']:.0f} were compilation"
        for task, x in found["score"].items()
        if x.get("reached")
    )
    ratios = ", ".join(
        f"{arm['ours_over_peer']['median']:.2f} over {PEERS[peer]} on {task} with {int(n):,}"
        for task, by_envs in found["peers"].items()
        for n, arms in by_envs.items()
        for peer, arm in arms.items()
        if "ours_over_peer" in arm
    )
    said = paragraph(f"""
        {card["nvidia_smi"] or card["name"]}. Mean returns that were reached:
        {scores or "none"}. Steps per second over those of others: {ratios or "not measured"}.
    """)
    return f"{said}\n\n{speeds}\n\n{times}\n\n![training on a GPU](results/gpu.png)"


FIGURES: dict[str, Callable[[], str]] = {
    made.__name__: made
    for made in (
        first_page, scores, speed, compile_time, scaling, growth, breakdown,
        shuffle, time_limits, memory, precision, resets, driver, first_run, memory_plan, launches,
        gpu, sweep, sweeps, population, privileged, exploration, methods,
        table1, ablations, presets, control_suite,
    )
}  # fmt: skip


def filled(text: str) -> str:
    """A page, with the figures between its comments made anew."""
    return MARKED.sub(lambda found: f"{found[1]}{FIGURES[found[2]]()}\n{found[3]}", text)


def main() -> None:
    """Fills every page, and draws every picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-pictures", action="store_true", help="tables and sentences alone")
    args = parser.parse_args()
    for name in PAGES:
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(path)
    if not args.no_pictures:
        draw_all(RESULTS, RESULTS)


if __name__ == "__main__":
    main()
