"""The host side: chunks, run folders, curves."""

import json
import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import (
    ConfigError,
    PPOConfig,
    compiler_options,
    fit,
    load_agents,
    make_act,
    make_train,
)
from purejaxppo.ppo.records import Metrics
from purejaxppo.runs import store
from purejaxppo.runs.fit import compile_run, final_returns
from purejaxppo.runs.plan import make_plan
from purejaxppo.runs.plots import binned_returns, plot_curve

CONFIG = PPOConfig(
    num_envs=4, num_steps=8, num_minibatches=2, num_epochs=2, total_timesteps=32 * 12,
    hidden_sizes=(8,), normalize_observations=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def result():
    return fit(CONFIG, seeds=3, seed=7)


@pytest.mark.slow
@pytest.mark.as_shipped
def test_chunks_give_the_bits_of_the_single_program(result):
    train = jax.jit(jax.vmap(make_train(CONFIG)), compiler_options=compiler_options())
    whole = train(jax.random.split(jax.random.key(7), 3))
    for a, b in zip(jax.tree.leaves(result.state), jax.tree.leaves(whole.state), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)
    jax.tree.map(np.testing.assert_array_equal, result.metrics, whole.metrics)


def test_every_chunk_is_reported_once_and_in_order():
    seen = []
    fit(CONFIG, on_chunk=lambda first, m: seen.append((first, m.episodes.shape[1])))
    firsts, lengths = zip(*seen, strict=True)
    assert list(firsts) == list(np.cumsum([0, *lengths[:-1]]))
    assert sum(lengths) == CONFIG.num_updates
    assert len(seen) > 1


def test_ctrl_c_ends_after_the_chunk_in_hand():
    def interrupt(first, metrics):
        os.kill(os.getpid(), signal.SIGINT)

    stopped = fit(CONFIG, on_chunk=interrupt)
    assert stopped.interrupted
    assert stopped.metrics.episodes.shape == (1, 1)
    assert int(stopped.state.step[0]) == 1


def test_second_ctrl_c_raises_at_once():
    def interrupt(first, metrics):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(CONFIG, on_chunk=interrupt)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_fit_works_outside_the_main_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(CONFIG)))
    thread.start()
    thread.join()
    assert results[0].metrics.episodes.shape == (1, CONFIG.num_updates)


def test_plan_is_exact_and_its_memory_close_to_the_compilers():
    config = PPOConfig(num_envs=64, num_steps=125, total_timesteps=8000)
    plan = make_plan(config)
    # actor and critic of 4-64-64 with 2 actions and 1 value
    assert plan.parameters == 2 * (4 * 64 + 64 + 64 * 64 + 64) + 64 * 2 + 2 + 64 + 1
    assert (plan.updates, plan.timesteps) == (1, 8000)

    from purejaxppo import make_learner

    learner = make_learner(config)
    state = jax.eval_shape(learner.init, jax.random.key(0))
    memory = jax.jit(learner.update).lower(state).compile().memory_analysis()
    needed = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    assert plan.bytes_per_seed / 3 < needed < plan.bytes_per_seed * 3


def test_one_program_serves_every_chunk_length(result):
    from purejaxppo import make_learner

    keys = jax.random.split(jax.random.key(7), 3)
    init, run_chunk = compile_run(make_learner(CONFIG), keys, CONFIG)
    state, buffer = init()
    for length in (5, 1, 6):
        state, buffer = run_chunk(state, buffer, length)
    jax.tree.map(np.testing.assert_array_equal, state.params, result.state.params)


def metrics_of(episodes, return_sum):
    zeros = np.zeros_like(episodes)
    names = Metrics.__dataclass_fields__
    fields = dict.fromkeys(names, zeros) | {"episodes": episodes, "return_sum": return_sum}
    return Metrics(**fields)


def test_final_returns_by_hand():
    episodes = np.zeros((2, 20), int)
    returns = np.zeros((2, 20))
    episodes[0, 17:] = [9, 1, 3]
    returns[0, 17:] = [900.0, 10.0, 50.0]  # the last tenth is two updates: 60 / 4
    np.testing.assert_array_equal(final_returns(metrics_of(episodes, returns), 20), [15.0, np.nan])


def test_binned_returns_by_hand():
    episodes = np.array([[1, 0, 2, 2, 0, 0]])
    returns = np.array([[5.0, 0.0, 4.0, 8.0, 0.0, 0.0]])
    ends, means = binned_returns(metrics_of(episodes, returns), bins=3)
    np.testing.assert_array_equal(ends, [2, 4, 6])
    np.testing.assert_array_equal(means, [[5.0, 3.0, np.nan]])


def test_curve_is_a_picture_also_without_episodes(tmp_path, result):
    plot_curve(tmp_path / "curve.png", result.metrics, CONFIG)
    none = metrics_of(np.zeros((1, 4), int), np.zeros((1, 4)))
    plot_curve(tmp_path / "empty.png", none, CONFIG)
    for name in ("curve.png", "empty.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_metrics_lines(tmp_path, result):
    path = tmp_path / "metrics.jsonl"
    with open(path, "w") as file:
        store.write_metrics(file, 0, result.metrics, CONFIG)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 3 * CONFIG.num_updates
    assert {(r["step"], r["seed"]) for r in rows} == {
        ((u + 1) * 32, s) for u in range(12) for s in range(3)
    }
    for row in rows:
        u, s = row["step"] // 32 - 1, row["seed"]
        assert row["policy_loss"] == pytest.approx(float(result.metrics.policy_loss[s, u]))
        assert row["episodes"] == result.metrics.episodes[s, u]


def test_agents_come_back_and_act_alike(tmp_path, result):
    CONFIG.to_toml(tmp_path / "config.toml")
    store.save_agents(tmp_path / "agents.npz", result.state)
    config, agents = load_agents(tmp_path)
    assert config == CONFIG
    obs = jax.random.normal(jax.random.key(1), (50, 4))
    for seed in range(3):
        before, after = (
            make_act(config, jax.tree.map(lambda x, i=seed: x[i], tree), deterministic=True)
            for tree in (result.state, agents)
        )
        key = jax.random.key(0)
        np.testing.assert_array_equal(before(key, obs), after(key, obs))
    assert not list(tmp_path.glob("*.partial"))


def test_agents_of_another_network_are_refused(tmp_path, result):
    CONFIG.replace(hidden_sizes=(9,)).to_toml(tmp_path / "config.toml")
    store.save_agents(tmp_path / "agents.npz", result.state)
    with pytest.raises(ConfigError, match="does not fit this policy"):
        load_agents(tmp_path)
    with pytest.raises(ConfigError, match=r"holds no agents.npz"):
        load_agents(tmp_path / "nowhere")


def test_run_folders_are_never_reused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = store.create_run_dir(None, "brax/ant")
    second = store.create_run_dir(None, "brax/ant")
    assert first.parent == second.parent
    assert first.name.startswith("brax-ant-")
    assert first.name.endswith("-1")
    assert second.name.endswith("-2")
    (first / "config.toml").write_text("")
    with pytest.raises(ConfigError, match="exists and is not empty"):
        store.create_run_dir(first, "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="exists and is not empty"):
        store.create_run_dir(tmp_path / "file", "x")
    with pytest.raises(ConfigError, match="cannot be made"):
        store.create_run_dir(tmp_path / "file" / "under", "x")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert store.create_run_dir(empty, "x") == empty
