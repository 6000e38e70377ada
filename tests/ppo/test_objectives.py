"""Objectives and value losses against SciPy, finite differences and numbers worked by hand."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from purejaxppo.config.schema import PPOConfig
from purejaxppo.policies.distributions import Categorical, DiagGaussian
from purejaxppo.ppo.objectives import (
    OBJECTIVES,
    adapt_kl_coef,
    clip,
    kl_penalty,
    policy_gradient,
    unclipped,
)
from purejaxppo.ppo.value_losses import VALUE_LOSSES, clipped, huber, squared
from purejaxppo.types import Batch

HYPER = (
    PPOConfig()
    .hyperparams()
    .replace(clip_eps=0.15, kl_coef=0.7, value_clip_eps=0.3, huber_delta=0.6)
)
BETA = 0.7  # kl_coef is also where adaptive_kl starts
B, A = 24, 3

every_objective = pytest.mark.parametrize("name", OBJECTIVES)
every_value_loss = pytest.mark.parametrize("name", VALUE_LOSSES)


# -- the same in float64, one transition at a time ---------------------------------------------


def categorical_parts(logits, old_logits, action):
    """log pi(a), log pi_old(a) and KL(pi_old, pi) of one transition."""
    new, old = (x - scipy.special.logsumexp(x) for x in (logits, old_logits))
    return new[action], old[action], scipy.special.rel_entr(np.exp(old), np.exp(new)).sum()


def gaussian_parts(params, old_params, action):
    """The same of independent Gaussians; KL = E[log N_old(x) - log N(x)] of quadratics in x."""
    (mean, std), (old_mean, old_std) = ((p[:A], np.exp(p[A:])) for p in (params, old_params))
    new, old = (
        scipy.stats.multivariate_normal.logpdf(action, m, np.diag(s**2))
        for m, s in ((mean, std), (old_mean, old_std))
    )
    cross_entropy = np.log(std) + 0.5 * np.log(2 * np.pi)
    cross_entropy += (old_std**2 + (old_mean - mean) ** 2) / (2 * std**2)
    return new, old, (cross_entropy - 0.5 * np.log(2 * np.pi * np.e * old_std**2)).sum()


def naive_clip(new, old, advantage, kl):
    ratio = np.exp(new - old)
    if advantage >= 0:
        return -min(ratio, 1 + 0.15) * advantage
    return -max(ratio, 1 - 0.15) * advantage


NAIVE = {
    "clip": naive_clip,
    "kl_penalty": lambda new, old, a, kl: BETA * kl - np.exp(new) / np.exp(old) * a,
    "adaptive_kl": lambda new, old, a, kl: BETA * kl - np.exp(new) / np.exp(old) * a,
    "unclipped": lambda new, old, a, kl: -np.exp(new) / np.exp(old) * a,
    "policy_gradient": lambda new, old, a, kl: -new * a,
}
"""Loss of one transition; a new objective needs its equation here."""


def finite_difference(f, x, step=1e-6):
    """Central differences of a scalar function of a float64 array."""
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        gradient[i] = (f(up) - f(down)) / (2 * step)
    return gradient


# -- a batch for each kind of policy -----------------------------------------------------------


def make_batch(dist, action, old_log_prob, advantage) -> Batch:
    zeros = jnp.zeros(len(advantage))
    return Batch(
        obs=zeros, action=action, log_prob=jnp.asarray(old_log_prob, jnp.float32), dist=dist,
        value=zeros, advantage=jnp.asarray(advantage, jnp.float32), target=zeros, carry=(),
        episode_start=zeros.astype(bool),
    )  # fmt: skip


def discrete_case():
    rng = np.random.default_rng(0)
    old = rng.normal(size=(B, A)).astype(np.float32)
    new = old + 0.4 * rng.normal(size=(B, A)).astype(np.float32)
    action = rng.integers(0, A, B)
    return new, old, action, rng.normal(size=B).astype(np.float32)


def continuous_case():
    rng = np.random.default_rng(1)
    old = (0.3 * rng.normal(size=(B, 2 * A))).astype(np.float32)
    new = (old + 0.1 * rng.normal(size=(B, 2 * A))).astype(np.float32)
    action = rng.normal(size=(B, A)).astype(np.float32)
    return new, old, action, rng.normal(size=B).astype(np.float32)


KINDS = {
    "categorical": (discrete_case, Categorical, categorical_parts),
    "gaussian": (
        continuous_case,
        lambda p: DiagGaussian(p[..., :A], p[..., A:]),
        gaussian_parts,
    ),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def loss_of(name, kind):
    """Each transition's loss as a function of the policy's outputs, and outputs to try."""
    case, distribution, parts = KINDS[kind]
    new, old, action, advantage = case()
    old_log_prob = [parts(*row)[1] for row in zip(new, old, action, strict=True)]
    batch = make_batch(distribution(jnp.asarray(old)), jnp.asarray(action), old_log_prob, advantage)
    state = OBJECTIVES[name].init(HYPER)

    def each(outputs):
        dist = distribution(outputs)
        return OBJECTIVES[name].loss(dist, dist.log_prob(batch.action), batch, HYPER, state)

    return each, new


@functools.cache
def naive_losses_and_gradients(name, kind):
    """[B] and [B, outputs]: one transition at a time, gradients by finite differences."""
    case, _, parts = KINDS[kind]
    losses, gradients = [], []
    for new, old, action, advantage in zip(*case(), strict=True):

        def loss(outputs, old=old, action=action, advantage=advantage):
            log_prob, old_log_prob, kl = parts(outputs, old.astype(np.float64), action)
            return NAIVE[name](log_prob, old_log_prob, float(advantage), kl)

        losses.append(loss(new.astype(np.float64)))
        gradients.append(finite_difference(loss, new.astype(np.float64)))
    return np.array(losses), np.array(gradients)


# -- every objective ---------------------------------------------------------------------------


@every_kind
@every_objective
def test_loss_agrees_with_its_equation(name, kind, variant):
    each, new = loss_of(name, kind)
    got = variant(each)(new)
    assert got.shape == (B,)
    expected, _ = naive_losses_and_gradients(name, kind)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


@every_kind
@every_objective
def test_gradient_agrees_with_finite_differences(name, kind, variant):
    each, new = loss_of(name, kind)
    got = variant(jax.grad(lambda outputs: each(outputs).sum()))(new)
    _, expected = naive_losses_and_gradients(name, kind)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-5)


@every_kind
def test_the_cases_reach_every_branch_of_the_clip(kind):
    case, _, parts = KINDS[kind]
    new, old, action, advantage = case()
    ratio = np.array(
        [np.exp(n - o) for n, o, _ in (parts(*r) for r in zip(new, old, action, strict=True))]
    )
    for sign in (advantage > 0, advantage < 0):
        for where in (ratio > 1.15, ratio < 0.85, np.abs(ratio - 1) < 0.15):
            assert (sign & where).any()
    assert np.abs(np.abs(ratio - 1) - 0.15).min() > 1e-4  # no finite difference across a kink


@every_kind
@every_objective
def test_all_objectives_start_as_the_policy_gradient(name, kind):
    """At ratio 1 the gradient of every surrogate is that of -log pi(a) A."""
    case, distribution, _ = KINDS[kind]
    _, old, action, advantage = case()
    dist = distribution(jnp.asarray(old))
    batch = make_batch(dist, jnp.asarray(action), dist.log_prob(jnp.asarray(action)), advantage)
    state = OBJECTIVES[name].init(HYPER)

    def loss(outputs):
        dist = distribution(outputs)
        return OBJECTIVES[name].loss(dist, dist.log_prob(batch.action), batch, HYPER, state).sum()

    def reinforce(outputs):
        return -(distribution(outputs).log_prob(batch.action) * batch.advantage).sum()

    got, expected = jax.grad(loss)(jnp.asarray(old)), jax.grad(reinforce)(jnp.asarray(old))
    assert np.abs(np.asarray(expected)).max() > 0.1
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@every_objective
def test_what_an_objective_remembers(name):
    """Its state can be carried through a loop, and the coefficient in force is a scalar."""
    objective = OBJECTIVES[name]
    state = objective.init(HYPER)
    assert np.isfinite(objective.kl_coef(HYPER, state))
    if objective.adapt is not None:
        after = objective.adapt(state, jnp.float32(0.01), HYPER)
        assert jax.tree.structure(after) == jax.tree.structure(state)
        for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)


# -- one by one --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [  # slope: d loss / d log pi(a), 0 where the clip holds
        (1.5, 1.0, -1.2, 0.0),
        (1.5, -1.0, 1.5, 1.5),
        (0.5, 1.0, -0.5, -0.5),
        (0.5, -1.0, 0.8, 0.0),
        (1.1, 2.0, -2.2, -2.2),
        (0.9, -2.0, 1.8, 1.8),
        (1.0, 3.0, -3.0, -3.0),
        (1.0, 0.0, 0.0, 0.0),
        (2.0, 0.0, 0.0, 0.0),
    ],
)
def test_clip_worked_by_hand(ratio, advantage, loss, slope):
    def f(log_prob):
        return clip(log_prob, jnp.zeros(1), jnp.array([advantage]), 0.2)[0]

    value, gradient = jax.value_and_grad(f)(jnp.log(jnp.array([ratio])))
    np.testing.assert_allclose(value, loss, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(gradient[0], slope, rtol=1e-6, atol=1e-7)


def test_surrogates_worked_by_hand():
    log_prob, old = jnp.log(jnp.array([0.5, 0.2])), jnp.log(jnp.array([0.25, 0.4]))
    advantage, kl = jnp.array([3.0, -2.0]), jnp.array([0.1, 0.3])
    np.testing.assert_allclose(unclipped(log_prob, old, advantage), [-6.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(
        kl_penalty(log_prob, old, advantage, kl, 10.0), [-5.0, 4.0], rtol=1e-6
    )
    np.testing.assert_allclose(
        policy_gradient(log_prob, advantage), [3 * np.log(2), 2 * np.log(0.2)], rtol=1e-6
    )


def test_the_penalty_is_of_the_old_policy_from_the_new():
    """KL(pi_old, pi), not KL(pi, pi_old): they differ, and only one is in the paper."""
    old, new = jnp.log(jnp.array([[0.9, 0.1]])), jnp.log(jnp.array([[0.5, 0.5]]))
    batch = make_batch(Categorical(old), jnp.array([0]), old[:, 0], np.zeros(1))
    hyper = HYPER.replace(kl_coef=1.0)
    loss = OBJECTIVES["kl_penalty"].loss(Categorical(new), new[:, 0], batch, hyper, ())
    np.testing.assert_allclose(loss, 0.9 * np.log(1.8) + 0.1 * np.log(0.2), rtol=1e-5)


@pytest.mark.parametrize(
    ("kl", "factor"),
    [
        (0.0, 0.5),
        (np.nextafter(np.float32(1.0), np.float32(0.0)), 0.5),
        (1.0, 1.0),  # just target / 1.5
        (1.5, 1.0),
        (2.25, 1.0),  # just 1.5 target
        (np.nextafter(np.float32(2.25), np.float32(3.0)), 2.0),
        (100.0, 2.0),
        (np.inf, 2.0),
    ],
)
def test_kl_coefficient_moves(kl, factor, variant):
    got = variant(adapt_kl_coef)(jnp.float32(3.0), jnp.float32(kl), 1.5)
    assert float(got) == 3.0 * factor


def test_a_coefficient_never_comes_to_nothing(variant):
    """From which no doubling would lead back."""
    least = variant(adapt_kl_coef)(jnp.float32(1.5e-10), jnp.float32(0.0), 1.5)
    most = variant(adapt_kl_coef)(jnp.float32(0.9e10), jnp.float32(9.0), 1.5)
    assert (float(least), float(most)) == (float(np.float32(1e-10)), 1e10)


def test_adaptive_kl_remembers_its_coefficient():
    objective = OBJECTIVES["adaptive_kl"]
    hyper = HYPER.replace(kl_coef=3.0, adaptive_kl_target=0.01)
    state = objective.init(hyper)
    seen = [float(objective.kl_coef(hyper, state))]
    for kl in (1.0, 1.0, 0.01, 0.0):
        state = objective.adapt(state, jnp.float32(kl), hyper)
        seen.append(float(objective.kl_coef(hyper, state)))
    assert seen == [3.0, 6.0, 12.0, 12.0, 6.0]


# -- value losses ------------------------------------------------------------------------------


def naive_clipped(value, old_value, target):
    near = min(max(value, old_value - 0.3), old_value + 0.3)
    return max((value - target) ** 2, (near - target) ** 2) / 2


NAIVE_VALUE = {
    "squared": lambda value, old_value, target: (value - target) ** 2 / 2,
    "clipped": naive_clipped,
    "huber": lambda value, old_value, target: scipy.special.huber(0.6, value - target),
}
"""Loss of one value; a new value loss needs its equation here."""


def value_case():
    """Values, old values and targets; first by hand so that each branch of each loss is there."""
    value = [0.0, 0.5, 0.5, -0.5, -0.5, 0.1, 2.0, -2.0]
    old_value = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.9, -1.9]
    target = [0.05, 2.0, -2.0, 2.0, -2.0, 5.0, -4.0, 4.0]
    random = np.random.default_rng(2).normal(size=(3, 20))
    value, old_value, target = np.concatenate([[value, old_value, target], random], 1)
    return (x.astype(np.float32) for x in (value, old_value, target))


@every_value_loss
def test_value_loss_agrees_with_its_equation(name, variant):
    value, old_value, target = value_case()
    batch = SimpleNamespace(value=jnp.asarray(old_value), target=jnp.asarray(target))

    def each(value):
        return VALUE_LOSSES[name](value, batch, HYPER)

    def naive(value):
        rows = zip(value, old_value.astype(np.float64), target.astype(np.float64), strict=True)
        return np.array([NAIVE_VALUE[name](*row) for row in rows])

    np.testing.assert_allclose(variant(each)(value), naive(value.astype(np.float64)), rtol=1e-5)
    got = variant(jax.grad(lambda v: each(v).sum()))(value)
    expected = finite_difference(lambda v: naive(v).sum(), value.astype(np.float64))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@every_value_loss
def test_value_loss_is_least_at_the_target(name):
    """Zero with no slope at the target, and it pulls towards it from the rollout's value."""
    target = jnp.array([-1.0, 0.0, 2.5])

    def loss(value, old_value):
        batch = SimpleNamespace(value=old_value, target=target)
        return VALUE_LOSSES[name](value, batch, HYPER).sum()

    value, gradient = jax.value_and_grad(loss)(target, target)
    assert value == 0.0
    np.testing.assert_array_equal(gradient, 0.0)
    for away in (-0.5, 0.5):
        gradient = jax.grad(loss)(target + away, target + away)
        assert (np.sign(gradient) == np.sign(away)).all()


