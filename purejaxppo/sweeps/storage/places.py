"""Places where the trials of a study are kept: memory, a journal, SQLite, or PostgreSQL.

Each is an Optuna storage with a lock that excludes all others who share it, so that trials are
counted, asked for and told by one process at a time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
import sqlalchemy.exc
from filelock import FileLock
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from purejaxppo.errors import ConfigError
from purejaxppo.run_folder.paths import given_path

PATIENCE = 120
"""Seconds that one process waits for another that asks or tells."""

CONNECT = {
    "connect_timeout": "10",
    # a server notices within a minute that a machine is gone which held the lock
    "options": "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3",
}
"""Parameters of a connection to PostgreSQL, unless the URL has its own."""

LOST = (OSError, sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)
"""What a storage raises that cannot be reached."""

WORKS = "journal:FILE, sqlite:///FILE or postgresql://USER@HOST/DATABASE"


class Place:
    """A storage that this process alone has: in memory, gone with it."""

    shared = False

    def __init__(self, name: str = "memory"):
        self.name = name
        self._opened = contextlib.ExitStack()

    def open(self) -> BaseStorage:
        """Returns the storage, made where there is none; within `held`."""
        return InMemoryStorage()

    def _tables(self, url: str, options: dict[str, Any]) -> BaseStorage:
        """Opens a database, made where there is none; finished trials are read once."""
        try:
            storage = RDBStorage(url, engine_kwargs=options)
        except RuntimeError as error:  # another version of Optuna has made the tables
            raise ConfigError(f"storage {self.name!r} cannot be read: {error}") from error
        self._opened.callback(storage.engine.dispose)
        return optuna.storages.get_storage(storage)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Excludes all others who ask or tell here within the block.

        Raises:
            OSError or SQLAlchemyError: the place cannot be reached.
        """
        yield

    def check(self) -> None:
        """Raises OSError if the storage that was opened is no longer there."""

    def close(self) -> None:
        """Lets go of files and connections."""
        self._opened.close()


class FilePlace(Place):
    """A file that processes of one machine share, or of several on a file system with locks.

    Args:
        name: of the storage, for messages.
        path: the file, in a folder that exists.
        url: of SQLite; None for a journal.
        shared: whether others may open it too.
    """

    def __init__(self, name: str, path: Path, url: sqlalchemy.URL | None, shared: bool = True):
        super().__init__(name)
        self._path, self._url, self.shared = path, url, shared
        self._lock = FileLock(f"{path}.ask.lock", timeout=PATIENCE)
        self._found: os.stat_result | None = None

    def open(self) -> BaseStorage:
        """Opens the file, made where there is none; within `held`."""
        if self._url is None:
            storage = JournalStorage(_Journal(self, str(self._path)))
            # open, so that no other file can have its number
            self._opened.enter_context(self._path.open("rb"))
        else:
            # several write to it: each waits for the others' turns
            waits = {"connect_args": {"timeout": PATIENCE}}
            storage = self._tables(self._url.render_as_string(), waits)
        self._found = self._path.stat()
        return storage

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Excludes all others by a lock on a file beside it, which goes with a process that dies.

        Raises:
            OSError: the folder or the file is not there, or cannot be written.
        """
        # the lock would make the folder
        self._path.parent.stat()
        with self._lock:
            self.check()
            yield

    def check(self) -> None:
        """Raises OSError if the file was deleted, or another one is in its place."""
        if self._found is not None and not os.path.samestat(self._found, self._path.stat()):
            raise FileNotFoundError(errno.ENOENT, "another file is in its place")


class _Journal(JournalFileBackend):
    """A journal that is not begun anew where it is gone, and says when it is damaged."""

    def __init__(self, place: FilePlace, path: str):
        lock = JournalFileOpenLock(path) if os.name == "nt" else None  # links are for the few there
        super().__init__(path, lock)
        self._place = place

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, object]]:  # type: ignore[override]
        self._place.check()
        try:
            yield from super().read_logs(log_number_from)
        except ValueError as error:
            raise OSError(errno.EIO, f"it is damaged: {error}") from error

    def append_logs(self, logs: list[dict[str, object]]) -> None:
        self._place.check()
        super().append_logs(logs)


class PostgresPlace(Place):
    """A database that processes of any machines share.

    Args:
        url: of a PostgreSQL server.
        study: name of the study, by which its lock is known.
    """

    shared = True

    def __init__(self, url: sqlalchemy.URL, study: str):
        super().__init__(url.render_as_string(hide_password=True))
        self._url = url.set(drivername="postgresql+psycopg")
        connect = {k: v for k, v in CONNECT.items() if k not in url.query}
        # a connection that was lost is made anew, once the server is there again
        self._engine_options = {"connect_args": connect, "pool_pre_ping": True}
        self._engine = sqlalchemy.create_engine(self._url, **self._engine_options)
        self._opened.callback(self._engine.dispose)
        self._key = zlib.crc32(study.encode())

    def open(self) -> BaseStorage:
        """Connects, and makes the tables where there are none; within `held`."""
        url = self._url.render_as_string(hide_password=False)
        return self._tables(url, self._engine_options)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Excludes all others by an advisory lock, which goes with the connection.

        Raises:
            SQLAlchemyError: the server cannot be reached.
        """
        with self._engine.begin() as connection:
            connection.execute(sqlalchemy.text(f"set local lock_timeout = '{PATIENCE}s'"))
            lock = sqlalchemy.text("select pg_advisory_xact_lock(:key)")
            connection.execute(lock, {"key": self._key})
            yield


def place_of(storage: str, study: str) -> Place:
    """Returns the place that a user names.

    Args:
        storage: journal:FILE, or a URL of SQLite or PostgreSQL.
        study: name of the study.

    Raises:
        ConfigError: it is none of these.
    """
    kind, _, file = storage.partition(":")
    if kind == "journal":
        return FilePlace(storage, given_path(file, "storage"), None)
    try:
        url = sqlalchemy.make_url(storage)
    except sqlalchemy.exc.ArgumentError as error:
        shown = re.sub("(:[^:/@]*)@", ":***@", storage)  # it may hold a password
        raise ConfigError(f"storage={shown!r} is no storage: use {WORKS}") from error
    backend = url.get_backend_name()
    if backend in ("postgresql", "postgres"):
        return PostgresPlace(url, study)
    if backend == "sqlite" and url.database not in (None, "", ":memory:"):
        path = given_path(url.database, "storage")
        return FilePlace(storage, path, url.set(database=str(path)))
    shown = url.render_as_string(hide_password=True)
    raise ConfigError(f"storage={shown!r} is no storage: use {WORKS}")


def why_lost(error: BaseException) -> str:
    """Says in one line why a storage cannot be reached.

    Args:
        error: one of `LOST`.
    """
    if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__:
        error = error.__cause__
    words = getattr(error, "strerror", None) or str(getattr(error, "orig", None) or error)
    return " ".join(words.split()).removesuffix(".")
