"""Action distributions against scipy.stats, their definitions and sampled frequencies."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from purejaxppo.policies import distributions
from purejaxppo.policies.distributions import Categorical, DiagGaussian

LOGITS = np.random.default_rng(0).normal(0, 2, (2, 5, 4)).astype(np.float32)
MEANS = np.random.default_rng(1).normal(0, 2, (2, 5, 3)).astype(np.float32)
LOG_STDS = np.random.default_rng(2).normal(-0.5, 0.7, (2, 5, 3)).astype(np.float32)

# two distributions of each kind with leading axes [5], and the shape of one action
CASES = {
    "Categorical": (Categorical(LOGITS[0]), Categorical(LOGITS[1]), ()),
    "DiagGaussian": (
        DiagGaussian(MEANS[0], LOG_STDS[0]),
        DiagGaussian(MEANS[1], LOG_STDS[1]),
        (3,),
    ),
}
every_kind = pytest.mark.parametrize("name", CASES)


def test_every_distribution_has_a_case():
    kinds = {
        name
        for name, thing in vars(distributions).items()
        if inspect.isclass(thing) and hasattr(thing, "log_prob")
    }
    assert kinds == set(CASES)


def samples(dist, number, seed=0):
    """[number, *lead, *event]."""
    return jax.vmap(dist.sample)(jax.random.split(jax.random.key(seed), number))


# -- what holds of every distribution, by definition -------------------------------------------


@every_kind
def test_entropy_is_the_mean_of_minus_log_prob(name):
    p, _, _ = CASES[name]
    surprise = -np.asarray(jax.vmap(p.log_prob)(samples(p, 4000)))
    error = surprise.std(0) / np.sqrt(4000)
    np.testing.assert_array_less(np.abs(surprise.mean(0) - p.entropy()), 4 * error + 1e-4)


@every_kind
def test_kl_is_the_mean_difference_of_log_probs(name):
    p, q, _ = CASES[name]
    actions = samples(p, 4000, seed=1)
    gap = np.asarray(jax.vmap(p.log_prob)(actions) - jax.vmap(q.log_prob)(actions))
    error = gap.std(0) / np.sqrt(4000)
    np.testing.assert_array_less(np.abs(gap.mean(0) - p.kl(q)), 4 * error + 1e-4)


@every_kind
def test_kl_of_itself_is_zero_and_of_another_is_not(name, variant):
    p, q, _ = CASES[name]
    np.testing.assert_allclose(variant(type(p).kl)(p, p), 0.0, atol=1e-6)
    assert (np.asarray(variant(type(p).kl)(p, q)) > 1e-2).all()
    slope = jax.grad(lambda q: p.kl(q).sum())(p)
    for leaf in jax.tree.leaves(slope):  # least there, so flat
        np.testing.assert_allclose(leaf, 0.0, atol=1e-5)


@every_kind
def test_no_sample_is_more_probable_than_the_mode(name):
    p, _, event = CASES[name]
    mode = p.mode()
    assert mode.shape == (5, *event)
    best = np.asarray(jax.vmap(p.log_prob)(samples(p, 200))).max(0)
    assert (best <= np.asarray(p.log_prob(mode)) + 1e-6).all()


@every_kind
def test_score_has_mean_zero(name):
    """E[d log p(a) / d parameters] = 0: sampling and log_prob are of one distribution."""
    p, _, _ = CASES[name]
    score = jax.vmap(lambda a: jax.grad(lambda p: p.log_prob(a).sum())(p))(samples(p, 4000, 2))
    for leaf in jax.tree.leaves(score):
        leaf = np.asarray(leaf, np.float64)
        error = leaf.std(0) / np.sqrt(4000)
        np.testing.assert_array_less(np.abs(leaf.mean(0)), 4.5 * error + 1e-4)


@every_kind
def test_any_leading_axes(name, variant):
    """A batch of distributions is each of them alone."""
    p, q, event = CASES[name]
    action = p.sample(jax.random.key(3))
    lead = (1, 5, 1)
    wide_p, wide_q = jax.tree.map(lambda x: x.reshape(*lead, x.shape[-1]), (p, q))
    wide_action = action.reshape(*lead, *event)
    kind = type(p)
    for method, arguments in (
        ("log_prob", (wide_p, wide_action)),
        ("entropy", (wide_p,)),
        ("kl", (wide_p, wide_q)),
        ("mode", (wide_p,)),
    ):
        got = variant(getattr(kind, method))(*arguments)
        assert got.shape[:3] == lead
        for i in range(5):
            alone = jax.tree.map(lambda x, i=i: x[0, i, 0], arguments)
            np.testing.assert_allclose(got[0, i, 0], getattr(kind, method)(*alone), rtol=2e-6)
    assert wide_p.sample(jax.random.key(3)).shape == (*lead, *event)
    assert jax.tree.map(lambda x: x[0], p).sample(jax.random.key(3)).shape == event


@every_kind
@pytest.mark.parametrize("compiled", [False, True])
def test_sampling_follows_the_key(name, compiled):
    p, _, event = CASES[name]
    draw = jax.jit(p.sample) if compiled else p.sample
    first, again, other = (draw(jax.random.key(seed)) for seed in (7, 7, 8))
    assert first.shape == (5, *event)
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first) != np.asarray(other)).any()


@every_kind
def test_neighbours_are_drawn_independently(name):
    """Equal distributions side by side in a batch do not give equal actions."""
    p, _, _ = CASES[name]
    twins = jax.tree.map(lambda x: jnp.stack([x[0], x[0]]), p)
    drawn = np.asarray(samples(twins, 4000, 4), np.float64).reshape(4000, 2, -1)
    for i in range(drawn.shape[2]):
        correlation = np.corrcoef(drawn[:, 0, i], drawn[:, 1, i])[0, 1]
        assert abs(correlation) < 4 / np.sqrt(4000)


# -- Categorical -------------------------------------------------------------------------------


def probabilities(logits):
    return scipy.special.softmax(np.asarray(logits, np.float64), -1)


def test_categorical_log_prob(variant):
    p = probabilities(LOGITS[0])
    for k in range(4):
        got = variant(Categorical.log_prob)(Categorical(LOGITS[0]), jnp.full(5, k))
        expected = [scipy.stats.rv_discrete(values=(range(4), row)).logpmf(k) for row in p]
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_categorical_entropy_and_kl(variant):
    p, q = probabilities(LOGITS)
    got = variant(Categorical.entropy)(Categorical(LOGITS[0]))
    np.testing.assert_allclose(got, scipy.stats.entropy(p, axis=-1), rtol=1e-5)
    got = variant(Categorical.kl)(Categorical(LOGITS[0]), Categorical(LOGITS[1]))
    np.testing.assert_allclose(got, scipy.stats.entropy(p, q, axis=-1), rtol=1e-5)


def test_categorical_by_hand():
    dist = Categorical(jnp.log(jnp.array([0.5, 0.25, 0.25])) + 17.0)  # not normalised
    np.testing.assert_allclose(dist.log_prob(jnp.array(1)), np.log(0.25), rtol=1e-5)
    np.testing.assert_allclose(dist.entropy(), 1.5 * np.log(2), rtol=1e-5)
    uniform = Categorical(jnp.zeros(3))
    np.testing.assert_allclose(dist.kl(uniform), np.log(3) - 1.5 * np.log(2), rtol=1e-4)
    assert dist.mode() == 0
    assert dist.mode().dtype == dist.sample(jax.random.key(0)).dtype == jnp.int32


def test_categorical_log_prob_gradient():
    """d log p(a) / d logits = one_hot(a) - p."""
    action = jnp.array([0, 1, 2, 3, 0])
    got = jax.grad(lambda x: Categorical(x).log_prob(action).sum())(LOGITS[0])
    np.testing.assert_allclose(got, np.eye(4)[action] - probabilities(LOGITS[0]), atol=1e-6)


def test_categorical_sampled_frequencies():
    p = probabilities(LOGITS[0])
    drawn = np.asarray(samples(Categorical(LOGITS[0]), 5000))
    for row in range(5):
        seen = np.bincount(drawn[:, row], minlength=4)
        assert scipy.stats.chisquare(seen, 5000 * p[row]).pvalue > 1e-3


@pytest.mark.parametrize(
    "logits", [[1e4, -1e4, 0.0], [1e30, 0.0, -1e30], [-1e9, -1e9, -1e9], [200.0, 0.0, -200.0]]
)
def test_extreme_logits_stay_finite(logits, variant):
    dist, other = Categorical(jnp.array(logits)), Categorical(jnp.array(logits[::-1]))

    def everything(p, q):
        return p.log_prob(p.mode()) + p.entropy() + p.log_prob(jnp.int32(1)), p.kl(q)

    for value in variant(everything)(dist, other):
        assert np.isfinite(value)
    for f in (everything, lambda p, q: everything(q, p)):
        gradient = jax.grad(lambda p, f=f: sum(f(p, other)))(dist)
        assert np.isfinite(np.asarray(gradient.logits)).all()
    np.testing.assert_allclose(dist.entropy(), np.log(3) if len(set(logits)) == 1 else 0, atol=1e-6)
    drawn = samples(dist, 20)
    assert ((drawn >= 0) & (drawn < 3)).all()


def test_a_single_action_is_certain():
    dist = Categorical(jnp.array([[3.0], [-2.0]]))
    np.testing.assert_array_equal(dist.sample(jax.random.key(0)), 0)
    np.testing.assert_array_equal(dist.log_prob(jnp.zeros(2, jnp.int32)), 0.0)
    np.testing.assert_array_equal(dist.entropy(), 0.0)


# -- DiagGaussian ------------------------------------------------------------------------------


def test_gaussian_log_prob(variant):
    action = MEANS[0] + np.random.default_rng(3).normal(size=(5, 3)).astype(np.float32)
    got = variant(DiagGaussian.log_prob)(DiagGaussian(MEANS[0], LOG_STDS[0]), action)
    for i in range(5):
        covariance = np.diag(np.exp(2 * LOG_STDS[0, i].astype(np.float64)))
        expected = scipy.stats.multivariate_normal.logpdf(action[i], MEANS[0, i], covariance)
        np.testing.assert_allclose(got[i], expected, rtol=1e-5)


def test_gaussian_entropy(variant):
    got = variant(DiagGaussian.entropy)(DiagGaussian(MEANS[0], LOG_STDS[0]))
    for i in range(5):
        covariance = np.diag(np.exp(2 * LOG_STDS[0, i].astype(np.float64)))
        expected = scipy.stats.multivariate_normal(MEANS[0, i], covariance).entropy()
        np.testing.assert_allclose(got[i], expected, rtol=1e-5)


def test_gaussian_kl_by_integration(variant):
    p, q = (DiagGaussian(MEANS[k] / 2, LOG_STDS[k] / 2) for k in (0, 1))
    got = variant(DiagGaussian.kl)(p, q)

    def integral(m, log_s, m2, log_s2):
        def integrand(x):
            log_p = scipy.stats.norm.logpdf(x, m, np.exp(log_s))
            return np.exp(log_p) * (log_p - scipy.stats.norm.logpdf(x, m2, np.exp(log_s2)))

        reach = 12 * np.exp(log_s)
        return scipy.integrate.quad(integrand, m - reach, m + reach, limit=200)[0]

    for i in range(2):
        parts = (p.mean[i], p.log_std[i], q.mean[i], q.log_std[i])
        expected = sum(integral(*(float(x) for x in row)) for row in zip(*parts, strict=True))
        np.testing.assert_allclose(got[i], expected, rtol=1e-4)


def test_gaussian_by_hand():
    p = DiagGaussian(jnp.array([0.0]), jnp.array([0.0]))
    q = DiagGaussian(jnp.array([1.0]), jnp.log(jnp.array([2.0])))
    np.testing.assert_allclose(
        p.log_prob(jnp.array([2.0])), -2 - 0.5 * np.log(2 * np.pi), rtol=1e-6
    )
    np.testing.assert_allclose(p.kl(q), np.log(2) + 2 / 8 - 0.5, rtol=1e-5)
    np.testing.assert_allclose(q.kl(p), -np.log(2) + 5 / 2 - 0.5, rtol=1e-5)
    np.testing.assert_array_equal(q.mode(), [1.0])


def test_gaussian_log_prob_gradient():
    """d / d mean = z / s and d / d log_std = z^2 - 1."""
    action = MEANS[1]
    gradient = jax.grad(lambda p: p.log_prob(action).sum())(DiagGaussian(MEANS[0], LOG_STDS[0]))
    std = np.exp(LOG_STDS[0].astype(np.float64))
    z = (action.astype(np.float64) - MEANS[0]) / std
    np.testing.assert_allclose(gradient.mean, z / std, rtol=1e-4)
    np.testing.assert_allclose(gradient.log_std, z**2 - 1, rtol=1e-4, atol=1e-5)


def test_gaussian_samples():
    drawn = np.asarray(samples(DiagGaussian(MEANS[0], LOG_STDS[0]), 3000), np.float64)
    std = np.exp(LOG_STDS[0])
    for i in range(5):
        for j in range(3):
            fit = scipy.stats.kstest(drawn[:, i, j], "norm", (MEANS[0, i, j], std[i, j]))
            assert fit.pvalue > 1e-3
        correlation = np.corrcoef(drawn[:, i].T) - np.eye(3)
        assert np.abs(correlation).max() < 4 / np.sqrt(3000)  # dimensions are independent


def test_narrow_gaussian_is_finite():
    dist = DiagGaussian(jnp.array([1e4, -1e-4]), jnp.array([-15.0, 5.0]))
    action = dist.sample(jax.random.key(0))
    assert np.isfinite(dist.log_prob(action))
    gradient = jax.grad(lambda p: p.log_prob(action))(dist)
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(gradient))