@pytest.mark.parametrize(
    ("value", "target", "loss", "slope"),
    [  # old value 0, eps 0.2
        (1.0, 3.0, 0.5 * 2.8**2, 0.0),  # moved towards the target further than allowed: held
        (1.0, -3.0, 0.5 * 4.0**2, 4.0),  # moved away from it: not held
        (0.1, 3.0, 0.5 * 2.9**2, -2.9),
        (-1.0, -3.0, 0.5 * 2.8**2, 0.0),
    ],
)
def test_clipped_value_worked_by_hand(value, target, loss, slope):
    def f(v):
        return clipped(v, jnp.float32(0.0), jnp.float32(target), 0.2)

    got, gradient = jax.value_and_grad(f)(jnp.float32(value))
    np.testing.assert_allclose(got, loss, rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-7)


def test_huber_is_squared_near_and_linear_far():
    error = jnp.asarray(np.arange(-50, 51) / 10, jnp.float32)
    zero = jnp.zeros(101)
    np.testing.assert_allclose(
        huber(error, zero, 1.5), scipy.special.huber(1.5, np.asarray(error)), rtol=1e-6
    )
    np.testing.assert_array_equal(huber(error, zero, 10.0), squared(error, zero))
    slope = jax.vmap(jax.grad(huber), (0, None, None))(error, 0.0, 1.5)
    np.testing.assert_allclose(slope, np.clip(error, -1.5, 1.5), rtol=1e-6)
