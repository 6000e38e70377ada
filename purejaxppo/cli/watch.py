"""A page of runs or studies that is written anew while they go on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from purejaxppo.cli.signals import saying
from purejaxppo.errors import ConfigError
from purejaxppo.report.markup import reloaded, write_page


def watch(
    look: Callable[[], tuple[str, bool]], path: Path, seconds: float, overwrite: bool
) -> None:
    """Writes a page again and again, until nothing of what it shows goes on.

    A browser that shows the page reloads it as often, up to the last one, which no more says that
    it is to be reloaded.

    Args:
        look: gives the page as it is now, and whether something on it goes on.
        path: the page.
        seconds: from one time to the next.
        overwrite: whether the page may exist before the first time.

    Raises:
        ConfigError: a folder holds no run, or the page cannot be written.
    """
    last, announced = "", False

    def leave(what: str) -> str:
        # a browser is not left to reload what nobody writes
        with contextlib.suppress(ConfigError):
            write_page(path, last, overwrite=True)
        return f"{what}: {path} is not written anew any more"

    while True:
        last, going_on = look()
        if not going_on:
            break
        write_page(path, reloaded(last, seconds), overwrite)
        if not announced:
            print(f"{path} is written anew every {seconds:g} s until all runs have ended")
        announced = overwrite = True
        with saying(leave):
            time.sleep(seconds)
    write_page(path, last, overwrite)
