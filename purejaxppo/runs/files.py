"""Files that are written whole or not at all, and files of rows that grow."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO

from purejaxppo.errors import ConfigError
from purejaxppo.types import Row


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file under a temporary name, and gives it its own once it is on the disk.

    Args:
        path: the file.
        write: `(file)`, writes the content to a file that is open for bytes.

    Raises:
        OSError: it cannot be written; nothing is left of it, and what was there before stays.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    # the new name is an entry of the folder, which has to reach the disk as well
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check_new(path: Path, overwrite: bool) -> None:
    """Refuses a file that exists and is not to be overwritten.

    Args:
        path: the file.
        overwrite: whether it may exist.

    Raises:
        ConfigError: it exists and may not.
    """
    if path.exists() and not overwrite:
        raise ConfigError(f"{str(path)!r} exists: name another with --out, or pass --overwrite")


def write_new(path: Path, overwrite: bool, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file that the user has asked for, whole or not at all.

    Args:
        path: the file.
        overwrite: whether it may exist.
        write: `(file)`, writes the content to a file that is open for bytes.

    Raises:
        ConfigError: it exists and may not, or it cannot be written.
    """
    check_new(path, overwrite)
    try:
        write_whole(path, write)
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be written ({error}): name another") from error


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Writes plain values as JSON, whole or not at all.

    Args:
        path: the file.
        values: what JSON can hold, by name.

    Raises:
        OSError: it cannot be written; what was there before stays.
    """
    text = json.dumps(values, indent=1) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


class JsonLinesFile:
    """A file of JSON Lines that grows while a run goes on: rows in the order of their steps.

    There is never a torn row between others. What cannot be written is kept, and written with what
    comes next.

    Args:
        path: the file; rows that it has already stay, up to `step`.
        step: the last one to keep; those after it will be written again.

    Raises:
        OSError: it cannot be opened.
        ConfigError: a row in it cannot be read.
    """

    def __init__(self, path: Path, step: int):
        self._pending = b""
        self._end = _end_of_rows(path, step) if path.exists() else 0
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._file.truncate(self._end)

    def write(self, rows: Iterable[Row]) -> None:
        """Appends rows.

        Args:
            rows: values of JSON by name; numbers that are not finite become null.

        Raises:
            OSError: not all could be written; those are kept for the next call.
        """
        self._pending += b"".join(map(_encode_row, rows))
        # an earlier call may have failed in the middle of a row: that part is cut off first
        self._file.truncate(self._end)
        while self._pending:
            written = self._file.write(self._pending) or 0
            self._end += written
            self._pending = self._pending[written:]

    def sync(self) -> None:
        """Returns once everything is on the disk.

        Raises:
            OSError: not everything could be written.
        """
        self.write(())
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _encode_row(row: Row) -> bytes:
    """Returns a row as a line of JSON, null for what is not finite."""
    try:
        text = json.dumps(row, allow_nan=False)
    except ValueError:  # looked at one by one only where it must be: most rows are finite
        finite = {
            name: None if isinstance(x, float) and not math.isfinite(x) else x
            for name, x in row.items()
        }
        text = json.dumps(finite)
    return text.encode() + b"\n"


def _end_of_rows(path: Path, step: int) -> int:
    """Finds where the rows up to a step end, in bytes.

    Raises:
        ConfigError: a line before that cannot be read.
    """
    end = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):  # cut short by a kill
                break
            try:
                if json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"line {number} of {str(path)!r} is damaged: repair or delete it, or start a "
                    "new run"
                ) from error
            end += len(line)
    return end
