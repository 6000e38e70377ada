"""Action distributions against scipy.stats, their definitions and sampled frequencies."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from jax.flatten_util import ravel_pytree

from purejaxppo.policies import distributions
from purejaxppo.policies.distributions import (
    IMPOSSIBLE,
    Bernoulli,
    Categorical,
    DiagGaussian,
    Joint,
    MultiCategorical,
    SquashedGaussian,
)

LOGITS = np.random.default_rng(0).normal(0, 2, (2, 5, 4)).astype(np.float32)
MEANS = np.random.default_rng(1).normal(0, 2, (2, 5, 3)).astype(np.float32)
LOG_STDS = np.random.default_rng(2).normal(-0.5, 0.7, (2, 5, 3)).astype(np.float32)
BITS = np.random.default_rng(5).normal(0, 1.5, (2, 5, 2, 3)).astype(np.float32)

NVEC = (4, 2, 3)  # ranges of different size, filled up to the widest
ROWS = np.random.default_rng(6).normal(0, 1.5, (2, 5, 3, 4)).astype(np.float32)
ROWS[..., np.arange(4) >= np.array(NVEC)[:, None]] = IMPOSSIBLE

LOW, HIGH = (-1.0, 0.0, -2.0), (1.0, 0.5, 3.0)


def gaussian(k):
    return DiagGaussian(MEANS[k], LOG_STDS[k])


def squashed(k):
    return SquashedGaussian(DiagGaussian(MEANS[k] / 4, LOG_STDS[k] / 2 - 0.3), (LOW, HIGH))


def squashed_number(k):
    return SquashedGaussian(DiagGaussian(MEANS[k, :, 0] / 4, LOG_STDS[k, :, 0], 0), (-2.0, 0.5))


def squashed_matrix(k):
    """Of actions [2, 3]."""
    mean, log_std = np.stack([MEANS[k], -MEANS[k]], 1) / 3, np.stack([LOG_STDS[k]] * 2, 1) / 2 - 0.3
    return SquashedGaussian(DiagGaussian(mean, log_std, 2), ((LOW, LOW), (HIGH, HIGH)))


def joint(k):
    return Joint({"a": Categorical(LOGITS[k]), "b": (Bernoulli(BITS[k], 2), gaussian(k))})


# two distributions of each kind with leading axes [5], and the shapes of one action's arrays
CASES = {
    "Categorical": (lambda k: Categorical(LOGITS[k]), [()]),
    "MultiCategorical": (lambda k: MultiCategorical(ROWS[k]), [(3,)]),
    "Bernoulli": (lambda k: Bernoulli(BITS[k, :, 0]), [(3,)]),
    "Bernoulli, no axis": (lambda k: Bernoulli(BITS[k, :, 0, 0], 0), [()]),
    "Bernoulli, two axes": (lambda k: Bernoulli(BITS[k], 2), [(2, 3)]),
    "DiagGaussian": (gaussian, [(3,)]),
    "SquashedGaussian": (squashed, [(3,)]),
    "SquashedGaussian, no axis": (squashed_number, [()]),
    "SquashedGaussian, two axes": (squashed_matrix, [(2, 3)]),
    "Joint": (joint, [(), (2, 3), (3,)]),
}
every_kind = pytest.mark.parametrize("name", CASES)


def case(name):
    make, event = CASES[name]
    return make(0), make(1), event


def test_every_distribution_has_a_case():
    kinds = {
        name
        for name, thing in vars(distributions).items()
        if inspect.isclass(thing)
        and hasattr(thing, "log_prob")
        and name[0] != "_"
        and thing.__module__ == distributions.__name__
    }
    assert kinds == {type(case(name)[0]).__name__ for name in CASES}


def samples(dist, number, seed=0):
    """[number, *lead, *event]."""
    return jax.vmap(dist.sample)(jax.random.split(jax.random.key(seed), number))


def shapes(tree):
    return [x.shape for x in jax.tree.leaves(tree)]


# -- what holds of every distribution, by definition -------------------------------------------


@every_kind
def test_entropy_is_the_mean_of_minus_log_prob(name):
    p, _, _ = case(name)
    surprise = -np.asarray(jax.vmap(p.log_prob)(samples(p, 4000)))
    error = surprise.std(0) / np.sqrt(4000)
    np.testing.assert_array_less(np.abs(surprise.mean(0) - p.entropy()), 4 * error + 1e-4)


@every_kind
def test_kl_is_the_mean_difference_of_log_probs(name):
    p, q, _ = case(name)
    actions = samples(p, 4000, seed=1)
    gap = np.asarray(jax.vmap(p.log_prob)(actions) - jax.vmap(q.log_prob)(actions))
    error = gap.std(0) / np.sqrt(4000)
    np.testing.assert_array_less(np.abs(gap.mean(0) - p.kl(q)), 4 * error + 1e-4)


@every_kind
def test_kl_of_itself_is_zero_and_of_another_is_not(name, variant):
    p, q, _ = case(name)
    np.testing.assert_allclose(variant(type(p).kl)(p, p), 0.0, atol=1e-6)
    assert (np.asarray(variant(type(p).kl)(p, q)) > 1e-2).all()
    slope = jax.grad(lambda q: p.kl(q).sum())(p)
    for leaf in jax.tree.leaves(slope):  # least there, so flat
        np.testing.assert_allclose(leaf, 0.0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in CASES if "Squashed" not in name])
def test_no_sample_is_more_probable_than_the_mode(name):
    p, _, event = case(name)
    mode = p.mode()
    assert shapes(mode) == [(5, *shape) for shape in event]
    best = np.asarray(jax.vmap(p.log_prob)(samples(p, 200))).max(0)
    assert (best <= np.asarray(p.log_prob(mode)) + 1e-6).all()


@every_kind
def test_score_has_mean_zero(name):
    """E[d log p(a) / d parameters] = 0: sampling and log_prob are of one distribution."""
    p, _, _ = case(name)
    score = jax.vmap(lambda a: jax.grad(lambda p: p.log_prob(a).sum())(p))(samples(p, 4000, 2))
    for leaf in jax.tree.leaves(score):
        leaf = np.asarray(leaf, np.float64)
        error = leaf.std(0) / np.sqrt(4000)
        np.testing.assert_array_less(np.abs(leaf.mean(0)), 4.5 * error + 1e-4)


@every_kind
def test_any_leading_axes(name, variant):
    """A batch of distributions is each of them alone."""
    p, q, event = case(name)
    action = jax.jit(p.sample)(jax.random.key(3))
    assert shapes(action) == [(5, *shape) for shape in event]
    lead = (1, 5, 1)
    wide_p, wide_q, wide_action = jax.tree.map(
        lambda x: x.reshape(*lead, *x.shape[1:]), (p, q, action)
    )

    def everything(p, q, action):
        return p.log_prob(action), p.entropy(), p.kl(q), p.mode()

    wide = jax.jit(variant(everything))(wide_p, wide_q, wide_action)
    assert shapes(wide) == [(*lead, *shape) for shape in ((), (), (), *event)]
    alone = jax.jit(everything)(*(jax.tree.map(lambda x: x[3], tree) for tree in (p, q, action)))
    for x, y in zip(jax.tree.leaves(wide), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(x[0, 3, 0], y, rtol=2e-6, atol=2e-6)
    for dist, axes in ((wide_p, lead), (jax.tree.map(lambda x: x[0], p), ())):
        drawn = jax.eval_shape(dist.sample, jax.random.key(3))
        assert shapes(drawn) == [(*axes, *shape) for shape in event]


@every_kind
@pytest.mark.parametrize("compiled", [False, True])
def test_sampling_follows_the_key(name, compiled):
    p, _, event = case(name)
    draw = jax.jit(p.sample) if compiled else p.sample
    drawn = [jax.tree.leaves(draw(jax.random.key(seed))) for seed in (7, 7, 8)]
    assert shapes(drawn[0]) == [(5, *shape) for shape in event]
    for first, again, other in zip(*drawn, strict=True):
        np.testing.assert_array_equal(first, again)
        assert (np.asarray(first) != np.asarray(other)).any()


@every_kind
def test_neighbours_are_drawn_independently(name):
    """Equal distributions side by side in a batch do not give equal actions."""
    p, _, _ = case(name)
    twins = jax.tree.map(lambda x: jnp.stack([x[0], x[0]]), p)
    for leaf in jax.tree.leaves(samples(twins, 4000, 4)):
        drawn = np.asarray(leaf, np.float64).reshape(4000, 2, -1)
        for i in range(drawn.shape[2]):
            correlation = np.corrcoef(drawn[:, 0, i], drawn[:, 1, i])[0, 1]
            assert abs(correlation) < 4 / np.sqrt(4000)


# -- the same in float64, one distribution at a time -------------------------------------------


def categorical_parts(logits, other, action):
    """log p(a), entropy and KL(p, q) of one distribution."""
    p, q = (scipy.special.softmax(x) for x in (logits, other))
    return np.log(p[action]), scipy.stats.entropy(p), scipy.stats.entropy(p, q)


def multi_parts(logits, other, action):
    rows = zip(NVEC, logits, other, action, strict=True)
    return sum(np.array(categorical_parts(p[:n], q[:n], a)) for n, p, q, a in rows)


def bernoulli_parts(logits, other, action):
    p, q = (scipy.special.expit(x) for x in (logits, other))
    divergence = scipy.special.rel_entr(p, q) + scipy.special.rel_entr(1 - p, 1 - q)
    log_prob = scipy.stats.bernoulli.logpmf(action, p)
    return log_prob.sum(), scipy.stats.bernoulli.entropy(p).sum(), divergence.sum()


def gaussian_parts(mean, log_std, other_mean, other_log_std, action):
    std, other_std = np.exp(log_std), np.exp(other_log_std)
    divergence = np.log(other_std / std) - 0.5
    divergence += (std**2 + (mean - other_mean) ** 2) / (2 * other_std**2)
    log_prob = scipy.stats.norm.logpdf(action, mean, std)
    return log_prob.sum(), scipy.stats.norm.entropy(mean, std).sum(), divergence.sum()


Z = np.linspace(-9, 9, 1001)
WEIGHTS = scipy.stats.norm.pdf(Z) / scipy.stats.norm.pdf(Z).sum()


def log_slope(u, low, high):
    """log(da/du) of a = low + (high - low) (tanh(u) + 1) / 2."""
    return np.log((high - low) / 2) - 2 * np.log(np.cosh(u))


def squashed_parts(mean, log_std, other_mean, other_log_std, action, low, high):
    """By the change of variables, expectations by numeric integration."""
    u = np.arctanh(2 * (action - low) / (high - low) - 1)
    std, other_std = np.exp(log_std), np.exp(other_log_std)
    log_prob = scipy.stats.norm.logpdf(u, mean, std) - log_slope(u, low, high)
    at = mean[..., None] + std[..., None] * Z  # u at each node
    slope = log_slope(at, low[..., None], high[..., None])
    log_p = scipy.stats.norm.logpdf(at, mean[..., None], std[..., None]) - slope
    log_q = scipy.stats.norm.logpdf(at, other_mean[..., None], other_std[..., None]) - slope
    return log_prob.sum(), -(log_p @ WEIGHTS).sum(), ((log_p - log_q) @ WEIGHTS).sum()


def parts(p, q, action):
    """The same of any distribution without leading axes, its leaves in float64."""
    if isinstance(p, Joint):
        lists = ([t["a"], *t["b"]] for t in (p.parts, q.parts, action))
        return sum(np.array(parts(*three)) for three in zip(*lists, strict=True))
    if isinstance(p, SquashedGaussian):
        bounds = [np.array(b) for b in p.bounds]
        return squashed_parts(*jax.tree.leaves((p, q)), action, *bounds)
    if isinstance(p, DiagGaussian):
        return gaussian_parts(*jax.tree.leaves((p, q)), action)
    by_kind = {
        Categorical: categorical_parts, MultiCategorical: multi_parts, Bernoulli: bernoulli_parts
    }  # fmt: skip
    return by_kind[type(p)](p.logits, q.logits, action)


def one(tree, i):
    """The i-th of a batch, in float64 (integers as they are)."""

    def single(x):
        x = np.asarray(x[i])
        return x if x.dtype.kind == "i" else x.astype(np.float64)

    return jax.tree.map(single, tree)


@every_kind
def test_values_are_those_of_scipy(name, variant):
    p, q, _ = case(name)
    action = p.sample(jax.random.key(11))
    values = variant(lambda p, q, a: (p.log_prob(a), p.entropy(), p.kl(q)))(p, q, action)
    for i in range(5):
        expected = parts(one(p, i), one(q, i), one(action, i))
        for got, value in zip(values, expected, strict=True):
            np.testing.assert_allclose(got[i], value, rtol=3e-5, atol=1e-5)


@every_kind
def test_gradients_are_finite_differences(name):
    """Of log_prob, entropy and KL by the parameters of both distributions."""
    first, second, _ = case(name)
    p, q = one(first, 1), one(second, 1)
    action = jax.tree.map(lambda x: x[1], first.sample(jax.random.key(12)))
    leaves, tree = jax.tree.flatten((p, q))
    sizes = np.cumsum([x.size for x in leaves])[:-1]
    flat = np.concatenate([x.ravel() for x in leaves])

    def unflatten(vector):
        pieces = zip(np.split(vector, sizes), leaves, strict=True)
        return tree.unflatten([piece.reshape(x.shape) for piece, x in pieces])

    def total(pair, a):
        p, q = pair
        return jnp.stack([p.log_prob(a), p.entropy(), p.kl(q)])

    pair = jax.tree.map(lambda x: x.astype(np.float32), (p, q))
    got = jax.jit(jax.jacrev(total))(pair, action)
    got = np.stack([ravel_pytree(jax.tree.map(lambda x, k=k: x[k], got))[0] for k in range(3)])
    exact = one(first.sample(jax.random.key(12)), 1)
    for i in range(flat.size):
        up, down = flat.copy(), flat.copy()
        up[i] += 1e-5
        down[i] -= 1e-5
        high, low = (np.array(parts(*unflatten(v), exact)) for v in (up, down))
        np.testing.assert_allclose(got[:, i], (high - low) / 2e-5, rtol=1e-3, atol=1e-4)


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


# -- Bernoulli and MultiCategorical ------------------------------------------------------------


def test_bits_by_hand():
    p, q = Bernoulli(jnp.log(jnp.array([3.0, 1.0]))), Bernoulli(jnp.zeros(2))
    np.testing.assert_allclose(p.log_prob(jnp.array([1, 0])), np.log(0.75 / 2), rtol=1e-6)
    np.testing.assert_allclose(p.log_prob(jnp.array([0, 1])), np.log(0.25 / 2), rtol=1e-6)
    nats = -0.75 * np.log(0.75) - 0.25 * np.log(0.25)
    np.testing.assert_allclose(p.entropy(), nats + np.log(2), rtol=1e-6)
    np.testing.assert_allclose(p.kl(q), np.log(2) - nats, rtol=1e-5)
    np.testing.assert_array_equal(Bernoulli(jnp.array([-1.0, 2.0])).mode(), [0, 1])
    assert p.mode().dtype == p.sample(jax.random.key(0)).dtype == jnp.int32


def test_choices_by_hand():
    """One of 2 and one of 3, filled up: what is not there adds nothing."""
    logits = jnp.log(jnp.array([[0.25, 0.75, 1.0], [0.5, 0.25, 0.25]]))
    p = MultiCategorical(logits.at[0, 2].set(IMPOSSIBLE))
    q = MultiCategorical(jnp.zeros((2, 3)).at[0, 2].set(IMPOSSIBLE))
    np.testing.assert_array_equal(p.mode(), [1, 0])
    np.testing.assert_allclose(p.log_prob(jnp.array([1, 2])), np.log(0.75 / 4), rtol=1e-6)
    nats = -0.25 * np.log(0.25) - 0.75 * np.log(0.75), 1.5 * np.log(2)
    np.testing.assert_allclose(p.entropy(), sum(nats), rtol=1e-6)
    np.testing.assert_allclose(p.kl(q), np.log(2) + np.log(3) - sum(nats), rtol=1e-5)
    np.testing.assert_allclose(q.entropy(), np.log(2) + np.log(3), rtol=1e-6)


@pytest.mark.parametrize("name", ["MultiCategorical", "Bernoulli", "Bernoulli, two axes"])
def test_choices_are_drawn_as_often_as_they_are_probable(name):
    p, _, _ = case(name)
    drawn = np.asarray(samples(p, 4000, 5)).reshape(4000, 5, -1)
    logits = np.asarray(p.logits).reshape(5, drawn.shape[2], -1)
    if name != "MultiCategorical":
        logits = np.concatenate([np.zeros_like(logits), logits], -1)
    for i, k in np.ndindex(drawn.shape[1:]):
        expected = scipy.special.softmax(logits[i, k].astype(np.float64))
        seen = np.bincount(drawn[:, i, k], minlength=len(expected))
        assert not seen[expected == 0].any()
        seen, expected = seen[expected > 0], expected[expected > 0]
        assert scipy.stats.chisquare(seen, 4000 * expected).pvalue > 1e-4
    correlation = np.corrcoef(drawn.reshape(4000, -1).T) - np.eye(drawn[0].size)
    assert np.abs(correlation).max() < 4.5 / np.sqrt(4000)  # choices are independent


@pytest.mark.parametrize("logit", [1e4, -1e4, 1e30, 100.0])
def test_extreme_bits_stay_finite(logit, variant):
    p, q = Bernoulli(jnp.array([logit, 0.0])), Bernoulli(jnp.array([-logit, 1.0]))
    certain = int(logit > 0)

    def everything(p, q):
        return p.log_prob(jnp.array([1 - certain, 1])) + p.entropy() + p.kl(q) + q.kl(p)

    value, slopes = variant(jax.value_and_grad(everything, (0, 1)))(p, q)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, slopes)))
    np.testing.assert_allclose(p.log_prob(jnp.array([certain, 1])), np.log(0.5), rtol=1e-6)
    np.testing.assert_allclose(p.entropy(), np.log(2), rtol=1e-6)
    assert (samples(p, 20)[:, 0] == certain).all()


# -- SquashedGaussian --------------------------------------------------------------------------


def squash_one(mean, std, low=-1.0, high=1.0):
    """Of numbers, means and standard deviations of any one shape."""
    mean, std = (jnp.asarray(x, jnp.float32) for x in np.broadcast_arrays(mean, std))
    return SquashedGaussian(DiagGaussian(mean, jnp.log(std), 0), (low, high))


BOUNDS = [(-1.0, 1.0), (0.0, 1.0), (-0.1, 0.7), (-3.0, -2.5), (10.0, 10.5), (-2e4, 1e4)]


@pytest.mark.parametrize(("low", "high"), BOUNDS)
@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.5), (-2.0, 0.3), (1.0, 1.5)])
def test_the_density_is_one_within_the_bounds(low, high, mean, std):
    u = np.linspace(-6.5, 6.5, 4001)
    action = low + (high - low) * (np.tanh(u) + 1) / 2
    density = np.exp(squash_one(mean, std, low, high).log_prob(jnp.asarray(action, jnp.float32)))
    outside = scipy.stats.norm.cdf(-6.5, mean, std) + scipy.stats.norm.sf(6.5, mean, std)
    np.testing.assert_allclose(np.trapezoid(density, action), 1 - outside, atol=2e-3)


def test_the_density_is_one_in_two_dimensions():
    """On a grid of actions, dimensions with bounds of their own."""
    bounds = (LOW[1:], HIGH[1:])
    dist = SquashedGaussian(DiagGaussian(jnp.array([0.3, -0.5]), jnp.array([-0.7, -0.2])), bounds)
    axes = [np.linspace(a, b, 402)[1:-1] for a, b in zip(*bounds, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).astype(np.float32)
    wide = jax.tree.map(lambda x: jnp.broadcast_to(x, grid.shape), dist)
    density = np.exp(np.asarray(wide.log_prob(grid), np.float64))
    total = np.trapezoid(np.trapezoid(density, axes[1], axis=1), axes[0])
    np.testing.assert_allclose(total, 1.0, atol=2e-3)


@pytest.mark.parametrize(("low", "high"), BOUNDS)
def test_squashed_values_by_integration_over_actions(low, high):
    def density(x, mean, std):
        y = (2 * x - low - high) / (high - low)
        return scipy.stats.norm.pdf(np.arctanh(y), mean, std) * 2 / (high - low) / (1 - y**2)

    def expected(f):
        inside = (high - low) * 1e-9
        points = low + (high - low) * np.array([0.01, 0.1, 0.5, 0.9, 0.99])
        return scipy.integrate.quad(f, low + inside, high - inside, points=points, limit=400)[0]

    (m, s), (m2, s2) = (0.6, 0.5), (-0.2, 0.8)
    p, q = squash_one(m, s, low, high), squash_one(m2, s2, low, high)
    entropy = expected(lambda x: -scipy.special.xlogy(*[density(x, m, s)] * 2))
    np.testing.assert_allclose(p.entropy(), entropy, rtol=1e-4, atol=1e-4)
    divergence = expected(lambda x: scipy.special.rel_entr(density(x, m, s), density(x, m2, s2)))
    np.testing.assert_allclose(p.kl(q), divergence, rtol=1e-4)


@pytest.mark.parametrize(("std", "accuracy"), [(1.0, 2e-3), (3.0, 2e-2)])
def test_squashed_entropy_is_as_accurate_as_it_says(std, accuracy):
    means, stds = np.meshgrid(np.linspace(-2, 2, 9), np.linspace(0.1, std, 8))
    z = np.linspace(-10, 10, 20001)
    weights = scipy.stats.norm.pdf(z) / scipy.stats.norm.pdf(z).sum()
    slope = log_slope(means[..., None] + stds[..., None] * z, -1.0, 1.0) @ weights
    got = squash_one(means, stds).entropy()
    expected = scipy.stats.norm.entropy(means, stds) + slope
    np.testing.assert_allclose(got, expected, rtol=0, atol=accuracy)


@pytest.mark.slow
@pytest.mark.parametrize(("low", "high"), [*BOUNDS, (1000.0, 1000.01), (-1.0, 1e-3)])
def test_squashed_actions_stay_within_their_bounds(low, high):
    """Their log-probability and its gradients are finite, however far out the mean."""
    means, stds = np.meshgrid([-1e3, -20.0, -7.0, 0.0, 2.0, 7.0, 20.0, 1e3], [0.1, 1.0, 3.0, 20.0])
    dist = squash_one(means, stds, low, high)
    drawn = samples(dist, 50)
    for action in (drawn, dist.mode()):
        assert (action >= np.float32(low)).all() and (action <= np.float32(high)).all()
    edges = jnp.broadcast_to(jnp.array([low, high])[:, None, None], (2, *means.shape))
    for action in (*drawn[:3], dist.mode(), *edges):
        value, slopes = jax.value_and_grad(lambda d, a: d.log_prob(a).sum(), (0, 1))(dist, action)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, slopes)))
    value, slope = jax.value_and_grad(lambda d: (d.entropy() + d.kl(d)).sum())(dist)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, slope)))


def test_squashed_samples():
    """Drawn back through the bounds they are normal, and half of them exceed the mode."""
    p, _, _ = case("SquashedGaussian")
    drawn = np.asarray(samples(p, 3000, 6), np.float64)
    low, high = np.array(LOW), np.array(HIGH)
    u = np.arctanh(2 * (drawn - low) / (high - low) - 1)
    for i, j in np.ndindex(5, 3):
        normal = (p.gaussian.mean[i, j], np.exp(p.gaussian.log_std[i, j]))
        assert scipy.stats.kstest(u[:, i, j], "norm", normal).pvalue > 1e-3
    above = (drawn > np.asarray(p.mode())).sum(0)
    assert all(scipy.stats.binomtest(int(k), 3000).pvalue > 1e-3 for k in above.ravel())


# -- Joint -------------------------------------------------------------------------------------


def test_parts_of_equal_distributions_are_drawn_independently():
    logits = jnp.log(jnp.array([0.2, 0.3, 0.5]))
    twins = Joint((Categorical(logits), {"x": Categorical(logits)}))
    first, second = (np.asarray(x) for x in jax.tree.leaves(samples(twins, 4000)))
    table = np.zeros((3, 3))
    np.add.at(table, (first, second), 1)
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-3


def test_actions_stand_as_their_distributions_do():
    move, look = Categorical(jnp.zeros(2)), Bernoulli(jnp.zeros(3))
    for structure in (
        {"move": move, "look": look},
        (move, look),
        [look],
        {"a": (move, {"b": look})},
    ):
        dist = Joint(structure)
        action = dist.sample(jax.random.key(0))
        leaves = jax.tree.structure(structure, is_leaf=lambda x: hasattr(x, "log_prob"))
        assert jax.tree.structure(action) == jax.tree.structure(dist.mode()) == leaves
        sizes = [x.size for x in jax.tree.leaves(action)]
        np.testing.assert_allclose(dist.log_prob(action), -sum(sizes) * np.log(2), rtol=1e-6)


# -- shapes that would broadcast ---------------------------------------------------------------

MANY = jax.tree.map(lambda x: jnp.stack([x] * 4), {
    "Categorical": Categorical(jnp.arange(3.0)),
    "MultiCategorical": MultiCategorical(jnp.zeros((2, 3))),
    "Bernoulli": Bernoulli(jnp.zeros(2)),
    "DiagGaussian": DiagGaussian(jnp.zeros(2), jnp.zeros(2)),
    "SquashedGaussian": SquashedGaussian(
        DiagGaussian(jnp.zeros(2), jnp.zeros(2)), ((-1.0, -1.0), (1.0, 1.0))
    ),
}, is_leaf=lambda x: isinstance(x, jax.Array))  # fmt: skip


@pytest.mark.parametrize("name", MANY)
def test_actions_of_other_leading_axes_are_refused_while_tracing(name):
    dist = MANY[name]
    action = dist.mode()
    assert dist.log_prob(action).shape == (4,)
    for wrong in (action[None], action[:, None], action[:1], jnp.stack([action] * 4)):
        with pytest.raises(AssertionError, match="Chex"):
            jax.eval_shape(dist.log_prob, wrong)


@pytest.mark.parametrize("name", MANY)
def test_one_distribution_takes_many_actions(name):
    one = jax.tree.map(lambda x: x[0], MANY[name])
    actions = MANY[name].mode()
    with jax.numpy_rank_promotion("allow"):
        together = one.log_prob(actions)
    np.testing.assert_allclose(together, jax.vmap(one.log_prob)(actions), rtol=1e-6)


@pytest.mark.parametrize("name", MANY)
def test_divergences_of_other_shapes_are_refused_while_tracing(name):
    dist = MANY[name]
    with pytest.raises(AssertionError, match="Chex"):
        jax.eval_shape(dist.kl, jax.tree.map(lambda x: x[:1], dist))
