"""Running statistics and averages against NumPy over everything seen, and naive loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo.ppo.collectives import across, gather, joined, moments, standardize
from purejaxppo.ppo.normalize import (
    RewardScaler,
    RunningStats,
    init_reward_scaler,
    init_stats,
    normalize,
    scale_rewards,
    update_stats,
)

DEVICES = 4


def on_devices(f, in_axes):
    """`f` on each of several devices that share the mesh axis "devices"."""
    return jax.vmap(f, in_axes=in_axes, axis_name="devices")


def assert_stats(stats, samples, rtol=1e-5):
    """Statistics are NumPy's over `samples` [count, *O]."""
    samples = np.asarray(samples, np.float64)
    np.testing.assert_allclose(stats.mean, samples.mean(0), rtol=rtol, atol=1e-6)
    np.testing.assert_allclose(stats.var, samples.var(0), rtol=rtol)
    assert float(stats.count) == len(samples)


# -- running statistics ------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_stats_are_those_of_everything_seen(shape, variant):
    """Batches of several sizes and with different numbers of leading axes."""
    rng = np.random.default_rng(0)
    stats, seen = init_stats(shape), []
    update = variant(lambda stats, x: update_stats(stats, x))
    for i, lead in enumerate([(6, 2), (1,), (3, 1, 2), (40, 5)]):
        x = rng.normal(3 * i, 1 + i, (*lead, *shape)).astype(np.float32)
        stats = update(stats, x)
        seen.append(x.reshape(-1, *shape))
        assert_stats(stats, np.concatenate(seen))


def test_stats_by_hand():
    stats = update_stats(init_stats(()), jnp.array([1.0, 3.0]))
    np.testing.assert_allclose([stats.mean, stats.var, stats.count], [2.0, 1.0, 2.0])
    stats = update_stats(stats, jnp.array([[5.0], [7.0]]))
    np.testing.assert_allclose([stats.mean, stats.var, stats.count], [4.0, 5.0, 4.0])


def test_stats_keep_a_small_spread_far_from_zero():
    """Mean 1000, deviation 0.1: sums of squares in float32 would lose it."""
    rng = np.random.default_rng(1)
    x = rng.normal(1000.0, 0.1, (10, 50, 2)).astype(np.float32)
    stats = init_stats((2,))
    for batch in x:
        stats = update_stats(stats, batch)
    assert_stats(stats, x.reshape(-1, 2), rtol=0.02)


def test_stats_after_very_many_samples_still_move():
    """A long run: the mean goes on following Chan's formula when the count is in the billions."""
    stats = RunningStats(jnp.zeros(()), jnp.ones(()), jnp.float32(2e9))
    after = update_stats(stats, jnp.full(4000, 1000.0))
    np.testing.assert_allclose(after.mean, 1000 * 4000 / (2e9 + 4000), rtol=1e-3)
    assert after.count > stats.count


def test_integer_observations_are_counted_as_numbers():
    x = np.array([[0, 255], [10, 250], [255, 0]], np.uint8)
    assert_stats(update_stats(init_stats((2,)), jnp.asarray(x)), x)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_a_batch_that_is_not_finite_leaves_them_as_they_are(bad, variant):
    """1e30: finite itself, but its square is not."""
    x = np.random.default_rng(2).normal(size=(8, 3)).astype(np.float32)
    before = update_stats(init_stats((3,)), x)
    broken = x.copy()
    broken[4, 1] = bad
    after = variant(lambda s, x: update_stats(s, x))(before, broken)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(new, old)
    assert_stats(update_stats(after, x), np.concatenate([x, x]))  # and they go on


# -- normalize ---------------------------------------------------------------------------------


