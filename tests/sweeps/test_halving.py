"""Halving and asha: who goes on, what it costs, and that nothing is trained otherwise."""

import contextlib
import dataclasses
import json
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.peaks import Peak

from purejaxppo import ConfigError, PPOConfig, load_agents, make_train
from purejaxppo.components import make_components
from purejaxppo.runs import compiled
from purejaxppo.sweeps.dimensions import Dimension, Space
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.read import read_results
from purejaxppo.sweeps.samplers import drawn
from purejaxppo.sweeps.schedulers import asha, halving, rungs
from purejaxppo.sweeps.schedulers.asha import goes_on
from purejaxppo.sweeps.schedulers.crew import advance, columns_of, latest_returns
from purejaxppo.sweeps.schedulers.halving import train_halving
from purejaxppo.sweeps.schedulers.rungs import Schedule, best_of, rungs_of, scores_of, share_of
from purejaxppo.sweeps.space import trial_of
from purejaxppo.sweeps.study import Study
from purejaxppo.sweeps.sweep import sweep
from purejaxppo.sweeps.trials import Trial

CONFIG = PPOConfig(
    num_envs=2, num_steps=4, num_minibatches=2, num_epochs=2, hidden_sizes=(4,),
    total_timesteps=8 * 8, learning_rate_final_scale=0.5,
)  # fmt: skip
SPACE = Space((
    Dimension("env_params.height", 0.0, 2.0),
    Dimension("learning_rate", 1e-4, 1e-1, log=True),
))  # fmt: skip
COMPONENTS = make_components(CONFIG, env=Peak())
HOW = dict(trials=12, seeds=2, seed=5, factor=2, min_steps=16)
HALVING = SweepOptions(scheduler="halving", **HOW)
ASHA = SweepOptions(scheduler="asha", population=4, **HOW)
AT = (2, 4, 8)  # updates at the rungs


def train(folder, options, source=None, told=()):
    """All results of a study, told as they come."""
    source = source or drawn(SPACE, CONFIG, options)
    with Study.open(folder, CONFIG, SPACE, options) as study:
        for result in told:
            study.tell(result)
        for result in study.results.values():
            source.tell(result)
        for result in train_halving(source, COMPONENTS, SPACE, options, study):
            assert result.number not in study.results
            study.tell(result)
            source.tell(result)
        return study.results


def pay(setting):
    return 1 - (setting["env_params.height"] - 0.7) ** 2


@contextlib.contextmanager
def watched(module):
    """What each program is run for, (agents, updates); and what is compiled."""
    updates, compilations = [], []
    original = jax.stages.Lowered.compile

    def counted(programs, state, own, n):
        updates.append((len(state.step), n))
        return advance(programs, state, own, n)

    def compile(self, *args, **how):
        compilations.append(self)
        return original(self, *args, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "advance", counted)
        patch.setattr(jax.stages.Lowered, "compile", compile)
        yield updates, compilations


@pytest.fixture(scope="module")
def halved(tmp_path_factory):
    compiled._kept.clear()
    folder = tmp_path_factory.mktemp("halved")
    with watched(halving) as (updates, compilations):
        return folder, train(folder, HALVING), updates, compilations


@pytest.fixture(scope="module")
def placed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("placed")
    with watched(asha) as (updates, compilations):
        return folder, train(folder, ASHA), updates, compilations


# -- rungs -----------------------------------------------------------------------------------------


def test_rungs_stand_at_powers_of_the_factor():
    def at(config=CONFIG, **how):
        return rungs_of(config, SweepOptions(scheduler="halving", **how))

    assert at(min_steps=16, factor=2) == AT
    assert at(min_steps=9, factor=3) == (2, 4, 8)  # 9 and 27 steps in whole updates
    assert at(factor=2) == AT  # 64 / 4
    assert at(factor=4) == (1, 2, 8)
    assert at(CONFIG.replace(total_timesteps=8), factor=4) == (1,)
    with pytest.raises(ConfigError, match="min_steps=64 stops no trial before its end"):
        at(min_steps=64)


def test_the_best_are_those_of_the_highest_scores():
    assert best_of([1.0, 3.0, np.nan, 2.0], [0, 1, 2, 3], 2) == [1, 3]
    # of equal ones the lower numbers, and those without a score at last
    assert best_of([1.0, 1.0, 1.0], [7, 3, 5], 2) == [1, 2]
    assert best_of([np.nan, np.nan, -1e9], [0, 1, 2], 2) == [0, 2]
    # a rung that no episode has reached stops none
    assert best_of([np.nan, np.nan, np.nan], [0, 1, 2], 1) == [0, 1, 2]


