"""How a run folder is begun: found free, made, and given its configuration."""

from __future__ import annotations

import datetime
import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.run_folder.files import left_over, write_json, write_whole
from purejaxppo.run_folder.lock import LOCK
from purejaxppo.run_folder.paths import given_path

BEGINNING = re.compile(r"run\.json|config\.toml")
"""Files that are written before all others, `config.toml` last."""

WHOLE = re.compile(
    BEGINNING.pattern
    + r"|(agents|best)\.npz|curve\.png|summary\.json|wandb\.json|(progress|evaluations)\.csv"
)
"""Files that are written whole; a killed process may leave a part of one."""

CHECKPOINT = re.compile(r"[0-9]{10,}\.npz")
"""Files of the folder `checkpoints`, by the updates done."""


def is_run(run_dir: str | Path | None) -> bool:
    """Says whether a folder holds a run that has begun.

    Args:
        run_dir: the folder, which need not exist; None is no run.
    """
    return run_dir is not None and os.path.lexists(Path(run_dir) / "config.toml")


def begun_in(run_dir: str | Path) -> bool:
    """Says whether a folder holds a run, or what is left of one that was killed before it began.

    Args:
        run_dir: the folder, which need not exist.

    Raises:
        ConfigError: it cannot be looked into.
    """
    return is_run(run_dir) or bool(names_in(Path(run_dir)))


def check_free(run_dir: str | Path, resume: bool = False) -> None:
    """Refuses a folder that holds anything, or that cannot be a folder.

    Args:
        run_dir: the folder, which need not exist.
        resume: it may hold what is left of a run that was killed before it had begun.

    Raises:
        ConfigError: it is a file, or not empty.
    """
    path = given_path(run_dir)
    others = [
        name for name in names_in(path)
        if name != LOCK and not (resume and _is_beginning(path / name))
    ]  # fmt: skip
    if os.path.lexists(path) and (not os.path.isdir(path) or others):
        what = "holds no run to go on with" if resume else "exists"
        raise ConfigError(
            f"run folder {str(path)!r} {what} and is not empty: name another with --run-dir"
            + ("" if resume else ", or go on with what it holds with --resume")
        )


def _is_beginning(path: Path) -> bool:
    """Says whether a file is written before `config.toml` is, which says that a run has begun."""
    return path.name == "run.json" or left_over(path, BEGINNING)


def names_in(path: Path, what: str = "run") -> list[str]:
    """Returns the names in a folder; none if there is no folder.

    Args:
        path: the folder.
        what: it is of, a run or a study.

    Raises:
        ConfigError: it cannot be looked into.
    """
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigError(
            f"{what} folder {str(path)!r} cannot be read ({error.strerror}): name another"
        ) from error


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
    if run_dir is None:
        return next_folder(Path("runs"), env)
    check_free(run_dir, resume)
    return make_folder(given_path(run_dir))


def make_folder(path: Path, what: str = "run") -> Path:
    """Makes a folder that is named, and those above it, unless they are there.

    Args:
        path: the folder.
        what: it is of, a run or a study.

    Returns:
        The same.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{what} folder {str(path)!r} cannot be made: {error}") from error
    return path


def next_folder(parent: Path, env: str, what: str = "run") -> Path:
    """Makes the next folder `<env>-<date>-<n>` that is free.

    Args:
        parent: where.
        env: name of the environment.
        what: it is of, a run or a study.

    Returns:
        The folder.

    Raises:
        ConfigError: it cannot be made.
    """
    # making the folder is what claims its name: two that begin together get two numbers
    stem = f"{folder_stem(env)}-{datetime.date.today().isoformat()}"
    n = 1
    while True:
        path = parent / f"{stem}-{n}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            n += 1
        except OSError as error:
            raise ConfigError(
                f"{what} folder {str(path)!r} cannot be made ({error}): name another with "
                f"--{what}-dir"
            ) from error
        else:
            return path


def folder_stem(env: str) -> str:
    """Returns what the names of folders begin with that runs of an environment are given."""
    # neither can be in the name of a folder, ":" on Windows
    return env.replace("/", "-").replace(":", "-")


def checkpoints_in(run_dir: Path) -> list[Path]:
    """Returns the checkpoints in a run folder, from the oldest to the newest.

    Args:
        run_dir: the folder.

    Raises:
        OSError: they are in another folder, which a link names, or in none.
    """
    folder = run_dir / "checkpoints"
    if not os.path.lexists(folder):
        return []
    if folder.is_symlink() or not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it is a link, or no folder")
    return sorted(path for path in folder.iterdir() if CHECKPOINT.fullmatch(path.name))


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
    text = config.as_toml()
    write_whole(run_dir / "config.toml", lambda file: file.write(text.encode()))
