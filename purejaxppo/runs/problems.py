"""What goes wrong around a run: reported, kept, and no reason to stop training."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from purejaxppo.errors import RunWarning


class Problems(list[str]):
    """What went wrong and was not put right, a line each."""

    def note(self, text: str) -> None:
        """Warns of what was put right."""
        warnings.warn(text, RunWarning, stacklevel=2)

    def report(self, problem: str) -> None:
        """Warns of it, once."""
        if problem not in self:
            self.append(problem)
            warnings.warn(problem, RunWarning, stacklevel=2)

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """A failure to write is reported, and no more."""
        try:
            yield
        except OSError as error:
            self.report(f"{what} could not be written: {error.strerror or error}")
