"""The host side: chunks, run folders, curves."""

import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import (
    PPOConfig,
    compiler_options,
    fit,
    make_train,
)
from purejaxppo.components import make_components
from purejaxppo.parallel import SEEDS, make_mesh
from purejaxppo.report.aggregate import binned_returns
from purejaxppo.report.plots import plot_curve
from purejaxppo.run_folder.rows import SCALARS, final_returns
from purejaxppo.runs.compiled import compile_run
from purejaxppo.sharding import spread_over
from purejaxppo.types import Metrics

CONFIG = PPOConfig(
    num_envs=4, num_steps=8, num_minibatches=2, num_epochs=2, total_timesteps=32 * 12,
    hidden_sizes=(8,), normalize_observations=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def result():
    return fit(CONFIG, seeds=3, seed=7)


ANNEALED = CONFIG.replace(
    learning_rate_final_scale=0.1, entropy_coef=0.03, entropy_coef_final_scale=0.0, value_coef=0.7,
    value_loss="clipped", target_kl=0.05, normalize_rewards=True, hidden_sizes=(8, 8),
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.as_shipped
@pytest.mark.parametrize("config", [CONFIG, ANNEALED], ids=["plain", "annealed"])
def test_chunks_give_the_bits_of_the_single_program(config):
    """Where hyperparameters are arguments, and where they are in the program."""
    result = fit(config, seeds=3, seed=7)
    train = jax.jit(jax.vmap(make_train(config)), compiler_options=compiler_options())
    whole = train(jax.random.split(jax.random.key(7), 3))
    for a, b in zip(jax.tree.leaves(result.state), jax.tree.leaves(whole.state), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)
    jax.tree.map(np.testing.assert_array_equal, result.metrics, whole.metrics)


@pytest.mark.slow
def test_callbacks_get_every_update_of_every_seed_once_and_in_order():
    seen = []
    result = fit(CONFIG, seeds=2, callbacks=[lambda step, row: seen.append((step, row))])
    assert [(step, row["seed"]) for step, row in seen] == [
        (32 * (u + 1), s) for u in range(CONFIG.num_updates) for s in range(2)
    ]
    for step, row in seen:
        at = row["seed"], step // 32 - 1
        assert row["step"] == step
        assert row["policy_loss"] == float(result.metrics.policy_loss[at])
        assert row["episodes"] == result.metrics.episodes[at]
        if row["episodes"]:
            mean = float(result.metrics.return_sum[at]) / row["episodes"]
            assert row["episode_return"] == pytest.approx(mean)
        else:
            assert np.isnan(row["episode_return"])


@pytest.fixture
def heard():
    """These tests may have been started by what ignores ctrl-C, such as nohup."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_after_the_chunks_in_flight(number):
    before = signal.getsignal(number)

    def interrupt(step, row):
        if step == 32:
            signal.raise_signal(number)

    stopped = fit(CONFIG, callbacks=[interrupt])
    assert stopped.stopped == number
    done = stopped.metrics.episodes.shape[1]
    assert 1 <= done <= 3 < CONFIG.num_updates
    assert int(stopped.state.step[0]) == done
    assert signal.getsignal(number) is before


@pytest.mark.usefixtures("heard")
def test_second_ctrl_c_raises_at_once():
    def interrupt(step, row):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(CONFIG, callbacks=[interrupt])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_fit_works_outside_the_main_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(CONFIG)))
    thread.start()
    thread.join()
    assert results[0].metrics.episodes.shape == (1, CONFIG.num_updates)


@pytest.mark.slow
def test_one_program_serves_every_chunk_length(result):
    keys = jax.random.split(jax.random.key(7), 3)
    spread = spread_over(make_components(CONFIG), make_mesh(3), SEEDS)
    programs = compile_run(spread, 3, CONFIG)
    state = programs.init(programs.place(keys))
    for length in (5, 1, 6):
        state, _ = programs.run_chunk(state, length)
    jax.tree.map(np.testing.assert_array_equal, state.params, result.state.params)


def metrics_of(episodes, return_sum):
    zeros = np.zeros_like(episodes)
    fields = dict.fromkeys(SCALARS, zeros) | {"episodes": episodes, "return_sum": return_sum}
    return Metrics(**fields)


def test_final_returns_by_hand():
    episodes = np.zeros((2, 20), int)
    returns = np.zeros((2, 20))
    episodes[0, 17:] = [9, 1, 3]
    returns[0, 17:] = [900.0, 10.0, 50.0]  # the last tenth is two updates: 60 / 4
    np.testing.assert_array_equal(final_returns(metrics_of(episodes, returns)), [15.0, np.nan])


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
