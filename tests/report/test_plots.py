"""Statistics over seeds against SciPy, and pictures of runs."""

import itertools
import json
import shlex
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from matplotlib.axes import Axes
from matplotlib.image import imread
from support.run_folders import metrics_of, tiny_config, write_run

from purejaxppo import ConfigError, PPOConfig
from purejaxppo.cli import commands
from purejaxppo.cli.starts import parse_train
from purejaxppo.report import plots
from purejaxppo.report.aggregate import (
    binned_returns,
    bootstrap_interval,
    carried_forward,
    common_levels,
    iqm,
    learning_curves,
    share_has_reached,
    steps_to_reach,
)
from purejaxppo.report.results import given_in_python, labels, read_results, train_command

NAN, INF = np.nan, np.inf
MAGIC = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
RNG = np.random.default_rng(0)


# -- statistics ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", range(1, 14))
def test_iqm_is_the_trimmed_mean(seeds):
    returns = np.random.default_rng(seeds).normal(size=(seeds, 3))
    np.testing.assert_allclose(iqm(returns), scipy.stats.trim_mean(returns, 0.25), rtol=1e-12)
    np.testing.assert_allclose(iqm(returns[:, 0]), scipy.stats.trim_mean(returns[:, 0], 0.25))


def test_iqm_leaves_out_seeds_without_a_return():
    returns = np.random.default_rng(1).normal(size=(9, 10))
    for column in range(10):
        returns[: min(column, 9), column] = NAN
    expected = [scipy.stats.trim_mean(returns[column:, column], 0.25) for column in range(9)]
    np.testing.assert_allclose(iqm(returns), [*expected, NAN], rtol=1e-12)


@pytest.mark.parametrize("seeds", [2, 5, 16])
def test_bootstrap_is_scipys(seeds):
    returns = np.random.default_rng(seeds).gamma(2.0, size=seeds)

    def statistic(x, axis):
        return scipy.stats.trim_mean(x, 0.25, axis=axis)

    for confidence in (0.5, 0.95):
        expected = scipy.stats.bootstrap(
            (returns,), statistic, n_resamples=1000, confidence_level=confidence,
            method="percentile", random_state=np.random.default_rng(0),
        ).confidence_interval  # fmt: skip
        interval = bootstrap_interval(returns, confidence)
        np.testing.assert_allclose(interval, expected, rtol=1e-12)


def test_bootstrap_against_all_resamples():
    returns = np.array([1.0, 2.0, 4.0, 8.0])
    means = [
        scipy.stats.trim_mean([returns[i] for i in draw], 0.25)
        for draw in itertools.product(range(4), repeat=4)
    ]
    exact = np.percentile(means, [2.5, 97.5], method="inverted_cdf")
    np.testing.assert_allclose(bootstrap_interval(returns, resamples=4000), exact, atol=0.3)


def test_bootstrap_draws_whole_seeds_and_is_the_same_each_time():
    returns = np.array([[1.0, 10.0, 5.0, NAN], [2.0, 20.0, 5.0, NAN], [4.0, 40.0, 5.0, NAN]])
    low, high = bootstrap_interval(returns)
    assert low[1] == 10 * low[0] < 10 * high[0] == high[1]
    assert low[2] == high[2] == 5.0
    assert np.isnan([low[3], high[3]]).all()
    np.testing.assert_array_equal(bootstrap_interval(returns), (low, high))
    np.testing.assert_array_equal(bootstrap_interval(np.array([[3.0, NAN]])), [[3.0, NAN]] * 2)


def test_an_update_that_is_not_finite_is_left_out_of_its_stretch():
    metrics = metrics_of([[1.0, 2.0, 3.0, 4.0]])
    metrics.return_sum[0, 1] = NAN
    metrics.return_sum[0, 2] = INF
    ends, returns = binned_returns(metrics, bins=2)
    np.testing.assert_array_equal(ends, [2, 4])
    np.testing.assert_array_equal(returns, [[1.0, 4.0]])


