"""Every benchmark runs, at its smallest, and its JSON says where the figures come from."""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from jax.profiler import ProfileData
from scipy import stats

import purejaxppo.config.presets
from benchmarks import readme
from benchmarks.common import plots, records, returns, runs, traces
from benchmarks.learning import guard, presets, table1
from benchmarks.speed import gpu
from purejaxppo import PPOConfig, make_learner
from purejaxppo.envs import registry

FOLDER = Path(__file__).parents[2] / "benchmarks"
SMALL = "--total-timesteps 512"
SMOKE = {
    "speed.breakdown": "--shapes a --rounds 2",
    "speed.driver": f"--rounds 2 --checkpoints 1 {SMALL}",
    "speed.first_run": "--here --total-timesteps 2000",
    "speed.memory_plan": "--shapes a --turns 4 2 --updates 2 --rounds 2",
    "learning.ablations": (
        '--tasks CartPole-v1 --details "Flax\'s initialisation, heads too" '
        "no\\ bootstrap\\ at\\ time\\ limits --seeds 2 --total-timesteps 2000"
    ),
    "learning.guard": "--tasks CartPole-v1 --seeds 2 --total-timesteps 2000",
    "learning.exploration": "--quick --total-timesteps 640",
    "learning.memory": "--cores none --seeds 2 --total-timesteps 4096",
    "learning.methods": "--tasks CartPole-v1 --methods muon --seeds 2 --total-timesteps 2000",
    "learning.precision": "--tasks CartPole-v1 --seeds 2 --total-timesteps 2000",
    "learning.presets": "--quick --folder OUT",
    "learning.privileged": "--quick --tasks Pendulum-v1,\\ gravity\\ hidden",
    "peers.control_suite": "--quick --episodes 2",
    "peers.peers": f"--shapes a --peers none --rounds 2 {SMALL}",
    "peers.compile_time": f"--shapes a --peers none --processes 1 {SMALL}",
    "speed.resets": "--env CartPole-v1 --num-envs 4 --updates 1 --batches 2 --rounds 2",
    "speed.gpu": "--quick --platform cpu --tasks CartPole-v1 --peers rejax --envs-dir nowhere",
    "speed.growth": "--kinds environments --largest-environments 16 --updates 1 --rounds 2",
    "speed.scaling": "--shapes a --devices 2 --updates 1 --rounds 2",
    "learning.scores": "--rows CartPole-v1,\\ classic --seeds 2 --total-timesteps 4096",
    "learning.shuffle": "--presets CartPole-v1 --seeds 2 --total-timesteps 20000 --rounds 2",
    "speed.suites": "--envs CartPole-v1 gymnasium/HalfCheetah-v5 --total-timesteps 1000",
    "speed.sweep": "--trials 2 --runs 1 --repetitions 1 --total-timesteps 1000",
    "learning.table1": (
        "--tasks InvertedPendulum-v5 --settings fixed\\ KL,\\ 1 --seeds 1 --total-timesteps 4096 "
        "--folder OUT"
    ),
    "learning.sweeps": (
        "--envs CartPole-v1 --methods random --repetitions 2 --trials 2 --steps 1024"
    ),
    "speed.throughput": f"--shapes --sweeps widths --largest 64 --repeats 2 {SMALL}",
    "speed.time_limits": "--shapes 4\\ x\\ 128 --total-timesteps 1024 --pairs 2",
    "peers.time_to_score": (
        "--arms ours --envs CartPole-v1 --repeats 1 --max-steps 10000 --episodes 2"
    ),
}


def run(script, *args):
    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(FOLDER.parent / ".jax_cache"),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # whether it runs, not how fast
    }
    command = [sys.executable, "-m", f"benchmarks.{script}", *map(str, args)]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=env, cwd=FOLDER.parent
    ).stdout


def test_every_script_has_a_smoke_run():
    scripts = {
        f"{p.parent.name}.{p.stem}" for p in FOLDER.glob("*/*.py")
        if "__main__" in p.read_text() and "parser" in p.read_text()
    }  # fmt: skip
    assert scripts == {*SMOKE, "common.plots", "speed.launches"}  # of test_launches


