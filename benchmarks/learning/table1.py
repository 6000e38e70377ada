"""The PPO paper's Table 1: surrogate objectives on seven MuJoCo tasks, with the paper's settings.

Each cell, a task with a setting and a seed, is a run folder, trained by a command in a process of
its own: one that is finished, there or in the file of `--out`, is not trained again, one that was
stopped goes on, and the table is of all that are finished. As in the paper the score of a run is
the mean return of its last 100 episodes (of the last updates in which as many ended), scaled so
that random actions have 0 and the best run of the task 1, and that of a setting is the mean over
tasks and seeds; its 95% interval is a bootstrap over seeds within each task.

What differs: Gymnasium's v5 of the tasks (the paper's were v1 of OpenAI Gym), and the best run is
that of the settings which are measured. As in the code of the paper's authors, observations are
normalised, and nothing else is; neither rates nor clip ranges fall.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from scipy import stats

from benchmarks.common.records import measured_before, quickened, report
from benchmarks.common.runs import finished, flags_of, train_all
from purejaxppo.report.aggregate import binned_returns
from purejaxppo.report.results import Results

TASKS = (
    "HalfCheetah-v5", "Hopper-v5", "InvertedDoublePendulum-v5", "InvertedPendulum-v5",
    "Reacher-v5", "Swimmer-v5", "Walker2d-v5",
)  # fmt: skip
PAPER: dict[str, Any] = {
    "num_envs": 1, "num_steps": 2048, "num_epochs": 10, "num_minibatches": 32,
    "learning_rate": 3e-4, "adam_eps": 1e-5, "max_grad_norm": None, "gamma": 0.99,
    "gae_lambda": 0.95, "advantage_normalization": "batch", "value_coef": 1.0,
    "hidden_sizes": (64, 64), "activation": "tanh", "normalize_observations": True,
}  # fmt: skip
"""Table 3 of the paper, and what its authors' code does where the paper is silent."""

SETTINGS: dict[str, tuple[float, dict[str, Any]]] = {
    "no clipping or penalty": (-0.39, {"objective": "unclipped"}),
    "clipping, 0.1": (0.76, {"objective": "clip", "clip_eps": 0.1}),
    "clipping, 0.2": (0.82, {"objective": "clip", "clip_eps": 0.2}),
    "clipping, 0.3": (0.70, {"objective": "clip", "clip_eps": 0.3}),
    "adaptive KL, 0.003": (0.68, {"objective": "adaptive_kl", "adaptive_kl_target": 0.003}),
    "adaptive KL, 0.01": (0.74, {"objective": "adaptive_kl", "adaptive_kl_target": 0.01}),
    "adaptive KL, 0.03": (0.71, {"objective": "adaptive_kl", "adaptive_kl_target": 0.03}),
    "fixed KL, 0.3": (0.62, {"objective": "kl_penalty", "kl_coef": 0.3}),
    "fixed KL, 1": (0.71, {"objective": "kl_penalty", "kl_coef": 1.0}),
    "fixed KL, 3": (0.72, {"objective": "kl_penalty", "kl_coef": 3.0}),
    "fixed KL, 10": (0.69, {"objective": "kl_penalty", "kl_coef": 10.0}),
}
"""The paper's score of each setting, and how it is trained."""

MAIN = (
    "no clipping or penalty", "clipping, 0.1", "clipping, 0.2", "clipping, 0.3",
    "adaptive KL, 0.01", "fixed KL, 1",
)  # fmt: skip
EPISODES = 100
POINTS = 50  # of a learning curve


def folder_of(root: Path, task: str, setting: str, seed: int) -> Path:
    """Returns the run folder of a cell."""
    name = setting.replace(", ", "_").replace(" ", "_")
    return root / task / f"{name}-{seed}"


def last_episodes(run: Results) -> float:
    """Returns the mean return of the last 100 episodes of a run, NaN if not one has ended."""
    ended = np.asarray(run.metrics.episodes)[0, ::-1].cumsum()
    updates = np.searchsorted(ended, EPISODES) + 1
    returns = np.asarray(run.metrics.return_sum, np.float64)[0, -updates:].sum()
    counted = ended[min(updates, len(ended)) - 1]
    return float(returns / counted) if counted else float("nan")


def told(run: Results) -> dict[str, Any]:
    """Returns what there is to report of a run."""
    updates, returns = binned_returns(run.metrics, POINTS)
    assert run.summary is not None
    return {
        "score": last_episodes(run),
        "total_timesteps": run.config.total_timesteps,
        "final_return": float(run.final_returns[0]),
        "run_seconds": run.summary["run_seconds"],
        "steps": (updates * run.config.batch_size).tolist(),
        "curve": [None if np.isnan(x) else x for x in returns[0].tolist()],
    }


