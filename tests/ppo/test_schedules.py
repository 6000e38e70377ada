"""Schedules by name against optax's, and the learning rate by divergence by hand."""

from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from purejaxppo import ConfigError, Objective, PPOConfig, make_learner, make_train
from purejaxppo.ppo.objectives import clip
from purejaxppo.ppo.schedules import SCHEDULED, SHAPES, adapt_rate, annealed, named_schedules

UPDATES = 20
SHARE = np.float32(1 / UPDATES)


def at(hyper, progress, **shapes):
    names = dict.fromkeys(SCHEDULED, "linear") | shapes
    return named_schedules(names).at(hyper, progress, SHARE, ())


def test_annealed(variant):
    hyper = PPOConfig(
        learning_rate=0.5, learning_rate_final_scale=0.0, clip_eps=0.25, clip_eps_final_scale=0.5,
        entropy_coef=0.125, entropy_coef_final_scale=1.0, target_kl=0.5,
    ).hyperparams()  # fmt: skip
    for progress, expected in (
        (0.0, (0.5, 0.25, 0.125)),
        (0.5, (0.25, 0.1875, 0.125)),
        (0.75, (0.125, 0.15625, 0.125)),
        (1.0, (0.0, 0.125, 0.125)),
    ):
        got = variant(at)(hyper, progress)
        assert (float(got.learning_rate), float(got.clip_eps), float(got.entropy_coef)) == expected
        rest = {"learning_rate": 0, "clip_eps": 0, "entropy_coef": 0, "extra": 0}
        for a, b in zip(got._replace(**rest), hyper._replace(**rest), strict=True):
            assert a is b is None or float(a) == pytest.approx(float(b), rel=1e-6)


def in_force(shape, value, final_scale, warmup, steps):
    """The value of each update of a run."""
    return jax.jit(
        jax.vmap(lambda p: annealed(shape, value, final_scale, warmup, p, jnp.float32(SHARE)))
    )(jnp.arange(steps, dtype=jnp.float32) * SHARE)


@pytest.mark.parametrize("warm", [None, 0, 1, 5])
@pytest.mark.parametrize(("shape", "final"), [("constant", 1.0), ("linear", 0.2), ("cosine", 0.2)])
def test_schedules_are_those_of_optax(shape, final, warm):
    """Of an update that warms up, what optax has at its end; of others, at their beginning."""
    peak, steps = 0.3, warm or 0
    rest = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, peak * final, UPDATES - steps),
        "cosine": optax.cosine_decay_schedule(peak, UPDATES - steps, final),
    }[shape]
    wanted = [
        optax.linear_schedule(0.0, peak, steps)(k + 1) if k < steps else rest(k - steps)
        for k in range(UPDATES)
    ]
    warmup = None if warm is None else jnp.float32(warm / UPDATES)
    found = in_force(shape, peak, final, warmup, UPDATES)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    assert found[0] > 0 and found[max(0, steps - 1)] == pytest.approx(peak)
    if shape == "cosine" and steps:
        whole = optax.warmup_cosine_decay_schedule(0, peak, steps, UPDATES, peak * final)
        np.testing.assert_allclose(found[steps:], [whole(k) for k in range(steps, UPDATES)], 1e-4)


def test_a_warm_up_may_take_the_whole_run_or_less_than_an_update():
    ramp = in_force("linear", 1.0, 0.0, jnp.float32(1.0), UPDATES)
    np.testing.assert_allclose(ramp, np.arange(1, UPDATES + 1) / UPDATES, rtol=1e-5)
    short = in_force("cosine", 1.0, 0.5, jnp.float32(0.01), UPDATES)
    assert short[0] == 1 and np.isfinite(short).all()


def test_every_schedule_can_be_named():
    types = get_type_hints(PPOConfig)
    for name in SCHEDULED:
        more = ("kl_adaptive",) if name == "learning_rate" else ()
        assert get_args(types[f"{name}_schedule"]) == (*SHAPES, *more)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"learning_rate_schedule": "constant", "learning_rate_final_scale": 0.5},
            "learning_rate_final_scale=0.5 has no effect here: use it with "
            "learning_rate_schedule='linear'",
        ),
        ({"clip_eps_schedule": "cosine"}, "use it with clip_eps_final_scale=0.1"),
        ({"entropy_coef_warmup": 0.5}, "use it with entropy_coef=0.01"),
        ({"desired_kl": 0.5}, "use it with learning_rate_schedule='kl_adaptive'"),
        ({"adapt_learning_rate": "update"}, "use it with learning_rate_schedule='kl_adaptive'"),
        (
            {"learning_rate_schedule": "kl_adaptive", "learning_rate_warmup": 0.1},
            "use it with learning_rate_schedule='linear'",
        ),
        (
            {"learning_rate_schedule": "kl_adaptive", "num_epochs": 1, "num_minibatches": 1},
            "more than one gradient step per update .* or adapt_learning_rate='update'",
        ),
        (
            {"learning_rate_schedule": "kl_adaptive", "learning_rate": 0.5},
            "learning_rate=0.5 must be at most learning_rate_max=0.01: use learning_rate=0.01",
        ),
        (
            {"learning_rate_schedule": "kl_adaptive", "learning_rate_min": 1e-3},
            "learning_rate_min=0.001 must be at most learning_rate=0.00025",
        ),
    ],
)
def test_what_has_no_effect_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        PPOConfig(**changes)


# -- by divergence -----------------------------------------------------------------------------

