"""One process, or thread, to a run folder."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

from purejaxppo.errors import ConfigError

LOCK = ".lock"
"""An empty file in the folder. It stays there: who removes it could take it from another."""


class FolderLock:
    """A run folder taken for this run, until it is released or the process dies, however it dies.

    Args:
        folder: the run folder, which exists.

    Raises:
        ConfigError: another process or thread has it, or nothing can be written there.
    """

    def __init__(self, folder: Path):
        self._path = folder / LOCK
        # a lock of its own, also within this process, whichever thread lets go of it
        self._lock = FileLock(self._path, timeout=0, thread_local=False)
        try:
            self._lock.acquire()
            self._place = self._path.stat()
        except Timeout as error:
            raise ConfigError(
                f"another process trains in {str(folder)!r}: wait for it, or name another folder"
            ) from error
        except (OSError, NotImplementedError) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"run folder {str(folder)!r} cannot be written ({why}): name another with --run-dir"
            ) from error

    def taken_over(self) -> bool:
        """Says whether another folder with another lock is there now in place of this one."""
        try:
            # the file is open, so that no other one can have its number
            return not os.path.samestat(self._place, self._path.stat())
        except OSError:  # it was deleted, and nobody else has come
            return False

    def release(self) -> None:
        """Lets others have the folder."""
        self._lock.release()
