"""What goes wrong around a run, which goes on."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from purejaxppo.errors import RunWarning
from purejaxppo.processes import is_first


class Problems(list[str]):
    """What went wrong around a run and was not corrected, a line each; training goes on."""

    def note(self, text: str) -> None:
        """Warns of what was corrected; it is not kept.

        Args:
            text: a line.
        """
        _warn(text)

    def report(self, problem: str) -> None:
        """Warns of a problem, and keeps it; of the same one only once.

        Args:
            problem: a line.
        """
        if problem not in self:
            self.append(problem)
            _warn(problem)

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Reports a failure to write within the block, which ends there, and goes on after it.

        Args:
            what: the name of what is written.
        """
        try:
            yield
        except OSError as error:
            self.report(f"{what} could not be written: {error.strerror or error}")


def _warn(text: str) -> None:
    if is_first():  # of all processes that train together
        warnings.warn(text, RunWarning, stacklevel=3)
