"""The run folder: `config.toml`, `metrics.jsonl`, `agents.npz`, `curve.png`."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np
from flax import struct

from purejaxppo.config import PPOConfig
from purejaxppo.ppo.records import LearnerState, Metrics, Normalizers
from purejaxppo.setup import OwnPolicy
from purejaxppo.train import make_learner
from purejaxppo.validation import ConfigError


class Agents(struct.PyTreeNode):
    """What acting needs of a learner; every leaf has a leading axis of seeds."""

    params: Any
    normalizers: Normalizers


def check_free(run_dir: str | Path) -> None:
    """Raises ConfigError if the folder holds anything, or cannot be a folder."""
    path = Path(run_dir)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(
            f"run folder {str(path)!r} exists and is not empty: name another with --run-dir"
        )


def create_run_dir(run_dir: str | Path | None, env: str) -> Path:
    """Makes a run's folder: the one named, else the next free `runs/<env>-<date>-<n>`.

    Raises:
        ConfigError: the folder that is named is not empty, or cannot be made.
    """
    if run_dir is not None:
        check_free(run_dir)
        path = Path(run_dir)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"run folder {str(path)!r} cannot be made: {error}") from error
        return path
    stem = f"{env.replace('/', '-')}-{datetime.date.today().isoformat()}"
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


def write_metrics(file: IO[str], first: int, metrics: Metrics, config: PPOConfig) -> None:
    """Appends a JSON line for each update and seed.

    Args:
        file: open for writing text.
        first: index of the first update.
        metrics: every field [seeds, updates].
        config: gives the steps per update.
    """
    names = [field.name for field in dataclasses.fields(metrics)]
    columns = {name: np.asarray(getattr(metrics, name)) for name in names}
    seeds, updates = columns["episodes"].shape
    for u in range(updates):
        for s in range(seeds):
            row = {"step": (first + u + 1) * config.batch_size, "seed": s}
            row |= {name: _json_number(columns[name][s, u]) for name in names}
            file.write(json.dumps(row) + "\n")
    file.flush()


def _json_number(x: Any) -> float | int | None:
    value = x.item()
    return value if math.isfinite(value) else None


def save_agents(path: Path, state: LearnerState) -> None:
    """Writes parameters and normalizers to an npz file, whole or not at all.

    Args:
        path: the file.
        state: learners with a leading axis of seeds.
    """
    agents = Agents(params=state.params, normalizers=state.normalizers)
    leaves = jax.tree_util.tree_leaves_with_path(agents)
    arrays: dict[str, Any] = {
        jax.tree_util.keystr(where): np.asarray(leaf) for where, leaf in leaves
    }
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def load_agents(
    run_dir: str | Path, *, env: Any = None, policy: OwnPolicy = None
) -> tuple[PPOConfig, Agents]:
    """The configuration and the trained agents of a run folder, for `make_act`.

    Args:
        run_dir: a folder that `purejaxppo train` wrote.
        env: the environment, if one was passed to training.
        policy: the policy, if one was passed to training.

    Returns:
        The configuration, and agents with a leading axis of seeds: take one with
        `jax.tree.map(lambda x: x[i], agents)`.

    Raises:
        ConfigError: the folder holds no run, or one of another network.
    """
    folder = Path(run_dir)
    if not (folder / "agents.npz").exists():
        raise ConfigError(f"{str(folder)!r} holds no agents.npz: name a folder of a finished run")
    config = PPOConfig.from_toml(folder / "config.toml")
    learner = make_learner(config, env=env, policy=policy)
    state = jax.eval_shape(learner.init, jax.random.key(0))
    template = Agents(params=state.params, normalizers=state.normalizers)
    with np.load(folder / "agents.npz", allow_pickle=False) as arrays:

        def fill(where, leaf):
            name = jax.tree_util.keystr(where)
            if name not in arrays or arrays[name].shape[1:] != leaf.shape:
                raise ConfigError(f"{folder / 'agents.npz'} does not fit this policy at {name}")
            return jax.numpy.asarray(arrays[name])

        return config, jax.tree_util.tree_map_with_path(fill, template)