def test_normalize(variant):
    mean, var = np.array([1.0, -2.0, 0.0]), np.array([4.0, 0.25, 1.0])
    stats = RunningStats(*(jnp.asarray(a, jnp.float32) for a in (mean, var, 9.0)))
    x = np.random.default_rng(3).normal(0, 3, (4, 5, 3)).astype(np.float32)
    x[0, 0], x[1, 1] = 1e6, -1e6
    got = variant(normalize)(stats, x)
    expected = np.minimum(np.maximum((x - mean) / np.sqrt(var), -10), 10)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got[0, 0], 10.0)
    np.testing.assert_array_equal(got[1, 1], -10.0)
    assert (np.abs(np.asarray(got)) < 10).any()
    np.testing.assert_allclose(normalize(stats, x[2, 3]), expected[2, 3], rtol=1e-5, atol=1e-6)


def test_normalize_without_statistics():
    x = jnp.array([1e9, np.nan, -3.0])
    assert normalize(None, x) is x


def test_fresh_statistics_change_nothing():
    x = np.random.default_rng(4).normal(0, 2, (6, 3)).astype(np.float32)
    np.testing.assert_allclose(normalize(init_stats((3,)), x), x, rtol=1e-6)


def test_constant_observations_stay_finite():
    """A variance of 0: the feature becomes 0, and another value of it at most 10."""
    stats = update_stats(init_stats((2,)), jnp.full((20, 2), 7.0))
    np.testing.assert_array_equal(stats.var, 0.0)
    np.testing.assert_array_equal(
        normalize(stats, jnp.array([[7.0, 8.0], [6.0, 7.0]])), [[0, 10], [-10, 0]]
    )


# -- reward scaling ----------------------------------------------------------------------------


def naive_scaling(rollouts, gamma):
    """Scaled rewards of each rollout [T, N], each return written down one by one."""
    running = np.zeros(rollouts[0][0].shape[1])
    returns, scaled = [], []
    for reward, done in rollouts:
        for t in range(reward.shape[0]):
            for n in range(reward.shape[1]):
                running[n] = gamma * running[n] + float(reward[t, n])
                returns.append(running[n])
                if done[t, n]:
                    running[n] = 0.0
        scaled.append(reward / np.sqrt(np.var(returns)))
    return scaled, returns, running


def reward_rollouts(seed=5, envs=4):
    rng = np.random.default_rng(seed)
    rollouts = []
    for i in range(3):
        reward = rng.normal(1.0, 2.0 + i, (7, envs)).astype(np.float32)
        done = rng.random((7, envs)) < 0.3
        done[-1, 0], done[-1, 1] = True, False  # one ends with the rollout, one runs on
        rollouts.append((reward, done))
    return rollouts


def test_rewards_are_scaled_by_the_deviation_of_returns(variant):
    gamma = 0.9
    rollouts = reward_rollouts()
    scaler = init_reward_scaler(4)
    scale = variant(lambda *args: scale_rewards(*args))
    expected, _, _ = naive_scaling(rollouts, gamma)
    for i, (reward, done) in enumerate(rollouts):
        scaler, scaled = scale(scaler, reward, done, gamma)
        np.testing.assert_allclose(scaled, expected[i], rtol=1e-4)
        _, returns, running = naive_scaling(rollouts[: i + 1], gamma)
        assert_stats(scaler.stats, np.array(returns), rtol=1e-4)
        np.testing.assert_allclose(scaler.discounted_return, running, rtol=1e-5, atol=1e-6)


def test_the_terminal_reward_is_counted_before_the_reset():
    """Rewards 0, 0, 9 and then the end: returns 0, 0, 9, and the next episode starts at 0."""
    reward, done = jnp.array([[0.0], [0.0], [9.0]]), jnp.array([[False], [False], [True]])
    scaler, scaled = scale_rewards(init_reward_scaler(1), reward, done, 0.5)
    np.testing.assert_allclose(scaler.stats.mean, 3.0, rtol=1e-6)
    np.testing.assert_allclose(scaler.stats.var, 18.0, rtol=1e-6)
    np.testing.assert_array_equal(scaler.discounted_return, [0.0])
    np.testing.assert_allclose(scaled[:, 0], [0, 0, 9 / np.sqrt(18)], rtol=1e-6)


def test_rewards_pass_without_a_scaler():
    reward = jnp.array([[3.0]])
    scaler, scaled = scale_rewards(None, reward, jnp.array([[True]]), 0.9)
    assert scaler is None
    assert scaled is reward


