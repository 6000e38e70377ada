"""The best settings on fresh seeds: which are trained, with which keys, and what comes of them."""

import json

import jax
import numpy as np
import pytest
import scipy.stats
from support.studies import CONFIG, SPACE, drawn, result

from purejaxppo import ConfigError, PPOConfig, final_returns, fit
from purejaxppo.cli.arguments import SweepRun
from purejaxppo.cli.sweep import print_results
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.read import read_study
from purejaxppo.sweeps.report.curves import runs_of
from purejaxppo.sweeps.retrain import retrain, spread_over_seeds
from purejaxppo.sweeps.study import Study
from purejaxppo.sweeps.sweep import SweepResult, sweep

OPTIONS = SweepOptions(trials=20, seeds=2, seed=3)


class Trainer:
    """Trains nothing: the mean of a trial is its number's."""

    def __init__(self, means, stop=None):
        self.means, self.stop, self.calls = means, stop, []

    def __call__(self, options, study, trials):
        self.calls.append([trial.number for trial in trials])
        self.options, self.study = options, study
        for i, trial in enumerate(trials):
            if i == self.stop:
                return
            assert trial.config.learning_rate == trial.setting["learning_rate"]
            mean = self.means.get(trial.number)
            scores = [None if mean is None else mean + d for d in np.arange(options.seeds) - 1.5]
            status = "failed" if mean is None else "done"
            yield result(trial.number, mean, trial.setting, scores=scores, status=status)


@pytest.fixture
def study(tmp_path):
    """Twenty trials, of which 19, 18 and 17 are the best."""
    rng = np.random.default_rng(0)
    with Study.open(tmp_path / "s", CONFIG, SPACE, OPTIONS) as study:
        for number in range(20):
            study.tell(result(number, float(number), drawn(SPACE, rng)))
        study.write()
        yield study


def test_the_best_are_trained_again_and_the_best_mean_is_the_best(study):
    trainer = Trainer({19: 5.0, 18: 9.0, 17: 7.0})
    found = retrain(study, 3, 4, trainer)
    assert trainer.calls == [[19, 18, 17]]
    assert [r.number for r in found] == [19, 18, 17]
    assert [r.score for r in found] == [5.0, 9.0, 7.0]
    assert trainer.study.folder == study.folder / "retrained"
    assert study.winner.number == 18
    text = (study.folder / "best.toml").read_text()
    assert text.splitlines()[0] == (
        "# trial 18 has the best final_return of the settings that were trained again, on fresh "
        "seeds: 9, the mean over 4 seeds"
    )
    best = PPOConfig.from_toml(study.folder / "best.toml")
    assert best.learning_rate == study.results[18].setting["learning_rate"]
    again = read_study(study.folder)
    assert again.winner.number == 18
    assert [r.number for r in again.retrained.ranked] == [18, 17, 19]
    assert len(again.results) == 20  # those of the sweep stay as they are


def test_no_trial_has_had_the_keys(study):
    trainer = Trainer({19: 1.0})
    retrain(study, 1, 4, trainer)
    keys = [
        {tuple(x) for x in np.asarray(jax.random.key_data(jax.random.split(key, 8))).tolist()}
        for key in map(jax.random.key, (OPTIONS.seed, trainer.options.seed))
    ]
    assert not keys[0] & keys[1]
    # trials in processes of their own count the seed up: never so far
    assert trainer.options.seed == 3 + 2**31
    assert trainer.options.seeds == 4


def test_going_on_trains_what_is_left(study):
    first = Trainer({19: 5.0, 18: 9.0, 17: 7.0}, stop=1)
    assert [r.number for r in retrain(study, 3, 4, first)] == [19]
    assert study.winner.number == 19
    second = Trainer({18: 9.0, 17: 7.0})
    assert [r.number for r in retrain(study, 3, 4, second)] == [19, 18, 17]
    assert second.calls == [[18, 17]]
    third = Trainer({})
    retrain(study, 3, 4, third)
    assert third.calls == []
    assert study.winner.number == 18


def test_a_trial_that_came_later_and_is_better_is_the_best(study):
    """Until it is trained again too: fresh seeds decide among those that had some."""
    retrain(study, 1, 4, Trainer({19: 4.0}))
    study.tell(result(20, 99.0, study.results[3].setting))
    study.write()
    assert study.winner.number == read_study(study.folder).winner.number == 20
    assert not read_study(study.folder).is_fresh
    first = (study.folder / "best.toml").read_text().splitlines()[0]
    assert first.startswith("# trial 20 has the best final_return of the trials: 99,")
    retrain(study, 2, 4, Trainer({20: 3.0}))
    assert study.winner.number == 19 and read_study(study.folder).is_fresh


