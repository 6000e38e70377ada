"""The run folder: what is in it, and how it is read.

config.toml        every field of the configuration
run.json           seeds, versions and device it was begun with
metrics.jsonl      a row for each update and seed
evaluations.jsonl  a row for each evaluation and seed
checkpoints/       the last whole states, one file each, named by the updates done
agents.npz         parameters and statistics at the end; best.npz: the best by evaluation
curve.png          return against steps
summary.json       the results
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from flax import struct

from purejaxppo.act import make_act
from purejaxppo.config import PPOConfig
from purejaxppo.ppo.records import LearnerState, Metrics, Normalizers
from purejaxppo.runs import checkpoint
from purejaxppo.runs.options import Weights
from purejaxppo.setup import OwnPolicy
from purejaxppo.train import make_learner
from purejaxppo.validation import ConfigError

FILES = {"final": "agents.npz", "best": "best.npz"}


class Agents(struct.PyTreeNode):
    """What acting needs of a learner; every leaf has a leading axis of seeds."""

    params: Any
    normalizers: Normalizers

    @classmethod
    def of(cls, state: LearnerState) -> Agents:
        """Of learners."""
        return cls(params=state.params, normalizers=state.normalizers)


def is_run(run_dir: str | Path | None) -> bool:
    """Whether the folder holds a run that has begun."""
    return run_dir is not None and (Path(run_dir) / "config.toml").exists()


def check_free(run_dir: str | Path, resume: bool = False) -> None:
    """Raises ConfigError if the folder holds anything, or cannot be a folder.

    With `resume`, it may hold what a run that was killed at once has left.
    """
    path = Path(run_dir)
    left = {"run.json", "run.json.partial", "config.toml.partial"} if resume else set()
    if path.exists() and (not path.is_dir() or {p.name for p in path.iterdir()} - left):
        raise ConfigError(
            f"run folder {str(path)!r} exists and is not empty: name another with --run-dir, or "
            "go on with what it holds with --resume"
        )


def create_run_dir(run_dir: str | Path | None, env: str, resume: bool = False) -> Path:
    """Makes a run's folder: the one named, else the next free `runs/<env>-<date>-<n>`.

    Raises:
        ConfigError: the folder that is named is not empty, or cannot be made.
    """
    if run_dir is not None:
        check_free(run_dir, resume)
        path = Path(run_dir)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"run folder {str(path)!r} cannot be made: {error}") from error
        return path
    stem = f"{_stem(env)}-{datetime.date.today().isoformat()}"
    n = 1
    while True:
        path = Path("runs") / f"{stem}-{n}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            n += 1
        except OSError as error:
            raise ConfigError(
                f"run folder {str(path)!r} cannot be made ({error}): name another with --run-dir"
            ) from error
        else:
            return path


def newest_run(env: str) -> Path:
    """The folder below `runs/` where training on an environment was begun last.

    Raises:
        ConfigError: there is none.
    """
    found = [path.parent for path in Path("runs").glob(f"{_stem(env)}-*/run.json")]
    if not found:
        raise ConfigError(f"no run of {env} in runs/ to go on with: name its folder with --run-dir")
    return max(found, key=lambda path: (path / "run.json").stat().st_mtime)


def _stem(env: str) -> str:
    return env.replace("/", "-")


def write_run(run_dir: Path, config: PPOConfig, about: Mapping[str, Any]) -> None:
    """Writes `run.json` and, last, `config.toml`, which says that the run has begun.

    Args:
        run_dir: the folder.
        config: what is trained.
        about: its seeds, versions and device.
    """
    about = {name: value for name, value in about.items() if name != "config"}
    checkpoint.write_json(run_dir / "run.json", about)
    config.to_toml(run_dir / "config.toml.partial")
    os.replace(run_dir / "config.toml.partial", run_dir / "config.toml")


def read_run(run_dir: str | Path) -> tuple[PPOConfig, dict[str, Any]]:
    """The configuration of a run, and what it was begun with.

    Raises:
        ConfigError: the folder holds no run.
    """
    folder = Path(run_dir)
    try:
        config = PPOConfig.from_toml(folder / "config.toml")
        return config, json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{str(folder)!r} holds no run ({error}): name a folder that purejaxppo train wrote"
        ) from error


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSON Lines file, None for numbers that were not finite; none without a file.

    A last line that was cut short is left out.
    """
    if not path.exists():
        return
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def read_metrics(run_dir: str | Path) -> Metrics:
    """What `metrics.jsonl` holds of whole updates: every field [seeds, updates], NumPy."""
    _, run = read_run(run_dir)
    names = [field.name for field in dataclasses.fields(Metrics)]
    rows = [[row[name] for name in names] for row in read_rows(Path(run_dir) / "metrics.jsonl")]
    whole = len(rows) // run["seeds"] * run["seeds"]
    columns: dict[str, Any] = {name: [] for name in names}
    for name, values in zip(names, zip(*rows[:whole], strict=True), strict=False):
        kind = np.int32 if all(isinstance(x, int) for x in values) else np.float32
        columns[name] = np.array(values, kind)
    fields = {name: np.reshape(x, (-1, run["seeds"])).T for name, x in columns.items()}
    return Metrics(**cast(dict[str, Any], fields))


