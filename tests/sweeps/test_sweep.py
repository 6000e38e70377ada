"""Sweeps: each trial is what a run alone would be, each shape is compiled once, studies go on."""

import math
import queue
import types
from typing import Any

import numpy as np
import pytest

from purejaxppo import ConfigError, PPOConfig, fit, make_env
from purejaxppo.components import make_components
from purejaxppo.run_folder.rows import final_returns
from purejaxppo.runs import compiled as programs
from purejaxppo.runs import plan
from purejaxppo.runs.vary import read_vary
from purejaxppo.sweeps import training, widths
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.scores import mean_returns
from purejaxppo.sweeps.shapes import by_shape, varied_in
from purejaxppo.sweeps.space import read_space, trial_of
from purejaxppo.sweeps.sweep import sweep
from purejaxppo.sweeps.workers import Workers

CONFIG = PPOConfig(
    num_envs=4, num_steps=32, total_timesteps=256, num_minibatches=2, num_epochs=1,
    hidden_sizes=(8,),
)  # fmt: skip
SPACE = {"learning_rate": "log:1e-3..1e-1", "num_envs": [2, 4], "gamma": "0.9..0.99"}
SWEEP = {"trials": 7, "seeds": 2, "seed": 5, "score": ("final_return", "mean_return", "evaluation")}


@pytest.fixture(scope="module")
def compilations():
    """Counts what XLA is given to compile, by the text of the program."""
    made = []
    original = programs.compiled
    patch = pytest.MonkeyPatch()

    def counted(lowered):
        kept = len(programs._kept)
        program = original(lowered)
        if len(programs._kept) != kept:
            made.append(lowered)
        return program

    patch.setattr(programs, "compiled", counted)
    programs._kept.clear()
    yield made
    patch.undo()


@pytest.fixture(scope="module")
def swept(tmp_path_factory, compilations):
    folder = tmp_path_factory.mktemp("swept") / "study"
    result = sweep(CONFIG, SPACE, study_dir=folder, batch=2, **SWEEP)
    return result, folder, len(compilations)


@pytest.mark.slow
def test_every_trial_has_a_result(swept):
    result = swept[0]
    assert [r.number for r in result.results] == [*range(7)]
    assert {r.status for r in result.results} == {"done"}
    assert {r.setting["num_envs"] for r in result.results} == {2, 4}


def test_each_shape_is_compiled_once(swept):
    """Beginning and chunk of two shapes, and their evaluation, which knows no num_envs."""
    result, _, compiled = swept
    assert len({r.run for r in result.results}) >= 4
    assert compiled == 2 * 2 + 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 6])
def test_a_trial_is_what_a_run_alone_would_be(swept, number):
    result = swept[0].results[number]
    alone = fit(
        CONFIG.replace(**result.setting), seeds=2, seed=5, eval_every=CONFIG.total_timesteps
    )
    metrics = alone.metrics
    each = metrics.return_sum / np.maximum(metrics.episodes, 1)
    expected = {
        "final_return": final_returns(metrics),
        "mean_return": np.nanmean(
np.where(metrics.episodes > 0, each, np.nan), 1),
        "evaluation": alone.best.returns,
    }  # fmt: skip
    np.testing.assert_allclose(result.scores, expected["final_return"], rtol=1e-5)
    for name, values in expected.items():
        np.testing.assert_allclose(result.measured[name], np.mean(values), rtol=1e-5)
    assert result.score == result.measured["final_return"] == pytest.approx(np.mean(result.scores))


def test_the_best_is_the_one_with_the_highest_score(swept):
    result = swept[0]
    best = max(result.results, key=lambda r: r.score)
    assert result.winner == best
    assert result.best == CONFIG.replace(**best.setting)


@pytest.mark.slow
def test_the_same_command_goes_on(swept, compilations):
    result, folder, _ = swept
    before = len(compilations)
    again = sweep(CONFIG, SPACE, study_dir=folder, batch=2, **SWEEP)
    assert again.results == result.results and len(compilations) == before
    more = sweep(CONFIG, SPACE, study_dir=folder, batch=2, **{**SWEEP, "trials": 8})
    assert more.results[:7] == result.results and len(more.results) == 8


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_as_it_was_begun(tmp_path, monkeypatch):
    """With more trials than before: those that were begun together are trained together."""
    one = {"learning_rate": "log:1e-3..1e-1"}
    whole = sweep(CONFIG, one, trials=4, seed=5, study_dir=tmp_path / "whole")

    fit_of, left = training.fit_of, []

    def stopped(*args, **kwargs):
        left.append(args)
        return fit_of(*args, **kwargs)._replace(stopped=2)

    monkeypatch.setattr(training, "fit_of", stopped)
    cut = sweep(CONFIG, one, trials=3, seed=5, study_dir=tmp_path / "cut")
    assert cut.stopped == 2 and not cut.results and cut.best is None
    monkeypatch.setattr(training, "fit_of", fit_of)
    gone_on = sweep(CONFIG, one, trials=4, seed=5, study_dir=tmp_path / "cut")
    assert [r.agents for r in gone_on.results] == [[0], [1], [2], [0]]
    assert {r.run for r in gone_on.results} == {"runs/0000", "runs/0003"}
    for ours, theirs in zip(gone_on.results, whole.results, strict=True):
        assert ours.score == pytest.approx(theirs.score, rel=1e-5)