BY_KL = PPOConfig(
    num_envs=4, num_steps=8, num_minibatches=2, num_epochs=2, hidden_sizes=(8,),
    total_timesteps=32 * 4, learning_rate=1e-3, learning_rate_schedule="kl_adaptive",
    learning_rate_min=1e-4, learning_rate_max=5e-3,
)  # fmt: skip


@pytest.mark.parametrize(
    ("kl", "rate", "new"),
    [
        (0.021, 3e-3, 2e-3),
        (0.019, 3e-3, 3e-3),
        (0.01, 3e-3, 3e-3),
        (0.0051, 3e-3, 3e-3),
        (0.0049, 3e-3, 4.5e-3),
        (0.0, 3e-3, 4.5e-3),
        (-1e-9, 3e-3, 4.5e-3),  # rounding
        (0.0, 4e-3, 5e-3),
        (np.inf, 1.2e-4, 1e-4),
        (np.nan, 3e-3, 3e-3),
    ],
)
def test_the_rate_moves_as_the_rule_says(kl, rate, new):
    found = adapt_rate(jnp.float32(rate), jnp.float32(kl), BY_KL.hyperparams())
    assert float(found) == pytest.approx(new, rel=1e-6)


def test_a_rate_begins_within_its_bounds():
    hyper = BY_KL.hyperparams()
    begin = named_schedules({"learning_rate": "kl_adaptive"}).init
    rates = [float(begin(hyper.replace(learning_rate=rate))) for rate in (0.5, 1e-3, 1e-9)]
    np.testing.assert_allclose(rates, [5e-3, 1e-3, 1e-4], rtol=1e-6)


def test_a_rate_stays_within_bounds_that_move():
    """As those of an agent of a population do, which goes on with the rate of another."""
    at, hyper = named_schedules({"learning_rate": "kl_adaptive"}).at, BY_KL.hyperparams()
    rates = [at(hyper, 0.5, 0.1, jnp.float32(x)).learning_rate for x in (0.5, 1e-3, 1e-9)]
    np.testing.assert_allclose(rates, [5e-3, 1e-3, 1e-4], rtol=1e-6)


@pytest.mark.slow
def test_seeds_have_rates_of_their_own():
    """An unreachable target raises it after each step but an update's first, a tiny one lowers."""
    hyper = BY_KL.hyperparams().replace(learning_rate_min=1e-3, learning_rate_max=0.05)
    targets = jnp.array([1e6, 1e-12, 1e6])
    rates = jnp.array([0.01, 0.01, 0.002])

    def run(target, rate):
        given = hyper.replace(desired_kl=target, learning_rate=rate)
        return make_train(BY_KL)(jax.random.key(0), given)

    out = jax.jit(jax.vmap(run))(targets, rates)
    steps = 3 * np.arange(1, 5)  # of four in each update, the first has nothing to go by
    wanted = [
        np.minimum(0.01 * 1.5**steps, 0.05),
        np.maximum(0.01 / 1.5**steps, 1e-3),
        np.minimum(0.002 * 1.5**steps, 0.05),
    ]
    np.testing.assert_allclose(out.metrics.learning_rate, wanted, rtol=1e-5)
    np.testing.assert_array_equal(out.state.schedule_state, out.metrics.learning_rate[:, -1])
    assert np.abs(out.metrics.policy_loss).max() < 10


def keeping(dist, log_prob, batch, hyper, state):
    return clip(log_prob, batch.log_prob, batch.advantage, hyper.clip_eps)


@pytest.mark.slow
def test_behind_each_update_the_divergence_of_the_whole_rollout_decides():
    """By the divergence that an objective adapts to: one computation serves both."""
    told = Objective(keeping, init=lambda hyper: jnp.float32(0), adapt=lambda state, kl, hyper: kl)
    config = BY_KL.replace(
        adapt_learning_rate="update", desired_kl=3e-3, learning_rate=0.05, learning_rate_max=0.1
    )
    learner = make_learner(config, objective=told)
    update, state = jax.jit(learner.update), jax.jit(learner.init)(jax.random.key(1))
    rate, moves = config.learning_rate, set()
    for _ in range(7):
        assert float(state.schedule_state) == pytest.approx(rate, rel=1e-5)
        state, metrics = update(state)
        assert float(metrics.learning_rate) == pytest.approx(rate, rel=1e-5)  # of its steps
        kl, before = float(state.objective_state), rate
        if kl > 6e-3:
            rate = rate / 1.5
        elif kl < 1.5e-3:
            rate = rate * 1.5
        moves.add(np.sign(rate - before))
    assert moves == {-1, 0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("every", ["minibatch", pytest.param("update", marks=pytest.mark.slow)])
def test_steps_that_are_left_out_do_not_move_the_rate(every):
    """A loss that is NaN: nothing is learned, and nothing is known of how far it would move."""

    def broken(dist, log_prob, batch, hyper, state):
        return keeping(dist, log_prob, batch, hyper, state) * jnp.nan

    config = BY_KL.replace(adapt_learning_rate=every, total_timesteps=32)
    out = jax.jit(make_train(config, objective=broken))(jax.random.key(0))
    assert out.metrics.skipped_steps == 4
    np.testing.assert_array_equal(out.metrics.learning_rate, np.float32([1e-3]))
    assert out.state.schedule_state == np.float32(1e-3)


def test_without_it_nothing_is_remembered():
    state = jax.eval_shape(make_learner(BY_KL.replace(
        learning_rate_schedule="linear", learning_rate_min=1e-5, learning_rate_max=1e-2
    )).init, jax.random.key(0))  # fmt: skip
    assert state.schedule_state == ()
