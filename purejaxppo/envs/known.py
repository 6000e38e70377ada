"""Which environments a name may have meant, in whatever suite, without importing any of them."""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
from importlib import resources, util

PACKAGES = {"playground": "mujoco_playground", "ale": "ale_py"}
"""What is imported of a suite, where it is not called as the suite is."""

_PARTS = r"^(minatar|navix|minigrid)-|-(minatar|misc|bsuite)$|noframeskip$|deterministic$"
"""Parts of names that say in which suite, or how, a task is played."""


def similar(name: str, misspelt: bool = False) -> str:
    """Names the environments nearest to a name, by their suites, at most three.

    Args:
        name: of an environment, in the form of any suite or of another library.
        misspelt: also those whose names are nearly the same.

    Returns:
        "did you mean ...?", with the extra of each suite that is not installed; "" where no name is
        near.
    """
    tasks = _tasks()
    wanted = [_task(name)] if _task(name) in tasks else []
    if misspelt and not wanted:
        wanted = difflib.get_close_matches(_task(name), tasks, n=3, cutoff=0.75)
    prefix, _, tail = name.lower().rpartition("/")
    found = []
    for task in wanted:
        chosen = [(suite, _newest(names, tail)) for suite, names in tasks[task].items()]
        # the suite that was named, then gymnax, which needs no extra; then what differs by its
        # suite alone
        ranks = {prefix: 0, "gymnax": 1}
        chosen.sort(key=lambda pair: (ranks.get(pair[0], 2), pair[1].lower() != tail))
        found += [_written(suite, best) for suite, best in chosen]
    return f"did you mean {' or '.join(found[:3])}?" if found else ""


def _task(name: str) -> str:
    """Returns what is done in an environment: Hopper-v5, hopper and gym/Hopper-v2 are the same."""
    tail = re.sub(r"-v\d+$", "", name[:100].rpartition("/")[2].lower())
    return re.sub(r"[^a-z0-9]", "", re.sub(_PARTS, "", tail))


@functools.cache
def _tasks() -> dict[str, dict[str, list[str]]]:
    """Returns the names of each suite, by what is done."""
    text = resources.files("purejaxppo.envs.suites").joinpath("names.toml").read_text("utf-8")
    tasks: dict[str, dict[str, list[str]]] = {}
    for suite, names in tomllib.loads(text).items():
        for name in names:
            tasks.setdefault(_task(name), {}).setdefault(suite, []).append(name)
    return tasks


def _newest(names: list[str], tail: str) -> str:
    """Returns the name that was given, or else the highest version."""
    return next((name for name in names if name.lower() == tail), max(names))


def _written(suite: str, name: str) -> str:
    """Returns a name as it is given here, with what must be installed for it."""
    if suite == "gymnax":
        return name
    there = util.find_spec(PACKAGES.get(suite, suite)) is not None
    return f"{suite}/{name}" + ("" if there else f" (pip install 'purejaxppo[{suite}]')")
