"""Processes that train together, as on the hosts of a cluster, and what they tell each other.

Each runs the same program with the same arguments, on devices of its own; a mesh is over those of
all. The first one alone writes and prints. What depends on its clock, its signals or its files is
told to the others, so that all take the same steps.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import io
import os
import pickle
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src.distributed import global_state as _job
from jax.experimental import multihost_utils

from purejaxppo.config.coerce import coerce
from purejaxppo.config.rules import as_count
from purejaxppo.errors import ConfigError, HostError, shown
from purejaxppo.types import PyTree

T = TypeVar("T")

HEARTBEAT = 10  # seconds without a sign of life after which a process is given up
SECONDS_BETWEEN_LOOKS = 1.0
LAST_WORDS = 5.0  # seconds that the first process stays for the others to leave
ABORTED = 134  # exit code of a process that has called abort
PIECE = 2**30  # bytes that travel at once

CONFIGURED = {"jax_enable_recoverability": True, "jax_enable_preemption_service": False}
"""A process that is lost must not end the others before they can say so; and signals are ours."""

Lost = Callable[[str], Any]
"""Told which process was lost; it does not return."""


_needed = threading.Event()  # set while this process cannot do without the others
_needed.set()
_joined = threading.Event()


def process_count() -> int:
    """Returns how many processes train together; devices need not have been found."""
    return _job.num_processes


def is_first() -> bool:
    """Says whether this is the process that writes and prints."""
    return _job.process_id == 0


def _end(what: str) -> None:
    """Says on stderr what has happened and how to go on, and ends this process."""
    words = f"purejaxppo: {what}; go on from the last checkpoint with fit(..., resume=True)\n"
    with contextlib.suppress(OSError):
        os.write(2, words.encode())
    os._exit(1)


def join_processes(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    lost: Lost = _end,
) -> None:
    """Joins this process to the others that train with it, by `jax.distributed`.

    It comes before JAX's first computation, in every process; what `fit` does then, it does in all
    of them together. Where one is lost, the others end within 15 seconds: nothing can be computed
    without it.

    Args:
        coordinator: HOST:PORT of the first process, where the others reach it; None: JAX finds all
            three by itself, on a cloud TPU and below SLURM's srun and Open MPI's mpirun.
        num_processes: how many there are.
        process_id: which of them this is, counted from 0.
        lost: called in place of ending this process with a line on stderr, as
            `lost("process 1 of 2 was lost")`, by another thread; it must end the process.

    Raises:
        ConfigError: an argument is not right, JAX finds no other processes by itself, they do not
            come, or JAX has computed something already.
    """
    coordinator, num_processes, process_id = _checked(coordinator, num_processes, process_id)
    handler = _speak_before_abort(lost)
    before = {name: getattr(jax.config, name) for name in CONFIGURED}
    try:
        for name, value in CONFIGURED.items():
            jax.config.update(name, value)
        jax.distributed.initialize(
            coordinator, num_processes, process_id, heartbeat_timeout_seconds=HEARTBEAT
        )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"this process cannot join others ({' '.join(str(error).split())}): join before JAX's "
            "first computation, and name all three of coordinator, num_processes and process_id, "
            "such as localhost:7777, 2, and 0 or 1"
        ) from error
    finally:
        if process_count() == 1:  # there are no others after all
            _set_handler(handler)
            for name, value in before.items():
                jax.config.update(name, value)
    if process_count() == 1:
        return
    watch = threading.Thread(target=_watch, args=(lost,), daemon=True)
    watch.start()
    _joined.set()
    atexit.register(_leave, watch, handler)


def _checked(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> tuple[str | None, int | None, int | None]:
    """Returns arguments that name a process of several, or none; raises ConfigError for others."""
    given = [x is not None for x in (coordinator, num_processes, process_id)]
    if any(given) and not all(given):
        raise ConfigError(
            f"coordinator={coordinator!r}, num_processes={num_processes!r} and "
            f"process_id={process_id!r} belong together: name all three, or none where JAX finds "
            "them by itself"
        )
    if coordinator is None or num_processes is None or process_id is None:
        return None, None, None
    address: str = coerce("coordinator", str, coordinator, "localhost:7777")
    count = as_count("num_processes", num_processes, 2)
    number: int = coerce("process_id", int, process_id, 0)
    port = re.fullmatch(r".+:([0-9]{1,5})", address)
    if port is None or not 1 <= int(port[1]) < 2**16:
        raise ConfigError(
            f"coordinator={shown(address)} must be HOST:PORT with a port of 1 .. 65535: use "
            "localhost:7777, or the name of the first process's host"
        )
    if not 0 <= number < count:
        raise ConfigError(
            f"process_id={number} must be one of 0 .. {count - 1}, for "
            f"num_processes={count}: use 0 for the first"
        )
    if number == 0:  # JAX does not survive a port that is taken
        try:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            place = "", int(port[1])
            socket.create_server(place, family=family, dualstack_ipv6=both).close()
        except OSError as error:
            raise ConfigError(
                f"coordinator={address!r}: this process cannot listen at its port "
                f"({error.strerror}): use another"
            ) from error
    return address, count, number


# -- watching each other --------------------------------------------------------------------------


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Marks a block that all processes go through, to whose end none can do without the others.

    What JAX raises when another process is lost waits here for that to be found out, which ends
    this process.
    """
    _needed.set()
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if process_count() > 1 and not isinstance(error, ConfigError | HostError):
            time.sleep(HEARTBEAT + 4 * SECONDS_BETWEEN_LOOKS)
        raise
    finally:
        _needed.clear()


