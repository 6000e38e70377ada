"""Advantages that are computed again before each epoch: what each of them sees."""

from functools import partial
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.algorithm import build, loss, optimize, seen, take
from support.probes import Walk, moved_by
from test_advantages import GAMMA, LAMBDA, N_STEP, NAIVE, RHO, C
from test_train import CLOSE, KEYS, row, same, stack
from test_update import CLIP, POLICY, Adam, flat, make_batch, make_config, start_of

from purejaxppo import OBJECTIVES, PPOConfig, make_learner
from purejaxppo.ppo.collectives import standardize
from purejaxppo.ppo.critics import make_critic
from purejaxppo.ppo.estimates import reevaluate
from purejaxppo.ppo.minibatches import as_batch, as_rows, as_steps
from purejaxppo.ppo.objectives import Objective
from purejaxppo.ppo.rollout import collect
from purejaxppo.ppo.shuffle import minibatch_indices
from purejaxppo.types import Estimate, Normalizers

SQUARED, NONE = make_critic(PPOConfig()), Normalizers(None, None)

# -- gradient steps ----------------------------------------------------------------------------


def moving(batch, params):
    """Some advantages and targets that depend on the parameters."""
    critic, obs = params["critic"], batch.obs
    return Estimate(batch.advantage + obs @ critic, batch.target + jnp.square(obs @ critic))


def run(config, params, opt_state, batch, key, estimate):
    """`optimize`, compiled."""
    function = jax.jit(partial(optimize, POLICY, CLIP, config, estimate=estimate))
    return function(config.hyperparams(), params, opt_state, (), batch, key)


def looped(config, params, batch, key, estimate):
    """The epochs of an update in a plain Python loop, of which each but the first estimates."""
    vector, unravel = jax.flatten_util.ravel_pytree(params)
    hyper, adam = config.hyperparams(), Adam(config.hyperparams())
    rows = minibatch_indices(key, config.batch_size, config.num_epochs, config.num_minibatches)
    gradient = jax.jit(
        jax.grad(lambda v, b: loss(unravel(v), b, POLICY, CLIP, config, hyper, ())[0])
    )
    for epoch, order in enumerate(np.asarray(rows).reshape(config.num_epochs, -1, rows.shape[1])):
        if epoch:
            advantage, target = estimate(unravel(vector))
            batch = batch.replace(advantage=advantage, target=target)
        for indices in order:
            moved = adam.move(gradient(vector, take(batch, indices, config)))
            vector = vector + jnp.asarray(moved, jnp.float32)
    return np.asarray(vector)


@pytest.mark.slow
@pytest.mark.parametrize("normalization", ["minibatch", "none"])
def test_each_epoch_but_the_first_estimates_under_its_parameters(normalization):
    config = make_config(
        24, num_epochs=3, learning_rate=0.05, advantage_normalization=normalization
    )
    params, opt_state = start_of(config)
    batch, key = make_batch(params, 24), jax.random.key(5)
    estimate = partial(moving, batch)
    got, _, metrics = run(config, params, opt_state, batch, key, estimate)
    expected = looped(config, params, batch, key, estimate)
    assert int(metrics["gradient_steps"]) == 12
    np.testing.assert_allclose(flat(got), expected, rtol=1e-3, atol=1e-4)
    # which is not what one estimate for all epochs gives
    plain = looped(config, params, batch, key, lambda _: Estimate(batch.advantage, batch.target))
    assert np.abs(plain - expected).max() > 0.01


@pytest.mark.slow
def test_bad_estimates_cost_their_minibatches_and_a_stopped_update_takes_no_more():
    """NaN in one row: once in every epoch but the first. And a target that one step exceeds."""
    config = make_config(num_epochs=3, learning_rate=0.05)
    params, opt_state = start_of(config)
    batch, key = make_batch(params, 8), jax.random.key(3)

    def bad(params):
        return Estimate(batch.advantage.at[5].set(jnp.nan), batch.target)

    got, _, metrics = run(config, params, opt_state, batch, key, bad)
    assert (int(metrics["skipped_steps"]), int(metrics["gradient_steps"])) == (2, 10)
    assert np.isfinite(flat(got)).all()
    assert all(np.isfinite(x) for x in metrics.values())

    stopping = config.replace(target_kl=1e-6)
    got, _, metrics = run(stopping, params, opt_state, batch, key, bad)
    assert (int(metrics["skipped_steps"]), int(metrics["gradient_steps"])) == (0, 1)
    one = run(stopping.replace(num_epochs=2), params, opt_state, batch, key, None)[0]
    assert flat(one).shape == flat(got).shape
    assert 0 < np.abs(flat(got) - flat(params)).max() <= 0.0501  # one step of Adam


