"""What an update launches on an H100, as the compiler says; no such card is needed.

Launches are what small programs wait for on a GPU. The bounds leave a few percent, for another
version of XLA: what goes over one has a new operation in a loop, or a loop outside of the graph.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.common import ahead

ROOT = Path(__file__).parents[2]
BOUNDS = {  # launches of one update of 2048 environments x 128 steps
    "CartPole-v1": 2400,
    "CartPole-v1, fit": 2400,
    "Breakout-MinAtar": 4300,
    "CartPole-v1, gru": 15_200,
    "CartPole-v1, lstm": 18_000,
    "CartPole-v1, linear": 5000,
    "CartPole-v1, 4 devices": 2400,
    "Pendulum-v1, normalized, 4 devices": 2250,
}
GRADIENT_STEPS = 16  # 4 epochs of 4 minibatches
AROUND_A_COLLECTIVE = 7  # launches outside of graphs: itself, and fewer than make a graph

THUNKS = """\
000: kCommandBuffer [source | next=007 (1)]
    001: kCopy [source | sink] kCopy
    002: kWhile [prev=001 (1) | sink]
condition:
        003: kCustomKernel [source | sink] compare
      body:
        004: kCustomKernel [source | next=005 (1)] add
        005: kDynamicSliceFusion [prev=004 (1) | sink] params=1
            006: kCopy [source | sink] kCopy
007: kWhile [prev=000 (1) | next=012 (1)]
condition:
    008: kCustomKernel [source | sink] compare
  body:
    000: kCommandBuffer [source | sink]
        009: kGemm [source | sink] dot
    010: kWhile [prev=000 (1) | next=011 (1)]
condition:
        013: kCustomKernel [source | sink] compare
      body:
        014: kCustomKernel [source | sink] multiply
    011: kCustomKernel [prev=010 (1) | sink] reduce
012: kCustomKernel [prev=007 (1) | sink] divide
"""
METADATA = """\
thunk_metadata { thunk_info { profile_annotation: "graph" } thunk_kind: "kCommandBuffer" }
thunk_metadata { thunk_info { profile_annotation: "while.1" thunk_id: 2 } thunk_kind: "kWhile" }
thunk_metadata { thunk_info { profile_annotation: "while.2" thunk_id: 7 } thunk_kind: "kWhile" }
thunk_metadata { thunk_info { profile_annotation: "while.3" thunk_id: 10 } thunk_kind: "kWhile" }
"""
OPTIMIZED = """\
  %while.1 = (s32[]) while(%tuple), body=%b, {"known_trip_count":{"n":"5"}}
  %while.2 = (s32[]) while(%tuple), body=%b, {"known_trip_count":{"n":"7"}}
  %while.3 = (s32[]) while(%tuple), body=%b
"""


def test_launches_are_counted_by_hand():
    """A loop in a graph; one outside, each turn with a graph and a loop of unknown length."""
    names, turns = ahead.loop_names(METADATA), ahead.trip_counts(OPTIMIZED)
    assert names == {0: "graph", 2: "while.1", 7: "while.2", 10: "while.3"}
    assert turns == {"while.1": 5, "while.2": 7}
    assert ahead.count_launches(THUNKS, names, turns) == [
        ahead.Loop(turns=1, launches=2, outside=1, graphs=1),
        ahead.Loop(turns=5, launches=2, outside=0, graphs=0),
        ahead.Loop(turns=7, launches=2, outside=1, graphs=1),
        ahead.Loop(turns=7, launches=1, outside=1, graphs=0),
    ]


def test_collectives_are_counted_by_hand():
    """One in a graph, one outside, on a stream of its own; to wait for them is no launch."""
    thunks = """\
000: kCommandBuffer [source | next=004 (1)]
    001: kAsyncStart [source | sink] stream=communication_stream[0], async_id=1
        002: kAllGather [source | sink] kAllGather
    003: kAsyncDone [source | sink] async_id=1
004: kWhile [prev=000 (1) | sink]
condition:
    005: kCustomKernel [source | sink] compare
  body:
    006: kAsyncStart [source | sink] stream=communication_stream[0], async_id=2
        007: kAllReduce [source | sink] kAllReduce
    008: kCustomKernel [source | sink] add
    009: kAsyncDone [source | sink] async_id=2