def test_known_returns_are_carried_forward_never_back():
    returns = np.array([[NAN, 1.0, NAN, NAN, 2.0, NAN], [NAN] * 6, [5.0] * 6])
    expected = [[NAN, 1.0, 1.0, 1.0, 2.0, 2.0], [NAN] * 6, [5.0] * 6]
    np.testing.assert_array_equal(carried_forward(returns), expected)


def test_steps_to_reach_by_hand():
    steps = np.array([10, 20, 30, 40])
    returns = np.array([[NAN, 1.0, 5.0, 2.0], [3.0, 3.0, 3.0, 9.0], [NAN] * 4])
    times = steps_to_reach(steps, returns, np.array([1.0, 3.0, 5.0, 9.5]))
    np.testing.assert_array_equal(
        times, [[20, 30, 30, INF], [10, 10, 40, INF], [INF, INF, INF, INF]]
    )
    np.testing.assert_array_equal(share_has_reached(times, 0.5), [20, 30, 40, INF])


def test_steps_to_reach_by_search():
    returns = np.where(RNG.random((6, 30)) < 0.2, NAN, RNG.normal(size=(6, 30)).cumsum(axis=1))
    steps, levels = np.arange(1, 31) * 7, np.linspace(-8, 8, 25)
    for seed, level in itertools.product(range(6), range(25)):
        there = [s for s, x in zip(steps, returns[seed], strict=True) if x >= levels[level]]
        assert steps_to_reach(steps, returns, levels)[seed, level] == min(there, default=INF)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("seeds", [1, 2, 3, 7, 8])
def test_shares_are_quantiles(share, seeds):
    times = np.random.default_rng(seeds).random((seeds, 5))
    expected = np.quantile(times, share, axis=0, method="inverted_cdf")
    np.testing.assert_array_equal(share_has_reached(times, share), expected)


def test_runs_are_binned_on_stretches_of_the_same_length():
    long, short = np.arange(200.0)[None], np.arange(100.0)[None]
    curves = learning_curves([(metrics_of(long), 10), (metrics_of(short), 5)], bins=8)
    np.testing.assert_array_equal(curves[0].steps, np.arange(1, 9) * 250)
    np.testing.assert_array_equal(curves[1].steps, np.arange(1, 3) * 250)
    np.testing.assert_array_equal(curves[1].mean, [np.arange(50).mean(), np.arange(50, 100).mean()])
    (sparse,) = learning_curves([(metrics_of([[NAN, 2.0, NAN], [4.0, NAN, NAN]]), 10)])
    np.testing.assert_array_equal(sparse.mean, [4.0, 3.0, 3.0])
    levels = common_levels(curves, np.array([0.0, 0.5, 1.0]))
    np.testing.assert_array_equal(levels, [12.0, (12.0 + 187.0) / 2, 187.0])
    for ends in RNG.random((100, 1, 2)):
        (curve,) = learning_curves([(metrics_of(ends), 10)])
        assert common_levels([curve], np.array([0.0, 1.0])).max() == ends.max()
    nothing = learning_curves([(metrics_of(np.full((2, 3), NAN)), 10)])
    assert common_levels(nothing, np.array([0.0, 1.0])).size == 0


# -- pictures --------------------------------------------------------------------------------------


