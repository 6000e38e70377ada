"""A population in a study: as in one program, interrupted, and on two devices."""

import json
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from support.peaks import Peak
from support.several import environment

from purejaxppo import ConfigError, PPOConfig, load_agents
from purejaxppo.components import make_components
from purejaxppo.ppo.objectives import OBJECTIVES
from purejaxppo.runs.vary import kept_own
from purejaxppo.sweeps.dimensions import Dimension, Space
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.read import read_lineage, read_study
from purejaxppo.sweeps.report.curves import runs_of
from purejaxppo.sweeps.schedulers import population as module
from purejaxppo.sweeps.schedulers.evolution import evolution_of, line_of
from purejaxppo.sweeps.schedulers.pbt import mean_episode_return, population_of
from purejaxppo.sweeps.schedulers.population import train_population
from purejaxppo.sweeps.scores import mean_returns
from purejaxppo.sweeps.study import Study
from purejaxppo.sweeps.sweep import sweep

CONFIG = PPOConfig(
    num_envs=2, num_steps=4, num_minibatches=2, num_epochs=2, hidden_sizes=(4,),
    total_timesteps=8 * 9, normalize_observations=True,
)  # fmt: skip
SPACE = Space((
    Dimension("env_params.height", 0.0, 2.0),
    Dimension("learning_rate", 1e-4, 1e-1, log=True),
    Dimension("gamma", choices=(0.5, 0.9, 0.99)),
))  # fmt: skip
COMPONENTS = make_components(CONFIG, env=Peak())
OPTIONS = SweepOptions(scheduler="pbt", population=8, evolve_every=16, seed=3)


def train(folder=None, options=OPTIONS, told=()):
    """Results of a study, to which some may be told before."""
    with Study.open(folder, CONFIG, SPACE, options) as study:
        for result in told:
            study.tell(result)
        return list(train_population(COMPONENTS, SPACE, options, study))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder)


