"""What `fit` calls between updates: loggers, and whatever a user wants to know or to stop."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from purejaxppo.config.rules import as_count
from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError, shown
from purejaxppo.runs.problems import Problems
from purejaxppo.types import Logger, Row


class Callback:
    """What `fit` calls while a run goes on; subclasses define what they need of it.

    A method that returns False (nothing else counts, neither None nor 0) stops the run after the
    updates that the device has been given, chunks of up to half a second. All their rows are passed
    on, and the run is saved as a signal leaves it: `FitResult.stopped_by` says whose method it was,
    and resuming goes on. A method that raises is reported, its object is not called again, and the
    run goes on.
    """

    def on_start(self, config: PPOConfig, run_dir: Path | None) -> Any:
        """Begins: before the first update, or the first one after those that a resumed run has.

        Args:
            config: what is trained.
            run_dir: the run folder, if the run has one.
        """

    def on_row(self, step: int, row: Row) -> Any:
        """Takes in the row of an update and seed, as it is in `metrics.jsonl`.

        Args:
            step: environment steps of each seed so far.
            row: `step`, `seed`, and numbers by name, NaN where there is none.
        """

    def on_evaluation(self, step: int, row: Row) -> Any:
        """Takes in the row of an evaluation and seed, as it is in `evaluations.jsonl`.

        Args:
            step: environment steps of each seed so far.
            row: `step`, `seed`, and numbers by name.
        """

    def on_end(self, result: Any) -> Any:
        """Ends, once everything is saved; also a run that was stopped, not one that failed.

        Args:
            result: what `fit` returns, a `FitResult`.
        """

    def close(self) -> Any:
        """Lets go of files and connections: the last call, however the run ends."""


class StopWithoutImprovement(Callback):
    """Stops a run once every seed has had so many evaluations in a row without a better return.

    Without evaluations (`eval_every`) it never does. A resumed run counts anew.

    Args:
        evaluations: how many.

    Raises:
        ConfigError: that is no count.
    """

    def __init__(self, evaluations: int = 10):
        self._patience = as_count("evaluations", evaluations, 10)
        self._best: dict[int, float] = {}
        self._since: dict[int, int] = {}  # how many of each seed, since it was best
        self._told: dict[int, int] = {}  # the step of its last one

    def on_start(self, config: PPOConfig, run_dir: Path | None) -> None:
        """Counts from the beginning.

        Args:
            config: what is trained.
            run_dir: the run folder, if the run has one.
        """
        self._best.clear()
        self._since.clear()
        self._told.clear()

    def on_evaluation(self, step: int, row: Row) -> bool | None:
        """Takes in the row of an evaluation and seed.

        Args:
            step: environment steps of each seed so far.
            row: of the evaluation.

        Returns:
            False to stop.
        """
        seed, mean = row["seed"], row["return_mean"]
        if seed not in self._best or mean > self._best[seed]:
            # whatever is known is better than what is not
            self._best[seed], self._since[seed] = -math.inf if math.isnan(mean) else mean, 0
        else:
            self._since[seed] += 1
        # rows come seed by seed: it is judged once all of them are there
        self._told[seed] = step
        whole = {*self._told.values()} == {step}
        return False if whole and min(self._since.values()) >= self._patience else None


class _Function(Callback):
    """A function that gets rows of both kinds; those of evaluations are named eval_*.

    Args:
        function: `(step, row)`; where it has a method `close`, that is called at the end.
    """

    def __init__(self, function: Logger):
        self.function = function

    def on_row(self, step: int, row: Row) -> Any:
        """Passes the row on."""
        return self.function(step, row)

    def on_evaluation(self, step: int, row: Row) -> Any:
        """Passes the row on under other names."""
        place = ("step", "seed")
        return self.function(step, {k if k in place else f"eval_{k}": x for k, x in row.items()})

    def close(self) -> Any:
        """Closes what can be closed."""
        return getattr(self.function, "close", lambda: None)()


GivenCallbacks: TypeAlias = Callback | Logger | Sequence[Callback | Logger]
"""What a user may give as callbacks: one or several, objects or functions."""


def callbacks_of(given: GivenCallbacks | None) -> list[Callback]:
    """Returns callbacks, functions in the form of objects.

    Args:
        given: one or several; None for none.

    Raises:
        ConfigError: one can be called with nothing that there is.
    """
    if given is None:
        return []
    single = isinstance(given, Callback) or callable(given) or not isinstance(given, Iterable)
    several: Any = [given] if single else given
    return [_callback_of(one) for one in several]


def _callback_of(given: Any) -> Callback:
    """Returns a callback, if something is one."""
    if isinstance(given, type):
        raise ConfigError(
            f"callbacks={given.__name__} is a class: pass an object of it, {given.__name__}(...)"
        )
    if isinstance(given, Callback):
        return given
    if not callable(given):
        raise ConfigError(
            f"callbacks={shown(given)} cannot be called: use a function (step, row), or an object "
            "of a subclass of purejaxppo.Callback"
        )
    return _Function(given)


class Callbacks:
    """The callbacks of a run.

    Args:
        given: in the order in which they are called.
        problems: of the run, to which those that raise are reported.

    Attributes:
        stopped_by: name of the first one that has returned False; None before.
    """

    def __init__(self, given: Sequence[Callback], problems: Problems):
        self._callbacks, self._problems = list(given), problems
        self.stopped_by: str | None = None

    def start(self, config: PPOConfig, run_dir: Path | None) -> None:
        """Says that the run begins, or goes on.

        Args:
            config: what is trained.
            run_dir: the run folder, or None.
        """
        self._call(lambda callback: callback.on_start, [(config, run_dir)])

    def pass_rows(self, rows: Sequence[Row]) -> None:
        """Passes on rows of updates.

        Args:
            rows: see `metrics_rows`.
        """
        self._call(lambda callback: callback.on_row, [(row["step"], row) for row in rows])

    def pass_evaluations(self, rows: Sequence[Row]) -> None:
        """Passes on rows of an evaluation.

        Args:
            rows: see `evaluation_rows`.
        """
        self._call(lambda callback: callback.on_evaluation, [(row["step"], row) for row in rows])

    def end(self, result: Any) -> None:
        """Says that the run has ended and is saved.

        Args:
            result: what `fit` returns.
        """
        self._call(lambda callback: callback.on_end, [(result,)])

    def close(self) -> None:
        """Closes all that are left."""
        self._call(lambda callback: callback.close, [()])

    def _call(self, method: Callable[[Callback], Any], calls: Sequence[tuple[Any, ...]]) -> None:
        """Makes the same calls to each; those that raise are left out from then on."""
        for callback in list(self._callbacks):
            with self._guarded(callback):
                for args in calls:
                    answer = method(callback)(*args)
                    if isinstance(answer, bool | np.bool_) and not answer:
                        self.stopped_by = self.stopped_by or _name(callback)

    @contextlib.contextmanager
    def _guarded(self, callback: Callback) -> Iterator[None]:
        """Reports a callback that raises, and leaves it out from then on."""
        try:
            yield
        except Exception as error:  # whatever is raised is raised by what the user gave
            self._callbacks.remove(callback)
            with contextlib.suppress(Exception):
                callback.close()
            self._problems.report(
                f"callback {_name(callback)} is not called again: {type(error).__name__}: {error}"
            )


def _name(callback: Callback) -> str:
    given = callback.function if isinstance(callback, _Function) else callback
    return getattr(given, "__name__", type(given).__name__)
