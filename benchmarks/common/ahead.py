"""Programs compiled for devices that are not there, and what the compiler made of them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from purejaxppo import PPOConfig
from purejaxppo.components import make_components
from purejaxppo.parallel import ENVS, SEEDS
from purejaxppo.runs.compiled import given_to, lower_run
from purejaxppo.sharding import shard_environments, spread_over
from purejaxppo.tuning import compiled_for, compiler_options

H100 = Path(__file__).with_name("h100.txtpb")


def h100_mesh(count: int = 1) -> Mesh:
    """Describes H100s, each agent's environments spread over all of them."""
    found = topologies.get_topology_desc(
        platform="cuda", target_config=H100.read_text(encoding="utf-8"), topology=f"1x{count}x1"
    )
    return _mesh(found.devices)


def tpu_mesh(topology: str, count: int = 1) -> Mesh:
    """Describes as many TPUs of a topology, such as `v5e:2x2`."""
    found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    return _mesh(found.devices[:count])


def _mesh(devices: Sequence[Any]) -> Mesh:
    return Mesh(np.array(devices)[None], (SEEDS, ENVS), axis_types=(AxisType.Auto,) * 2)


def lower_update(config: PPOConfig, mesh: Mesh) -> jax.stages.Lowered:
    """Traces one update."""
    learner = shard_environments(config, mesh)
    state = jax.eval_shape(learner.init, jax.random.key(0))
    return jax.jit(learner.update).lower(state)


def lower_chunk(config: PPOConfig, mesh: Mesh) -> jax.stages.Lowered:
    """Traces the program that `fit` calls: any number of updates."""
    given = jax.eval_shape(lambda: given_to(config))
    spread = spread_over(make_components(config), mesh, SEEDS)
    return lower_run(spread, 1, given)[1]


# -- a GPU ----------------------------------------------------------------------------------------


class Loop(NamedTuple):
    """A loop of a program, or what is in none.

    Attributes:
        turns: of it in one call of the program; one, where the compiler does not know.
        launches: kernels and copies of a turn.
        outside: those of them that are in no CUDA graph.
        graphs: graphs that are launched in a turn.
        collectives: launches of a turn in which devices speak to each other.
        collectives_outside: those of them that are in no CUDA graph.
    """

    turns: int
    launches: int
    outside: int
    graphs: int
    collectives: int = 0
    collectives_outside: int = 0


def launches_of(lowered: jax.stages.Lowered) -> list[Loop]:
    """Compiles a program for a GPU, and counts what it launches, loop by loop."""
    with tempfile.TemporaryDirectory() as folder, compiled_for("cuda"):
        options: dict[str, Any] = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        options.update(compiler_options())
        lowered.compile(options)

        def text(*ends: str) -> str:
            found = (path for end in ends for path in sorted(Path(folder).glob(f"*.{end}")))
            return next(found).read_text(encoding="utf-8")

        # a file of the last passes is there if they have changed something
        thunks = text("thunk_sequence_after_thunk_passes.txt", "thunk_sequence.txt")
        names = loop_names(text("thunk_metadata.txt"))
        return count_launches(thunks, names, trip_counts(text("*gpu_after_optimizations.txt")))


def loop_names(metadata: str) -> dict[int, str]:
    """The names of thunks by their numbers, as the file that describes them has them."""
    pattern = r'profile_annotation: "([^"]+)"\s+(?:thunk_id: (\d+))?'
    return {int(number or 0): name for name, number in re.findall(pattern, metadata)}


def trip_counts(hlo: str) -> dict[str, int]:
    """The turns of the loops whose number the compiler knows, by their names."""
    pattern = r'%(\S+) = .* while\(.*"known_trip_count":\{"n":"(\d+)"'
    return {name: int(turns) for name, turns in re.findall(pattern, hlo)}


class _Open(NamedTuple):
    """A thunk that holds others: how far it is indented, its kind, and the loop that it is."""

    indent: int
    kind: str
    loop: int


_HOLD_OTHERS = (
    "kWhile", "kCommandBuffer", "kDynamicSliceFusion", "kSequential", "kConditional", "kAsyncStart",
)  # fmt: skip
_WAITS = "kAsyncDone"  # for what another stream does: nothing is launched
_COLLECTIVE = r"k(All(Reduce|Gather|ToAll)|ReduceScatter|Collective|RaggedAll|Send|Recv)"


