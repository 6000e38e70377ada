"""The shuffle: partitions, and uniform as far as a chi-square test can tell."""

import itertools
from collections import Counter

import jax
import numpy as np
import pytest
import scipy.stats

from purejaxppo.ppo.shuffle import minibatch_indices, permutations


def test_every_epoch_is_a_partition():
    rows = np.asarray(minibatch_indices(jax.random.key(0), 24, 3, 4))
    assert rows.shape == (12, 6)
    epochs = rows.reshape(3, 24)
    for epoch in epochs:
        assert sorted(epoch) == list(range(24))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    other = np.asarray(minibatch_indices(jax.random.key(1), 24, 3, 4)).reshape(3, 24)
    assert not {tuple(epoch) for epoch in other} & {tuple(epoch) for epoch in epochs}
    assert not any((np.diff(row) == 1).all() for row in rows)  # not slices of time
    np.testing.assert_array_equal(rows, minibatch_indices(jax.random.key(0), 24, 3, 4))


def test_permutations_are_uniform():
    """Each of the 4! orders, in each of two epochs, as often as the others; epochs unrelated."""
    keys = jax.random.split(jax.random.key(2), 3000)
    rows = np.asarray(jax.vmap(lambda k: minibatch_indices(k, 4, 2, 2))(keys)).reshape(3000, 2, 4)
    orders = list(itertools.permutations(range(4)))
    for epoch in range(2):
        counts = Counter(map(tuple, rows[:, epoch].tolist()))
        assert scipy.stats.chisquare([counts[o] for o in orders]).pvalue > 1e-3
    pairs = Counter(map(tuple, rows[:, :, 0].tolist()))
    seen = [pairs[p] for p in itertools.product(range(4), repeat=2)]
    assert scipy.stats.chisquare(seen).pvalue > 1e-3


def test_every_row_is_as_likely_at_every_position():
    keys = jax.random.split(jax.random.key(3), 1500)
    rows = np.asarray(jax.vmap(lambda k: minibatch_indices(k, 10, 1, 1))(keys))[:, 0]
    counts = np.stack([np.bincount(rows[:, i], minlength=10) for i in range(10)])
    statistic = ((counts - 150) ** 2 / 150).sum()
    assert scipy.stats.chi2(81).sf(statistic) > 1e-3  # rows and columns of counts are fixed


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 1000, 4099])
def test_any_number_of_rows(n):
    order = np.asarray(permutations(jax.random.key(0), 3, n))
    np.testing.assert_array_equal(np.sort(order, 1), np.tile(np.arange(n), (3, 1)))


@pytest.fixture(scope="module", params=[12, 16, 33])
def many(request):
    """200,000 permutations of n rows."""
    n = request.param
    draw = jax.jit(lambda key: permutations(key, 200_000, n))
    return n, np.asarray(draw(jax.random.key(7)))


def test_positions_are_uniform(many):
    n, orders = many
    counts = np.stack([np.bincount(orders[:, i], minlength=n) for i in range(n)])
    expected = len(orders) / n
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert scipy.stats.chi2((n - 1) ** 2).sf(statistic) > 1e-3


def test_pairs_are_uniform(many):
    """What stands at two positions: each of the n (n - 1) ordered pairs as often as the others."""
    n, orders = many
    for i, j in [(0, 1), (0, n - 1), (n // 2, n // 2 + 1), (1, n // 2)]:
        counts = np.bincount(orders[:, i].astype(int) * n + orders[:, j], minlength=n * n)
        seen = counts.reshape(n, n)[~np.eye(n, dtype=bool)]
        assert scipy.stats.chisquare(seen).pvalue > 1e-4


def test_neighbours_are_parted(many):
    """The step from one position to the next is as often d as any other number, mod n."""
    n, orders = many
    steps = np.bincount((orders[:, 1] - orders[:, 0]) % n, minlength=n)[1:]
    assert scipy.stats.chisquare(steps).pvalue > 1e-3


def test_cycles_are_as_of_true_permutations(many):
    """The number of fixed points is Poisson(1) to many digits for n from 12 up."""
    n, orders = many
    fixed = (orders == np.arange(n)).sum(1)
    seen = np.bincount(np.minimum(fixed, 5), minlength=6)
    poisson = scipy.stats.poisson(1)
    expected = np.append(poisson.pmf(range(5)), poisson.sf(4)) * len(orders)
    assert scipy.stats.chisquare(seen, expected).pvalue > 1e-3


def test_the_tests_would_notice(monkeypatch):
    """With 6 rounds in place of 24 the positions are visibly not uniform."""
    monkeypatch.setattr("purejaxppo.ppo.shuffle.ROUNDS", 6)
    orders = np.asarray(permutations(jax.random.key(7), 200_000, 12))
    counts = np.bincount(orders[:, 0], minlength=12)
    assert scipy.stats.chisquare(counts).pvalue < 1e-6


def test_one_key_one_shuffle_under_vmap():
    keys = jax.random.split(jax.random.key(1), 4)
    together = jax.vmap(lambda key: permutations(key, 2, 50))(keys)
    for i, key in enumerate(keys):
        np.testing.assert_array_equal(together[i], permutations(key, 2, 50))