# -- what the network says of a rollout again --------------------------------------------------


@pytest.mark.parametrize("length", [None, 2, 6])
def test_rows_become_steps_again(length):
    number = jnp.arange(12.0).reshape(6, 2)
    np.testing.assert_array_equal(as_steps(as_rows(number, length), 2), number)


def test_no_more_rows_go_through_the_network_than_asked_for():
    params, _ = start_of(make_config(24))
    batch, rows = make_batch(params, 24, move=0.3), []
    final_obs = make_batch(params, 24, seed=1).obs

    def counting(params, carry, obs, episode_start):
        rows.append(len(obs))
        return POLICY.apply(params, carry, obs, episode_start)

    policy = POLICY._replace(apply=counting)
    value, next_value, ratio = reevaluate(policy, SQUARED, params, NONE, batch, final_obs, 6)
    assert set(rows) == {6}
    critic, close = np.asarray(params["critic"], np.float64), dict(rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(value, batch.obs @ critic, **close)
    np.testing.assert_allclose(next_value, final_obs @ critic, **close)
    logits = np.asarray(batch.obs, np.float64) @ np.asarray(params["actor"], np.float64)
    chosen = np.exp(logits)[np.arange(24), batch.action] / np.exp(logits).sum(-1)
    np.testing.assert_allclose(ratio, chosen / np.exp(batch.log_prob), rtol=1e-4)


# -- whole updates -----------------------------------------------------------------------------

SMALL = dict(
    num_envs=3, num_steps=8, total_timesteps=24 * 4, num_minibatches=1, num_epochs=2,
    hidden_sizes=(6,), learning_rate=0.05, gamma=GAMMA, normalize_observations=True,
    normalize_rewards=True, advantage_normalization="none", recompute_advantages=True,
)  # fmt: skip
GRU = dict(core="gru", core_size=5, sequence_length=4)
VTRACE = dict(advantage="vtrace", gae_lambda=LAMBDA, vtrace_rho=RHO, vtrace_c=C)
N_STEPS = dict(advantage="n_step", n_step=N_STEP)
PLAIN = dict(recompute_advantages=False, advantage="gae", vtrace_rho=1.0, vtrace_c=1.0, n_step=5)


def in_order(key, size, epochs, parts):
    """Rows that are not shuffled."""
    return jnp.tile(jnp.arange(size, dtype=jnp.int32).reshape(parts, -1), (epochs, 1))


def updated(config, state, **custom):
    """The state after one update without shuffling, its metrics, and what each step was given."""
    given, clip = [], OBJECTIVES["clip"]

    def telling(dist, log_prob, batch, hyper, objective_state):
        keep = lambda *x: given.append(jax.tree.map(np.asarray, x))  # noqa: E731
        jax.debug.callback(keep, batch.advantage, batch.target, ordered=True)
        return clip.loss(dist, log_prob, batch, hyper, objective_state)

    learner = make_learner(config, env=Walk(), objective=Objective(telling), **custom)
    with patch("purejaxppo.ppo.update.minibatch_indices", in_order):
        after, metrics = jax.jit(learner.update)(state)
    jax.effects_barrier()
    return after, metrics, given


def begun(config, **custom):
    """(components, a state after two updates, its next rollout)."""
    learner, setup = make_learner(config, env=Walk(), **custom), build(config, Walk())
    state, update = jax.jit(learner.init)(KEYS[0]), jax.jit(learner.update)
    for _ in range(2):
        state, _ = update(state)
    key = jax.random.split(state.key, 3)[0]  # as the learner does
    here = setup.policy, setup.critic, setup.vec_env, config.num_steps
    _, rollout = jax.jit(lambda state: collect(*here, state, setup.env_params, key))(state)
    return setup, state, rollout


def evaluated(setup, params, state, rollout):
    """The rollout with values and ratios under parameters, step by step in a Python loop.

    What an action led to is computed anew, and a sequence begins with the memory that it had.
    """
    apply, length = jax.jit(setup.policy.apply), setup.sequence_length or 1
    found = []
    for t, obs in enumerate(rollout.obs):
        carry = row(rollout.carry, t) if t % length == 0 else carry  # noqa: F821
        carry, dist, value = apply(params, carry, seen(state, obs), rollout.episode_start[t])
        final = moved_by(np.asarray(obs), np.asarray(rollout.action[t])[:, None])
        after = apply(params, carry, seen(state, final), np.zeros(len(obs), bool))[2]
        ratio = np.exp(dist.log_prob(rollout.action[t]) - rollout.log_prob[t])
        found.append((value, after, ratio))
    value, next_value, ratio = map(jnp.stack, zip(*found, strict=True))
    return rollout.replace(value=value, next_value=next_value, ratio=ratio)


def scaled(rollout, after):
    """The rollout with its rewards divided as the update has divided them."""
    deviation = np.sqrt(np.asarray(after.normalizers.reward.stats.var) + 1e-8)
    return rollout.replace(reward=rollout.reward / deviation)


def by_rows(setup, estimate):
    """Advantages and targets [T, N] in the form of the gradient steps."""
    return as_rows(tuple(map(jnp.asarray, estimate)), setup.sequence_length)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [dict(gae_lambda=LAMBDA), {**VTRACE, **GRU}])
