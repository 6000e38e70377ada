"""Agents of one run with settings of their own: each is what a run alone would have made of it."""

import json

import jax
import numpy as np
import pytest

from purejaxppo import ConfigError, PPOConfig, fit
from purejaxppo.cli.main import run
from purejaxppo.errors import RunWarning
from purejaxppo.run_folder.read import read_run

CONFIG = PPOConfig(
    env="Pendulum-v1", num_envs=2, num_steps=8, total_timesteps=64, num_minibatches=2,
    hidden_sizes=(8,),
)  # fmt: skip
SHORT = {"env_params.max_steps_in_episode": [8, 8, 8]}
VARY = {"learning_rate": [1e-3, 1e-2, 1e-3], "env_params.g": [10.0, 10.0, 2.0], **SHORT}


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("varied") / "run"
    return fit(CONFIG, seeds=2, seed=3, vary=VARY, run_dir=folder, eval_every=64), folder


def close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6)


def of_setting(tree, k):
    return jax.tree.map(lambda x: x[2 * k : 2 * k + 2], tree)


@pytest.fixture(scope="module")
def alone():
    from purejaxppo.envs import registry

    params = registry.find_env("Pendulum-v1")[1].replace(max_steps_in_episode=8)
    return [
        fit(
            CONFIG.replace(learning_rate=rate), seeds=2, seed=3, eval_every=64,
            env_params=params.replace(g=g),
        )
        for rate, g in zip(VARY["learning_rate"], VARY["env_params.g"], strict=True)
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("k", range(3))
def test_each_setting_is_trained_as_a_run_alone_would(varied, alone, k):
    ours, theirs = varied[0], alone[k]
    close(of_setting(ours.state.params, k), theirs.state.params)
    close(of_setting(ours.metrics.return_sum, k), theirs.metrics.return_sum)
    np.testing.assert_allclose(ours.metrics.learning_rate[2 * k], VARY["learning_rate"][k], 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("k", range(3))
def test_each_agent_is_evaluated_in_its_own_environment(varied, alone, k):
    np.testing.assert_allclose(
        varied[0].best.returns[2 * k : 2 * k + 2], alone[k].best.returns, rtol=1e-4
    )


@pytest.mark.slow
def test_settings_differ(varied):
    params = varied[0].state.params
    for k in (1, 2):
        a, b = (jax.tree.leaves(of_setting(params, j)) for j in (0, k))
        assert any(not np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_folder_keeps_them_and_is_evaluated_by_them(varied, capsys):
    result, folder = varied
    kept = read_run(folder)[1]
    assert kept.get("vary") == VARY and kept["seeds"] == 6
    assert result.summary["vary"] == VARY
    assert run("eval", str(folder), "--episodes", "4", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["seeds"]
    assert len(rows) == 6
    assert all(row["length_mean"] == 8 for row in rows)


@pytest.mark.slow
def test_going_on_needs_the_same_settings(varied):
    folder = varied[1]
    longer = CONFIG.replace(total_timesteps=96)
    with pytest.raises(ConfigError, match="vary"):
        fit(longer, seeds=6, seed=3, run_dir=folder, resume=True, eval_every=64)
    with pytest.warns(RunWarning, match="goes on to 96 steps"):
        again = fit(longer, seeds=2, seed=3, vary=VARY, run_dir=folder, resume=True, eval_every=64)
    assert again.resumed_at == 4 and again.metrics.episodes.shape == (6, 6)


@pytest.mark.parametrize(
    "vary, words",
    [
        ({"lerning_rate": [1.0]}, "learning_rate"),
        ({"env_params.gravity": [1.0]}, "env_params"),
        ({"num_envs": [1, 2]}, "no hyperparameter .* program of its own: use sweep"),
        ({"lr": [1e-3]}, r"did you mean learning_rate\?"),
        ({"target_kl": [0.1]}, "switched off"),
        ({"learning_rate": []}, "list of numbers"),
        ({"learning_rate": 1e-3}, "list of numbers"),
        ({"learning_rate": [1e-3, -1.0]}, "learning_rate=-1.0"),
        ({"learning_rate": [1e-3, "x"]}, "'x'"),
        ({"learning_rate": [1e-3, 1e-2], "gamma": [0.9]}, "one length"),
        ({}, "values by name"),
        ([1], "values by name"),
        ({"kl_coef": [0.5]}, "no effect"),
        ({"env_params.max_steps_in_episode": [0.5]}, "whole number"),
    ],
)
def test_settings_that_no_run_could_have_are_refused(vary, words):
    with pytest.raises(ConfigError, match=words) as error:
        fit(CONFIG, vary=vary)
    assert "\n" not in str(error.value)


def test_a_number_that_an_option_gives_is_not_varied():
    with pytest.raises(ConfigError, match="g is in env_options and in env_params"):
        fit(CONFIG.replace(env_options={"g": 5.0}), vary={"env_params.g": [9.0, 10.0]})