def rising(seeds, updates, speed=1.0):
    noise = np.random.default_rng(seeds).normal(scale=2, size=(seeds, updates))
    return speed * np.arange(updates) + noise


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root, config = tmp_path_factory.mktemp("runs"), tiny_config(40)
    sparse = np.where(np.arange(40) % 7 < 5, NAN, rising(3, 40))
    return {
        "many": write_run(
            root / "many", config, rising(8, 40), evaluations={200: [15.0] * 8, 400: [35.0] * 8}
        ),
        "one": write_run(root / "one", config.replace(learning_rate=1e-3), rising(1, 40, 0.5)),
        "sparse": write_run(root / "spa$r$e", tiny_config(50), sparse, finished=False, torn=True),
        "short": write_run(root / "short", tiny_config(40), rising(2, 1), finished=False),
        "none": write_run(root / "none", config, np.full((2, 5), NAN), finished=False),
        "new": write_run(root / "new", config, np.empty((2, 0)), finished=False),
        "a2c": write_run(root / "a2c", tiny_config(40, algorithm="a2c", n_step=4), rising(4, 40)),
        "other": write_run(root / "other", tiny_config(30, "Acrobot-v1"), -rising(3, 30)),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    ["many", "one", "sparse", "short", "none", "new", "none new", "many one sparse a2c none",
     "many other", "many many"],
)  # fmt: skip
def test_all_sorts_of_runs_are_drawn(names, folders, tmp_path):
    out = tmp_path / "curves.png"
    runs = tuple(folders[name] for name in names.split())
    assert commands.plot([*runs, "--out", str(out)]) == 0
    assert imread(out)[..., :3].std() > 0.02


@pytest.mark.slow
@pytest.mark.parametrize("suffix", MAGIC)
def test_equal_calls_give_equal_pictures(suffix, folders, tmp_path, capsys):
    outs = [tmp_path / f"{i}{suffix}" for i in range(2)]
    for out in outs:
        commands.plot([folders["many"], folders["sparse"], "--out", str(out)])
        assert f"saved in {out}" in capsys.readouterr().out
    assert outs[0].read_bytes().startswith(MAGIC[suffix])
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_lines_are_the_statistics(folders, tmp_path, monkeypatch):
    drawn, original = [], Axes.plot

    def plot(self, x, y, *args, **look):
        drawn.append((np.asarray(x), np.asarray(y), look))
        return original(self, x, y, *args, **look)

    monkeypatch.setattr(Axes, "plot", plot)
    commands.plot([folders["many"], "--out", str(tmp_path / "x.png")])
    curve, evaluations, efficiency = drawn
    returns = rising(8, 40)  # 40 updates: one to a stretch
    np.testing.assert_array_equal(curve[0], np.arange(1, 41) * 10)
    np.testing.assert_allclose(curve[1], scipy.stats.trim_mean(returns, 0.25))
    np.testing.assert_array_equal(evaluations[:2], [[200, 400], [15.0, 35.0]])
    assert (curve[2]["linestyle"], evaluations[2]["linestyle"]) == ("-", "--")
    for level, steps in zip(*efficiency[:2], strict=True):
        first = [next((10 * (u + 1) for u in range(40) if r[u] >= level), INF) for r in returns]
        assert sorted(first)[3] == steps  # the fourth of eight


def test_more_runs_than_colours_differ_in_their_lines(tmp_path, monkeypatch):
    looks, original = [], Axes.plot

    def plot(self, x, y, *args, **look):
        looks.append((look["color"], look["linestyle"], look["label"]))
        return original(self, x, y, *args, **look)

    monkeypatch.setattr(Axes, "plot", plot)
    rates = np.arange(1, 9) * 1e-3
    config = tiny_config(3)
    runs = [
        write_run(tmp_path / f"{i}", config.replace(learning_rate=rate), rising(1, 3))
        for i, rate in enumerate(rates)
    ]
    commands.plot([*runs, "--out", str(tmp_path / "x.png")])
    assert len(set(looks)) == len({look[:2] for look in looks}) == 8


def test_a_curve_for_training_keeps_its_signature(tmp_path):
    for name, returns in {
        "rising": rising(3, 20),
        "none": [[NAN]],
        "new": np.empty((2, 0)),
    }.items():
        path = tmp_path / f"{name}.png"
        for _ in range(2):  # it may be drawn anew
            plots.plot_curve(path, metrics_of(returns), tiny_config(20))
        assert imread(path)[..., :3].std() > 0.02


