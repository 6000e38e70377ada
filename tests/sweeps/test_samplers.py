"""Where settings come from: grids by count, random ones and Sobol's by their distribution."""

import collections
import itertools
import math
import warnings

import numpy as np
import pytest
from scipy import stats

from purejaxppo import ConfigError, PPOConfig
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.samplers import TRIALS, drawn
from purejaxppo.sweeps.space import Dimension, Space, read_space
from purejaxppo.sweeps.trials import Result

CONFIG = PPOConfig(num_envs=8, num_steps=16, num_minibatches=4, total_timesteps=4096)
SPACE = read_space(
    ["learning_rate=log:1e-4..1e-2", "gamma=0.9..0.99", "num_envs=4,8,16", "n_step=log:1..16"],
    CONFIG.replace(advantage="n_step"),
)


def trials(sampler, count=None, seed=0, space=SPACE):
    options = SweepOptions(sampler=sampler, trials=count, seed=seed)
    source = drawn(space, CONFIG.replace(advantage="n_step"), options)
    return source.ask(10**9)


def told(number):
    return Result(number, {}, "done", 1.0, [1.0], {}, 1, 1.0)


@pytest.mark.parametrize("sampler", ["random", "sobol"])
def test_marginals_are_uniform_on_their_scales(sampler):
    """By Kolmogorov and Smirnov; choices and whole numbers by their counts (chi-squared)."""
    count = 1024
    settings = [trial.setting for trial in trials(sampler, count, seed=3)]
    lr = [(math.log10(s["learning_rate"]) + 4) / 2 for s in settings]
    gamma = [(s["gamma"] - 0.9) / 0.09 for s in settings]
    for us in (lr, gamma):
        assert stats.kstest(us, "uniform").pvalue > 0.01
    envs = collections.Counter(s["num_envs"] for s in settings)
    assert stats.chisquare([envs[n] for n in (4, 8, 16)]).pvalue > 0.01
    steps = collections.Counter(s["n_step"] for s in settings)
    expected = [count * math.log((k + 1) / k) / math.log(17) for k in range(1, 17)]
    assert stats.chisquare([steps[k] for k in range(1, 17)], expected).pvalue > 0.01
    # and of each other they tell nothing
    assert abs(np.corrcoef(lr, gamma)[0, 1]) < 0.1


def test_sobol_fills_the_cube_more_evenly_than_chance():
    """Of 64 points each of 64 equal slices of every axis has one."""
    space = Space(tuple(Dimension(name, 0.0, 1.0) for name in ("a", "b", "c")))
    options = SweepOptions(sampler="sobol", trials=64, seed=5)
    for axis in "abc":
        rows = drawn(space, CONFIG, options).ask(64)
        assert sorted(int(trial.setting[axis] * 64) for trial in rows) == [*range(64)]


@pytest.mark.parametrize("sampler", ["random", "sobol"])
def test_a_trial_is_the_same_however_many_there_are(sampler):
    few, many = trials(sampler, 5), trials(sampler, 100)
    assert few == many[:5]
    assert [trial.number for trial in many] == [*range(100)]
    assert trials(sampler, 5, seed=1) != few
    assert len({trial.setting["gamma"] for trial in many}) == 100


def test_no_number_of_trials_makes_scipy_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for count in (1, 2, 3, 7, 100):
            assert len(trials("sobol", count)) == count
    assert len(trials("random")) == TRIALS


def test_a_grid_has_every_combination_once():
    space = read_space(["learning_rate=log:1e-4..1e-2:3", "num_envs=8,16"], CONFIG)
    found = [tuple(trial.setting.values()) for trial in trials("grid", space=space)]
    assert [n for _, n in found] == [8, 16] * 3
    np.testing.assert_allclose([lr for lr, _ in found], np.repeat([1e-4, 1e-3, 1e-2], 2))
    assert [*map(len, (trials("grid", 6, space=space), found))] == [6, 6]


def test_a_grid_has_what_has_no_effect_in_a_combination_only_once():
    space = read_space(["core=none,gru", "core_size=8,16"], CONFIG)
    rows = [trial.setting for trial in drawn(space, CONFIG, SweepOptions(sampler="grid")).ask(9)]
    assert rows == [{"core": "none"}] + [{"core": "gru", "core_size": n} for n in (8, 16)]


@pytest.mark.parametrize(
    ("texts", "count", "words"),
    [
        (["gamma=0.9..0.99"], None, "gamma=0.9..0.99 is a range, and a grid needs values: use "
         "0.9..0.99:5"),
        (["num_envs=8,16"], 3, "trials=3 must be the 2 settings of the grid"),
        (["learning_rate=1..2:999", "gamma=0..1:999"], None, "a grid of 998,001 settings"),
    ],
)  # fmt: skip
def test_a_grid_that_is_none_is_refused(texts, count, words):
    with pytest.raises(ConfigError, match=words):
        trials("grid", count, space=read_space(texts, CONFIG))


def test_combinations_that_are_refused_are_trials_with_a_reason():
    config = CONFIG.replace(num_minibatches=2, advantage_normalization="none")
    space = read_space(["num_envs=1..2", "num_steps=1..3"], config)
    source = drawn(space, config, SweepOptions(trials=50))
    trials = source.ask(50)
    assert len(trials) == 50 and 0 < sum(trial.why is None for trial in trials) < 50
    for trial in trials:
        batch = trial.setting["num_envs"] * trial.setting["num_steps"]
        assert (trial.why is None) == (batch % 2 == 0)


def test_what_is_told_is_not_asked_again():
    source = drawn(SPACE, CONFIG.replace(advantage="n_step"), SweepOptions(trials=6))
    for number in (0, 2, 5):
        source.tell(told(number))
    first, rest = source.ask(2), source.ask(9)
    assert [trial.number for trial in itertools.chain(first, rest)] == [1, 3, 4]
    for trial in first:
        source.tell(told(trial.number))
    assert source.ask(1) == []
    assert first + rest == [trials("random", 6)[i] for i in (1, 3, 4)]