def test_the_second_epoch_has_the_advantages_of_the_parameters_after_the_first(changes):
    config = PPOConfig(**SMALL | changes)
    setup, state, rollout = begun(config)
    assert rollout.terminated.any() and rollout.truncated.any()
    after, metrics, given = updated(config, state)
    assert (int(metrics.gradient_steps), len(given)) == (2, 2)
    naive, close = NAIVE[config.advantage], dict(rtol=1e-3, atol=1e-4)

    # an update of one epoch, with the same estimator
    def estimator(rollout, *_):
        return setup.advantage(rollout, config.hyperparams(), config)

    one = config.replace(num_epochs=1, **PLAIN)
    once, _, plain = updated(one, state, advantage=estimator)
    same(given[0], plain[0], **CLOSE)
    same(given[0], by_rows(setup, naive(scaled(rollout, after))), **close)

    # and what its parameters say of the rollout
    again = evaluated(setup, once.params, state, scaled(rollout, after))
    assert np.abs(again.ratio - 1).max() > 0.01
    same(given[1], by_rows(setup, naive(again)), **close)
    assert np.abs(given[1][0] - given[0][0]).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {**N_STEPS, **GRU, "advantage_normalization": "batch", "value_loss": "clipped"},
        {**VTRACE, "advantage_normalization": "minibatch", "shared_torso": True, "chunk_size": 3},
    ],
)
def test_an_update_is_its_epochs_one_by_one(changes):
    """Three epochs of two minibatches: an update of one epoch, three times."""
    config = PPOConfig(**SMALL | dict(num_epochs=3, num_minibatches=2) | changes)
    setup, state, rollout = begun(config)
    assert rollout.terminated.any() and rollout.truncated.any()
    after, metrics, given = updated(config, state)
    assert (int(metrics.gradient_steps), len(given) % 6) == (6, 0)

    rollout, one = scaled(rollout, after), config.replace(num_epochs=1, **PLAIN)
    hyper, objective = config.hyperparams(), OBJECTIVES["clip"]
    steps = jax.jit(partial(optimize, setup.policy, objective, one, hyper))
    params, opt_state, obs = state.params, state.opt_state, jnp.asarray(seen(state, rollout.obs))
    now = rollout
    for epoch in range(3):
        if epoch:
            now = evaluated(setup, params, state, rollout)
        advantage, target = setup.advantage(now, hyper, config)
        if config.advantage_normalization == "batch":
            advantage = standardize(advantage)
        # values that are clipped stay near those of the rollout
        batch = as_batch(rollout, obs, advantage, target, setup.sequence_length)
        with patch("purejaxppo.ppo.update.minibatch_indices", in_order):
            params, opt_state, _ = steps(params, opt_state, (), batch, KEYS[1])
    same(after.params, params, rtol=1e-3, atol=1e-4)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), params, state.params)
    assert max(jax.tree.leaves(moved)) > 0.1


@pytest.mark.slow
def test_parameters_that_stay_see_the_same_advantages_in_every_epoch():
    """To rounding: the network is evaluated in other shapes than in the rollout."""
    config = PPOConfig(**SMALL | dict(num_epochs=3, gae_lambda=LAMBDA))
    still = dict(optimizer=lambda hyper: optax.sgd(0.0 * hyper.learning_rate))
    _, state, _ = begun(config, **still)
    _, _, given = updated(config, state, **still)
    assert len(given) == 3
    for again in given[1:]:
        same(again, given[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_seeds_side_by_side_are_each_alone():
    config = PPOConfig(**SMALL | VTRACE | GRU | dict(num_epochs=3, num_minibatches=3))
    learner = make_learner(config, env=Walk())
    update = jax.jit(learner.update)
    states = [update(jax.jit(learner.init)(key))[0] for key in KEYS[:3]]
    together = jax.jit(jax.vmap(learner.update))(stack(*states))
    for i, state in enumerate(states):
        same(row(together, i), update(state), **CLOSE)