def test_no_reward_at_all_stays_zero():
    zeros = jnp.zeros((5, 2))
    scaler, scaled = scale_rewards(init_reward_scaler(2), zeros, zeros.astype(bool), 0.9)
    np.testing.assert_array_equal(scaled, 0.0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(scaler))


def test_one_bad_reward_does_not_stop_the_scaling_for_ever():
    """An environment without end has no reset that would clear its return of a NaN."""
    reward, never = jnp.ones((5, 2)), jnp.zeros((5, 2), bool)
    scaler, _ = scale_rewards(init_reward_scaler(2), reward, never, 0.9)
    seen = float(scaler.stats.count)
    scaler, _ = scale_rewards(scaler, reward.at[2, 0].set(jnp.nan), never, 0.9)
    assert float(scaler.stats.count) == seen  # the rollout with the NaN is not counted
    scaler, scaled = scale_rewards(scaler, 3 * reward, never, 0.9)
    assert float(scaler.stats.count) == seen + 10
    assert np.isfinite(scaler.discounted_return).all()
    assert np.isfinite(scaled).all()


# -- over a mesh axis --------------------------------------------------------------------------


def test_moments_against_numpy():
    x = np.random.default_rng(6).normal(2, 3, (4, 5, 6)).astype(np.float32)
    for axis in (None, 0, (0, 1), (1,), (0, 1, 2)):
        got, whole = moments(jnp.asarray(x), axis), x.astype(np.float64)
        np.testing.assert_allclose(got.mean, whole.mean(axis), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got.variance, whole.var(axis), rtol=1e-4)
        assert float(got.samples) == x.size / max(whole.mean(axis).size, 1)


def test_moments_over_devices():
    """Devices that differ in mean: the variance is not the mean of theirs."""
    x = np.random.default_rng(7).normal(size=(DEVICES, 6, 3)).astype(np.float32)
    x += 5 * np.arange(DEVICES, dtype=np.float32)[:, None, None]
    for axis, whole in ((None, (0, 1, 2)), (0, (0, 1))):
        got = on_devices(lambda x, axis=axis: joined(gather(moments(x, axis), "devices")), 0)(x)
        for device in range(DEVICES):
            np.testing.assert_allclose(got.mean[device], x.mean(whole), rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(got.variance[device], x.var(whole), rtol=1e-5)
            assert float(got.samples[device]) == x.size / max(x.mean(whole).size, 1)


def test_moments_of_different_numbers_of_samples_are_joined():
    x = np.random.default_rng(10).normal(3, 2, 17).astype(np.float32)
    parts = [moments(jnp.asarray(part)) for part in (x[:2], x[2:7], x[7:])]
    whole = joined(jax.tree.map(lambda *xs: jnp.stack(xs), *parts))
    np.testing.assert_allclose(whole.mean, x.mean(), rtol=1e-6)
    np.testing.assert_allclose(whole.variance, x.var(), rtol=1e-5)


def test_moments_far_from_zero_keep_their_digits_over_devices():
    """Mean 1e6, deviation 1: a mean of means in float32 would be off by 0.06."""
    x = np.random.default_rng(11).integers(-2, 3, (DEVICES, 50)).astype(np.float32) + 1e6
    got = on_devices(lambda x: joined(gather(moments(x), "devices")), 0)(x)
    np.testing.assert_allclose(got.variance, [x.astype(np.float64).var()] * DEVICES, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint32])
def test_gather_keeps_bits_and_dtypes(dtype):
    """Numbers of several dtypes travel together."""
    x = np.array([0, 1, 3, 2**31 - 1]).astype(dtype)
    tree = {"x": x, "y": np.array([[0.5, -0.0], [np.nan, np.inf], [1e-45, 3], [4, 5]], np.float32)}
    got = on_devices(lambda t: gather(t, "devices"), 0)(tree)
    for name, given in tree.items():
        assert got[name].dtype == given.dtype
        for device in range(DEVICES):
            assert np.asarray(got[name][device]).tobytes() == given.tobytes()
    alone = gather(tree, None)
    np.testing.assert_array_equal(alone["x"], x[None])


