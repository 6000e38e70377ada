"""The run folder: what is in it, how it is begun, and how it is read.

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

import datetime
import json
import os
import platform
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.ppo.optimizer import Optimizer
from purejaxppo.runs.files import write_json
from purejaxppo.runs.metric_rows import metrics_from_rows
from purejaxppo.types import Metrics

# -- beginning a run ------------------------------------------------------------------------------


def is_run(run_dir: str | Path | None) -> bool:
    """Says whether a folder holds a run that has begun.

    Args:
        run_dir: the folder, which need not exist; None is no run.
    """
    return run_dir is not None and (Path(run_dir) / "config.toml").exists()


def check_free(run_dir: str | Path, resume: bool = False) -> None:
    """Refuses a folder that holds anything, or that cannot be a folder.

    Args:
        run_dir: the folder, which need not exist.
        resume: it may hold what is left of a run that was killed before it had begun.

    Raises:
        ConfigError: it is a file, or not empty.
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

    Args:
        run_dir: the folder; None: a new one below `runs/`.
        env: name of the environment, of which the name of a new folder is made.
        resume: the folder may hold what is left of a run that was killed before it had begun.

    Returns:
        The folder.

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

    # making the folder is what claims its name: two runs that begin together get two numbers
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
    """Finds the folder below `runs/` where training on an environment was begun last.

    Args:
        env: name of the environment.

    Returns:
        The folder.

    Raises:
        ConfigError: there is none.
    """
    found = [path.parent for path in Path("runs").glob(f"{_stem(env)}-*/run.json")]
    found = [path for path in found if is_run(path) and read_run(path)[0].env == env]
    if not found:
        raise ConfigError(f"no run of {env} in runs/ to go on with: name its folder with --run-dir")
    return max(found, key=lambda path: (path / "run.json").stat().st_mtime)


def _stem(env: str) -> str:
    # neither can be in the name of a folder, ":" on Windows
    return env.replace("/", "-").replace(":", "-")


def lock(folder: Path) -> int | None:
    """Takes a folder for this process, until the file descriptor that it returns is closed.

    The operating system gives it free when the process dies, however it dies.

    Args:
        folder: the run folder, which exists.

    Returns:
        An open file descriptor of the folder; None on platforms without `fcntl`, which have no
        lock that leaves nothing behind in the folder: there, two processes are not kept apart.

    Raises:
        ConfigError: another process has it.
    """
    try:
        import fcntl  # not on Windows, where everything else in this module can be imported
    except ImportError:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConfigError(
            f"another process trains in {str(folder)!r}: wait for it, or name another folder"
        ) from error
    return descriptor


# -- what a run is begun with ---------------------------------------------------------------------


def to_plain(about: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values as JSON gives them back: tuples as lists, for example.

    Args:
        about: values by name.

    Raises:
        ConfigError: JSON cannot hold them.
    """
    try:
        return json.loads(json.dumps(dict(about)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"about={about!r} must be plain values ({error}): use texts") from error


def describe_custom(passed: Mapping[str, Any]) -> dict[str, str]:
    """Describes custom parts of a run in texts that can be compared when it is resumed.

    Args:
        passed: what was passed in place of what the configuration describes, by the name of the
            argument (env, env_params, policy, objective, ...); None where nothing was.

    Returns:
        "own <argument>": where its class or function is defined; of env_params and extra, which
        are values, their `repr`.
    """

    def location(part: Any) -> str:
        # a record of ours says nothing of the function that is in it
        part = part.make if isinstance(part, Optimizer) else part
        named = part if hasattr(part, "__qualname__") else type(part)  # a function, or an object
        return f"{named.__module__}.{named.__qualname__}"

    given = {kind: part for kind, part in passed.items() if part is not None}
    # of these it is the values that have to be equal, not where they are defined
    values = {kind: repr(given.pop(kind)) for kind in ("env_params", "extra") if kind in given}
    return {f"own {kind}": location(part) for kind, part in given.items()} | values


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that results depend on, by name."""
    names = ("purejaxppo", "jax", "flax", "optax", "gymnax", "numpy")
    return {"python": platform.python_version()} | {n: metadata.version(n) for n in names}


def describe_device() -> dict[str, str | int]:
    """Returns platform and kind of the first device, and the number of all."""
    first = jax.devices()[0]
    return {"platform": first.platform, "kind": first.device_kind, "count": jax.device_count()}


def write_run(run_dir: Path, config: PPOConfig, about: Mapping[str, Any]) -> None:
    """Writes `run.json` and, last, `config.toml`, which says that the run has begun.

    Args:
        run_dir: the folder.
        config: what is trained.
        about: its seeds, versions and device; a value named "config" is left out.

    Raises:
        OSError: one of them cannot be written.
    """
    write_json(run_dir / "run.json", {k: value for k, value in about.items() if k != "config"})
    config.to_toml(run_dir / "config.toml.partial")
    os.replace(run_dir / "config.toml.partial", run_dir / "config.toml")


# -- reading --------------------------------------------------------------------------------------


def read_run(run_dir: str | Path) -> tuple[PPOConfig, dict[str, Any]]:
    """Reads the configuration of a run, and what it was begun with.

    Args:
        run_dir: the folder.

    Returns:
        The configuration, and `run.json`.

    Raises:
        ConfigError: the folder holds no run.
    """
    folder = Path(run_dir)
    try:
        config = PPOConfig.from_toml(folder / "config.toml")
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if "seeds" not in run:
            raise ValueError("run.json does not say how many seeds")
    except (OSError, ValueError, TypeError) as error:
        words = str(error).removesuffix(".")
        raise ConfigError(
            f"{str(folder)!r} holds no run ({words}): name a folder that purejaxppo train wrote"
        ) from error
    return config, run


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a JSON Lines file, None for numbers that were not finite.

    Args:
        path: the file; one that does not exist has no rows.

    Yields:
        Each row, but for a last one that was cut short.
    """
    if not path.exists():
        return
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def read_metrics(run_dir: str | Path) -> Metrics:
    """Reads the metrics of all updates that were logged for every seed.

    Args:
        run_dir: a run folder.

    Returns:
        Every field [seeds, updates], NumPy: int32 where all numbers are whole, else float32.

    Raises:
        ConfigError: the folder holds no run.
        KeyError: a row lacks a metric.
    """
    _, run = read_run(run_dir)
    return metrics_from_rows(list(read_rows(Path(run_dir) / "metrics.jsonl")), run["seeds"])
