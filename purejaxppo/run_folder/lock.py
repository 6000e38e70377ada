"""One process, or thread, to a run folder."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from filelock import FileLock, Timeout

from purejaxppo.errors import ConfigError

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

LOCK = ".lock"
"""An empty file in the folder. It stays there: who removes it could take it from another."""

PATIENCE = 0.2  # seconds: who only looks whether the folder is taken has it for a moment


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
        self._lock = FileLock(self._path, timeout=PATIENCE, thread_local=False)
        try:
            self._lock.acquire(poll_interval=PATIENCE / 10)
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


def is_held(folder: Path) -> bool:
    """Says whether somebody trains in a folder, on this machine.

    Args:
        folder: the run folder; nothing in it is changed.
    """
    path = folder / LOCK
    if not path.is_file():
        return False
    if fcntl is None:
        return _cannot_be_taken(path)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # it is gone, or not for us to read
        return False
    try:
        # shared, so that two who look do not take each other for a run
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # of a disk without locks
        return False
    finally:
        os.close(descriptor)
    return False


def _cannot_be_taken(path: Path) -> bool:
    """Says whether a lock is held, where there are no shared ones."""
    lock = FileLock(path, timeout=0, thread_local=False)
    with contextlib.suppress(OSError, NotImplementedError):
        try:
            lock.acquire()
        except Timeout:
            return True
        lock.release()
    return False