@pytest.mark.slow
def test_what_does_not_fit_into_memory_is_trained_in_parts(monkeypatch):
    monkeypatch.setattr(widths, "seeds_that_fit", lambda components, seeds, *_: min(seeds, 3))
    parts = []
    fit_of = training.fit_of

    def noted(components, options, **kwargs):
        parts.append((options.seeds, kwargs["about"]["trials"]))
        return fit_of(components, options, **kwargs)

    monkeypatch.setattr(training, "fit_of", noted)
    result = sweep(CONFIG, {"learning_rate": "log:1e-3..1e-1"}, trials=5)
    # five in parts of three at most: two of three, the last place of the second taken twice
    assert parts == [(3, [0, 1, 2]), (3, [3, 4])]
    assert [r.agents for r in result.results] == [[0], [1], [2], [0], [1]]


@pytest.mark.parametrize("count", [3, 7, 64, 100, 101])
def test_a_width_fits_on_the_devices_that_it_is_shared_out_to(monkeypatch, count):
    """Of 4 devices with memory for 18 agents each, 50 agents would have but 2, and 101 but 1."""

    def fit(components, seeds, devices, episodes):
        return min(seeds, 18 * devices)

    monkeypatch.setattr(widths, "seeds_that_fit", fit)
    options = SweepOptions(devices=4)
    found = widths.width_that_fits(None, count, options)
    assert fit(None, found, math.gcd(found, 4), 0) == found
    assert found == {3: 3, 7: 8, 64: 64, 100: 52, 101: 52}[count]


def test_agents_are_shared_out_whole(monkeypatch):
    monkeypatch.setattr(widths.jax, "device_count", lambda: 8)
    asked = [(12, None), (12, "all"), (12, 4), (5, 4), (1, 2)]
    assert [widths.devices_for(*x) for x in asked] == [None, 4, 4, 1, 1]


@pytest.mark.slow
def test_seeds_that_fit_are_those_that_the_plan_admits():
    components = make_components(CONFIG)
    one = plan.plan_of(components).bytes_per_device
    memory = 10 * one
    most = plan.seeds_that_fit(components, 10_000, 1, memory=memory)
    assert 10 < most < 10_000
    plan.plan_of(components, most, 1, memory=memory)
    with pytest.raises(ConfigError, match="memory"):
        plan.plan_of(components, 2 * most, 1, memory=memory)
    assert plan.seeds_that_fit(components, 3, 1, memory=memory) == 3


# -- without training -----------------------------------------------------------------------------


def trials(space, count=8):
    space = read_space(space, CONFIG)
    rng = np.random.default_rng(0)
    return [
        trial_of(i, space.at(rng.random(len(space.names)).tolist()), CONFIG) for i in range(count)
    ]


def test_traced_values_are_one_group_and_static_ones_several():
    found = trials({"learning_rate": "1e-4..1e-2", "env_params.gravity": "5..15"})
    assert by_shape(found) == [found]
    assert varied_in(found) == {
        "learning_rate": [t.setting["learning_rate"] for t in found],
        "env_params.gravity": [t.setting["env_params.gravity"] for t in found],
    }
    found = trials({"num_epochs": [1, 2], "max_grad_norm": [None, 0.5], "gamma": "0.9..0.99"}, 32)
    groups = by_shape(found)
    assert len(groups) == 4 and sum(map(len, groups)) == 32
    for group in groups:
        assert len({(t.config.num_epochs, t.config.max_grad_norm) for t in group}) == 1
        none = group[0].config.max_grad_norm is None
        assert varied_in(group).keys() == ({"gamma"} if none else {"gamma", "max_grad_norm"})


def test_what_has_no_effect_in_one_trial_is_that_of_each():
    """What a bonus of 0 falls to is the default; that of the others is their own."""
    config = CONFIG.replace(entropy_coef=1.0, entropy_coef_final_scale=0.1)
    found = [trial_of(i, {"entropy_coef": x}, config) for i, x in enumerate([0.0, 1.0, 0.5])]
    assert by_shape(found) == [found]
    assert varied_in(found) == {
        "entropy_coef": [0.0, 1.0, 0.5], "entropy_coef_final_scale": [1.0, 0.1, 0.1],
    }  # fmt: skip
    variation = read_vary(varied_in(found), make_components(found[0].config), 2)
    assert variation.settings == 3


def test_options_beside_parameters_that_take_their_place_are_refused():
    space, params = {"env_options.max_steps": [3, 500]}, make_env("CartPole-v1")[1]
    with pytest.raises(ConfigError, match=r"env_options.max_steps is varied, but env_params take"):
        sweep(CONFIG, space, env_params=params, sampler="grid")