def test_an_svg_for_pages_has_text_and_no_references(folders):
    runs = [read_results(folders[name]) for name in ("many", "one", "none")]
    svg = plots.inline_svg(runs, 'curves of <&">')
    tree = ET.fromstring(svg.replace("xlink:href", "href"))
    words = ["".join(text.itertext()) for text in tree.iter("text")]
    assert "episode return" in words
    assert "ppo, learning_rate=0.001 (1 seed)" in words
    assert "ppo, learning_rate=0.00025, none (2 seeds)" in words
    assert tree.get("aria-label") == 'curves of <&">'
    assert "http" not in svg
    assert plots.INK not in svg
    ids = {element.get("id") for element in tree.iter()} - {None}
    used = {x.get("href")[1:] for x in tree.iter("use")}
    assert used <= ids


# -- what runs are called --------------------------------------------------------------------------


def test_labels_say_what_differs(tmp_path):
    config, returns = tiny_config(3), rising(1, 3)

    def run(name, config, algorithm="ppo"):
        return read_results(write_run(tmp_path / name, config, returns, algorithm=algorithm))

    plain = run("plain", config)
    faster = run("faster", config.replace(learning_rate=0.01))
    assert labels([plain]) == ["ppo"]
    assert labels([plain, faster]) == ["ppo, learning_rate=0.00025", "ppo, learning_rate=0.01"]
    again = run("again", config)
    assert labels([plain, again]) == ["ppo, plain", "ppo, again"]
    assert labels([plain, again, faster])[1:] == [
        "ppo, learning_rate=0.00025, again", "ppo, learning_rate=0.01"
    ]  # fmt: skip
    namesake = run("deeper/plain", config)
    assert labels([plain, namesake]) == [f"ppo, {plain.folder}", f"ppo, {namesake.folder}"]
    changes = dict(gamma=0.9, clip_eps=0.1, layer_norm=True, activation="relu")
    far = run("far", config.replace(**changes))
    assert labels([plain, far]) == ["ppo, plain", "ppo, far"]
    a2c = run("a2c", tiny_config(3, algorithm="a2c"), None)  # seen by its configuration
    assert labels([plain, a2c]) == ["ppo", "a2c"]


@pytest.mark.parametrize(
    ("algorithm", "config"),
    [
        ("ppo", PPOConfig.preset("CartPole-v1")),
        ("ppo", PPOConfig()),
        (
            "ppo",
            PPOConfig(
                hidden_sizes=(32,), layer_norm=True, max_grad_norm=None, total_timesteps=8000,
                env_options={"max_steps_in_episode": 50}, num_envs=16,
            ),
        ),
        ("a2c", PPOConfig.a2c(env="Acrobot-v1", learning_rate=1e-3)),
        ("reinforce", PPOConfig.preset("CartPole-v1", "reinforce", shared_torso=True)),
        ("ppo", PPOConfig.preset("brax/hopper", normalize_observations=False)),
        ("ppo", PPOConfig.preset("brax/hopper", env_options=())),
        ("ppo", PPOConfig(env="my_module:Corridor", env_options=("text=two words",))),
    ],
)  # fmt: skip
def test_the_command_trains_the_same_again(algorithm, config, tmp_path):
    folder = write_run(tmp_path / "run", config, rising(3, 2), algorithm=algorithm, seed=5)
    line = shlex.split(train_command(read_results(folder)))
    assert line[:2] == ["purejaxppo", "train"]
    options, parsed = parse_train(line[2:])
    assert parsed == config
    assert (options.seeds, options.seed, options.algorithm) == (3, 5, algorithm)


def test_the_command_of_a_preset_is_short(tmp_path):
    folder = write_run(tmp_path / "run", PPOConfig.preset("CartPole-v1"), rising(2, 2))
    assert train_command(read_results(folder)) == "purejaxppo train CartPole-v1 --seeds 2 --seed 0"


