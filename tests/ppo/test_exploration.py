"""Bonuses for the new: networks and sums by NumPy, what learns of it, and a deep sea."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.probes import Seen

from purejaxppo import ConfigError, PPOConfig, fit, make_env, make_learner, make_train
from purejaxppo.policies.distillation import make_bonus
from purejaxppo.policies.networks import make_policy
from purejaxppo.ppo.advantages import gae
from purejaxppo.ppo.exploration import Explorer, begin_exploration, explore, whiten
from purejaxppo.ppo.normalize import init_stats
from purejaxppo.ppo.optimizer import Optimizer
from purejaxppo.spaces import Box, Discrete, EnvSpec
from purejaxppo.types import Bonus, Estimate, LearnerState, Rollout

T, N = 6, 2
GAMMA, LAMBDA, COEF = 0.9, 0.8, 0.3


def box(*shape, dtype=np.float32):
    return Box(np.zeros(shape, dtype), np.ones(shape, dtype), shape, np.dtype(dtype))


VECTOR = EnvSpec(box(2), Discrete(2))


# -- the networks ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_novelty_and_value_by_hand():
    config = PPOConfig(exploration="rnd", exploration_size=3, hidden_sizes=(4, 5))
    bonus = make_bonus(config, VECTOR)
    params, target = bonus.init(jax.random.key(0))
    obs = np.float32(np.random.default_rng(0).normal(size=(7, 2)))

    def through(net, activation, layers):
        mlp, x = net["Torso_0"]["MLP_0"], obs
        assert len(mlp) == layers
        for i in range(layers):
            dense = mlp[f"Dense_{i}"]
            x = activation(x @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"]))
        return x @ np.asarray(net["Dense_0"]["kernel"]) + np.asarray(net["Dense_0"]["bias"])

    relu = partial(np.maximum, 0)
    error = through(params["predictor"], relu, 4) - through(target, relu, 2)
    assert error.shape == (7, 3)
    found = bonus.novelty(params, target, obs)
    np.testing.assert_allclose(found, (error**2).mean(1), rtol=1e-5)
    np.testing.assert_allclose(
        bonus.value(params, obs), through(params["value"], np.tanh, 2)[:, 0], rtol=1e-4, atol=1e-6
    )


def test_images_have_the_torso_that_the_policy_reads_them_with():
    """Though their bytes are whitened, and so are bytes no more."""
    pixels = box(36, 36, 1, dtype=np.uint8)
    for observation in (pixels, {"far": pixels, "near": box(5, 5, 2)}):
        spec = EnvSpec(observation, Discrete(2))
        config = PPOConfig(exploration="rnd", exploration_size=3, hidden_sizes=(4,))
        params, target = jax.eval_shape(make_bonus(config, spec).init, jax.random.key(0))
        policy = jax.eval_shape(make_policy(config, spec).init, jax.random.key(0))
        wanted = {name for name in policy["actor"] if "CNN" in name}
        assert wanted == ({"NatureCNN_0"} | ({"GridCNN_0"} if observation is not pixels else set()))
        for network in (*params.values(), target):
            assert {name for name in network["Torso_0"] if "CNN" in name} == wanted


def test_whitened_parts_by_numpy():
    """Numbers, grids and bits are whitened and cut off at 5; names and masks are left alone."""
    x = np.random.default_rng(1).normal(3, 2, (50, 2)).astype(np.float32)
    x[0] = 100
    stats = init_stats((2,)).replace(mean=jnp.array([3.0, 1.0]), var=jnp.array([4.0, 0.25]))
    obs = {"action_mask": np.ones((50, 2), bool), "name": np.arange(50), "x": x}
    found = whiten({"action_mask": None, "name": None, "x": stats}, obs)
    wanted = np.clip((x - [3, 1]) / [2, 0.5], -5, 5)
    np.testing.assert_allclose(found["x"], wanted, rtol=1e-5, atol=1e-5)
    assert np.all(np.asarray(found["x"][0]) == 5)
    assert found["name"] is obs["name"] and found["action_mask"] is obs["action_mask"]
    # which parts those are
    shown = {
        "action_mask": box(2, dtype=bool), "bits": box(3, dtype=bool), "name": Discrete(3),
        "picture": box(4, 4, 2, dtype=np.uint8), "x": box(2),
    }  # fmt: skip
    state = begin_exploration(
        explorer()._replace(spec=EnvSpec(shown, Discrete(2))), HYPER, N, [jax.random.key(0)]
    )
    stats = state.normalizers.obs
    measured = {name for name, part in stats.items() if part is not None}
    assert measured == {"bits", "picture", "x"}


# -- rewards, sums and advantages, of a bonus that is known ---------------------------------------


def known_init(key):
    return {"w": jnp.float32(2)}, {"fixed": jnp.float32(3)}


KNOWN = Bonus(
    init=known_init,
    novelty=lambda params, target, obs: jnp.square(target["fixed"] * obs[:, 0] - params["w"]),
    value=lambda params, obs: params["w"] * obs[:, 1],
)
HYPER = PPOConfig(
    exploration="rnd", exploration_gamma=GAMMA, gae_lambda=LAMBDA, exploration_coef=COEF
).hyperparams()  # fmt: skip


def explorer(rate=0.0):
    return Explorer(
        bonus=KNOWN, spec=VECTOR, optimizer=Optimizer(lambda hyper: optax.sgd(rate)),
        num_epochs=1, num_minibatches=1, chunk_size=None,
        estimate=lambda rollout, hyper: gae(rollout, hyper.gamma, hyper.gae_lambda),
    )  # fmt: skip


def rollout_of(seed):
    """Two environments, whose episodes end on the way: nothing of a bonus must depend on that."""
    rng = np.random.default_rng(seed)
    x = lambda *shape: jnp.asarray(rng.normal(1, 2, shape), jnp.float32)  # noqa: E731
    done = jnp.asarray(rng.random((T, N)) < 0.4)
    assert done[:-1].any()
    zero = jnp.zeros((T, N))
    return Rollout(
        obs=x(T, N, 2), action=jnp.zeros((T, N), int), log_prob=zero, dist=zero, value=x(T, N),
        next_value=x(T, N), reward=x(T, N), terminated=done, truncated=zero.astype(bool),
        episode_start=zero.astype(bool), carry=(), episode_return=zero,
        episode_length=zero.astype(jnp.int32), final_obs=x(T, N, 2),
    ), x(N, 2)  # fmt: skip


def learner_with(exploration, obs):
    fields = dict.fromkeys(LearnerState.__dataclass_fields__)
    return LearnerState(**fields | {"exploration": exploration, "obs": obs})


def white(x, seen):
    return np.clip((np.asarray(x) - seen.mean(0)) / seen.std(0), -5, 5)


@pytest.mark.slow
def test_bonuses_and_advantages_against_loops():
    """Two rollouts, so that sums and statistics go on; in float64."""
    state = begin_exploration(explorer(), HYPER, N, [jax.random.key(0)])
    seen, returns, total = np.zeros((0, 2)), [], np.zeros(N)
    for seed in (0, 1):
        rollout, last = rollout_of(seed)
        learner = learner_with(state, last)
        learner, after, told = explore(explorer(), HYPER, learner, rollout, [jax.random.key(1)])
        state = learner.exploration

        # observations by all that was seen, this rollout included
        seen = np.concatenate([seen, np.asarray(rollout.final_obs, np.float64).reshape(-1, 2)])
        novelty = (3 * white(rollout.final_obs, seen)[..., 0] - 2) ** 2
        value = 2 * np.concatenate([white(rollout.obs, seen), white(last, seen)[None]])[..., 1]

        # the discounted sum over all episodes, and its standard deviation
        for row in novelty:
            total = GAMMA * total + row
            returns.append(total)
        reward = novelty / np.std(returns)
        np.testing.assert_allclose(told["intrinsic_reward"], reward.mean(), rtol=1e-4)
        np.testing.assert_allclose(state.normalizers.reward.discounted_return, total, rtol=1e-4)

        # advantages that no end of an episode cuts off
        advantage, later = np.zeros((T, N)), np.zeros(N)
        for t in reversed(range(T)):
            delta = reward[t] + GAMMA * value[t + 1] - value[t]
            later = advantage[t] = delta + GAMMA * LAMBDA * later
        np.testing.assert_allclose(after.bonus, COEF * advantage, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(told["novelty_loss"], novelty.mean(), rtol=1e-4)
        target = advantage + value[:-1]
        wanted = 0.5 * ((value[:-1] - target) ** 2).mean()
        np.testing.assert_allclose(told["intrinsic_value_loss"], wanted, rtol=1e-3)
        # all else of the rollout is as it was
        for name in ("reward", "terminated", "value", "next_value", "carry"):
            assert getattr(after, name) is getattr(rollout, name), name


def test_a_gradient_step_of_both_losses_by_hand():
    """Of w, by plain gradient descent: 2 (w - 3 x) from the novelty, (w y - target) y beside it."""
    state = begin_exploration(explorer(0.01), HYPER, N, [jax.random.key(0)])
    rollout, last = rollout_of(2)
    given = learner_with(state, last)
    learner, after, _ = explore(explorer(0.01), HYPER, given, rollout, [jax.random.key(1)])
    stats = learner.exploration.normalizers.obs
    x = np.asarray(whiten(stats, rollout.final_obs))[..., 0]
    y = np.asarray(whiten(stats, rollout.obs))[..., 1]
    advantage = np.asarray(after.bonus) / COEF  # target - value
    gradient = (2 * (2 - 3 * x)).mean() - (advantage * y).mean()
    np.testing.assert_allclose(learner.exploration.params["w"], 2 - 0.01 * gradient, rtol=1e-4)
    assert learner.exploration.target == state.target


@pytest.mark.slow
def test_advantages_are_added_to_those_of_the_rewards():
    """An estimator that returns the reward: of each action, reward + coefficient * bonus."""

    def estimate(rollout, hyper, config):
        return Estimate(rollout.reward, rollout.reward)

    def loss(dist, log_prob, batch, hyper, state):
        return -log_prob * batch.advantage, {"advantage": batch.advantage}

    config = PPOConfig(
        exploration="rnd", exploration_size=4, num_envs=2, num_steps=4, num_minibatches=1,
        num_epochs=1, total_timesteps=8, hidden_sizes=(4,), advantage_normalization="none",
        exploration_coef=0.25,
    )  # fmt: skip
    metrics = jax.jit(make_train(config, advantage=estimate, objective=loss))(
        jax.random.key(0)
    ).metrics
    kept = {name: float(x[0]) for name, x in metrics.extra.items()}
    # CartPole pays 1 for each step
    assert kept["advantage"] == pytest.approx(1 + 0.25 * kept["intrinsic_reward"], rel=1e-5)


# -- what learns ----------------------------------------------------------------------------------

CONFIG = PPOConfig(
    exploration="rnd", exploration_size=16, num_envs=4, num_steps=16, num_minibatches=2,
    total_timesteps=64 * 40, hidden_sizes=(16,), learning_rate=1e-3, normalize_observations=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def two_seeds():
    """Learners of two seeds before and after 40 updates, with the metrics of these."""
    learner = make_learner(CONFIG)
    keys = jax.random.split(jax.random.key(0), 2)
    start = jax.jit(jax.vmap(learner.init))(keys)
    run = lambda s: jax.lax.scan(lambda s, _: learner.update(s), s, length=40)  # noqa: E731
    return start, *jax.jit(jax.vmap(run))(start)


@pytest.mark.slow
def test_targets_never_move_and_each_seed_has_its_own(two_seeds):
    start, end, _ = two_seeds
    before, after = (jax.tree.leaves(s.exploration.target) for s in (start, end))
    for x, y in zip(before, after, strict=True):
        np.testing.assert_array_equal(x, y)
    kernels = [x for x in after if x.ndim == 3]
    assert kernels and all((x[0] != x[1]).any() for x in kernels)
    moved = zip(*(jax.tree.leaves(s.exploration.params) for s in (start, end)), strict=True)
    assert all((x != y).any() for x, y in moved)


@pytest.mark.slow
def test_what_was_seen_is_not_new_any_more_and_what_was_not_is():
    """Of ten names, five are shown over and over."""
    config, spec = CONFIG.replace(num_minibatches=1), EnvSpec(Discrete(10), Discrete(2))
    bonus = make_bonus(config, spec)
    novel = explorer()._replace(
        bonus=bonus, spec=spec, optimizer=Optimizer(lambda hyper: optax.adam(1e-3)), num_epochs=600
    )
    start = begin_exploration(novel, HYPER, N, [jax.random.key(0)])
    rollout, _ = rollout_of(0)
    names = jnp.arange(T * N).reshape(T, N) % 5
    shown = rollout.replace(obs=names, final_obs=names)
    given = learner_with(start, names[0])
    end = jax.jit(
        lambda given: explore(novel, HYPER, given, shown, [jax.random.key(1)])[0].exploration
    )(given)
    before, after = (bonus.novelty(e.params, e.target, jnp.arange(10)) for e in (start, end))
    assert after[:5].mean() < 0.2 * before[:5].mean()
    assert after[5:].mean() > 0.5 * before[5:].mean(), (after, before)


def test_the_loss_of_what_is_seen_falls(two_seeds):
    loss = np.asarray(two_seeds[2].extra["novelty_loss"])
    assert (loss[:, -1] < 0.2 * loss[:, 0]).all()


def test_statistics_are_of_what_actions_led_to(two_seeds):
    _, end, _ = two_seeds
    stats = end.exploration.normalizers.obs
    np.testing.assert_array_equal(stats.count, [CONFIG.timesteps] * 2)
    # the run's own are of what was seen before each action: the same numbers but for episodes' ends
    assert not np.array_equal(stats.mean, end.normalizers.obs.mean)
    np.testing.assert_allclose(stats.mean, end.normalizers.obs.mean, atol=0.2)


def test_names_that_exploration_logs_are_refused_to_an_objective():
    def loss(dist, log_prob, batch, hyper, state):
        return -log_prob * batch.advantage, {"intrinsic_reward": log_prob}

    with pytest.raises(ConfigError, match="'intrinsic_reward', which is a column of the metrics"):
        jax.eval_shape(make_train(CONFIG, objective=loss), jax.random.key(0))


@pytest.mark.slow
def test_a_policy_with_a_memory_and_passes():
    """Rows of a policy with a memory are sequences; those of a bonus are not."""
    config = CONFIG.replace(core="gru", core_size=4, total_timesteps=64, chunk_size=16)
    metrics = jax.jit(make_train(config, env=Seen()))(jax.random.key(0)).metrics
    assert (metrics.gradient_steps[0], metrics.skipped_steps[0]) == (8, 0)
    assert all(np.isfinite(x).all() for x in metrics.extra.values())


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_bit(tmp_path):
    config = CONFIG.replace(total_timesteps=64 * 6)
    options = {"seeds": 2, "checkpoint_every": 128}
    whole = fit(config, **options, run_dir=tmp_path / "whole")

    def stop(step, row):
        if step >= 64 * 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, **options, run_dir=tmp_path / "run", callbacks=stop)
    resumed = fit(config, **options, run_dir=tmp_path / "run", resume=True)
    assert 0 < resumed.resumed_at < 6
    for a, b in zip(
        jax.tree.leaves(whole.state.exploration), jax.tree.leaves(resumed.state.exploration),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(a, b)
    for a, b in zip(
        jax.tree.leaves(whole.state.params), jax.tree.leaves(resumed.state.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_deep_sea_is_crossed_with_a_bonus_and_not_without():
    """12 right moves in a row, found by chance once in 4,096 episodes: 6,400 are played."""
    env, _ = make_env("DeepSea-bsuite", size=12)
    config = PPOConfig(
        num_envs=16, num_steps=48, total_timesteps=768 * 100, learning_rate=1e-3,
        hidden_sizes=(32,), entropy_coef=0.01,
    )  # fmt: skip

    def final_returns(config):
        keys = jax.random.split(jax.random.key(0), 2)
        metrics = jax.jit(jax.vmap(make_train(config, env=env)))(keys).metrics
        return metrics.return_sum[:, -10:].sum(1) / metrics.episodes[:, -10:].sum(1)

    assert (final_returns(config) < 0.1).all()
    with_bonus = config.replace(exploration="rnd", exploration_coef=1.0, exploration_size=32)
    assert (final_returns(with_bonus) > 0.9).all()
