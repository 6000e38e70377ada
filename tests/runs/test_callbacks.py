"""Callbacks: what they are called with, and how one of them stops a run."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.probes import Constant, Match

from purejaxppo import Callback, ConfigError, PPOConfig, StopWithoutImprovement, TensorBoard, fit
from purejaxppo.cli import train as console
from purejaxppo.cli.arguments import RunOptions
from purejaxppo.cli.progress.display import Display
from purejaxppo.errors import RunWarning
from purejaxppo.report.overview import list_runs
from purejaxppo.report.results import by_env, read_results
from purejaxppo.run_folder.read import read_rows
from purejaxppo.runs.callbacks import Callbacks, callbacks_of
from purejaxppo.runs.problems import Problems

CONFIG = PPOConfig(
    num_envs=4, num_steps=8, num_minibatches=2, num_epochs=1, total_timesteps=32 * 40,
    hidden_sizes=(8,),
)  # fmt: skip
EVERY = {"seeds": 2, "eval_every": 32 * 10, "eval_episodes": 2}


class Recorder(Callback):
    """Keeps what it is called with, and stops where it is told to."""

    def __init__(self, stop_at=None, folder=None):
        self.calls, self.stop_at, self.folder = [], stop_at, folder

    def of(self, name):
        return [args for called, *args in self.calls if called == name]

    def on_start(self, config, run_dir):
        self.calls.append(("start", config, run_dir))

    def on_row(self, step, row):
        self.calls.append(("row", step, row))
        return step != self.stop_at  # True is nothing special

    def on_evaluation(self, step, row):
        self.calls.append(("evaluation", step, row))

    def on_end(self, result):
        saved = None
        if self.folder is not None:
            saved = sorted(p.name for p in self.folder.rglob("*.npz"))
        self.calls.append(("end", result, saved))

    def close(self):
        self.calls.append(("close",))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing stops: its result, its folder, its recorder, and a function's rows."""
    folder, rows = tmp_path_factory.mktemp("whole") / "run", []
    recorder = Recorder()

    def function(step, row):
        rows.append((step, row))

    result = fit(CONFIG, env=Match(), **EVERY, run_dir=folder, callbacks=[recorder, function])
    return result, folder, recorder, rows


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that is stopped by the row of its third update; result, folder, recorder."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    recorder = Recorder(stop_at=96, folder=folder)
    return fit(CONFIG, env=Match(), **EVERY, run_dir=folder, callbacks=recorder), folder, recorder


@pytest.mark.slow
def test_results_are_of_the_environment_that_was_passed(whole):
    result, folder, *_ = whole
    assert CONFIG.env == "CartPole-v1"
    assert result.summary["env"] == read_results(folder).env == "Match"
    (line,) = list_runs(folder.parent)
    assert line.env == line.as_json()["env"] == "Match"
    assert [*by_env([read_results(folder)])] == ["Match"]


def test_methods_are_called_in_order_with_what_the_files_have(whole):
    result, folder, recorder, _ = whole
    assert [name for name, *_ in recorder.calls[:2]] == ["start", "row"]
    assert [name for name, *_ in recorder.calls[-2:]] == ["end", "close"]
    assert recorder.of("start") == [[CONFIG, folder]]
    rows = recorder.of("row")
    assert [(step, row["step"], row["seed"]) for step, row in rows] == [
        (32 * (u + 1), 32 * (u + 1), s) for u in range(40) for s in range(2)
    ]
    assert [row for _, row in rows] == list(read_rows(folder / "metrics.jsonl"))
    evaluations = recorder.of("evaluation")
    assert [row for _, row in evaluations] == list(read_rows(folder / "evaluations.jsonl"))
    assert [step for step, _ in evaluations] == [320, 320, 640, 640, 960, 960, 1280, 1280]
    assert recorder.of("end")[0][0] is result
    assert result.stopped_by is None and result.stopped is None


def test_a_function_gets_all_rows_those_of_evaluations_under_other_names(whole):
    _, _, recorder, rows = whole
    assert len(rows) == 2 * 40 + 8
    assert [pair for pair in rows if "eval_return_mean" not in pair[1]] == [
        tuple(pair) for pair in recorder.of("row")
    ]
    for (step, row), (at, plain) in zip(
        [pair for pair in rows if "eval_return_mean" in pair[1]],
        recorder.of("evaluation"),
        strict=True,
    ):
        assert step == at
        place = {"step", "seed"}
        assert row == {n if n in place else f"eval_{n}": x for n, x in plain.items()}


