"""A page of runs that is written anew while they go on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from purejaxppo.cli.signals import saying
from purejaxppo.errors import ConfigError
from purejaxppo.report.page import make_page, reloaded, write_page
from purejaxppo.report.results import read_all


def watch(runs: Sequence[str], path: Path, seconds: float, overwrite: bool) -> None:
    """Writes the page of runs again and again, until none of them goes on.

    A browser that shows the page reloads it as often, up to the last one, which no more says that
    it is to be reloaded.

    Args:
        runs: run folders, or folders of runs, in which new ones may begin.
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
        found = read_all(runs)
        last = make_page(found, path.parent)
        if all(run.state != "running" for run in found):
            break
        write_page(path, reloaded(last, seconds), overwrite)
        if not announced:
            print(f"{path} is written anew every {seconds:g} s until all runs have ended")
        announced = overwrite = True
        with saying(leave):
            time.sleep(seconds)
    write_page(path, last, overwrite)
