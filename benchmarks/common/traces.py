"""Where the time of a compiled program goes: a profile of one call, summed by parts and kernels."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.profiler import ProfileData

PARTS = ("rollout", "values", "advantages", "shuffle", "steps")
"""Scopes that the algorithm gives names, in `train.py` and `ppo/`; what is in none is `rest`."""
REST = "rest"
_HOLD_OTHERS = ("while", "call", "conditional")


class Event(NamedTuple):
    """What a device did once: a kernel, or a copy.

    Attributes:
        name: of the instruction that it is of; where the profile does not say, of the kernel.
        ns: how long it took.
    """

    name: str
    ns: float


def parts_of(hlo: str) -> dict[str, str]:
    """Says which part of an update each instruction of a program belongs to, by its plain name.

    An instruction that the compiler has put there has no scope: it belongs to the part that most
    others of its loop do.

    Args:
        hlo: computations, each a line with its name and a brace, instructions, and a brace.
    """
    found = {}
    for body in re.findall(r"^(?:ENTRY )?%\S+ .*\{\n((?:  .*\n)*)\}", hlo, re.M):
        names = re.findall(r"^ +(?:ROOT )?%?([\w.\-]+) = (.*)$", body, re.M)
        parts = {name: _part(re.search(r'op_name="([^"]*)"', line)) for name, line in names}
        most = Counter(filter(None, parts.values())).most_common(1)
        usual = most[0][0] if most else REST
        found |= {_plain(name): part or usual for name, part in parts.items()}
    return found


def _plain(name: str) -> str:
    """The name of an instruction as kernels have it."""
    return re.sub(r"[.\-]", "_", name)


def _part(op_name: re.Match[str] | None) -> str | None:
    """The innermost scope of an instruction's name."""
    if op_name is None:
        return None
    scopes = [scope for scope in re.split(r"[/()]", op_name[1]) if scope in PARTS]
    return scopes[-1] if scopes else REST


def events_of(found: Any) -> list[Event]:
    """Reads what the devices did from a `ProfileData`.

    A GPU has a plane, with a line for each stream; other lines of it sum the same up once more. On
    a CPU, the threads of the host have events of instructions among many others.
    """
    devices = [plane for plane in found.planes if plane.name.startswith("/device:")]
    if devices:
        lines = [x for plane in devices for x in plane.lines if (x.name or "").startswith("Stream")]
    else:
        lines = [line for plane in found.planes for line in plane.lines]
    events = []
    for event in (event for line in lines for event in line.events):
        instruction = dict(event.stats).get("hlo_op")
        if instruction or devices:
            events.append(Event(str(instruction or event.name), float(event.duration_ns or 0)))
    return [x for x in events if re.split(r"[.\d]", x.name)[0] not in _HOLD_OTHERS]


def summed(events: Iterable[Event], parts: dict[str, str], largest: int) -> dict[str, Any]:
    """Sums events by parts and by kernels.

    Args:
        events: of one call.
        parts: see `parts_of`.
        largest: how many kernels are listed, those that take most.

    Returns:
        Microseconds and launches of all, of each part, and of the largest kernels.
    """
    by_part: dict[str, list[float]] = {}
    by_name: dict[str, list[float]] = {}
    for name, ns in events:
        part = parts.get(_plain(name), REST)
        for rows, key in ((by_part, part), (by_name, name)):
            row = rows.setdefault(key, [0, 0.0])
            row[0] += 1
            row[1] += ns / 1000

    def row_of(row: list[float]) -> dict[str, Any]:
        return {"launches": int(row[0]), "microseconds": row[1]}

    names = sorted(by_name, key=lambda name: -by_name[name][1])[:largest]
    whole = [sum(row[i] for row in by_part.values()) for i in (0, 1)]
    return row_of(whole) | {
        "parts": {part: row_of(by_part[part]) for part in (*PARTS, REST) if part in by_part},
        "kernels": [
            {"name": name, "part": parts.get(_plain(name), REST)} | row_of(by_name[name])
            for name in names
        ],
    }


def profile(
    program: jax.stages.Compiled, call: Callable[[], Any], largest: int = 12
) -> dict[str, Any]:
    """Profiles a call of a program, after one that warms up.

    Args:
        program: says what its instructions are of.
        call: calls it.
        largest: how many kernels are listed.
    """
    jax.block_until_ready(call())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(call())
        (path,) = Path(folder).rglob("*.xplane.pb")
        events = events_of(ProfileData.from_file(str(path)))
    return summed(events, parts_of(program.as_text() or ""), largest)