@pytest.mark.slow
def test_optimizers_are_varied_as_shapes_of_their_own():
    """What has no effect on one of them is left out of its trials."""
    space = {"optimizer": ["adam", "muon"], "weight_decay": [1e-3, 1e-2]}
    result = sweep(CONFIG, space, sampler="grid")
    assert {r.status for r in result.results} == {"done"}
    settings = [r.setting for r in result.results]
    assert {s["optimizer"] for s in settings} == {"adam", "muon"}
    assert all(("weight_decay" in s) == (s["optimizer"] == "muon") for s in settings)
    assert result.best.optimizer == result.winner.setting["optimizer"]


def test_lengths_are_groups_of_one_shape():
    found = trials({"num_epochs": [1, 2], "total_timesteps": [256, 512]}, 32)
    shapes = [(g[0].config.num_epochs, g[0].config.total_timesteps) for g in by_shape(found)]
    assert len(shapes) == 4 and shapes[0][0] == shapes[1][0] != shapes[2][0] == shapes[3][0]


@pytest.mark.slow
def test_a_return_of_no_episode_is_a_failure_in_words():
    config = CONFIG.replace(env="Pendulum-v1", total_timesteps=128)
    result = sweep(config, {"learning_rate": [1e-3, 1e-2]}, sampler="grid")
    assert [r.status for r in result.results] == ["failed"] * 2
    words = "no episode ended in the last tenth of its training, or a return is not finite"
    assert {r.why for r in result.results} == {words}
    assert result.best is None and result.winner is None


@pytest.mark.slow
def test_combinations_that_are_refused_have_failed():
    result = sweep(
        CONFIG, {"num_envs": [4, 5], "num_minibatches": [2, 64]}, sampler="grid", batch=1,
        trials=None,
    )  # fmt: skip
    refused = [r for r in result.results if r.status == "failed"]
    assert len(result.results) == 4
    # 5 environments of 32 steps are no multiple of 64
    assert [dict(r.setting) for r in refused] == [{"num_envs": 5, "num_minibatches": 64}]
    assert "num_minibatches=64" in str(refused[0].why)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"trails": 3}, "trials"),
        ({"trials": 0}, "trials=0"),
        ({"sampler": "rnadom"}, "random"),
        ({"score": ("return",)}, "final_return"),
        ({"score": ()}, "score"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, words):
    with pytest.raises(ConfigError, match=words) as error:
        sweep(CONFIG, {"learning_rate": [1e-3, 1e-2]}, **options)
    assert "\n" not in str(error.value)


def test_mean_returns_leave_out_updates_without_episodes():
    metrics: Any = types.SimpleNamespace(
        episodes=np.array([[2, 0, 1], [0, 0, 0]]),
        return_sum=np.array([[6.0, 0.0, 5.0], [0.0, 0.0, 0.0]]),
    )
    np.testing.assert_array_equal(mean_returns(metrics), [4.0, np.nan])


@pytest.mark.parametrize(("received", "ended"), [([], ["a"]), ([2], [])], ids=["lost", "stopped"])
def test_a_process_that_a_signal_has_ended_has_not_failed(received, ended):
    """Its trial is left, for the command that goes on."""
    workers = Workers(1)
    workers._stop = types.SimpleNamespace(received=received)
    workers._jobs, workers._outcomes = queue.Queue(), queue.Queue()
    workers._processes = [types.SimpleNamespace(pid=7, exitcode=-15, is_alive=lambda: False)]
    workers._outcomes.put((7, "a", None))  # begun
    outcomes = dict(workers.train({"a": None}))
    assert [*outcomes] == ended
    assert all(outcome.why == "its process has ended (-15)" for outcome in outcomes.values())


# -- environments on the host ---------------------------------------------------------------------


@pytest.mark.slow
def test_host_environments_are_trained_in_processes_of_their_own(tmp_path):
    config = CONFIG.replace(env="gymnasium/CartPole-v1", total_timesteps=128)
    rates = {"learning_rate": [1e-3, 1e-2]}
    result = sweep(config, rates, sampler="grid", study_dir=tmp_path / "study")
    assert [r.status for r in result.results] == ["done"] * 2
    alone = fit(config.replace(learning_rate=1e-2))
    assert result.results[1].score == pytest.approx(final_returns(alone.metrics)[0], rel=1e-4)


def test_parts_that_cannot_be_sent_are_refused():
    import gymnasium

    from purejaxppo import HostEnvironment

    off = gymnasium.vector.AutoresetMode.DISABLED

    def make(n):
        envs = [lambda: gymnasium.make("CartPole-v1")] * n
        return gymnasium.vector.SyncVectorEnv(envs, autoreset_mode=off)

    with pytest.raises(ConfigError, match="cannot be sent"):
        sweep(CONFIG, {"learning_rate": [1e-3, 1e-2]}, sampler="grid", env=HostEnvironment(make))