@pytest.mark.slow
def test_a_callback_that_returns_false_stops_the_run_after_the_chunk_in_hand(stopped):
    result, _, recorder = stopped
    updates = result.metrics.episodes.shape[1]
    # the chunk that update 3 is in, and the one that was in flight then; each at most doubles
    assert 3 <= updates <= 15
    assert (result.stopped_by, result.stopped) == ("Recorder", None)
    assert int(result.state.step[0]) == updates
    # everybody gets all rows of what was done
    assert len(recorder.of("row")) == 2 * updates


def test_on_end_comes_after_everything_is_saved_also_of_a_stopped_run(stopped):
    result, _, recorder = stopped
    assert [name for name, *_ in recorder.calls[-2:]] == ["end", "close"]
    ((given, saved),) = recorder.of("end")
    assert given is result
    assert f"{int(result.state.step[0]):010d}.npz" in saved and "agents.npz" in saved


@pytest.mark.slow
def test_resuming_a_run_that_a_callback_stopped_gives_the_whole_run(whole, stopped):
    before, folder, _ = stopped
    recorder = Recorder()
    result = fit(CONFIG, env=Match(), **EVERY, run_dir=folder, resume=True, callbacks=recorder)
    assert (result.resumed_at, result.stopped_by) == (before.metrics.episodes.shape[1], None)
    assert len(recorder.of("start")) == 1
    assert recorder.of("row")[0][0] == 32 * (result.resumed_at + 1)
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert (folder / name).read_bytes() == (whole[1] / name).read_bytes()
    for a, b in zip(
        jax.tree.leaves(result.state.params), jax.tree.leaves(whole[0].state.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_false_in_the_last_row_stops_nothing():
    """As with signals: a run that has had all its updates was not stopped."""
    config = CONFIG.replace(total_timesteps=64)
    result = fit(config, env=Match(), callbacks=lambda step, row: step < 64)
    assert result.metrics.episodes.shape == (1, 2)
    assert result.stopped_by is None


@pytest.mark.slow
def test_false_at_the_start_does_no_update(tmp_path):
    class Never(Callback):
        def on_start(self, config, run_dir):
            return False

    result = fit(CONFIG, env=Match(), run_dir=tmp_path / "run", callbacks=Never())
    assert result.metrics.episodes.shape == (1, 0)
    assert result.stopped_by == "Never"
    again = fit(CONFIG.replace(), env=Match(), run_dir=tmp_path / "run", resume=True)
    assert again.metrics.episodes.shape == (1, 40)


@pytest.mark.slow
def test_a_signal_and_a_callback_are_told_apart():
    def interrupt(step, row):
        if step == 32:
            signal.raise_signal(signal.SIGTERM)

    result = fit(CONFIG, env=Match(), callbacks=[interrupt])
    assert (result.stopped, result.stopped_by) == (signal.SIGTERM, None)


@pytest.mark.slow
def test_the_command_line_ends_a_run_that_a_callback_stopped_with_exit_code_0(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(console, "make_loggers", lambda *args: [lambda step, row: step < 32])
    options = RunOptions(run_dir=str(tmp_path / "run"), quiet=True)
    config = PPOConfig(num_envs=4, num_steps=8, total_timesteps=3200, num_minibatches=1)
    with Display(config.timesteps, options.seeds, quiet=True) as display:
        assert console.train(config, options, display) == 0
    assert len(list(read_rows(tmp_path / "run/metrics.jsonl"))) < 100


# -- answers, and what goes wrong -----------------------------------------------------------------


def answered(*answers):
    """Callbacks that answer so, called with one row."""
    called = Callbacks(callbacks_of([lambda s, r, a=a: a for a in answers]), Problems())
    called.pass_rows([{"step": 1, "seed": 0}])
    return called


@pytest.mark.parametrize("answer", [False, np.False_, np.bool_(0)])
def test_only_false_stops(answer):
    assert answered(None, answer, True).stopped_by == "<lambda>"


@pytest.mark.parametrize(
    "answer", [None, 0, 0.0, "", [], True, np.True_, np.int32(0), np.zeros(()), jnp.float32(0)]
)
def test_nothing_else_stops(answer):
    assert answered(answer, None).stopped_by is None


def test_the_first_that_stops_is_named():
    def one(step, row):
        return step < 2

    def other(step, row):
        return step < 1

    called = Callbacks(callbacks_of([one, other]), Problems())
    for step in range(3):
        called.pass_rows([{"step": step, "seed": 0}])
        assert called.stopped_by == [None, "other", "other"][step]


@pytest.mark.parametrize("method", ["on_start", "on_row", "on_evaluation", "on_end", "close"])
def test_a_method_that_raises_is_reported_and_its_object_left_out(method):
    class Broken(Recorder):
        pass

    def fail(self, *args):
        self.calls.append((method,))
        raise RuntimeError("no more paper")

    setattr(Broken, method, fail)
    broken, other, problems = Broken(), Recorder(), Problems()
    called, row = Callbacks([broken, other], problems), {"step": 1, "seed": 0}
    with pytest.warns(RunWarning, match="Broken is not called again: RuntimeError: no more paper"):
        for _ in range(2):
            called.start(CONFIG, None)
            called.pass_rows([row, row])
            called.pass_evaluations([row])
            called.end("result")
            called.close()
    assert len(problems) == 1
    # the other one goes on; the broken one was called once, and closed once
    assert len(other.of("row")) == 4 and len(other.of("end")) == 2
    assert len(broken.of(method)) == (2 if method == "close" else 1)
    assert len([name for name, *_ in broken.calls if name == "close"]) == (
        2 if method == "close" else 1
    )


def test_an_object_with_a_call_and_a_close_is_one():
    class Old:
        rows, closed = 0, False

        def __call__(self, step, row):
            self.rows += 1

        def close(self):
            self.closed = True

    old = Old()
    called = Callbacks(callbacks_of(old), Problems())
    called.start(CONFIG, None)
    called.pass_rows([{"step": 1, "seed": 0}])
    called.pass_evaluations([{"step": 1, "seed": 0, "return_mean": 1.0}])
    called.end(None)
    called.close()
    assert (old.rows, old.closed) == (2, True)


@pytest.mark.parametrize("none", [None, (), []])
def test_none_are_none(none):
    assert callbacks_of(none) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (5, "callbacks=5 cannot be called: use a function"),
        ([None], "callbacks=None cannot be called"),
        ("log", "callbacks='l' cannot be called"),
        (object, "callbacks=object is a class: pass an object of it, object"),
        ([TensorBoard], r"callbacks=TensorBoard is a class: .* TensorBoard\(...\)"),
        ({"log": print}, "callbacks='log' cannot be called"),
    ],
)
def test_what_is_no_callback_is_refused_before_anything_is_made(given, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        fit(CONFIG, env=Match(), run_dir=tmp_path / "run", callbacks=given)
    assert not list(tmp_path.iterdir())


# -- without improvement --------------------------------------------------------------------------


def stops_at(patience, *returns):
    """The evaluation, counted from 1, behind which a run stops; None if none does."""
    stop = StopWithoutImprovement(patience)
    stop.on_start(CONFIG, None)
    for at, row in enumerate(zip(*returns, strict=True), 1):
        for seed, mean in enumerate(row):
            if stop.on_evaluation(at, {"seed": seed, "return_mean": mean}) is False:
                assert seed == len(row) - 1
                return at
    return None


@pytest.mark.parametrize(
    ("patience", "returns", "at"),
    [
        (2, [[1, 2, 3, 4, 5]], None),
        (2, [[1, 1, 1, 5]], 3),
        (1, [[3, 2, 9]], 2),
        (3, [[1, 5, 4, 4, 6, 6, 6, 6]], 8),  # 6 is better; 6 again is not
        (2, [[-5, -6, -4, -4.5, -4.1]], 5),
        (2, [[1, 1, 1, 1], [1, 2, 3, 3]], None),  # the second seed has had one
        (2, [[1, 1, 1, 1, 1], [1, 2, 3, 3, 3]], 5),
        (2, [[np.nan, np.nan, np.nan]], 3),
        (2, [[1, np.nan, 2, 2, 2]], 5),
        (2, [[np.nan, 1, 2, 3, 3]], None),
        (2, [[1, 2, 1, 1], [5, 4, 4, 9]], None),  # the second seed is better in the last one
        (2, [[5, 4, 4, 9], [1, 2, 1, 1]], None),
    ],
)
def test_stop_without_improvement_by_hand(patience, returns, at):
    assert stops_at(patience, *returns) == at


def test_it_counts_anew_for_every_run():
    stop = StopWithoutImprovement(1)
    for _ in range(2):
        stop.on_start(CONFIG, None)
        assert stop.on_evaluation(1, {"seed": 0, "return_mean": 1.0}) is None
        assert stop.on_evaluation(2, {"seed": 0, "return_mean": 1.0}) is False


@pytest.mark.parametrize("count", [0, -1, 1.5, "a"])
def test_a_patience_that_is_no_count_is_refused(count):
    with pytest.raises(ConfigError, match=f"evaluations={count!r}"):
        StopWithoutImprovement(count)


@pytest.mark.slow
def test_a_run_without_improvement_stops():
    """Every return is 1: the fourth evaluation is the third that is no better."""
    result = fit(
        CONFIG, env=Constant(), seeds=2, eval_every=32, eval_episodes=1,
        callbacks=StopWithoutImprovement(3),
    )  # fmt: skip
    assert result.stopped_by == "StopWithoutImprovement"
    assert 4 <= result.metrics.episodes.shape[1] <= 5  # one chunk of an update is in flight
