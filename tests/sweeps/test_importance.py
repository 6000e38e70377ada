"""Importance of what was varied, compared with indices that are known in closed form."""

import numpy as np
import pytest
import scipy.stats
from support.studies import result

from purejaxppo.sweeps.report.importance import (
    correlation_ratios,
    groups_of,
    importances,
)


def results_of(columns, scores):
    """Results of settings that are given by column."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [result(i, x, row) for i, (row, x) in enumerate(zip(rows, scores, strict=True))]


def shares(columns, scores):
    found = importances(results_of(columns, scores), list(columns))
    return {x.name: x.share for x in found}


def test_indices_of_an_additive_function():
    """Var(a_i u_i) = a_i**2 / 12 of uniform u_i."""
    u = scipy.stats.qmc.Sobol(3, seed=0).random(4096)
    weights = np.array([3.0, 2.0, 1.0])
    # a logarithm of a value that is varied by it is uniform
    columns = {"a": np.exp(9 * u[:, 0]).tolist(), "b": u[:, 1].tolist(), "c": u[:, 2].tolist()}
    found = shares(columns, (u @ weights).tolist())
    for name, weight in zip("abc", weights, strict=True):
        assert found[name] == pytest.approx(weight**2 / 14, abs=0.015)


def test_indices_of_ishigamis_function():
    """sin x1 + a sin(x2)**2 + b x3**4 sin x1: x3 does nothing by itself, all of it with x1."""
    a, b = 7.0, 0.1
    x = (2 * scipy.stats.qmc.Sobol(3, seed=0).random(4096) - 1) * np.pi
    y = np.sin(x[:, 0]) + a * np.sin(x[:, 1]) ** 2 + b * x[:, 2] ** 4 * np.sin(x[:, 0])
    v1, v2 = (1 + b * np.pi**4 / 5) ** 2 / 2, a**2 / 8
    v = v2 + b * np.pi**4 / 5 + b**2 * np.pi**8 / 18 + 0.5
    found = shares({f"x{i + 1}": x[:, i].tolist() for i in range(3)}, y.tolist())
    # ten groups of a sine leave about 4% of what it explains within them
    assert found["x1"] == pytest.approx(v1 / v, abs=0.03)
    assert found["x2"] == pytest.approx(v2 / v, abs=0.06)
    assert found["x3"] == pytest.approx(0.0, abs=0.01)
    assert list(found) == ["x2", "x1", "x3"]


def test_indices_of_choices():
    """Means -1, 0, 1 of equal probability beside noise of variance 1: 2/3 of 5/3."""
    rng = np.random.default_rng(0)
    which = rng.integers(0, 3, 6000)
    scores = which - 1 + rng.normal(size=6000)
    names = [("adam",), ("muon", "x"), None]
    found = shares({"choice": [names[i] for i in which]}, scores.tolist())
    assert found["choice"] == pytest.approx(0.4, abs=0.02)


def test_what_does_nothing_has_no_importance_on_average():
    """Of few trials, the plain correlation ratio would give it (K - 1) / (n - 1)."""
    rng, groups = np.random.default_rng(0), np.arange(20) % 4
    scores = rng.normal(size=(4000, 20))
    found = correlation_ratios(groups, scores)
    assert found.mean() == pytest.approx(0.0, abs=4 * found.std() / 4000**0.5)
    eta = 1 - (1 - found) * (20 - 4) / (20 - 1)
    assert eta.mean() == pytest.approx(3 / 19, abs=0.01)


def test_the_ratio_by_hand():
    groups, scores = np.array([0, 0, 1, 1, 1]), np.array([1.0, 3.0, 4.0, 6.0, 8.0])
    between = 2 * (2 - 4.4) ** 2 + 3 * (6 - 4.4) ** 2
    total = ((scores - 4.4) ** 2).sum()
    expected = 1 - (1 - between / total) * 4 / 3
    assert correlation_ratios(groups, scores) == pytest.approx(expected)


def test_luck_is_told_apart():
    rng = np.random.default_rng(1)
    u, v = rng.uniform(size=(2, 64))
    found = importances(
        results_of({"u": u.tolist(), "v": v.tolist()}, (u + 0.2 * v).tolist()), "uv"
    )
    assert [x.name for x in found] == ["u", "v"]
    assert found[0].certain
    assert found[0].chance == 1 / 1000  # none of the permutations
    # in 5 of 100 cases something without effect passes for certain, not more
    certain = [
        importances(results_of({"u": u.tolist()}, rng.normal(size=64).tolist()), "u")[0].certain
        for _ in range(200)
    ]
    assert np.mean(certain) <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def test_groups():
    assert groups_of([4, 8, 4, 8, 16, 4, 8, 4, 16]).tolist() == [0, 1, 0, 1, 2, 0, 1, 0, 2]
    assert groups_of([True, False, True]).tolist() == [0, 1, 0]
    assert groups_of(["none", None, "none"]).tolist() == [0, 1, 0]
    counts = np.bincount(groups_of(np.random.default_rng(0).uniform(size=100).tolist()))
    assert counts.tolist() == [10] * 10
    # whatever is equal stays together, and no group is empty
    groups = groups_of([1] * 60 + list(range(2, 42)))
    assert len(set(groups[:60])) == 1
    assert (np.bincount(groups) > 0).all()


@pytest.mark.parametrize(
    ("columns", "scores"),
    [
        ({"x": []}, []),
        ({"x": [0.5]}, [1.0]),
        ({"x": [0.5, 0.6, 0.7]}, [1.0, 2.0, 3.0]),
        ({"x": [0.5] * 20}, list(range(20))),
        ({"x": list(range(20))}, [7.0] * 20),
        ({"x": list(range(20))}, [None] * 20),
        ({"x": ["a", "b"] * 2}, [1.0, 2.0, None, None]),
    ],
)
def test_where_nothing_can_be_said_nothing_is(columns, scores):
    (found,) = importances(results_of(columns, scores), ["x"])
    assert found.share is None
    assert found.chance is None
    assert not found.certain


def test_trials_without_a_value_do_not_count():
    rng = np.random.default_rng(0)
    told = results_of({"x": rng.uniform(size=50).tolist()}, rng.normal(size=50).tolist())
    told += [result(60 + i, 100.0, {"other": 1}) for i in range(10)]
    found = {x.name: x for x in importances(told, ["x", "other"])}
    assert found["x"].trials == 50
    assert found["other"].share is None
