"""Files of JSON Lines that grow while a run goes on."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from purejaxppo.errors import ConfigError

Row = Mapping[str, Any]


class Journal:
    """Rows in the order of their steps, one JSON object a line; never a torn one in between.

    What cannot be written is kept, and written with what comes next.

    Args:
        path: the file; rows that it has already stay, up to `step`.
        step: the last one to keep; those after it will be written again.

    Raises:
        OSError: it cannot be opened.
        ConfigError: a row in it cannot be read.
    """

    def __init__(self, path: Path, step: int):
        self._pending = b""
        self._end = _end_of(path, step) if path.exists() else 0
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._file.truncate(self._end)

    def write(self, rows: Iterable[Row]) -> None:
        """Appends rows.

        Raises:
            OSError: they are kept for the next call.
        """
        self._pending += b"".join(map(_line, rows))
        self._file.truncate(self._end)  # of what an earlier call could not finish
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


def _line(row: Row) -> bytes:
    """A row in JSON, null for what is not finite."""
    try:
        text = json.dumps(row, allow_nan=False)
    except ValueError:
        text = json.dumps({name: x if _finite(x) else None for name, x in row.items()})
    return text.encode() + b"\n"


def _finite(x: Any) -> bool:
    return not isinstance(x, float) or math.isfinite(x)


def _end_of(path: Path, step: int) -> int:
    """Where the rows up to a step end, in bytes."""
    end = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                if json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"line {number} of {str(path)!r} is damaged: mend it, or train anew"
                ) from error
            end += len(line)
    return end
