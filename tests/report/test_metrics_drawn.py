"""What may be drawn of runs, against what, of which folders, and what is said beside it."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from support.run_folders import metrics_of, tiny_config, write_run

from purejaxppo import ConfigError
from purejaxppo.cli import commands
from purejaxppo.report.aggregate import bootstrap_interval
from purejaxppo.report.curves import CAUTION, FEW
from purejaxppo.report.plots import plot_curve
from purejaxppo.report.results import read_results
from purejaxppo.run_folder.find import find_runs, named_runs

NAN = np.nan
RETURNS = np.add.outer(np.arange(8.0), np.arange(1, 41))
EVALUATIONS = {200: [15.0] * 8, 400: [*range(30, 38)]}


def change_rows(folder, change, name="metrics.jsonl"):
    """Changes every row of a run."""
    path = Path(folder, name)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(change(row)) + "\n" for row in rows))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("many") / "runs"
    config = tiny_config(40)
    found = {
        "run-2": write_run(root / "run-2", config, RETURNS, evaluations=EVALUATIONS),
        "run-10": write_run(root / "deep" / "run-10", config.replace(gamma=0.5), RETURNS[:1]),
    }
    change_rows(found["run-2"], lambda row: row | {"value_loss": row["step"] / 10 + row["seed"]})
    change_rows(found["run-2"], lambda row: row | {"length_sum": 7.0, "my_value": 2.0})
    return {"root": str(root), **found}


@pytest.fixture
def plot(tmp_path, monkeypatch):
    """Runs the command in a folder of its own; gives what it drew as lines, texts and titles."""
    monkeypatch.chdir(tmp_path)
    lines, axes, titles, original = [], [], [], Axes.plot

    def line(self, x, y, *args, **look):
        lines.append((np.asarray(x), np.asarray(y), look))
        axes.append(self)
        return original(self, x, y, *args, **look)

    def title(self, text, *args, **more):
        titles.append(text)

    monkeypatch.setattr(Axes, "plot", line)
    for kind in (Figure, SubFigure):
        monkeypatch.setattr(kind, "suptitle", title)

    def run(*argv):
        for found in (lines, axes, titles):
            found.clear()
        assert commands.plot([*argv]) == 0
        return {"lines": lines, "axes": list(dict.fromkeys(axes)), "titles": titles}

    return run


# -- metrics ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "y"),
    [
        ("value_loss", np.arange(1, 41) + 3.5),  # seeds 2 to 5 of 8: the interquartile mean
        ("episode_length", np.full(40, 7.0)),
        ("episodes", np.ones(40)),
        ("my_value", np.full(40, 2.0)),
        ("approx_kl", np.zeros(40)),
    ],
)
def test_plot_metric_draws_any_column_of_the_rows(metric, y, runs, plot):
    drawn = plot(runs["run-2"], "--metric", metric)
    (x, mean, _), *more = drawn["lines"]
    assert not more  # neither evaluations nor sample efficiency are of this metric
    np.testing.assert_array_equal(x, np.arange(1, 41) * 10)
    np.testing.assert_allclose(mean, y, rtol=1e-6)
    assert drawn["axes"][0].get_ylabel() == metric.replace("_", " ")


@pytest.mark.parametrize("name", ["eval_return_mean", "evaluations"])
def test_plot_metric_of_evaluations(name, runs, plot):
    curve, *_ = plot(runs["run-2"], "--metric", name)["lines"]
    np.testing.assert_array_equal(curve[0], [200, 400])
    np.testing.assert_allclose(curve[1], [15, scipy.stats.trim_mean(EVALUATIONS[400], 0.25)])


def test_plot_metric_of_another_column_of_the_evaluations(runs, plot):
    ((x, y, _),) = plot(runs["run-2"], "--metric", "eval_return_std")["lines"]
    assert (x.tolist(), y.tolist()) == ([200, 400], [1.0, 1.0])


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("value_los", "unknown metric 'value_los': did you mean value_loss"),
        ("episode_returns", "did you mean episode_return"),
        ("extra", "unknown metric 'extra'"),
        ("step", "unknown metric 'step'"),
        ("", "unknown metric ''"),
    ],
)
def test_an_unknown_metric_is_one_line_naming_the_nearest(metric, words, runs, plot, tmp_path):
    with pytest.raises(ConfigError, match=words) as caught:
        plot(runs["run-2"], "--metric", metric)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_evaluations_of_runs_without_any_are_refused(runs, plot):
    with pytest.raises(ConfigError, match="no run was evaluated: train with --eval-every"):
        plot(runs["run-10"], "--metric", "eval_return_mean")


def test_a_run_without_the_metric_is_left_out_and_named(runs, plot, capsys):
    ten, two = runs["run-10"], runs["run-2"]
    drawn = plot(ten, two, two, ten, "--metric", "my_value")
    assert len(drawn["lines"]) == 2
    assert f"{runs['run-10']} is left out: it has no my_value" in capsys.readouterr().err


# -- axes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "where", "label"),
    [
        ("steps", np.arange(1, 41) * 10, "environment steps"),
        ("updates", np.arange(1, 41), "updates"),
        # one episode in every update
        ("episodes", np.arange(1, 41), "episodes that have ended, mean over seeds"),
        # 8 agents of 10 steps an update, at the 12345.6 steps/s of the summary
        ("seconds", np.arange(1, 41) * 80 / 12345.6, "seconds of training, at the run's mean"),
    ],
)
def test_plot_x(x, where, label, runs, plot):
    drawn = plot(runs["run-2"], "--x", x)
    curve, evaluations, efficiency = drawn["lines"]
    np.testing.assert_allclose(curve[0], where)
    np.testing.assert_allclose(evaluations[0], where[[19, 39]])
    np.testing.assert_allclose(curve[1], np.arange(1, 41) + 3.5)
    assert drawn["axes"][0].get_xlabel().startswith(label)
    assert set(efficiency[1]) <= set(where)
    assert drawn["axes"][1].get_ylabel() == f"{label.partition(',')[0]} to reach it"


def test_episodes_are_the_mean_over_seeds(tmp_path, plot):
    """One seed ends an episode in each update, the other in every second."""
    returns = np.where([[True] * 4, [True, False] * 2], 5.0, NAN)
    ((x, *_), *_) = plot(write_run(tmp_path / "r", tiny_config(4), returns), "--x=episodes")[
        "lines"
    ]
    assert x.tolist() == [1.0, 1.5, 2.5, 3.0]


def test_seconds_of_a_run_that_has_not_ended_are_refused(tmp_path, plot):
    folder = write_run(tmp_path / "r", tiny_config(40), RETURNS[:1, :9], finished=False)
    with pytest.raises(ConfigError, match="does not say how fast it ran"):
        plot(folder, "--x", "seconds")


# -- words and panels ------------------------------------------------------------------------------


def test_plot_title_and_labels(runs, plot):
    drawn = plot(runs["root"], "--title", "Mine $ all", "--labels", "first, second")
    names = {look["label"] for *_, look in drawn["lines"]}
    assert names == {"first (1 seed)", "second (8 seeds)"}  # deep/run-10 is before run-2
    assert drawn["titles"] == ["Mine $ all"]
    assert plot(runs["root"])["titles"] == ["CartPole-v1"]


def test_a_title_over_several_environments_stands_above_theirs(runs, plot, tmp_path):
    other = write_run(tmp_path / "other", tiny_config(3, "Acrobot-v1"), -RETURNS[:, :3])
    drawn = plot(runs["run-2"], other, "--title", "Both")
    assert sorted(drawn["titles"]) == ["Acrobot-v1", "Both", "CartPole-v1"]


@pytest.mark.parametrize("labels", ["a", "a,b,c", "a,", ","])
def test_labels_are_counted(labels, runs, plot):
    with pytest.raises(ConfigError, match=r"of 2 runs: give one for each.* run-10, run-2"):
        plot(runs["root"], "--labels", labels)


def test_plot_single_leaves_out_the_sample_efficiency(runs, plot):
    assert len(plot(runs["run-2"])["axes"]) == 2
    assert len(plot(runs["run-2"], "--single")["axes"]) == 1


# -- folders of runs -------------------------------------------------------------------------------


def test_a_folder_of_runs_stands_for_all_below_it(runs, plot):
    assert [path.name for path in named_runs([runs["root"]])] == ["run-10", "run-2"]
    assert len(plot(runs["root"], "--metric", "value_loss")["lines"]) == 2
    # one that is named beside its folder is there once, in the place where it was named
    named = named_runs([runs["run-2"], runs["root"]])
    assert [path.name for path in named] == ["run-2", "run-10"]


def test_runs_are_in_the_order_of_their_numbers(tmp_path):
    for n in (1, 2, 10, 9):
        write_run(tmp_path / f"run-{n}", tiny_config(1), [[1.0]])
    assert [path.name for path in find_runs(tmp_path)] == ["run-1", "run-2", "run-9", "run-10"]


def test_what_only_looks_like_a_run_is_passed_over(tmp_path):
    """A config.toml of something else, hidden folders, links in a circle."""
    run = write_run(tmp_path / "run", tiny_config(1), [[1.0]])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.toml").write_text("[tool]")
    write_run(tmp_path / ".hidden" / "run", tiny_config(1), [[1.0]])
    (tmp_path / "run" / "loop").symlink_to(tmp_path)
    assert find_runs(tmp_path) == [Path(run)]


@pytest.mark.parametrize("command", [commands.plot, commands.report])
def test_a_folder_that_is_neither_a_run_nor_has_any_says_so(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="'empty' holds no run, and there is none below it"):
        command(["empty"])
    assert {path.name for path in tmp_path.iterdir()} == {"empty"}


# -- too few seeds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [1, 2, 3, 4, 8])
def test_an_interval_of_few_seeds_gets_a_caution(seeds, tmp_path, plot, capsys):
    folder = write_run(tmp_path / "run", tiny_config(5), RETURNS[:seeds, :5])
    texts = [t.get_text() for t in plot(folder)["axes"][0].texts]
    err = capsys.readouterr().err
    few = 2 <= seeds <= 4
    assert any("intervals of 2, 3 or 4 seeds" in t for t in texts) == few
    assert err.count("\n") == few
    assert (f"{folder} has {seeds} seeds: intervals of 2, 3 or 4" in err) == few


@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_the_page_and_the_picture_of_training_have_the_caution_too(seeds, tmp_path, monkeypatch):
    said, original = [], Axes.annotate

    def annotate(self, text, *args, **more):
        said.append(text)
        return original(self, text, *args, **more)

    monkeypatch.setattr(Axes, "annotate", annotate)
    config = tiny_config(5)
    plot_curve(tmp_path / "curve.png", metrics_of(RETURNS[:seeds, :5]), config)
    folder = write_run(tmp_path / "run", config, RETURNS[:seeds, :5])
    commands.report([folder, "--out", str(tmp_path / "page.html")])
    assert said.count(CAUTION) == 2 * (seeds == 3)
    assert (CAUTION in (tmp_path / "page.html").read_text(encoding="utf-8")) == (seeds == 3)


def test_intervals_of_few_seeds_are_from_the_lowest_to_the_highest():
    """As the caution says; of more seeds they are narrower."""
    for seeds in range(2, 9):
        low, high = bootstrap_interval(np.arange(seeds, dtype=float))
        assert ((low, high) == (0.0, seeds - 1.0)) == (seeds in FEW)


@pytest.mark.parametrize(("seeds", "percent"), [(2, 50), (3, 75), (4, 88)])
def test_intervals_of_few_seeds_hold_the_mean_as_often_as_is_said(seeds, percent):
    drawn = np.random.default_rng(seeds).normal(size=(seeds, 100_000))
    held = np.mean((drawn.min(axis=0) < 0) & (drawn.max(axis=0) > 0))
    assert 100 * held == pytest.approx(percent, abs=1)
    assert f"{percent}" in CAUTION


def test_a_single_seed_has_no_interval(tmp_path, plot, monkeypatch):
    bands = []
    monkeypatch.setattr(Axes, "fill_between", lambda self, *args, **more: bands.append(args))
    plot(write_run(tmp_path / "run", tiny_config(5), RETURNS[:1, :5]), "--single")
    assert not bands


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (commands.plot, ["curves.png", "curves-2.png", "curves-3.png"]),
        (commands.report, ["report.html", "report-2.html", "report-3.html"]),
    ],
)
def test_a_second_picture_takes_the_next_free_name(command, names, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for count in (1, 2, 3):
        assert command([runs["run-10"]]) == 0
        assert {path.name for path in tmp_path.iterdir()} == set(names[:count])
    # what is asked for by name is still refused, and replaced only if that is said
    with pytest.raises(ConfigError, match="exists: name another with --out, or pass --overwrite"):
        command([runs["run-10"], "--out", names[0]])
    (tmp_path / names[0]).write_text("old")
    assert command([runs["run-10"], "--overwrite"]) == 0
    assert (tmp_path / names[0]).read_bytes() != b"old"
    assert {path.name for path in tmp_path.iterdir()} == set(names)


def test_evaluations_with_other_columns_are_read_by_name(tmp_path):
    folder = write_run(tmp_path / "r", tiny_config(40), RETURNS[:2], evaluations={9: [1.0, None]})
    found = read_results(folder).evaluations
    assert set(found) == {"return_mean", "return_std", "episodes"}
    np.testing.assert_array_equal(found["return_mean"], [[1.0], [NAN]])
