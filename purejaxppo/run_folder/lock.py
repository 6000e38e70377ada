"""One process, or thread, to a run folder."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

from purejaxppo.errors import ConfigError

LOCK = ".lock"
"""An empty file in the folder. It stays there: who removes it could take it from another."""

PATIENCE = 0.2  # seconds: who only looks whether the folder is taken has it for a moment


class FolderLock:
    """A folder taken for this run or study, until it is released or the process dies in any way.

    Args:
        folder: the folder, which exists.
        what: it is of, a run or a study.

    Raises:
        ConfigError: another process or thread has it, or nothing can be written there.
    """

    def __init__(self, folder: Path, what: str = "run"):
        self._path = folder / LOCK
        # a lock of its own, also within this process, whichever thread lets go of it
        self._lock = FileLock(self._path, timeout=PATIENCE, thread_local=False)
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
                f"{what} folder {str(folder)!r} cannot be written ({why}): name another with "
                f"--{what}-dir"
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


def is_held(folder: Path) -> bool:
    """Says whether somebody trains in a folder, on this machine.

    Args:
        folder: the run folder. A lock that nobody has is taken for a moment, which who begins to
            train there waits for.
    """
    path = folder / LOCK
    if not path.is_file():
        return False
    lock = FileLock(path, timeout=PATIENCE, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # it is not ours to write, or the disk has no locks
        return False
    lock.release()
    return False