@pytest.mark.slow
@pytest.mark.parametrize("script", SMOKE)
def test_smoke(script, tmp_path):
    if script == "peers.control_suite" and registry.missing("playground"):
        pytest.skip("not installed")
    out = tmp_path / "result.json"
    words = shlex.split(SMOKE[script].replace("OUT", str(tmp_path)))
    printed = run(script, *words, "--out", out)
    record = json.loads(out.read_text())
    assert json.loads(printed) == record
    assert {"benchmark", "date", "device", "machine", "versions", "results"} <= set(record)
    assert record["results"]


@pytest.mark.slow
def test_plots_are_those_in_the_folder(tmp_path):
    """Drawn anew from the results that are kept; without any, nothing is drawn and it says so."""
    for result in (FOLDER / "results").glob("*.json"):
        shutil.copy(result, tmp_path)
    run("common.plots", "--folder", tmp_path)
    drawn = {p.name for p in tmp_path.glob("*.png")}
    assert drawn == {p.name for p in (FOLDER / "results").glob("*.png")}
    assert drawn
    (tmp_path / "empty").mkdir()
    run("common.plots", "--folder", tmp_path / "empty")
    assert not list((tmp_path / "empty").iterdir())


# -- a GPU that is not here ------------------------------------------------------------------------

PROGRAM = """\
HloModule jit_f

%body (p: f32[4]) -> f32[4] {
  %p = f32[4] parameter(0)
  %loop_add_fusion.3 = f32[4] fusion(%p), metadata={op_name="jit(f)/rollout/while/body/add"}
  ROOT %copy.7 = f32[4] copy(%loop_add_fusion.3)
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %p = f32[4] parameter(0)
  %while.1 = f32[4] while(%p), metadata={op_name="jit(f)/rollout/while"}
  %gemm-fusion.1 = f32[4] fusion(%while.1), metadata={op_name="jit(f)/vmap(steps)/shuffle/dot"}
  ROOT %negate.1 = f32[4] negate(%gemm-fusion.1), metadata={op_name="jit(f)/neg"}
}
"""


def profile_of(plane, line):
    """A kernel that ran twice, a copy, a loop that holds both, and a kernel without a name."""
    named = "events {{ metadata_id: {} duration_ps: {} stats {{ metadata_id: 1 ref_value: {} }} }}"
    ran = [(2, 3_000_000, 2), (2, 5_000_000, 2), (3, 2_000_000, 3), (4, 90_000_000, 4)]
    events = [named.format(*event) for event in ran]
    events.append("events { metadata_id: 5 duration_ps: 4000000 }")
    names = {2: "loop_add_fusion.3", 3: "copy.7", 4: "while.1", 5: "gemm_fusion_1"}
    of_events = [
        f'event_metadata {{ key: {i} value {{ id: {i} name: "{name}" }} }}'
        for i, name in names.items()
    ]
    of_stats = [
        f'stat_metadata {{ key: {i} value {{ id: {i} name: "{name}" }} }}'
        for i, name in (names | {1: "hlo_op"}).items()
    ]
    text = f'planes {{ name: "{plane}" lines {{ id: 1 name: "{line}" {" ".join(events)} }}'
    text += f' lines {{ id: 2 name: "XLA Ops" {events[0]} }} {" ".join(of_events + of_stats)} }}'
    return ProfileData.from_serialized_xspace(ProfileData.text_proto_to_serialized_xspace(text))


def test_a_profile_is_summed_by_hand():
    parts = traces.parts_of(PROGRAM)
    assert parts["loop_add_fusion_3"] == parts["copy_7"] == "rollout"  # its loop's
    assert (parts["gemm_fusion_1"], parts["negate_1"]) == ("shuffle", "rest")
    events = traces.events_of(profile_of("/device:GPU:0", "Stream #13(Compute)"))
    found = traces.summed(events, parts, largest=1)
    assert (found["launches"], found["microseconds"]) == (4, 14)
    assert found["parts"] == {
        "rollout": {"launches": 3, "microseconds": 10},
        "shuffle": {"launches": 1, "microseconds": 4},
    }
    (largest,) = found["kernels"]
    named = {"name": "loop_add_fusion.3", "part": "rollout"}
    assert largest == named | {"launches": 2, "microseconds": 8}
    # on a CPU, among whatever else threads do; and on any of them
    events = traces.events_of(profile_of("/host:CPU", "worker"))
    assert sorted(ns for _, ns in events) == [2000, 3000, 3000, 5000]