def test_long_episodes_are_no_disadvantage_at_a_rung():
    """Twenty updates, two of which are the last tenth: the last return, unless there is none."""
    episodes, total = np.zeros((3, 20), np.int32), np.zeros((3, 20), np.float32)
    episodes[0, [3, 18]], total[0, [3, 18]] = (1, 2), (10.0, 8.0)
    episodes[1, [3, 11]], total[1, [3, 11]] = (1, 2), (10.0, 18.0)
    metrics = SimpleNamespace(episodes=episodes, return_sum=total)
    found = latest_returns(metrics)
    np.testing.assert_array_equal(found["final_return"], [4.0, 9.0, np.nan])
    np.testing.assert_array_equal(found["mean_return"], [7.0, 9.5, np.nan])


def test_a_trial_is_known_by_the_mean_over_its_seeds():
    episodes, total = np.ones((6, 10), np.int32), np.arange(6.0)[:, None] + np.zeros(10)
    options = SweepOptions(scheduler="halving", seeds=2)
    metrics = SimpleNamespace(episodes=episodes, return_sum=total)
    np.testing.assert_array_equal(scores_of(metrics, options), [0.5, 2.5, 4.5])
    episodes[3] = 0
    np.testing.assert_array_equal(scores_of(metrics, options), [0.5, np.nan, 4.5])


def test_one_of_so_many_goes_on_and_one_at_least():
    assert [share_of(n, 2) for n in (8, 7, 2, 1)] == [4, 3, 1, 1]
    assert [share_of(n, 4) for n in (9, 7, 5, 3)] == [2, 1, 1, 1]


def test_who_arrives_first_goes_on_unless_another_is_better():
    assert goes_on([[0, 1.0]], 0, 4)
    record = [[0, 1.0], [1, 2.0], [2, 0.0]]
    assert [goes_on(record, n, 4) for n in (0, 1, 2)] == [False, True, False]
    eight = [[n, float(n)] for n in range(8)]
    assert [n for n in range(8) if goes_on(eight, n, 4)] == [6, 7]
    blind = [[n, np.nan] for n in range(8)]
    assert all(goes_on(blind, n, 4) for n in range(8))


# -- halving ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_best_go_on(halved):
    _, results, *_ = halved
    ranked = sorted(results, key=lambda n: -pay(results[n].setting))
    assert [ranked.index(n) for n in results] != sorted(ranked.index(n) for n in results)
    reached = {n: results[n].steps // 8 for n in results}
    assert {n: reached[n] for n in ranked} == {
        n: 8 if i < 3 else 4 if i < 6 else 2 for i, n in enumerate(ranked)
    }
    for result in results.values():
        assert result.status == ("done" if result.steps == 64 else "stopped")
        np.testing.assert_allclose([result.score, *result.scores], [pay(result.setting)] * 3, 1e-5)


def test_gradient_steps_are_spent_as_the_rungs_say(halved):
    assert halved[2] == [(24, 2), (12, 2), (6, 4)]


@pytest.mark.slow
def test_one_program_is_compiled_for_each_rung(halved):
    """And one for the beginning; none at all for further batches, here of a whole sweep."""
    assert len(halved[3]) == len(AT) + 1
    how = {"scheduler": "halving", **HOW, "trials": 24, "batch": 12}
    with watched(halving) as (updates, compilations):
        found = sweep(CONFIG, SPACE, env=Peak(), **how)
    assert [sum(r.steps == 64 for r in found.results), len(found.results)] == [6, 24]
    assert updates == 2 * halved[2] and not compilations
    assert [r.score for r in found.results[:12]] == [halved[1][n].score for n in range(12)]
    assert found.winner.score == max(r.score for r in found.results if r.status == "done")


@pytest.fixture(scope="module")
def alone():
    """Seeds of a setting, trained by `make_train`, and by nothing of a sweep."""
    run = make_train(CONFIG, env=Peak())
    keys = jax.random.split(jax.random.key(5), 2)
    return lambda hyper, params: jax.jit(jax.vmap(run, (0, None, None)))(keys, hyper, params)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["halved", "placed"])
