"""Files that are written whole or not at all, files of rows that grow, and how both are read."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

from purejaxppo.errors import ConfigError
from purejaxppo.run_folder.paths import cannot_write, new_file
from purejaxppo.run_folder.schemas import misfit, parse_json, parse_row

T = TypeVar("T")

OPENS_FOLDERS = os.name != "nt"
BLOCK = 2**16  # bytes that are read at a time from the end of a file

PARTIAL = re.compile(r"(.+?)(\.[0-9a-f]{8})?\.partial")
"""Temporary names, with the name that the file is to have; those of 0.1.0 have no number."""

# -- written whole -------------------------------------------------------------------------------


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file under a temporary name, and gives it its own once it is on the disk.

    Args:
        path: the file; where it is a link, the link is replaced, not what it names.
        write: `(file)`, writes the content to a file that is open for bytes.

    Raises:
        OSError: it cannot be written; nothing is left of it, and what was there before stays.
    """
    # a name of its own, which nobody has made before: two writers do not meet, links do no harm
    partial = path.with_name(f"{path.name[:50]}.{secrets.token_hex(4)}.partial")
    file = open(partial, "xb")  # noqa: SIM115
    try:
        with file:  # which may fail to close what it has failed to write
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Returns once the names in a folder are on the disk, where the platform can say so.

    Args:
        folder: the folder.

    Raises:
        OSError: they could not be written.
    """
    if not OPENS_FOLDERS:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def left_over(path: Path, names: re.Pattern[str]) -> bool:
    """Says whether a file is what a killed process has left of one of these files.

    Args:
        path: what is found in a folder; links and folders are not ours.
        names: of files that are written whole.
    """
    found = PARTIAL.fullmatch(path.name)
    return found is not None and names.fullmatch(found[1]) is not None and _is_regular(path)


def remove_left_overs(folder: Path, names: re.Pattern[str]) -> None:
    """Removes what killed processes have left of files that are written whole.

    Args:
        folder: where; folders and links in it are left alone.
        names: of the files.
    """
    if folder.is_dir():
        for path in folder.iterdir():
            if left_over(path, names):
                with contextlib.suppress(OSError):
                    path.unlink()


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def write_new(path: Path, overwrite: bool, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file that the user has asked for, whole or not at all.

    Args:
        path: the file.
        overwrite: whether it may exist.
        write: `(file)`, writes the content to a file that is open for bytes.

    Raises:
        ConfigError: it exists and may not, or it cannot be written.
    """
    path = new_file(path, overwrite)
    try:
        write_whole(path, write)
    except OSError as error:
        raise cannot_write(path, error) from error


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


# -- read ----------------------------------------------------------------------------------------


def damaged(path: Path, what: object) -> ConfigError:
    """Makes the error that says what is wrong with a file of a run folder.

    Args:
        path: the file.
        what: in words.
    """
    return ConfigError(f"{str(path)!r} is damaged ({what}): put back what purejaxppo has written")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file of a run folder, for bytes.

    Args:
        path: the file, which is there.

    Yields:
        The file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        # what is no file may have no end, or never begin
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{str(path)!r} is no file: put back what purejaxppo has written")
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        why = error.strerror or error
        raise ConfigError(f"{str(path)!r} cannot be read ({why}): make it readable") from error


def read_bytes(path: Path) -> bytes:
    """Reads a file of a run folder.

    Args:
        path: the file, which is there.

    Raises:
        ConfigError: it cannot be read.
    """
    with opened(path) as file:
        return file.read()


def read_json(path: Path, declared: Any) -> Any:
    """Reads a file of JSON.

    Args:
        path: the file, which is there.
        declared: what it must hold, see `misfit`.

    Returns:
        The value.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    try:
        value = parse_json(read_bytes(path))
        words = misfit(value, declared)
    except ConfigError:
        raise
    except ValueError as error:
        raise damaged(path, error) from error
    if words is not None:
        raise damaged(path, words)
    return value


def read_lines(path: Path, parse: Callable[[bytes], T]) -> Iterator[tuple[bytes, T]]:
    """Yields what stands in the lines of a file of JSON Lines.

    Args:
        path: the file; one that does not exist has no lines.
        parse: reads one, such as `parse_row`; raises ValueError where it is none.

    Yields:
        Each line and what it says, but for a last one that was cut short.

    Raises:
        ConfigError: the file cannot be read, or a line of it says something else.
    """
    if not os.path.lexists(path):
        return
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):  # cut short by a kill
                return
            try:
                value = parse(line)
            except ValueError as error:
                raise damaged_line(path, number, error) from error
            yield line, value


def rows_up_to(path: Path, step: int) -> Iterator[bytes]:
    """Yields the lines of a file of rows, up to a step.

    Args:
        path: the file; one that does not exist has none.
        step: the last one whose rows are wanted.

    Raises:
        ConfigError: the file cannot be read, or a line of it is no row.
    """
    for line, row in read_lines(path, parse_row):
        if row["step"] > step:
            return
        yield line


def lines_from_end(path: Path) -> Iterator[bytes]:
    """Yields the lines of a file that may be long, the last one first, and reads no more of it.

    Args:
        path: the file, which is there and may be growing.

    Yields:
        Each line that was whole when the file was opened, without its end.

    Raises:
        ConfigError: it cannot be read.
    """
    with opened(path) as file:
        end, first = file.seek(0, os.SEEK_END), b""
        torn = True  # what stands behind the last end of a line is no line yet
        while end:
            size = min(end, BLOCK)
            end -= size
            file.seek(end)
            first, *lines = (file.read(size) + first).split(b"\n")
            if lines and torn:
                lines.pop()
                torn = False
            yield from reversed(lines)
        if not torn:
            yield first


def damaged_line(path: Path, number: int, what: object) -> ConfigError:
    """Makes the error that says what is wrong with a line of a file of rows.

    Args:
        path: the file.
        number: of the line, counted from 1.
        what: in words.
    """
    return ConfigError(
        f"line {number} of {str(path)!r} is damaged ({what}): repair or delete it, or start a new "
        "run"
    )


# -- files that grow -----------------------------------------------------------------------------


class JsonLinesFile:
    """A file of JSON Lines that grows, such as one of rows in the order of their steps.

    There is never a torn row between others. What cannot be written is kept, and written with what
    comes next.

    Args:
        path: the file.
        kept: the first of its lines, which stay, read from it now; what stands behind them is cut
            off, and will be written again.

    Raises:
        OSError: it cannot be opened.
        ConfigError: a line in it cannot be read, or it is a link: what is cut off would be cut from
            another file.
    """

    def __init__(self, path: Path, kept: Iterable[bytes]):
        self._path, self._pending, self._end = path, b"", 0
        if os.path.lexists(path):
            if not _is_regular(path) or path.lstat().st_nlink > 1:
                raise ConfigError(
                    f"{str(path)!r} is a link, or no file: put a copy of the file in its place"
                )
            self._end = sum(map(len, kept))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"):  # where there is such a thing
            flags |= getattr(os, name, 0)
        self._file = open(os.open(path, flags, 0o666), "ab", buffering=0)  # noqa: SIM115
        self._file.truncate(self._end)

    @property
    def lost(self) -> bool:
        """Says whether the file is no longer where it was made: deleted, moved or replaced."""
        try:
            return not os.path.samestat(os.fstat(self._file.fileno()), self._path.lstat())
        except OSError as error:
            return error.errno in (errno.ENOENT, errno.ENOTDIR)

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
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


def _encode_row(row: Mapping[str, Any]) -> bytes:
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