def test_what_a_command_gave_a_run_is_in_the_next_one_and_what_python_gave_is_named(tmp_path):
    folder = tmp_path / "run"
    write_run(folder, PPOConfig(env="Pendulum-v1"), rising(2, 2))
    about = json.loads((folder / "run.json").read_text())
    options = {
        "env_params": ["g=5", "m=2"], "init_from": "runs/a b", "init_weights": "final",
        "init_agent": 1, "init_optimizer": True,
    }  # fmt: skip
    about |= {"options": options, "own": {"env_params": "...", "policy": "Net"}}
    about |= {"vary": {"gamma": [0.9, 0.99]}}
    (folder / "run.json").write_text(json.dumps(about))
    run = read_results(folder)
    assert given_in_python(run) == ["policy", "vary"]
    parsed, _ = parse_train(shlex.split(train_command(run))[2:])
    assert {name: getattr(parsed, name) for name in options} == options | {
        "env_params": ("g=5", "m=2"),
    }
    del about["options"], about["vary"]
    (folder / "run.json").write_text(json.dumps(about))
    assert given_in_python(read_results(folder)) == ["policy", "env_params"]


# -- reading ---------------------------------------------------------------------------------------


def test_final_returns_before_and_after_the_end(folders, tmp_path):
    many = read_results(folders["many"])
    np.testing.assert_allclose(many.final_returns, rising(8, 40)[:, -4:].mean(axis=1))
    folder = write_run(tmp_path / "run", tiny_config(50), rising(3, 40), finished=False)
    last = rising(3, 40)[:, -4:].mean(axis=1)  # a tenth of what was done
    np.testing.assert_allclose(read_results(folder).final_returns, last)
    for name in ("none", "new"):
        assert np.isnan(read_results(folders[name]).final_returns).all()


def test_a_run_that_goes_on_has_no_summary_of_its_first_part(tmp_path):
    folder = write_run(tmp_path / "run", tiny_config(9), rising(2, 3))
    assert read_results(folder).summary is not None
    longer = write_run(tmp_path / "longer", tiny_config(9), rising(2, 6))
    text = Path(longer, "metrics.jsonl").read_text()
    (tmp_path / "run" / "metrics.jsonl").write_text(text)
    assert read_results(folder).summary is None


# -- mistakes --------------------------------------------------------------------------------------


def test_mistakes_are_told(folders, tmp_path):
    out, run = tmp_path / "curves.png", folders["one"]
    out.write_text("mine")
    for argv, words in [
        ([run, "--out", str(out)], "exists: name another with --out, or pass --overwrite"),
        ([run, "--out", "curves.jpg"], r"must end in \.png, \.svg, \.pdf"),
        ([run, "--out", str(tmp_path / "no" / "x.png")], "has no folder to be in"),
        ([], "give one or more run folders"),
        ([str(tmp_path)], "holds no run"),
    ]:
        with pytest.raises(ConfigError, match=words) as caught:
            commands.plot(argv)
        assert "\n" not in str(caught.value)
    assert out.read_text() == "mine"
    assert commands.plot([run, "--out", str(out), "--overwrite"]) == 0
    assert out.read_bytes().startswith(MAGIC[".png"])
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("name", "text"),
    [("metrics.jsonl", '{"step": 1}\n'), ("metrics.jsonl", "?\n"), ("summary.json", "{")],
)
def test_a_damaged_run_is_named(name, text, tmp_path):
    folder = write_run(tmp_path / "run", tiny_config(2), rising(1, 2))
    (tmp_path / "run" / name).write_text(text)
    with pytest.raises(ConfigError, match="is damaged"):
        read_results(folder)


def test_the_longest_run_is_shown_to_its_end(tmp_path, monkeypatch):
    """Also when a shorter one is drawn first."""
    limits = []
    finish = plots._finish

    def spy(axes, *args, **more):
        finish(axes, *args, **more)
        limits.append((axes.get_xlim(), axes.get_ylim()))

    monkeypatch.setattr(plots, "_finish", spy)
    for name, updates in (("short", 20), ("long", 200)):
        returns = np.linspace(0, 100, updates)[None]
        write_run(tmp_path / name, tiny_config(updates), returns)
    plots.plot_runs(
        tmp_path / "c.png", [read_results(tmp_path / name) for name in ("short", "long")]
    )
    (steps, _), (_, needed) = limits
    assert steps[0] == needed[0] == 0
    assert steps[1] >= 2000
    assert needed[1] >= 1990