def _watch(lost: Lost) -> None:
    """Looks, together with the others, who is there, until one is lost or all have left.

    Args:
        lost: called then, if this process needs them.
    """
    client, here = _job.client, _job.process_id
    others = set(range(process_count())) - {here}
    with contextlib.suppress(RuntimeError):  # the first is gone, whom all ask: an abort says so
        while True:
            # waits for all to ask, but for those that have given no sign of life for too long
            missing = others - client.get_live_nodes([*others, here]).keys()  # pyright: ignore
            if missing and _needed.is_set():
                numbers = " and ".join(map(str, sorted(missing)))
                if here == 0:  # the others would take its end for what has happened
                    time.sleep(2 * SECONDS_BETWEEN_LOOKS)
                were = "processes {} of {} were" if len(missing) > 1 else "process {} of {} was"
                lost(f"{were.format(numbers, process_count())} lost")
            if missing == others:
                return
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _speak_before_abort(lost: Lost) -> int | None:
    """Says why JAX aborts this process: the first one is lost, or not all have come.

    JAX calls `abort` then, after words of its own, and no handler of Python's comes to run.

    Args:
        lost: called with what has happened.

    Returns:
        The handler that was there, see `_set_handler`.
    """

    def aborted(number: int) -> None:
        where = str(_job.coordinator_address)
        if not _joined.is_set():
            lost(f"not all of {process_count()} processes have come to {where} in time")
        host, _, port = where.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=2).close()
        except OSError:
            lost(f"process 0 of {process_count()} was lost")
        os._exit(ABORTED)  # something else has gone wrong, and has been said

    _handlers.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted))
    return _set_handler(ctypes.cast(_handlers[-1], ctypes.c_void_p).value)


_handlers: list[Any] = []  # functions that C has been given must not go away


def _set_handler(address: int | None) -> int | None:
    """Has C call a function at SIGABRT; returns the address of the one before, None for none."""
    set_signal = ctypes.CDLL(None).signal
    set_signal.argtypes, set_signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    return set_signal(signal.SIGABRT, address)


def _leave(watch: threading.Thread, handler: int | None) -> None:
    """Leaves the others when Python ends; the first process last, for all ask it who is there.

    Args:
        watch: the thread that looks who is there.
        handler: that of SIGABRT before this process joined.
    """
    if is_first():
        watch.join(LAST_WORDS)
        time.sleep(0.5)  # the last one's farewell is being answered
    _set_handler(handler)
    jax.distributed.shutdown()
    watch.join(LAST_WORDS)


# -- what they tell each other --------------------------------------------------------------------


def agree(*numbers: int) -> np.ndarray:
    """Shows every process the numbers of all.

    Args:
        *numbers: int32, as many in each process.

    Returns:
        [processes, numbers] int32.
    """
    mine = np.array(numbers, np.int32)
    return mine[None] if process_count() == 1 else multihost_utils.process_allgather(mine)


def everyones(value: T) -> list[T]:
    """Shows every process what all have.

    Args:
        value: what pickle can hold.

    Returns:
        Those of all, the first process's first.
    """
    if process_count() == 1:
        return [value]
    # texts of different lengths travel in rows of one
    mine = _as_bytes(value)
    sizes = agree(len(mine))[:, 0]
    rows = multihost_utils.process_allgather(np.pad(mine, (0, sizes.max() - len(mine))))
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def _as_bytes(value: Any) -> np.ndarray:
    """Returns a value as uint8."""
    file = io.BytesIO()
    _Pickler(file).dump(value)
    return np.frombuffer(file.getvalue(), np.uint8)


class _Pickler(pickle.Pickler):
    """Pickles random keys too, which JAX does not."""

    def reducer_override(self, x: Any) -> Any:
        if not _is_key(x):
            return NotImplemented
        data = np.asarray(jax.random.key_data(x))
        return partial(jax.random.wrap_key_data, impl=str(jax.random.key_impl(x))), (data,)


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)


def on_all(function: Callable[[], T]) -> T:
    """Calls a function in every process; where it fails in one, it fails in all.

    Args:
        function: it speaks to no other process.

    Returns:
        What it gives here.

    Raises:
        ConfigError: it has raised one, here or in another process.
        HostError: the same.
        OSError: the same.
    """
    value: Any = None
    error: Exception | None = None
    try:
        value = function()
    except (ConfigError, HostError, OSError) as raised:
        if process_count() == 1:
            raise
        error = raised
    for raised in everyones(error):
        if raised is not None:
            raise raised
    return value


def of_first(function: Callable[[], T]) -> T:
    """Calls a function in the first process, and tells the others what it gives.

    Args:
        function: it speaks to no other process, and gives what pickle can hold.

    Returns:
        What it gives there.

    Raises:
        ConfigError: it has raised one there.
        HostError: the same.
        OSError: the same.
    """
    if process_count() == 1:
        return function()
    value: Any = on_all(lambda: function() if is_first() else None)
    data = _as_bytes(value)
    pieces, rest = agree(*divmod(len(data), PIECE))[0]
    sizes = [PIECE] * pieces + [rest]
    parts = np.split(data, PIECE * np.arange(1, pieces + 1)) if is_first() else map(_empty, sizes)
    told = [np.asarray(multihost_utils.broadcast_one_to_all(part)) for part in parts]
    return pickle.loads(np.concatenate(told).tobytes())


def _empty(size: int) -> np.ndarray:
    return np.zeros(size, np.uint8)


def whole(tree: PyTree) -> PyTree:
    """Gathers arrays of which other processes have a part.

    Args:
        tree: of arrays and keys, the same in every process.

    Returns:
        As `tree`; what this process has all of is left as it is, the rest is NumPy's.
    """

    def gather(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return x
        if _is_key(x):
            data = gather(jax.random.key_data(x))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(gather, tree)