def test_other_seeds_are_another_study(study):
    retrain(study, 1, 4, Trainer({19: 5.0}))
    with pytest.raises(ConfigError, match=r"retrained' has seeds=4, not 5"):
        retrain(study, 1, 5, Trainer({19: 5.0}))


def test_what_fails_again_is_not_the_best(study):
    retrain(study, 2, 4, Trainer({18: -3.0}))
    assert study.winner.number == 18
    retrain(study, 3, 4, Trainer({}))  # 17 fails too
    assert study.winner.number == 18


def test_where_all_fail_the_scores_of_the_sweep_are_what_is_known(study):
    retrain(study, 2, 4, Trainer({}))
    assert study.winner.number == 19


def test_without_a_folder_and_without_scores():
    study = Study.open(None, CONFIG, SPACE, OPTIONS)
    assert retrain(study, 3, 4, Trainer({})) == []
    study.tell(result(0, 2.0))
    study.tell(result(1, 3.0))
    found = retrain(study, 3, 4, Trainer({0: 8.0, 1: 7.0}))
    assert [r.number for r in found] == [1, 0]
    assert study.winner.number == 0


def test_the_interval_is_students():
    scores = [1.0, 2.0, 4.0, 7.0, None]
    spread = spread_over_seeds(result(0, 3.5, scores=scores))
    known = np.array(scores[:4])
    expected = scipy.stats.ttest_1samp(known, 0).confidence_interval(0.95)
    assert spread.mean == 3.5
    assert spread.std == pytest.approx(known.std(ddof=1))
    assert (spread.low, spread.high) == pytest.approx((expected.low, expected.high))
    alone = spread_over_seeds(result(0, 3.5, scores=[3.5]))
    assert alone.mean == 3.5
    assert np.isnan([alone.std, alone.low, alone.high]).all()
    assert np.isnan(spread_over_seeds(result(0, None, scores=[None, None]))).all()


@pytest.mark.slow
def test_a_sweep_trains_its_best_again_in_one_program(tmp_path):
    """Means of fresh seeds are those of runs of their own with these seeds."""
    config = PPOConfig(
        num_envs=4, num_steps=32, total_timesteps=256, num_minibatches=1, num_epochs=1,
        hidden_sizes=(8,),
    )  # fmt: skip
    swept = sweep(
        config, {"learning_rate": "log:1e-3..1e-1"}, trials=4, seeds=1, retrain=2, retrain_seeds=3,
        study_dir=tmp_path / "s",
    )  # fmt: skip
    study = read_study(tmp_path / "s")
    assert study.retrained is not None
    assert sorted(study.retrained.results) == sorted(r.number for r in study.ranked[:2])
    assert {r.run for r in study.retrained.results.values()} == {
        f"runs/{study.ranked[0].number:04d}"
    }  # one program
    best = swept.winner
    assert best is not None
    assert best.number == study.retrained.ranked[0].number
    alone = fit(config.replace(learning_rate=best.setting["learning_rate"]), seeds=3, seed=2**31)
    np.testing.assert_allclose(best.scores, final_returns(alone.metrics), rtol=1e-4)
    assert PPOConfig.from_toml(tmp_path / "s/best.toml") == swept.best
    runs, missing = runs_of(study.retrained, study.retrained.ranked)
    assert not missing
    assert [run.seeds for run in runs] == [3, 3]
    np.testing.assert_allclose(final_returns(runs[0].metrics), best.scores, rtol=1e-6)


def test_the_command_says_what_fresh_seeds_give(capsys, tmp_path):
    again = result(3, 2.5, scores=[1.0, 4.0, 2.5])
    found = SweepResult([result(3, 9.0), result(4, 8.0)], CONFIG, again, tmp_path, [], None)
    print_results(found, SPACE, SweepRun(retrain=1, json=True), tmp_path)
    printed = capsys.readouterr().out.splitlines()
    assert "on fresh seeds trial 3 is the best: 2.5 over 3 seeds" in printed
    told = json.loads(printed[-1])
    assert (told["best"]["score"], told["on_fresh_seeds"]["score"]) == (9.0, 2.5)