def save_agents(path: Path, agents: Agents) -> None:
    """Writes parameters and statistics, whole or not at all.

    Args:
        path: the file.
        agents: of all seeds.
    """
    checkpoint.save(path, agents, {})


def with_seeds(tree: Any, seeds: int) -> Any:
    """Shapes and dtypes with a leading axis of seeds."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((seeds, *x.shape), x.dtype), tree)


def load_agents(
    run_dir: str | Path, weights: Weights = "final", *, env: Any = None, policy: OwnPolicy = None
) -> tuple[PPOConfig, Agents]:
    """The configuration and the trained agents of a run folder, for `make_act`.

    Args:
        run_dir: a folder that `purejaxppo train` or `fit` wrote.
        weights: "final", at the end of the run; or "best", by evaluation.
        env: the environment, if one was passed to training.
        policy: the policy, if one was passed to training.

    Returns:
        The configuration, and agents with a leading axis of seeds: take one with
        `jax.tree.map(lambda x: x[i], agents)`.

    Raises:
        ConfigError: the folder holds no such agents, or those of another network.
    """
    config, run = read_run(run_dir)
    path = Path(run_dir) / FILES[weights]
    if not path.exists():
        how = "train with --eval-every" if weights == "best" else "finish it with --resume"
        raise ConfigError(f"{str(run_dir)!r} holds no {path.name}: {how}")
    learner = make_learner(config, env=env, policy=policy)
    state = jax.eval_shape(learner.init, jax.random.key(0))
    try:
        agents, _ = checkpoint.load(path, with_seeds(Agents.of(state), run["seeds"]))
    except checkpoint.Damaged as error:
        raise ConfigError(f"{error}: train again, or use a copy of it") from error
    return config, jax.tree.map(jax.numpy.asarray, agents)


def load_policy(
    run_dir: str | Path,
    agent: int = 0,
    weights: Weights = "final",
    deterministic: bool = True,
    *,
    env: Any = None,
    policy: OwnPolicy = None,
) -> Callable[[jax.Array, Any], Any]:
    """A trained policy of a run folder as one compiled function, statistics frozen.

    Args:
        run_dir: see `load_agents`.
        agent: which of the run's seeds, counted from 0.
        weights: see `load_agents`.
        deterministic: the most probable action rather than a sampled one.
        env: see `load_agents`.
        policy: see there.

    Returns:
        `act(key, obs [..., *O]) -> action [..., *A]`, as of `make_act`.

    Raises:
        ConfigError: see `load_agents`; no such agent; or the policy has a memory: `make_actor`
            passes it in and out.
    """
    config, agents = load_agents(run_dir, weights, env=env, policy=policy)
    one = agent_of(agents, agent)
    return jax.jit(make_act(config, one, deterministic, env=env, policy=policy))


def agent_of(agents: Agents, agent: int) -> Agents:
    """One of the agents of a run.

    Raises:
        ConfigError: there is no such one.
    """
    seeds = len(jax.tree.leaves(agents)[0])
    if not 0 <= agent < seeds:
        raise ConfigError(f"agent={agent} must be one of the run's {seeds}: use {seeds - 1}")
    return jax.tree.map(lambda x: x[agent], agents)