def random_return(task: str, episodes: int = EPISODES) -> float:
    """Returns the mean return of uniformly random actions."""
    env = gymnasium.make(task)
    env.action_space.seed(0)
    total = 0.0
    for episode in range(episodes):
        env.reset(seed=episode)
        ended = False
        while not ended:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total, ended = total + float(reward), terminated or truncated
    env.close()
    return total / episodes


def scaled(found: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """Returns the scores by setting and task, [seeds] each: 0 is random, 1 the task's best run."""
    scores: dict[str, dict[str, np.ndarray]] = {}
    for task, cells in found.items():
        low = cells["random"]
        best = max(run["score"] for runs in cells["runs"].values() for run in runs.values())
        for setting, runs in cells["runs"].items():
            values = np.array([run["score"] for run in runs.values()])
            scores.setdefault(setting, {})[task] = (values - low) / (best - low)
    return scores


def interval(scores: list[np.ndarray]) -> tuple[float, float]:
    """Returns a 95% interval of the mean over tasks, whose seeds spread by as much as they do.

    Student's t, with the degrees of freedom of Welch and Satterthwaite: of three seeds a bootstrap
    would be too narrow.
    """
    mean = float(np.mean([x.mean() for x in scores]))
    parts = np.array([x.var(ddof=1) / len(x) for x in scores if len(x) > 1]) / len(scores) ** 2
    counts = np.array([len(x) for x in scores if len(x) > 1])
    if not parts.sum() > 0:
        return mean, mean
    freedom = parts.sum() ** 2 / np.sum(parts**2 / (counts - 1))
    half = float(stats.t.ppf(0.975, freedom) * np.sqrt(parts.sum()))
    return mean - half, mean + half


def told_before(results: Mapping[str, Any]) -> dict[tuple[str, str, int], Any]:
    """Returns what a file tells of runs, by task, setting and seed."""
    return {
        (task, setting, int(seed)): run
        for task, cells in results.get("tasks", {}).items()
        for setting, runs in cells["runs"].items()
        for seed, run in runs.items()
    }


def by_task(cells: Mapping[tuple[str, str, int], Any], known: Mapping[str, float]) -> dict:
    """Returns what is told of runs by task, setting and seed, each in its order.

    Args:
        cells: what is told of each.
        known: returns of random actions by task, as far as they were measured before.
    """
    found: dict[str, Any] = {}
    order = [(task, setting) for task in TASKS for setting in SETTINGS]
    for task, setting, seed in sorted(cells, key=lambda cell: (order.index(cell[:2]), cell[2])):
        if task not in found:
            low = known[task] if task in known else random_return(task)
            found[task] = {"random": low, "runs": {}}
        found[task]["runs"].setdefault(setting, {})[str(seed)] = cells[task, setting, seed]
    return found


def cells_of(args: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Yields the cells that are asked for: one seed of all before the next one."""
    for seed in range(args.seeds):
        yield from ((task, setting, seed) for setting in args.settings for task in args.tasks)


def main() -> None:
    """Trains what is missing, and prints what there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--settings", nargs="*", choices=SETTINGS, default=list(MAIN))
    parser.add_argument("--seeds", type=int, default=3, help="runs of each task and setting")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--total-timesteps", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path("runs/table1"), help="of the runs")
    parser.add_argument("--no-training", action="store_true", help="read what is finished")
    parser.add_argument("--quick", action="store_true", help="two tasks, 1 seed, 20,000 steps")
    parser.add_argument("--out", type=Path, help="JSON file to write, or to go on with")
    args = parser.parse_args()
    if args.quick:
        args = quickened(parser, tasks=args.tasks[2:4], seeds=1, total_timesteps=20_000)
        args.folder /= "quick"

    asked = {"total_timesteps": args.total_timesteps, **json.loads(json.dumps(PAPER))}
    before = measured_before(args.out, parser, asked)
    cells = told_before(before)
    runs = {}
    for task, setting, seed in cells_of(args):
        if (task, setting, seed) not in cells:
            words = {"total_timesteps": args.total_timesteps, **PAPER, **SETTINGS[setting][1]}
            flags = ["--preset", "none", *flags_of(words), "--seed", str(seed)]
            runs[folder_of(args.folder, task, setting, seed)] = [f"gymnasium/{task}", *flags]
    if not args.no_training:
        train_all(runs, args.jobs)

    for cell in cells_of(args):
        run = finished(folder_of(args.folder, *cell))
        if run is not None:
            cells[cell] = told(run)
    known = {task: at["random"] for task, at in before.get("tasks", {}).items()}
    found = by_task(cells, known)
    settings: dict[str, Any] = {}
    for setting, each in scaled(found).items():
        scores = list(each.values())
        settings[setting] = {
            "paper": SETTINGS[setting][0],
            "score": float(np.mean([x.mean() for x in scores])),
            "interval": interval(scores),
            "by_task": {task: x.tolist() for task, x in each.items()},
        }
    report("table1", {"settings": settings, "tasks": found}, args.out, asked)


if __name__ == "__main__":
    main()
