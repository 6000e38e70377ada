"""Paths that users give: folders of runs, and files that commands are to write."""

from __future__ import annotations

import itertools
import os
import stat
from pathlib import Path

from purejaxppo.config.coerce import coerce
from purejaxppo.errors import ConfigError

SEPARATORS = tuple(filter(None, (os.sep, os.altsep)))


def given_path(path: str | Path, name: str = "run_dir") -> Path:
    """Reads a path that a user gives; a leading ~ is the home folder, as in a shell.

    Args:
        path: to a file or a folder, which need not exist.
        name: what it is called in messages.

    Returns:
        The path.

    Raises:
        ConfigError: it is empty, or no file system could hold it.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str) or not text or "\0" in text:
        raise ConfigError(f"{name}={path!r} must be a path: use a name such as 'my-run'")
    whole = Path(text)
    if whole.parts[:1] == ("~",):
        try:
            whole = whole.expanduser()
        except RuntimeError as error:
            raise ConfigError(f"{name}={text!r}: {error} Use a path without ~") from error
    try:
        whole.stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # whoever reads or writes there says so
    except OSError as error:
        short = text if len(text) < 60 else f"{text[:57]}..."
        raise ConfigError(
            f"{name}={short!r} cannot be used ({error.strerror}): use a name such as 'my-run'"
        ) from error
    return whole


def new_file(path: str | Path, overwrite: bool) -> Path:
    """Checks a file that a user wants to have written, before any work is done for it.

    Args:
        path: the file.
        overwrite: whether it may exist.

    Returns:
        The path.

    Raises:
        ConfigError: it exists and may not, is a folder, or could not be written; or an argument is
            of another type.
    """
    file, overwrite = given_path(path, "out"), coerce("overwrite", bool, overwrite)
    folder = file.parent
    try:
        if str(path).endswith(SEPARATORS) or file.is_dir():
            raise ConfigError(f"out={str(path)!r} is a folder: name a file in it")
        if not folder.is_dir():
            raise ConfigError(f"{str(file)!r} has no folder to be in: make {str(folder)!r} first")
        if os.path.lexists(file) and not overwrite:
            raise ConfigError(f"{str(file)!r} exists: name another with --out, or pass --overwrite")
        if file.exists() and not stat.S_ISREG(file.stat().st_mode):
            raise ConfigError(f"{str(file)!r} is no file that could be replaced: name another")
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise cannot_write(file, error) from error
    return file


def free_file(name: str) -> Path:
    """Finds a name in the current folder that no file has.

    Args:
        name: the first to try; behind it come name-2, name-3 and so on.
    """
    first = Path(name)
    numbers = itertools.count(2)
    path = first
    while os.path.lexists(path):
        path = first.with_name(f"{first.stem}-{next(numbers)}{first.suffix}")
    return path


def cannot_write(file: Path, error: OSError) -> ConfigError:
    """Makes the error that says why a file that a user has asked for is not there.

    Args:
        file: which one.
        error: why.
    """
    why = error.strerror or error
    return ConfigError(f"{str(file)!r} cannot be written ({why}): name another with --out")