"""
    assert ahead.count_launches(thunks, {4: "while.1"}, {"while.1": 5}) == [
        ahead.Loop(1, launches=1, outside=0, graphs=1, collectives=1, collectives_outside=0),
        ahead.Loop(5, launches=2, outside=2, graphs=0, collectives=1, collectives_outside=1),
    ]


def test_instructions_are_counted_by_hand():
    hlo = """\
%fused (p: s32[]) -> s32[] {
  %p = s32[] parameter(0)
  ROOT %gather.1 = s32[] gather(%p, %p)
}

%body (p: (s32[])) -> (s32[]) {
  %p = (s32[]) parameter(0)
  %x = s32[] get-tuple-element(%p), index=0
  %fusion.1 = s32[] fusion(%x), calls=%fused, backend_config={"estimated_cycles":"20"}
  ROOT %t = (s32[]) tuple(%fusion.1)
}

%condition (p: (s32[])) -> pred[] {
  %p = (s32[]) parameter(0)
  %end = s32[]{:T(128)} constant(4)
  %x = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[] compare(%x, %end), direction=LT
}

ENTRY %main (p: s32[]) -> (s32[]) {
  %p = s32[] parameter(0)
  %sort.1 = s32[] sort(%p), backend_config={"estimated_cycles":"300"}
  %t = (s32[]) tuple(%sort.1)
  ROOT %w = (s32[]) while(%t), condition=%condition, body=%body
}
"""
    none = {"gathers": 0, "sorts": 0, "host_transfers": 0}
    assert ahead.count_instructions(hlo) == [
        none | {"turns": 1, "instructions": 1, "sorts": 1, "estimated_cycles": 300},
        none | {"turns": 4, "instructions": 1, "gathers": 1, "estimated_cycles": 20},
    ]


# the module is looked for, not imported: that would load CUDA, which says that it finds no driver
HAS_COMPILER = importlib.util.find_spec("jax_cuda12_plugin") is not None


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """All programs, counted in a process of their own, with the optimizations of users."""
    out = tmp_path_factory.mktemp("launches") / "launches.json"
    left_out = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    env = {k: v for k, v in os.environ.items() if k not in left_out}
    command = [sys.executable, "-m", "benchmarks.speed.launches", "--out", str(out)]
    run = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(out.read_text())["results"]["programs"]


def within_the_bounds(name, found):
    """Checks the counts of a program, whoever has compiled it."""
    rows, devices = found["loops"], found["devices"]
    assert found["launches"] <= BOUNDS[name], (name, rows)
    assert found["launches"] == sum(row["turns"] * row["launches"] for row in rows)
    if devices == 1:
        assert (found["outside"], found["graphs"], found["collectives"]) == (0, 1, 0), (name, rows)
        return
    # devices speak to each other once in a gradient step, and at most three times more
    speak = {row["turns"]: row["collectives"] for row in rows if row["collectives"]}
    assert set(speak) == {1, GRADIENT_STEPS}, (name, rows)
    assert speak[GRADIENT_STEPS] == 1 and speak[1] <= 3, (name, rows)
    # graphs end at a collective: outside are those, and what is too little for a graph of its own
    for row in rows:
        speaks = row["collectives"]
        assert row["outside"] <= AROUND_A_COLLECTIVE * speaks, (name, rows)
        assert row["graphs"] <= (2 * speaks + 2 if speaks else 0), (name, rows)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_COMPILER, reason="no compiler for a GPU: pip install '.[launches]'")
def test_an_update_is_few_launches_in_graphs(counted):
    assert counted.keys() == BOUNDS.keys()
    for name, found in counted.items():
        within_the_bounds(name, found)


def test_the_results_that_are_kept_are_within_the_bounds():
    kept = json.loads((ROOT / "benchmarks/results/launches.json").read_text())["results"]
    assert kept["programs"].keys() == BOUNDS.keys()
    for name, found in kept["programs"].items():
        within_the_bounds(name, found)