def test_across_is_the_mean_or_nothing():
    tree = {"a": jnp.arange(8.0).reshape(DEVICES, 2), "b": jnp.array([1.0, 2.0, 3.0, 6.0])}
    got = on_devices(lambda t: across(t, "devices"), 0)(tree)
    np.testing.assert_array_equal(got["a"], [[3.0, 4.0]] * DEVICES)
    np.testing.assert_array_equal(got["b"], [3.0] * DEVICES)
    assert across(tree, None) is tree


def test_standardize_over_devices():
    x = np.random.default_rng(8).normal(4, 2, (DEVICES, 5, 3)).astype(np.float32)
    x[1] *= 10
    got = on_devices(lambda x: standardize(x, "devices"), 0)(x)
    np.testing.assert_allclose(got, (x - x.mean()) / x.std(), rtol=1e-4, atol=1e-5)


def test_stats_over_devices():
    x = np.random.default_rng(9).normal(size=(2, DEVICES, 6, 3)).astype(np.float32)
    x += np.arange(DEVICES, dtype=np.float32)[:, None, None]
    stats = init_stats((3,))
    update = on_devices(lambda s, x: update_stats(s, x, "devices"), (None, 0))
    for batch in x:
        spread = update(stats, batch)
        for leaf in jax.tree.leaves(spread):  # every device knows the same
            np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
        stats = jax.tree.map(lambda leaf: leaf[0], spread)
    assert_stats(stats, x.reshape(-1, 3))


def test_one_device_that_is_not_finite_stops_all():
    """Otherwise the devices would no longer normalise alike."""
    x = np.ones((DEVICES, 6, 3), np.float32)
    x[2, 0, 0] = np.nan
    before = init_stats((3,))
    after = on_devices(lambda s, x: update_stats(s, x, "devices"), (None, 0))(before, x)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(new, np.broadcast_to(old, new.shape))


def test_rewards_over_devices():
    """Eight environments, two on each device, scale like eight on one."""
    gamma, envs = 0.9, 2 * DEVICES
    rollouts = reward_rollouts(10, envs)
    expected, returns, running = naive_scaling(rollouts, gamma)
    stats = init_stats(())
    discounted = jnp.zeros((DEVICES, 2))

    def scale(discounted, stats, reward, done):
        return scale_rewards(RewardScaler(discounted, stats), reward, done, gamma, "devices")

    for (reward, done), whole in zip(rollouts, expected, strict=True):
        split = (x.reshape(-1, DEVICES, 2) for x in (reward, done))
        scaler, scaled = on_devices(scale, (0, None, 1, 1))(discounted, stats, *split)
        scaled = np.moveaxis(np.asarray(scaled), 0, 1).reshape(-1, envs)
        np.testing.assert_allclose(scaled, whole, rtol=1e-4)
        discounted, stats = scaler.discounted_return, jax.tree.map(lambda x: x[0], scaler.stats)
    np.testing.assert_allclose(discounted.reshape(-1), running, rtol=1e-5, atol=1e-6)
    assert_stats(stats, np.array(returns), rtol=1e-4)


# -- standardize -------------------------------------------------------------------------------


def test_standardize(variant):
    x = np.random.default_rng(11).normal(5, 3, (4, 6)).astype(np.float32)
    np.testing.assert_allclose(
        variant(standardize)(x), (x - x.mean()) / x.std(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("value", [0.0, 0.1, 100.1, 1e6])
@pytest.mark.parametrize("size", [1, 7, 128])
def test_standardize_of_a_constant_is_zero(value, size):
    """Not the rounding error of the mean blown up to size 1."""
    np.testing.assert_allclose(standardize(jnp.full(size, value)), np.zeros(size), atol=1e-3)


def test_standardize_keeps_small_differences():
    """Advantages of 1e-5 are brought to size 1 like any others."""
    x = np.array([1e-5, -1e-5, 3e-5, -3e-5], np.float32)
    np.testing.assert_allclose(standardize(jnp.asarray(x)), x / x.std(), rtol=5e-3)