def count_launches(thunks: str, names: dict[int, str], turns: dict[str, int]) -> list[Loop]:
    """Counts launches in a listing of thunks.

    Args:
        thunks: a line each, what a thunk holds indented below it.
        names: of thunks by number.
        turns: of loops by name.
    """
    loops, holders, condition = [Loop(1, 0, 0, 0)], [_Open(-1, "", 0)], -1
    for line in thunks.splitlines():
        # a loop's condition is not run where its turns are known: its thunks are not counted
        if line.strip() in ("condition:", "body:"):
            while holders[-1].kind != "kWhile":
                holders.pop()
            condition = holders[-1].loop if line.strip() == "condition:" else -1
        found = re.match(r"( *)(\d+): (k\w+)", line)
        if found is None:
            continue
        indent, number, kind = len(found[1]), int(found[2]), found[3]
        while holders[-1].indent >= indent:
            holders.pop()
        at = holders[-1].loop
        if at == condition:
            continue
        if kind == "kWhile":
            known = turns.get(names.get(number, ""), 1)
            loops.append(Loop(loops[at].turns * known, 0, 0, 0))
            holders.append(_Open(indent, kind, len(loops) - 1))
        elif kind in _HOLD_OTHERS:
            holders.append(_Open(indent, kind, at))
        row = loops[at]
        launch = kind not in (*_HOLD_OTHERS, _WAITS)
        bare = launch and all(holder.kind != "kCommandBuffer" for holder in holders)
        speaks = bool(re.match(_COLLECTIVE, kind))
        loops[at] = row._replace(
            launches=row.launches + launch,
            outside=row.outside + bare,
            graphs=row.graphs + (kind == "kCommandBuffer"),
            collectives=row.collectives + speaks,
            collectives_outside=row.collectives_outside + (speaks and bare),
        )
    return loops


# -- a TPU ----------------------------------------------------------------------------------------


def instructions_of(lowered: jax.stages.Lowered) -> list[dict[str, int]]:
    """Compiles a program for a TPU, and counts its instructions, loop by loop."""
    with compiled_for("tpu"):
        options: dict[str, Any] = dict(compiler_options())
        return count_instructions(lowered.compile(options).as_text() or "")


def count_instructions(hlo: str) -> list[dict[str, int]]:
    """Counts the instructions of every loop of a program's text, and of what is in none.

    Args:
        hlo: computations, each a line with its name and a brace, instructions, and a brace.
    """
    computations = {
        ("" if entry else name): body.splitlines()
        for entry, name, body in re.findall(r"^(ENTRY )?%(\S+) .*\{\n((?:  .*\n)*)\}", hlo, re.M)
    }
    rows: list[dict[str, int]] = []

    def count(name: str, turns: int) -> None:
        lines = computations[name]
        cycles = re.findall(r'"estimated_cycles":"(\d+)"', "\n".join(lines))
        inside = _called(name, computations)
        rows.append({
            "turns": turns,
            "instructions": sum(_is_work(line) for line in lines),
            "gathers": sum(" gather(" in line for line in inside),
            "sorts": sum(" sort(" in line for line in inside),
            "host_transfers": sum(bool(re.search(_HOST, line)) for line in inside),
            "estimated_cycles": sum(map(int, cycles)),
        })  # fmt: skip
        for line in lines:
            if loop := re.search(r" while\(.*condition=%([\w.\-]+), body=%([\w.\-]+)", line):
                # a loop of known length compares its turns with a constant
                ends = re.findall(r" constant\((\d+)\)", "\n".join(computations[loop[1]]))
                count(loop[2], turns * int(ends[0] if ends else 1))

    count("", 1)
    return rows


_HOST = r" (infeed|outfeed|send|recv)\(|MoveToHost|xla_python_cpu_callback"


def _is_work(line: str) -> bool:
    """Says whether an instruction is more than a name for what is there already."""
    idle = r" (parameter|constant|tuple|get-tuple-element|bitcast|while)\("
    return " = " in line and not re.search(idle, line)


def _called(name: str, computations: dict[str, list[str]]) -> list[str]:
    """The lines of a computation and of the fusions in it."""
    lines = computations[name]
    inner = [m for line in lines for m in re.findall(r" fusion\(.*calls=%([\w.\-]+)", line)]
    return lines + [line for each in inner for line in _called(each, computations)]