def test_a_trial_is_trained_as_by_itself(which, request, alone):
    folder, results, *_ = request.getfixturevalue(which)
    result = max((r for r in results.values() if r.status == "done"), key=lambda r: r.number)
    height, rate = (
        jnp.float32(result.setting[name]) for name in ("env_params.height", "learning_rate")
    )
    output = alone(
        CONFIG.hyperparams().replace(learning_rate=rate),
        dataclasses.replace(Peak().default_params, height=height),
    )
    _, agents = load_agents(folder / result.run, env=Peak())
    own = jax.tree.map(lambda x: x[np.array(result.agents)], agents.params)
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, own, output.state.params)
    rows = (folder / result.run / "metrics.jsonl").read_text().splitlines()
    losses = [r["value_loss"] for r in map(json.loads, rows) if r["seed"] == result.agents[1]]
    close(losses, output.metrics.value_loss[1])
    run = json.loads((folder / result.run / "run.json").read_text())
    assert np.float32(run["vary"]["learning_rate"][result.agents[0] // 2]) == rate


# -- asha ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_who_goes_on_is_who_the_record_says(placed):
    """Computed again from scores alone: four places, in lockstep from rung to rung."""
    _, results, updates, _ = placed
    scores = {n: pay(r.setting) for n, r in results.items()}
    places, left, spent = dict.fromkeys(range(4), 0), list(range(4, 12)), []
    records, reached = {at: [] for at in AT}, {}
    while places:
        step = min(min(at - done for at in AT if at > done) for done in places.values())
        spent.append(step)
        places = {n: done + step for n, done in places.items()}
        for n, done in places.items():
            if done in AT:
                records[done].append(n)
        for n, done in list(places.items()):
            if done in AT:
                ranked = sorted(records[done], key=lambda n: -scores[n])
                if done == 8 or n not in ranked[: max(1, len(ranked) // 2)]:
                    reached[n] = done
                    del places[n]
        while left and len(places) < 4:
            places[left.pop(0)] = 0
    assert {n: r.steps // 8 for n, r in results.items()} == reached
    assert updates == [(8, n) for n in spent]
    assert {2, 4, 8} == set(reached.values())
    for result in results.values():
        assert result.status == ("done" if result.steps == 64 else "stopped")
        np.testing.assert_allclose(result.score, pay(result.setting), rtol=1e-5)


# -- going on --------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["halved", "placed"])
@pytest.mark.slow
def test_a_killed_study_goes_on(which, request, tmp_path, monkeypatch):
    """Killed behind its second checkpoint, with two of the next results told."""
    folder, results, updates, _ = request.getfixturevalue(which)
    module, options = (halving, HALVING) if which == "halved" else (asha, ASHA)
    original, saves, spent = rungs.save, [], []

    def save(*args):
        original(*args)
        saves.append(None)
        if len(saves) == 2:
            raise KeyboardInterrupt

    def counted(programs, state, own, n):
        spent.append((len(state.step), n))
        return advance(programs, state, own, n)

    monkeypatch.setattr(module, "save", save)
    monkeypatch.setattr(module, "advance", counted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, options)
    before = read_results(tmp_path)
    more = list(results)[len(before) : len(before) + 2]  # in the order in which they come
    killed = train(tmp_path, options, told=[results[number] for number in more])
    assert spent == updates
    for number, result in results.items():
        assert killed[number]._replace(seconds=0) == result._replace(seconds=0)
    last = [r for r in results.values() if r.status == "done"][-1]
    paths = (f / last.run / "agents.npz" for f in (folder, tmp_path))
    one, two = (dict(np.load(path)) for path in paths)
    for key in one.keys() - {"manifest"}:
        np.testing.assert_array_equal(one[key], two[key], err_msg=key)
    # nothing is left
    train(tmp_path, options)
    assert spent == updates


class Given:
    """Trials that are given by hand."""

    def __init__(self, trials):
        self.trials = trials

    def ask(self, count):
        asked, self.trials = self.trials[:count], self.trials[count:]
        return asked

    def tell(self, result):
        pass


def test_trials_that_cannot_be_trained_have_failed():
    trials = [Trial(n, {}, CONFIG, "of no use" if n in (1, 2) else None) for n in range(6)]
    schedule = Schedule(Given(trials), COMPONENTS, HALVING, None, None, (), AT, (), {})
    asked, failed = schedule.ask(3)
    assert [t.number for t in asked] == [0, 3, 4]
    assert [(r.number, r.status, r.why) for r in failed] == [
        (n, "failed", "of no use") for n in (1, 2)
    ]
    asked, failed = schedule.ask(3)
    assert ([t.number for t in asked], failed) == ([5], [])


def test_what_has_no_effect_in_a_trial_has_its_default():
    config = CONFIG.replace(entropy_coef=0.01)
    settings = [(0.0, 0.5), (0.1, 0.5), (0.1, 0.2)]
    names = ("entropy_coef", "entropy_coef_final_scale")
    trials = [trial_of(i, dict(zip(names, x, strict=True)), config) for i, x in enumerate(settings)]
    assert names[1] not in trials[0].setting
    columns = columns_of(trials, names, 2)
    assert columns.keys() == {*names}
    np.testing.assert_array_equal(columns[names[0]], np.float32([0, 0, 0.1, 0.1, 0.1, 0.1]))
    np.testing.assert_array_equal(columns[names[1]], np.float32([1, 1, 0.5, 0.5, 0.2, 0.2]))


@pytest.mark.parametrize(("space", "how", "words"), [
    (Space((Dimension("num_steps", choices=(4, 8)),)), {}, "num_steps cannot vary"),
    (SPACE, {"score": ("evaluation",)}, "score='evaluation' is measured behind that"),
    (SPACE, {"min_steps": 100}, "min_steps=100 stops no trial"),
], ids=["static", "score", "rungs"])  # fmt: skip
@pytest.mark.parametrize("scheduler", ["halving", "asha"])
def test_what_cannot_be_halved_is_refused(scheduler, space, how, words):
    options = SweepOptions(scheduler=scheduler, **how)
    with pytest.raises(ConfigError, match=words):
        list(
            train_halving(
                Given([]), COMPONENTS, space, options, Study.open(None, CONFIG, space, options)
            )
        )