def test_parts_of_an_update_have_names():
    """In the program, for whoever profiles it."""
    config = PPOConfig(num_envs=2, num_steps=4, num_minibatches=2, total_timesteps=8)
    learner = make_learner(config)
    state = jax.eval_shape(learner.init, jax.random.key(0))
    text = jax.jit(learner.update).lower(state).as_text(debug_info=True)
    scopes = {scope for name in re.findall(r'loc\("([^"]*)"', text) for scope in name.split("/")}
    assert scopes >= set(traces.PARTS)


def test_without_a_gpu_one_line_says_so(monkeypatch, capsys):
    for name in ("PREALLOCATE", "MEM_FRACTION"):
        monkeypatch.setenv(f"XLA_PYTHON_CLIENT_{name}", "1")
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1 and "no GPU" in err


def test_what_there_is_no_time_for_is_said(monkeypatch):
    """Points take up to 30 of 100 seconds, as a clock says that stands still in between."""
    clock = iter([0, 0, 20, 30, 60, 90, 97, 98, 99, 100, 100, 100, 100])
    monkeypatch.setattr(gpu.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(gpu, "result_of", lambda command, limit: {"left": limit})
    monkeypatch.setattr(sys, "argv", [
        "gpu", "--seconds", "100", "--tasks", "brax/ant", "--envs", "4", "16", "8", "32", "64",
        "--peers", "none",
    ])  # fmt: skip
    found = gpu.measure(gpu.arguments())
    assert found["speed"]["brax/ant"] == {"4": {"left": 100}, "16": {"left": 40}, "8": {"left": 10}}
    assert found["peers"] == {"brax/ant": {"4": {}}}  # nothing is beside it
    assert found["profile"] == {"brax/ant": {"4": {"left": 70}}}
    assert [name.partition(":")[0] for name in found["left_out"]] == [
        "speed, brax/ant, 32", "speed, brax/ant, 64", "peers, brax/ant, 16", "peers, brax/ant, 8",
        "peers, brax/ant, 32", "peers, brax/ant, 64",
    ]  # fmt: skip


def test_figures_of_a_card_by_hand(tmp_path, monkeypatch):
    """Where the file of its results is there; where it is not, the model of launches stands."""
    spread = {"lower_quartile": 9e6, "median": 1e7, "upper_quartile": 2e7}
    point = {
        "steps_per_second": spread,
        "seconds_per_update": {"median": 10e-6},
        "memory": {"peak_bytes": 2_500_000_000},
    }
    profile = {"launches": 1234, "parts": {"rollout": {"launches": 9, "microseconds": 4.0}}}
    score = {"reached": True, "target_return": 475.0, "seconds": 21.0, "compile_seconds": 19.0}
    results = {
        "card": {"name": "a card", "nvidia_smi": None},
        "speed": {"CartPole-v1": {"4096": point, "1024": {"does_not_fit": "too large"}}},
        "profile": {"CartPole-v1": {"4096": profile}},
        "score": {"CartPole-v1": score},
        "peers": {"CartPole-v1": {"4096": {"rejax": {"ours_over_peer": spread}}}},
    }
    assert "has not been run on a card" in readme.gpu()
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    (tmp_path / "gpu.json").write_text(json.dumps({"results": results}))
    text = readme.gpu()
    assert "| CartPole-v1 |  | 10,000,000 | 2.5 GB |" in text
    assert "| CartPole-v1 | 1,234 | rollout 40%, waiting 60% |" in text
    assert "475 on CartPole-v1 after 21 seconds" in " ".join(text.split())
    figure = plots.gpu(results)
    widths = [part.patches[0].get_width() for part in figure.axes[1].containers]
    assert widths == pytest.approx([0.4, 0.6])


# -- figures in the texts --------------------------------------------------------------------------


def results(name):
    return json.loads((FOLDER / "results" / f"{name}.json").read_text(encoding="utf-8"))["results"]


@pytest.mark.parametrize("page", readme.PAGES)
def test_figures_are_those_of_the_results(page):
    """`python -m benchmarks.readme` has nothing to change."""
    text = (FOLDER.parent / page).read_text(encoding="utf-8")
    assert readme.filled(text) == text
    assert "<!-- figures: " in text


def test_every_block_of_figures_is_on_a_page():
    pages = [(FOLDER.parent / page).read_text(encoding="utf-8") for page in readme.PAGES]
    used = [name for page in pages for _, name, _ in readme.MARKED.findall(page)]
    assert sorted(used) == sorted(readme.FIGURES)
    for page in pages:
        assert page.count("<!-- figures: ") == page.count("<!-- end of figures -->")


def test_a_figure_that_was_changed_by_hand_is_made_anew():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    changed = text.replace("| 500.0 ± 0.0 |", "| 499.0 ± 0.0 |", 1)
    assert changed != text
    assert readme.filled(changed) == text


def test_tables_by_hand():
    table = readme.table(["a", "b"], [(1, "x"), ("", 2.5)])
    assert table.splitlines() == ["| a | b |", "|---|---|", "| 1 | x |", "|  | 2.5 |"]
    assert readme.mean_and_std({"mean": 1.5, "std": 0.5}) == "1.50 ± 0.50"
    assert readme.mean_and_std({"mean": -1234.4, "std": 10.2}) == "-1,234 ± 10"
    row = next(line for line in readme.speed().splitlines() if line.startswith("| b:"))
    ours = results("peers")["b"]["ours"]["steps_per_second"]["median"]
    assert row.split(" | ")[1] == f"{ours:,.0f}"


# -- evidence, by hand -----------------------------------------------------------------------------


def test_scores_of_the_papers_table_by_hand():
    metrics = SimpleNamespace(
        episodes=np.array([[50, 60, 70, 0]]), return_sum=np.array([[0.0, 60.0, 140.0, 0.0]])
    )
    run: Any = SimpleNamespace(metrics=metrics)
    assert table1.last_episodes(run) == 200 / 130  # of the last updates with 100 episodes
    runs = {"a": {"0": {"score": 10.0}, "1": {"score": 6.0}}, "b": {"0": {"score": -6.0}}}
    scores = table1.scaled({"task": {"random": 2.0, "runs": runs}})
    assert scores["a"]["task"].tolist() == [1.0, 0.5]
    assert scores["b"]["task"].tolist() == [-1.0]
    assert table1.interval([np.array([1.0, 1.0]), np.array([3.0])]) == (2.0, 2.0)
    one, two = np.array([1.0, 4.0, 2.0]), np.array([7.0, 6.0, 9.0])
    welch = stats.ttest_ind(one, -two, equal_var=False).confidence_interval()  # of their sum
    np.testing.assert_allclose(table1.interval([one, two]), (welch.low / 2, welch.high / 2))


def test_chances_of_many_tests_are_adjusted_together():
    """The example of Holm's method, worked by hand: 4 x .01, 3 x .01 raised to it, 2 x .03, .04."""
    assert returns.holm([0.03, 0.01, 0.04, 0.01]) == pytest.approx([0.06, 0.04, 0.06, 0.04])
    assert returns.chance_of([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == 1.0


def test_cells_of_the_papers_table_are_kept_in_its_file():
    """In the order of tasks, settings and seeds."""
    run = {"total_timesteps": 10, "score": 1.0}
    names = "no clipping or penalty", "clipping, 0.2"
    cells = {names[1]: {"1": run, "0": run}, names[0]: {"0": run}}
    before = {"tasks": {"Reacher-v5": {"random": -40.0, "runs": cells}}}
    kept = table1.told_before(before)
    assert set(kept) == {("Reacher-v5", names[1], 1), ("Reacher-v5", names[1], 0),
                         ("Reacher-v5", names[0], 0)}  # fmt: skip
    found = table1.by_task(kept, {"Reacher-v5": -40.0})
    assert found == {"Reacher-v5": {"random": -40.0, "runs": {
        names[0]: {"0": run}, names[1]: {"0": run, "1": run},
    }}}  # fmt: skip
    assert [*found["Reacher-v5"]["runs"]] == [*names]
    assert [*found["Reacher-v5"]["runs"][names[1]]] == ["0", "1"]


def test_a_file_of_other_sizes_is_not_gone_on_with(tmp_path, capsys):
    parser, out = argparse.ArgumentParser(), tmp_path / "result.json"
    for name in ("--seeds", "--total-timesteps"):
        parser.add_argument(name, type=int)
    parser.add_argument("--jobs")  # changes no figure
    few = records.asked_for(parser.parse_args(["--seeds", "2", "--jobs", "1"]))
    assert few == {"seeds": 2, "total_timesteps": None}
    assert records.measured_before(out, parser, few) == {}
    records.record("x", {"task": 1.0}, out, few)
    assert records.measured_before(out, parser, few) == records.results_in(out) == {"task": 1.0}
    with pytest.raises(SystemExit, match="2"):
        records.measured_before(out, parser, few | {"seeds": 8})
    assert "its figures are of {'seeds': 2}, not {'seeds': 8}" in capsys.readouterr().err


def test_quick_gives_way_to_what_is_given(monkeypatch):
    """Also where that is the default itself."""
    monkeypatch.setattr("sys.argv", ["script", "--seeds", "8"])
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100)
    args = records.quickened(parser, seeds=2, steps=5)
    assert (args.seeds, args.steps) == (8, 5)


def test_the_guard_finds_returns_that_are_lower():
    def agents(values):
        return {"mean_returns": {"values": values, "mean": float(np.mean(values))}}

    before = agents([float(x) for x in range(10, 18)])
    same, lower = (guard.beside(agents([x + d for x in range(10, 18)]), before) for d in (0.0, -6))
    assert not same["lower"] and same["chance"] > 0.4
    exact = stats.mannwhitneyu(range(4, 12), range(10, 18), alternative="less").pvalue
    assert lower["lower"] and lower["chance"] == exact < 0.01
    low, high = lower["difference_95"]
    assert low < -6 < high < 0


def test_flags_of_settings_are_those_of_the_command():
    words = runs.flags_of({"num_envs": 1, "hidden_sizes": (8, 4), "max_grad_norm": None})
    assert words == ["--num-envs", "1", "--hidden-sizes", "8", "4", "--max-grad-norm", "None"]
    assert runs.flags_of({"layer_norm": True, "shared_torso": False}) == [
        "--layer-norm", "--no-shared-torso",
    ]  # fmt: skip
    command = presets.with_flags("purejaxppo sweep X --trials 64", trials=4, retrain=1)
    assert command == "purejaxppo sweep X --retrain 1 --trials 4"


def test_presets_that_were_found_by_a_sweep_have_its_command():
    commands = presets.commands()
    assert {"CartPole-v1", "Acrobot-v1", "Pendulum-v1", "Breakout-MinAtar"} <= set(commands)
    assert set(commands) <= set(purejaxppo.config.presets.names())
    for name, command in commands.items():
        assert command.startswith(f"purejaxppo sweep {name} --preset none ")


def test_speeds_of_the_suites_are_those_of_the_results():
    """In a table whose other columns are words."""
    text = (FOLDER.parent / "purejaxppo/envs/README.md").read_text(encoding="utf-8")
    assert len(results("suites")) > 5
    for name, found in results("suites").items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        assert row.split(" | ")[-1].rstrip(" |") == f"{found['steps_per_second']:,.0f}"


def test_the_roofline_is_left_out_in_text_and_picture_alike():
    shapes = results("throughput")["shapes"]
    without = {name for name, x in shapes.items() if not plots.is_bound(x["config"])}
    assert without == {"c", "d"}
    rows = [line for line in readme.speed().splitlines()[2:] if line.startswith("|")]
    lines = {line[2:].partition(":")[0]: line for line in rows}
    assert {name for name, line in lines.items() if not line.split(" | ")[2].strip()} == without
    axes = plots.throughput(results("throughput")).axes[0]
    assert {label.get_text() for label in axes.get_xticklabels()} == set(shapes) - without
    for sweep in results("throughput").values():
        for point in sweep.values():
            if "config" in point and plots.is_bound(point["config"]):
                assert point["fraction_of_roofline"]["median"] <= 1


def test_shares_of_an_update_add_up_to_the_whole():
    axes = plots.breakdown(results("breakdown")).axes[0]
    bars = [part.patches for part in axes.containers]
    for at, name in enumerate(results("breakdown")):
        assert sum(part[at].get_width() for part in bars) == pytest.approx(1), name
        assert all(part[at].get_width() >= 0 for part in bars)
    # what the parts take alone, over the whole: of c, by hand
    parts = 62005.7315 + 35676.90625 + 209.24288709 + 1758.74458929 + 586121.45616079
    said = {text.get_text() for text in axes.texts} - {""}
    assert f"{parts / 654133.968:.2f} x the update" in said
    assert len(said) == 2  # c and e