def lines(folder):
    return [json.loads(line) for line in (folder / "lineage.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_it_is_the_one_program(whole):
    folder, results = whole
    run = population_of(COMPONENTS, evolution_of(COMPONENTS, SPACE, OPTIONS), mean_episode_return)
    output = jax.jit(run)(jax.random.key(3))
    _, agents = load_agents(folder / "runs/0000", env=Peak())
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        agents.params, output.state.params,
    )  # fmt: skip
    rows = lines(folder)
    assert [(r["generation"], r["agent"]) for r in rows] == [
        (g, i) for g in range(4) for i in range(8)
    ]
    parents = [r["agent"] if r["parent"] is None else r["parent"] for r in rows]
    assert parents == np.asarray(output.parents).ravel().tolist()
    assert not any(r["parent"] == r["agent"] for r in rows)
    assert read_lineage(folder) == rows
    np.testing.assert_allclose([r["score"] for r in rows], output.scores.ravel(), rtol=1e-5)
    for name, column in output.hyperparams.items():
        np.testing.assert_allclose([r["setting"][name] for r in rows], column.ravel(), rtol=1e-5)

    # each result is what the agent ended with
    assert [r.number for r in results] == list(range(8)) == [r.agents[0] for r in results]
    assert {(r.status, r.steps, r.run) for r in results} == {("done", 72, "runs/0000")}
    assert [r.setting for r in results] == [r["setting"] for r in rows[-8:]]
    moved = np.asarray(output.parents) != np.arange(8)
    assert [r.parent is not None for r in results] == moved.any(0).tolist()

    # and `eval` plays each in the environment that it ended with
    own = kept_own(str(folder / "runs/0000"), Peak().default_params)
    heights = [r.setting["env_params.height"] for r in results]
    np.testing.assert_allclose(own.env_params["height"], heights, rtol=1e-6)


@pytest.mark.slow
def test_scores_are_those_of_the_line(whole):
    """The last tenth of 9 updates is the last one; all nine count for mean_return."""
    folder, results = whole
    rows = lines(folder)
    parents = [r["agent"] if r["parent"] is None else r["parent"] for r in rows]
    parents = np.array(parents).reshape(4, 8)
    height = np.array([r["setting"]["env_params.height"] for r in rows]).reshape(4, 8)
    pay = 1 - (height - 0.7) ** 2
    for i, result in enumerate(results):
        line = [i]
        for g in (3, 2, 1):
            line.insert(0, parents[g, line[0]])
        assert line_of(parents, i, (2, 2, 2, 3)).tolist() == np.repeat(line, (2, 2, 2, 3)).tolist()
        np.testing.assert_allclose(result.score, pay[3, i], rtol=1e-5)
        wanted = np.average([pay[g, line[g]] for g in range(4)], weights=(2, 2, 2, 3))
        np.testing.assert_allclose(result.measured["mean_return"], wanted, rtol=1e-5)

    # and so are the curves beside them, whoever was in its place before it took over
    runs, missing = runs_of(read_study(folder), results)
    assert not missing and len({r.parent is None for r in results}) == 2
    for run, result in zip(runs, results, strict=True):
        np.testing.assert_allclose(run.final_returns, result.score, rtol=1e-6)
        np.testing.assert_allclose(mean_returns(run.metrics), result.measured["mean_return"])


@pytest.mark.slow
def test_curves_need_the_whole_lineage(whole, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path / "study")
    kept = (folder / "lineage.jsonl").read_text().splitlines(keepends=True)
    (folder / "lineage.jsonl").write_text("".join(kept[:-8]))
    runs, missing = runs_of(read_study(folder), whole[1][:1])
    assert not runs
    assert re.fullmatch(r"trial 0: '.*lineage.jsonl' does not say of all generations .*", *missing)


@pytest.mark.slow
def test_an_interrupted_one_goes_on_to_the_bit(whole, tmp_path, monkeypatch):
    folder, results = whole
    original, calls = module.save, []

    def save(*args):
        original(*args)
        calls.append(args[2])
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "save", save)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    again = train(tmp_path)
    assert calls == [2, 4, 6, 9]
    assert [r._replace(seconds=0) for r in again] == [r._replace(seconds=0) for r in results]
    assert lines(tmp_path) == lines(folder)
    for name in ("agents.npz", "checkpoints/0000000009.npz"):
        with (
            np.load(folder / "runs/0000" / name) as one,
            np.load(tmp_path / "runs/0000" / name) as two,
        ):
            for key in one.files:
                if key != "manifest" and "seconds" not in key:
                    np.testing.assert_array_equal(one[key], two[key], err_msg=key)
    one, two = (f / "runs/0000/metrics.jsonl" for f in (folder, tmp_path))
    assert one.read_text() == two.read_text()

    # killed behind its last checkpoint, it gets what it lacks, and nothing is trained again
    (tmp_path / "runs/0000/summary.json").unlink()
    kept = (tmp_path / "lineage.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "lineage.jsonl").write_text("".join(kept[:-8]))
    assert len(train(tmp_path)) == 8 and calls == [2, 4, 6, 9]
    assert lines(tmp_path) == lines(folder)
    assert (tmp_path / "runs/0000/summary.json").exists()

    # what was not told is told, and nothing is trained again
    assert [r.number for r in train(tmp_path, told=results[:5])] == [5, 6, 7]
    assert train(tmp_path, told=results) == [] and calls == [2, 4, 6, 9]


@pytest.mark.slow
def test_a_sweep_trains_it_and_nothing_is_written_without_a_folder(whole):
    how = {"scheduler": "pbt", "population": 8, "evolve_every": 16, "seed": 3}
    clip = OBJECTIVES["clip"].loss
    found = sweep(
        CONFIG, SPACE, env=Peak(), extra={"weight": 1.0}, **how,
        objective=lambda *args: args[3].extra["weight"] * clip(*args),  # args[3]: hyperparameters
    )  # fmt: skip
    assert [r.setting for r in found.results] == [r.setting for r in whole[1]]
    assert {r.run for r in found.results} == {None}
    assert found.winner.score == max(r.score for r in whole[1])
    assert found.best.gamma == found.winner.setting["gamma"]


@pytest.mark.slow
def test_a_signal_stops_it_after_the_generation_in_hand(whole, tmp_path, monkeypatch):
    original = module.save

    def save(*args):
        original(*args)
        if args[2] == 4:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(module, "save", save)
    how = {"scheduler": "pbt", "population": 8, "evolve_every": 16, "seed": 3}
    found = sweep(CONFIG, SPACE, env=Peak(), study_dir=str(tmp_path / "study"), **how)
    assert (found.stopped, found.results) == (signal.SIGINT, [])
    assert len(lines(tmp_path / "study")) == 2 * 8
    found = sweep(CONFIG, SPACE, env=Peak(), study_dir=str(tmp_path / "study"), **how)
    assert found.stopped is None and lines(tmp_path / "study") == lines(whole[0])


@pytest.mark.parametrize(("how", "words"), [
    ({"seeds": 2}, "seeds=2 has no effect on a population of 16 agents"),
    ({"trials": 8}, "trials=8 has no effect on a population"),
        ({"sampler": "grid"}, "sampler='grid' has no effect on a population"),
        ({"score": ("evaluation",)}, "score='evaluation' is measured behind that"),
], ids=str)  # fmt: skip
def test_what_no_population_can_be_is_refused(how, words):
    options = SweepOptions(scheduler="pbt", **how)
    with pytest.raises(ConfigError, match=words):
        train(None, options)


@pytest.mark.slow
def test_agents_move_between_devices(whole, tmp_path):
    """Two devices have four agents each; who takes over may come from the other."""
    here = Path(__file__).parent
    script = (
        f"import sys; sys.path[:0] = [{str(here)!r}, {str(here.parent)!r}]\n"
        "import pathlib, test_population as t\n"
        "from purejaxppo import make_mesh\n"
        "assert make_mesh(8).shape['seeds'] == 2\n"
        "t.train(pathlib.Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    subprocess.run(command, env=environment(2), check=True)
    one, two = lines(whole[0]), lines(tmp_path)
    assert [r["parent"] for r in one] == [r["parent"] for r in two]
    moved = [r["parent"] is not None and (r["parent"] < 4) != (r["agent"] < 4) for r in one]
    assert any(moved)
    for name in SPACE.names:
        values = [[r["setting"][name] for r in rows] for rows in (one, two)]
        np.testing.assert_allclose(*values, rtol=1e-5)
    agents = [load_agents(f / "runs/0000", env=Peak())[1].params for f in (whole[0], tmp_path)]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), *agents)
