"""How far a run is, read in a moment: whether it goes on, its last rows."""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from purejaxppo.run_folder.files import damaged, lines_from_end
from purejaxppo.run_folder.schemas import parse_row

if TYPE_CHECKING:  # records of JAX
    from purejaxppo.types import Row

State = Literal["running", "finished", "stopped", "killed"]
"""What a run does: somebody trains in its folder; all steps are done; it was stopped before that,
by a signal or a target, and saved; it was cut off, or goes on on another machine."""


def state_of(*, held: bool, steps: int, total: int, ended: bool) -> State:
    """Says what a run does.

    Args:
        held: somebody trains in its folder.
        steps: of each agent that were done.
        total: of each agent that are to be done.
        ended: it has a summary of all that was done.
    """
    if held:
        return "running"
    if steps >= total:
        return "finished"
    return "stopped" if ended else "killed"


def last_returns(folder: Path, seeds: int, batch_size: int) -> tuple[int, list[float]]:
    """Reads the end of a run's rows, however many there are.

    Args:
        folder: the run folder.
        seeds: agents of the run.
        batch_size: steps of an update.

    Returns:
        Updates done by every agent, and the mean return of each in the last tenth of them, as
        `final_returns` has it: NaN where no episode ended.

    Raises:
        ConfigError: a row there is damaged.
    """
    path = folder / "metrics.jsonl"
    none = 0, [math.nan] * seeds
    if not os.path.lexists(path):
        return none
    rows = (_row(path, line, seeds, batch_size) for line in lines_from_end(path))
    last = next(rows, None)
    if last is None:
        return none

    # the last update may be there for some of the seeds only
    updates = last["step"] // batch_size - (last["seed"] < seeds - 1)
    first = updates - max(1, updates // 10)
    within = itertools.takewhile(
        lambda row: row["step"] > first * batch_size, itertools.chain([last], rows)
    )
    episodes, returns = [0.0] * seeds, [0.0] * seeds
    for row in within:
        if row["step"] <= updates * batch_size:
            episodes[row["seed"]] += row["episodes"]
            total = row["return_sum"]
            returns[row["seed"]] += math.nan if total is None else total
    means = (x / n if n else math.nan for x, n in zip(returns, episodes, strict=True))
    return updates, list(means)


def _row(path: Path, line: bytes, seeds: int, batch_size: int) -> Row:
    """Reads a row of `metrics.jsonl`.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        row = parse_row(line)
        if row["step"] % batch_size or row["seed"] >= seeds:
            raise ValueError(f"step {row['step']} of seed {row['seed']} is not of this run")
        if row["episodes"] is None or "return_sum" not in row:
            raise ValueError("the episodes of an update are missing")
    except (ValueError, KeyError) as error:
        raise damaged(path, error) from error
    return row
