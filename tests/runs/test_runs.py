"""Runs that are stopped, killed, resumed and disturbed: the folder always tells the whole truth."""

import inspect
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from types import SimpleNamespace
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from support.fuzzing import LONG

from purejaxppo import (
    ConfigError,
    HostEnvironment,
    PPOConfig,
    fit,
    load_agents,
    make_act,
    tuning,
)
from purejaxppo.errors import RunWarning
from purejaxppo.report import plots
from purejaxppo.run_folder import checkpoint, files
from purejaxppo.run_folder.begin import create_run_dir
from purejaxppo.run_folder.files import JsonLinesFile, rows_up_to, write_whole
from purejaxppo.run_folder.read import read_metrics, read_rows
from purejaxppo.runs import loop as run_loop
from purejaxppo.runs.agents import Agents, Best, better
from purejaxppo.runs.identity import describe_custom
from purejaxppo.types import Normalizers

CONFIG = PPOConfig(
    num_envs=4, num_steps=8, num_minibatches=2, num_epochs=2, total_timesteps=32 * 40,
    hidden_sizes=(8,), normalize_observations=True, normalize_rewards=True,
    objective="adaptive_kl", learning_rate_final_scale=0.0, advantage="vtrace",
    recompute_advantages=True,
)  # fmt: skip
OPTIONS = {"seeds": 2, "checkpoint_every": 32 * 3, "eval_every": 32 * 10, "eval_episodes": 2}


def numbers(tree):
    """Arrays of a pytree, keys as their data."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in jax.tree.leaves(tree)]


def assert_same(a, b):
    for x, y in zip(numbers(a), numbers(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def assert_same_run(one, other, folder, other_folder):
    """Everything that two runs gave and left, but for times."""
    assert_same(one.state, other.state)
    assert_same(one.best, other.best)
    assert_same(one.metrics, other.metrics)
    for name in ("metrics.jsonl", "evaluations.jsonl", "config.toml"):
        assert (folder / name).read_bytes() == (other_folder / name).read_bytes(), name
    for name in ("agents.npz", "best.npz"):
        with np.load(folder / name) as a, np.load(other_folder / name) as b:
            assert all(np.array_equal(a[key], b[key]) for key in {*a.files, *b.files}), name


def stop_at(step):
    """Raises a signal, once, when a run has come so far."""
    raised = []

    def callback(at, row):
        if at >= step and not raised:
            raised.append(at)
            signal.raise_signal(signal.SIGTERM)

    return callback


class Optimizing(NamedTuple):
    """A state that has an optimizer's."""

    opt_state: Any


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happened to, and its folder."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return fit(CONFIG, **OPTIONS, run_dir=folder), folder


# -- resuming -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_leaves_what_it_says(whole):
    result, folder = whole
    names = {p.name for p in folder.iterdir()}
    assert names == {
        "config.toml", "run.json", "metrics.jsonl", "evaluations.jsonl", "checkpoints",
        "agents.npz", "best.npz", "curve.png", "summary.json", ".lock",
    }  # fmt: skip
    updates = [int(p.stem) for p in sorted((folder / "checkpoints").iterdir())]
    assert updates == [36, 39, 40]
    rows = list(read_rows(folder / "metrics.jsonl"))
    assert [(r["step"], r["seed"]) for r in rows] == [
        (32 * (u + 1), s) for u in range(40) for s in range(2)
    ]
    assert_same(read_metrics(folder), result.metrics)
    rows = list(read_rows(folder / "evaluations.jsonl"))
    assert [r["step"] for r in rows] == [320, 320, 640, 640, 960, 960, 1280, 1280]
    assert result.problems == []


@pytest.mark.slow
def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch, whole):
    monkeypatch.chdir(tmp_path)
    options = {k: v for k, v in OPTIONS.items() if k != "checkpoint_every"}
    result = fit(CONFIG, **options)
    assert not list(tmp_path.iterdir())
    assert_same(result.state, whole[0].state)
    assert_same(result.metrics, whole[0].metrics)
    assert_same(result.best, whole[0].best)


@pytest.mark.slow
@pytest.mark.parametrize(
    "stops", [[1], pytest.param([320, 640, 641, 1000], marks=pytest.mark.slow)]
)
def test_stopped_and_resumed_is_the_whole_run_to_the_bit(tmp_path, whole, stops):
    for step in stops:
        part = fit(
            CONFIG, **OPTIONS, run_dir=tmp_path / "run", resume=True, callbacks=[stop_at(step)]
        )
        assert part.stopped == signal.SIGTERM
        assert not part.problems
    result = fit(CONFIG, **OPTIONS, run_dir=tmp_path / "run", resume=True)
    assert result.stopped is None
    assert result.resumed_at == part.metrics.episodes.shape[1]
    assert_same(result.metrics, whole[0].metrics)
    assert_same_run(result, whole[0], tmp_path / "run", whole[1])


@pytest.mark.slow
def test_resuming_what_is_finished_changes_nothing(tmp_path):
    small = CONFIG.replace(total_timesteps=64)
    first = fit(small, run_dir=tmp_path / "run")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.npz")}
    (tmp_path / "run/agents.npz").unlink()  # as if killed before it was written
    again = fit(small, run_dir=tmp_path / "run", resume=True)
    assert again.resumed_at == 2
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.npz")} == before
    assert_same(first.state, again.state)
    assert_same(first.metrics, again.metrics)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    """Changes a bit of the largest array: what zip says twice of a member may change unseen."""
    with zipfile.ZipFile(path) as file:
        largest = max(file.infolist(), key=lambda member: member.file_size)
    raw = bytearray(path.read_bytes())
    raw[largest.header_offset + largest.file_size // 2] ^= 16
    path.write_bytes(raw)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run that was stopped on its way."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    fit(CONFIG, **OPTIONS, run_dir=folder, callbacks=[stop_at(700)])
    return folder


def copy(folder, to):
    import shutil

    return shutil.copytree(folder, to / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", [*(pytest.param(f, marks=pytest.mark.slow) for f in (cut, empty)), flip]
)
def test_a_damaged_checkpoint_is_passed_over(tmp_path, whole, stopped, damage):
    folder = copy(stopped, tmp_path)
    *_, before, last = sorted((folder / "checkpoints").iterdir())
    damage(last)
    with pytest.warns(RunWarning, match="damaged.*passed over for the one before it"):
        result = fit(CONFIG, **OPTIONS, run_dir=folder, resume=True)
    assert result.resumed_at == int(before.stem)
    assert result.problems == []
    assert_same_run(result, whole[0], folder, whole[1])


@pytest.mark.slow
def test_no_whole_checkpoint_is_an_error_and_nothing_is_touched(tmp_path, stopped):
    folder = copy(stopped, tmp_path)
    for path in (folder / "checkpoints").iterdir():
        cut(path)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with (
        pytest.warns(RunWarning, match="damaged"),
        pytest.raises(ConfigError, match="holds no whole checkpoint"),
    ):
        fit(CONFIG, **OPTIONS, run_dir=folder, resume=True)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(tmp_path, whole, stopped):
    folder = copy(stopped, tmp_path)
    for path in (folder / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match="holds no whole checkpoint"):  # it had one, by its agents
        fit(CONFIG, **OPTIONS, run_dir=folder, resume=True)
    for name in ("agents.npz", "best.npz"):
        (folder / name).unlink()
    result = fit(CONFIG, **OPTIONS, run_dir=folder, resume=True)
    assert result.resumed_at == 0
    assert_same_run(result, whole[0], folder, whole[1])


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"gamma": 0.9}, {}, "has gamma=0.99, not 0.9"),
        ({"hidden_sizes": (9,)}, {}, r"has hidden_sizes=\[8\], not \[9\]"),
        ({"total_timesteps": 32 * 30}, {}, "has total_timesteps=1280, not 960"),
        ({}, {"seeds": 3}, "has seeds=2, not 3"),
        ({}, {"seed": 1}, "has seed=0, not 1"),
    ],
)
def test_another_run_is_refused(stopped, changes, options, words):
    with pytest.raises(ConfigError, match=words):
        fit(CONFIG.replace(**changes), **{**OPTIONS, **options}, run_dir=stopped, resume=True)


def test_a_folder_in_use_is_refused_without_resume(stopped):
    with pytest.raises(ConfigError, match=r"exists and is not empty.*--resume"):
        fit(CONFIG, run_dir=stopped)


@pytest.mark.slow
def test_other_versions_and_devices_are_named(tmp_path, whole, stopped):
    folder = copy(stopped, tmp_path)
    run = json.loads((folder / "run.json").read_text())
    run["versions"]["jax"], run["device"]["count"] = "0.9.0", 8
    (folder / "run.json").write_text(json.dumps(run))
    with pytest.warns(RunWarning) as warned:
        result = fit(CONFIG, **OPTIONS, run_dir=folder, resume=True)
    texts = " ".join(str(w.message) for w in warned)
    assert "begun with jax 0.9.0 and goes on with" in texts
    assert "begun with count 8 and goes on with 1" in texts
    assert_same(result.state, whole[0].state)


def test_options_without_effect_are_refused(tmp_path):
    for options, words in [
        ({"resume": True}, "no effect without run_dir"),
        ({"checkpoint_every": 100}, "no effect without run_dir"),
        ({"target_return": 1.0}, "no effect without eval_every"),
        ({"eval_sampled": True}, "no effect without eval_every"),
        ({"eval_every": 0}, "eval_every=0 must be at least 1"),
        ({"seeds": 1.5}, "seeds=1.5 must be a whole number"),
        ({"seeds": True}, "must be a number"),
        ({"seeds": 10**6}, "seeds=1000000 must be at most 65536"),
        ({"seed": 2**64}, r"seed=18446744073709551616 must be below 2\*\*32"),
        ({"eval_every": 100, "target_return": float("nan")}, "must be finite"),
        ({"about": {"x": object()}}, "must be plain values"),
    ]:
        with pytest.raises(ConfigError, match=words):
            fit(CONFIG, **options)


# -- kill -9 ------------------------------------------------------------------------------------

RUN = """
import sys
from purejaxppo.cli.main import main
sys.argv = ["purejaxppo", "train", "CartPole-v1", "--preset", "none", *sys.argv[1:]]
main()
"""
KILLED = [
    "--num-envs", "4", "--num-steps", "8", "--num-minibatches", "2", "--num-epochs", "1",
    "--hidden-sizes", "8", "--normalize-observations", "--seeds", "2", "--quiet",
    "--checkpoint-every", "96", "--eval-every", "3200", "--eval-episodes", "2",
]  # fmt: skip


def train(folder, updates, *more, **how):
    argv = [*KILLED, "--total-timesteps", str(32 * updates), "--run-dir", "run", *more]
    command = [sys.executable, "-c", RUN, *argv]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how
    )


def size(path):
    return path.stat().st_size if path.exists() else 0


REMEMBERS = [
    "--core", "gru", "--core-size", "4", "--sequence-length", "4", "--normalize-rewards",
]  # fmt: skip


@pytest.mark.slow
def test_kills_at_random_moments(tmp_path):
    """Final parameters and metrics are those of a run that nobody disturbed."""
    kills, updates = (20, 4000) if LONG in os.environ else (3, 600)
    chance, run = random.Random(), tmp_path / "killed/run"
    (tmp_path / "killed").mkdir()
    (tmp_path / "whole").mkdir()
    metrics = run / "metrics.jsonl"
    for kill in range(kills):
        # what was never begun is begun; whatever was left of it is gone on with
        more = ["--resume"] if run.exists() and list(run.iterdir()) else []
        process = train(tmp_path / "killed", updates, *REMEMBERS, *more)
        seen = size(metrics)
        while kill and process.poll() is None and size(metrics) == seen:  # the first at its start
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 0.5 if kill else 4.0))
        process.kill()
        _, err = process.communicate()
        assert process.returncode == -signal.SIGKILL, err
    last = json.loads(metrics.read_text().splitlines()[-2])
    assert 32 * 3 < last["step"] < 32 * updates  # it got somewhere, and not to the end
    for name, more in (("killed", ["--resume"]), ("whole", [])):
        process = train(tmp_path / name, updates, *REMEMBERS, *more)
        _, err = process.communicate()
        assert process.returncode == 0, err
        assert err == ""
    one, other = run, tmp_path / "whole/run"
    for name in ("metrics.jsonl", "evaluations.jsonl", "config.toml"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    last, same = (sorted((run / "checkpoints").iterdir())[-1] for run in (one, other))
    for a, b in ((last, same), *((one / n, other / n) for n in ("agents.npz", "best.npz"))):
        with np.load(a) as ours, np.load(b) as theirs:
            names = {*ours.files, *theirs.files}
            assert len(names) > 15
            for name in names - {"manifest"} if a.parent == one else names:
                np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert {p.name for p in one.rglob("*")} == {p.name for p in other.rglob("*")}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_tells_how_to_go_on(tmp_path, number):
    process = train(tmp_path, 100_000)
    while process.poll() is None and not size(tmp_path / "run/metrics.jsonl"):
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "go on with: purejaxppo train CartPole-v1 --resume --run-dir run" in err
    done = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])["step"]
    last = sorted((tmp_path / "run/checkpoints").iterdir())[-1]
    assert int(last.stem) * 32 == done


# -- disks --------------------------------------------------------------------------------------

SMALL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 20_000])
def test_a_full_disk_does_not_stop_the_run(tmp_path, limit):
    """No file may grow beyond a limit: the run goes on, says so, and ends with another code."""
    argv = [*KILLED, "--total-timesteps", str(32 * 200), "--run-dir", "run", "--json"]
    code = SMALL_DISK.format(limit=limit) + RUN
    done = subprocess.run(
        [sys.executable, "-c", code, *argv, "--no-compilation-cache"],
        cwd=tmp_path, capture_output=True, text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("purejaxppo: ")]
    assert any("metrics.jsonl could not be written: File too large" in line for line in lines)
    assert "Traceback" not in done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["timesteps"] == 32 * 200
    assert summary["problems"]
    rows = (tmp_path / "run/metrics.jsonl").read_bytes()
    assert len(rows) <= limit
    for i, line in enumerate(rows.splitlines()[:-1]):  # whole rows, in order, up to the limit
        assert json.loads(line)["step"] == 32 * (i // 2 + 1)
    assert not list((tmp_path / "run").rglob("*.partial"))


@pytest.mark.slow
def test_what_could_not_be_written_is_written_later(tmp_path, monkeypatch, whole):
    """A disk that is full for a while: nothing is missing in the end, nothing twice."""
    full = {"yes": False}

    class Disk:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            if full["yes"] and len(data) > 10:
                return self.file.write(data[:10])
            if full["yes"]:
                raise OSError(28, "No space left on device")
            return self.file.write(data)

    original = JsonLinesFile.__init__

    def init(self, path, kept):
        original(self, path, kept)
        self._file = Disk(self._file)

    monkeypatch.setattr(JsonLinesFile, "__init__", init)

    def switch(step, row):
        full["yes"] = 320 <= step < 960

    with pytest.warns(RunWarning, match="could not be written: No space left"):
        result = fit(CONFIG, **OPTIONS, run_dir=tmp_path / "run", callbacks=[switch])
    assert {problem.split()[0] for problem in result.problems} >= {"metrics.jsonl", "checkpoints"}
    assert_same_run(result, whole[0], tmp_path / "run", whole[1])


@pytest.mark.slow
def test_a_folder_where_nothing_can_be_written(tmp_path, monkeypatch, whole):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    for module in (checkpoint, files, plots):
        monkeypatch.setattr(module, "write_whole", refuse)
    with pytest.warns(RunWarning, match="could not be written: Permission denied"):
        result = fit(CONFIG, **OPTIONS, run_dir=tmp_path / "run")
    assert_same(result.state, whole[0].state)
    reported = {problem.split()[0] for problem in result.problems}
    assert reported == {
        "run.json", "checkpoints", "agents.npz", "best.npz", "curve.png", "summary.json"
    }  # fmt: skip


# -- callbacks ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_callback_that_fails_is_reported_and_left_out(whole):
    calls, others = [], []

    def broken(step, row):
        calls.append(step)
        raise RuntimeError("no more paper")

    with pytest.warns(RunWarning, match="callback broken is not called again: RuntimeError: no"):
        result = fit(CONFIG, seeds=2, callbacks=[broken, lambda step, row: others.append(step)])
    assert calls == [32]
    assert len(others) == 80
    assert len(result.problems) == 1
    assert_same(result.state, whole[0].state)


@pytest.mark.slow
def test_a_callback_is_closed_when_the_run_ends():
    class Logger:
        closed = False

        def __call__(self, step, row):
            assert not self.closed

        def close(self):
            self.closed = True

    logger = Logger()
    fit(CONFIG.replace(total_timesteps=64), callbacks=[logger])
    assert logger.closed


@pytest.mark.slow
def test_weights_and_biases_offline(tmp_path):
    pytest.importorskip("wandb")
    process = train(tmp_path, 6, "--wandb", "test", env={**os.environ, "WANDB_MODE": "offline"})
    _, err = process.communicate()
    assert process.returncode == 0, err
    (file,) = (tmp_path / "run/wandb").glob("offline-run-*/run-*.wandb")
    raw = file.read_bytes()
    assert b"seed_1/train/policy_loss" in raw
    assert file.stem.removeprefix("run-") in (tmp_path / "run/wandb.json").read_text()


# -- evaluation ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_best_agents_are_those_that_were_scored(whole):
    """Played again, with the same episodes, they score what is written."""
    from purejaxppo.runs.evaluate import make_evaluate

    result, folder = whole
    rows = list(read_rows(folder / "evaluations.jsonl"))
    best = [max(r["return_mean"] for r in rows if r["seed"] == s) for s in range(2)]
    np.testing.assert_allclose(result.best.returns, best, rtol=1e-6)
    _, agents = load_agents(folder, "best")
    assert_same(agents, result.best.agents)
    evaluate, _ = make_evaluate(CONFIG, 2)
    key = jax.random.fold_in(jax.random.key(0), 2**31)
    again = jax.jit(jax.vmap(evaluate, (0, None)))(agents, key)
    np.testing.assert_allclose(again.returns.mean(1), best, rtol=1e-6)


def test_the_best_are_chosen_seed_by_seed():
    def scored(params, *returns):
        agents = Agents({"w": jnp.asarray(params)}, Normalizers(None, None, None))
        return Best(agents, jnp.float32(returns))

    best, new = scored([[1.0], [2.0], [3.0]], 2, 0, 1), scored([[4.0], [5.0], [6.0]], 1, 1, 1)
    after = better(best, new.agents, new.returns)
    # of equal ones the earlier
    np.testing.assert_array_equal(after.returns, [2, 1, 1])
    np.testing.assert_array_equal(after.agents.params["w"], [[1], [5], [3]])


@pytest.mark.slow
def test_an_evaluation_is_the_episodes_step_by_step():
    """Against a loop over gymnax's own CartPole."""
    import gymnax

    from purejaxppo.runs.evaluate import make_evaluate

    result = fit(CONFIG, seeds=1)
    agents = jax.tree.map(lambda x: x[0], Agents.of(result.state))
    evaluate, _ = make_evaluate(CONFIG, 5)
    key = jax.random.key(3)
    evaluation = jax.jit(evaluate)(agents, key)
    act = make_act(CONFIG, agents, deterministic=True)
    env, params = gymnax.make("CartPole-v1")
    take = jax.jit(lambda state, obs: env.step_env(key, state, act(key, obs), params))
    for i, reset in enumerate(jax.random.split(jax.random.split(key)[0], 5)):
        obs, state = env.reset_env(reset, params)
        total, steps, over = 0.0, 0, False
        while not over:
            obs, state, reward, terminated, _ = take(state, obs)
            over = bool(terminated | env.is_truncated(state, params))
            total, steps = total + float(reward), steps + 1
        assert (float(evaluation.returns[i]), int(evaluation.lengths[i])) == (total, steps)
    assert evaluation.ended.all()


@pytest.mark.slow
def test_target_return_ends_the_run_and_stays_ended(tmp_path):
    options = {**OPTIONS, "run_dir": tmp_path / "run", "target_return": 1.0}
    result = fit(CONFIG, **options)
    assert result.metrics.episodes.shape[1] == 10
    assert result.stopped is None
    again = fit(CONFIG, **options, resume=True)
    assert again.resumed_at == again.metrics.episodes.shape[1] == 10
    on = fit(CONFIG, **{**options, "target_return": None}, resume=True)
    assert on.metrics.episodes.shape[1] == CONFIG.num_updates


class Clock(gymnasium.Env):
    """Shows how many steps there were, pays 1 for each, and is cut after 60."""

    observation_space = gymnasium.spaces.Box(0, 100, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.full(1, self.time, np.float32), 1.0, False, self.time == 60, {}


@pytest.mark.slow
def test_environments_on_the_host_go_on_with_new_episodes(tmp_path):
    config = CONFIG.replace(total_timesteps=32 * 6, gamma=1.0)
    env = HostEnvironment(
        lambda n: SyncVectorEnv([Clock] * n, autoreset_mode=AutoresetMode.DISABLED)
    )
    options = {"run_dir": tmp_path / "run", "eval_every": 96, "eval_episodes": 2, "env": env}
    part = fit(config, **options, callbacks=[stop_at(1)])
    assert part.stopped
    with pytest.warns(RunWarning, match="environments on the host begin new episodes"):
        result = fit(config, **options, resume=True)
    assert result.metrics.episodes.shape[1] == 6
    assert int(result.state.step[0]) == 6
    # what they have returned so far is that of the new episodes alone
    returned = result.state.normalizers.reward.discounted_return
    np.testing.assert_allclose(result.state.obs[..., 0], returned, rtol=1e-6)


# -- files --------------------------------------------------------------------------------------


def tree():
    return {
        "key": jax.random.split(jax.random.key(1, impl="rbg"), 2),
        "old": jax.random.key(3),
        "half": jnp.arange(5, dtype=jnp.bfloat16) / 3,
        "tiny": jnp.arange(3, dtype=jnp.float8_e4m3fn),
        "none": jnp.zeros((0, 4)),
        "scalar": jnp.int32(-7),
        "flag": jnp.array([True, False]),
        "nan": jnp.array([jnp.nan, -jnp.inf]),
        "deep": ({"a": jnp.uint8(255)}, None, ()),
    }


def test_any_tree_comes_back_to_the_bit(tmp_path):
    path = tmp_path / "tree.npz"
    checkpoint.save(path, tree(), {"updates": 3, "x": [None, 1.5, "ü"]})
    back, about = checkpoint.load(path, jax.eval_shape(tree))
    assert about == {"updates": 3, "x": [None, 1.5, "ü"]}
    assert jax.tree.structure(back) == jax.tree.structure(tree())
    assert_same(back, tree())
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("apart", [False, True])
def test_moments_on_one_vector_and_array_by_array_are_one_file(tmp_path, apart):
    """An optimizer has them as is fastest on the device, and a run may go on on another."""
    count, moments = jnp.arange(2), {"b": jnp.arange(6.0).reshape(2, 3), "k": jnp.ones((2, 2, 2))}
    vector = jnp.concatenate([x.reshape(2, -1) for x in moments.values()], 1)
    trees = [{"x": moments, "state": Optimizing((count, m))} for m in (vector, moments)]
    path = tmp_path / "tree.npz"
    checkpoint.save(path, trees[apart], {})
    assert_same(checkpoint.load(path, trees[not apart])[0], trees[not apart])
    # of other parameters they are not
    other = {"x": moments, "state": Optimizing((count, {"b": moments["b"], "k": moments["b"]}))}
    with pytest.raises(ConfigError, match=r"does not fit: it has .*opt_state"):
        checkpoint.load(path, other)


@pytest.mark.slow
@pytest.mark.parametrize("first", [False, True])
def test_a_run_goes_on_where_steps_are_taken_otherwise(tmp_path, first, monkeypatch):
    """As on a GPU, after a CPU, and the other way round; with an optimizer of a bonus too."""
    config = CONFIG.replace(
        exploration="rnd", total_timesteps=32 * 6, learning_rate_final_scale=1.0
    )
    whole = fit(config)
    monkeypatch.setattr(tuning, "steps_on_one_vector", lambda size: first)
    assert fit(config, run_dir=tmp_path / "run", callbacks=stop_at(32)).stopped
    monkeypatch.setattr(tuning, "steps_on_one_vector", lambda size: not first)
    on = fit(config, run_dir=tmp_path / "run", resume=True)
    for one, other in zip(numbers(whole.state.params), numbers(on.state.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    begun = fit(config, init_from=tmp_path / "run", init_optimizer=True)
    assert begun.metrics.gradient_steps.all()


@pytest.mark.slow
def test_no_flipped_bit_goes_unseen(tmp_path):
    path, flipped = tmp_path / "tree.npz", tmp_path / "flipped.npz"
    small = {"x": jnp.arange(3.0), "key": jax.random.key(1)}
    checkpoint.save(path, small, {"updates": 3})
    raw = bytearray(path.read_bytes())
    damaged = 0
    for bit in range(0, 8 * len(raw), 3):
        raw[bit // 8] ^= 1 << bit % 8
        flipped.write_bytes(raw)
        raw[bit // 8] ^= 1 << bit % 8
        try:
            back, about = checkpoint.load(flipped, small)
        except checkpoint.Damaged:
            damaged += 1
        else:  # a date, say, that nothing depends on
            assert about == {"updates": 3}
            assert_same(back, small)
    assert damaged > len(raw)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"x": jnp.zeros(3)}, r"has key<fry>\[\] at \['key'\], and this run has nothing"),
        ({"x": jnp.zeros(4), "key": jax.random.key(1)}, r"float32\[3\] at \['x'\].*float32\[4\]"),
        ({"x": jnp.zeros(3, int), "key": jax.random.key(1)}, r"float32\[3\].*int32\[3\]"),
        (
            {"x": jnp.zeros(3), "key": jax.random.key(1), "y": jnp.zeros(())},
            r"has nothing at \['y'\], and this run has float32\[\]",
        ),
    ],
)
def test_another_tree_is_refused_by_the_name_of_the_difference(tmp_path, other, words):
    path = tmp_path / "tree.npz"
    checkpoint.save(path, {"x": jnp.zeros(3), "key": jax.random.key(1)}, {})
    with pytest.raises(ConfigError, match=words):
        checkpoint.load(path, other)


def test_another_format_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "tree.npz"
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    checkpoint.save(path, {"x": jnp.zeros(3)}, {})
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="has format 99, this version reads 1"):
        checkpoint.load(path, {"x": jnp.zeros(3)})


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")

    def fail(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_whole(path, fail)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_journal_begins_after_a_step(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"step": step, "x": step / 3}) + "\n" for step in (1, 1, 2, 3)]
    path.write_text("".join(lines) + '{"step": 4, "x"')
    journal = JsonLinesFile(path, rows_up_to(path, 2))
    journal.write([{"step": 3, "x": float("nan")}, {"step": 4, "x": float("inf"), "y": None}])
    journal.write([])
    journal.close()
    added = ['{"step": 3, "x": null}\n', '{"step": 4, "x": null, "y": null}\n']
    assert path.read_text() == "".join(lines[:3] + added)


@pytest.mark.slow
def test_agents_come_back_and_act_alike(whole):
    result, folder = whole
    config, agents = load_agents(folder)
    assert config == CONFIG
    obs = jax.random.normal(jax.random.key(1), (50, 4))
    for seed in range(2):
        before, after = (
            make_act(config, jax.tree.map(lambda x, i=seed: x[i], tree), deterministic=True)
            for tree in (result.state, agents)
        )
        key = jax.random.key(0)
        np.testing.assert_array_equal(before(key, obs), after(key, obs))


def test_agents_of_another_network_are_refused(tmp_path, whole):
    folder = copy(whole[1], tmp_path)
    CONFIG.replace(hidden_sizes=(9,)).to_toml(folder / "config.toml")
    with pytest.raises(ConfigError, match=r"does not fit: it has float32\[2, 8, 2\] at"):
        load_agents(folder)
    with pytest.raises(ConfigError, match=r"holds no run"):
        load_agents(tmp_path / "nowhere")
    (folder / "best.npz").unlink()
    with pytest.raises(ConfigError, match=r"holds no best.npz: train with --eval-every"):
        load_agents(folder, "best")


def test_run_folders_are_never_reused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = create_run_dir(None, "brax/ant")
    second = create_run_dir(None, "brax/ant")
    assert first.parent == second.parent
    assert first.name.startswith("brax-ant-")
    assert first.name.endswith("-1")
    assert second.name.endswith("-2")
    (first / "config.toml").write_text("")
    with pytest.raises(ConfigError, match="exists and is not empty"):
        create_run_dir(first, "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="exists and is not empty"):
        create_run_dir(tmp_path / "file", "x")
    with pytest.raises(ConfigError, match="cannot be made"):
        create_run_dir(tmp_path / "file" / "under", "x")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert create_run_dir(empty, "x") == empty


@pytest.mark.slow
def test_stopped_before_its_first_update(tmp_path, whole, monkeypatch):
    """A signal while programs are compiled: nothing is lost, and the run can begin again."""
    from purejaxppo.runs import fit as module

    original = module.compile_run

    def compile_run(*args):
        signal.raise_signal(signal.SIGINT)
        return original(*args)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(module, "compile_run", compile_run)
    with pytest.raises(KeyboardInterrupt):
        fit(CONFIG, **OPTIONS, run_dir=tmp_path / "run")
    monkeypatch.undo()
    assert not (tmp_path / "run/metrics.jsonl").exists()
    result = fit(CONFIG, **OPTIONS, run_dir=tmp_path / "run", resume=True)
    assert_same(result.metrics, whole[0].metrics)
    assert_same_run(result, whole[0], tmp_path / "run", whole[1])


@pytest.mark.slow
def test_a_damaged_row_is_named_and_nothing_is_touched(tmp_path, stopped):
    folder = copy(stopped, tmp_path)
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[4] = lines[4][10:]
    path.write_text("".join(lines))
    with pytest.raises(ConfigError, match=r"line 5 of .*metrics.jsonl' is damaged"):
        fit(CONFIG, **OPTIONS, run_dir=folder, resume=True)
    assert path.read_text() == "".join(lines)


def test_a_logger_that_cannot_be_closed_is_reported():
    class Logger:
        def __call__(self, step, row):
            pass

        def close(self):
            raise OSError("gone")

    with pytest.warns(RunWarning, match="callback Logger is not called again: OSError: gone"):
        result = fit(CONFIG.replace(total_timesteps=64), callbacks=[Logger()])
    assert len(result.problems) == 1


def interrupt_at(step):
    """As a kill: the run ends on the spot, and its rows are ahead of its last checkpoint."""

    def callback(at, row):
        if at >= step:
            raise KeyboardInterrupt

    return callback


@pytest.mark.slow
@pytest.mark.parametrize("step", [pytest.param(32 * 2, marks=pytest.mark.slow), 32 * 14])
def test_killed_and_resumed_gives_every_update_once(tmp_path, whole, step):
    with pytest.raises(KeyboardInterrupt):
        fit(CONFIG, **OPTIONS, run_dir=tmp_path / "run", callbacks=interrupt_at(step))
    rows = len((tmp_path / "run/metrics.jsonl").read_text().splitlines())
    result = fit(CONFIG, **OPTIONS, run_dir=tmp_path / "run", resume=True)
    assert 2 * result.resumed_at <= rows
    assert_same_run(result, whole[0], tmp_path / "run", whole[1])
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.slow
def test_rows_that_are_missing_are_told(tmp_path, stopped):
    folder = copy(stopped, tmp_path)
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    for left, words in [
        (lines[:4], r"metrics.jsonl in .* has 2 of \d+ updates"),
        (lines[:4] + lines[8:], r"line 5 of .*metrics.jsonl' is damaged \(step is 160, not 96\)"),
    ]:
        path.write_text("".join(left))
        with pytest.raises(ConfigError, match=words):
            fit(CONFIG, **OPTIONS, run_dir=folder, resume=True)
        assert path.read_text() == "".join(left)


@pytest.mark.slow
def test_one_process_at_a_time(tmp_path):
    tried = []

    def callback(step, row):
        if not tried:
            tried.append(step)
            with pytest.raises(ConfigError, match="another process trains in"):
                fit(CONFIG, run_dir=tmp_path / "run", resume=True)

    result = fit(CONFIG, run_dir=tmp_path / "run", callbacks=callback)
    assert tried and not result.problems


def test_custom_parts_are_named_and_values_written_down():
    passed = {"env": None, "env_params": (1,), "objective": print, "extra": {"tau": 0.5}}
    assert describe_custom(passed) == {
        "own objective": "builtins.print", "env_params": "(1,)", "extra": "{'tau': 0.5}"
    }  # fmt: skip


@pytest.mark.slow
def test_what_was_passed_must_be_passed_again(tmp_path):
    from purejaxppo import make_env

    class Mine:
        def __init__(self, env):
            self.env = env

        def __getattr__(self, name):
            if name.startswith("__") or name == "env":
                raise AttributeError(name)
            return getattr(self.env, name)

    env, params = make_env("CartPole-v1")
    small = CONFIG.replace(total_timesteps=64)
    fit(small, env=Mine(env), env_params=params, run_dir=tmp_path / "run")
    for given, words in [
        ({}, "has own env=.*Mine"),
        ({"env": Mine(env)}, "has env_params="),
        ({"env": Mine(env), "env_params": params.replace(gravity=1.0)}, "has env_params="),
    ]:
        with pytest.raises(ConfigError, match=words):
            fit(small, **given, run_dir=tmp_path / "run", resume=True)
    fit(small, env=Mine(env), env_params=params, run_dir=tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match=r"was trained with env=.*Mine"):
        load_agents(tmp_path / "run")
    config, _ = load_agents(tmp_path / "run", env=Mine(env))
    assert config == small


@pytest.mark.slow
def test_a_method_that_was_passed_must_be_passed_again_to_go_on(tmp_path):
    def loss(dist, log_prob, batch, hyper, state):
        return -log_prob * batch.advantage

    config = CONFIG.replace(total_timesteps=64, objective="clip")
    fit(config, objective=loss, run_dir=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"has own objective='test_runs.*loss', not None"):
        fit(config, run_dir=tmp_path / "run", resume=True)
    load_agents(tmp_path / "run")  # acting needs no objective


@pytest.mark.slow
def test_a_damaged_checkpoint_does_not_take_the_place_of_a_whole_one(tmp_path, stopped):
    folder = copy(stopped, tmp_path)
    last = sorted((folder / "checkpoints").iterdir())[-1]
    cut(last)
    options = {**OPTIONS, "keep_checkpoints": 1, "checkpoint_every": 32}
    with pytest.warns(RunWarning, match="passed over"):
        part = fit(CONFIG, **options, run_dir=folder, resume=True, callbacks=[stop_at(1)])
    done = part.metrics.episodes.shape[1]
    assert [int(p.stem) for p in (folder / "checkpoints").iterdir()] == [done]
    assert fit(CONFIG, **options, run_dir=folder, resume=True).resumed_at == done


@pytest.mark.slow
def test_the_best_of_other_evaluations_does_not_count(tmp_path):
    options = {"run_dir": tmp_path / "run", "eval_every": 320}
    part = fit(CONFIG, **options, eval_episodes=1, eval_sampled=True, callbacks=[stop_at(640)])
    assert part.stopped
    with pytest.warns(RunWarning, match="best begins anew"):
        result = fit(CONFIG, **options, eval_episodes=8, resume=True)
    rows = list(read_rows(tmp_path / "run/evaluations.jsonl"))
    best = max(row["return_mean"] for row in rows if row["episodes"] == 8)
    np.testing.assert_allclose(result.best.returns, [best], rtol=1e-6)


@pytest.mark.slow
def test_the_best_stays_while_a_run_goes_on_without_evaluations(tmp_path):
    how = {"eval_every": 64, "eval_episodes": 3}
    config = CONFIG.replace(total_timesteps=32 * 4)
    first = fit(config, run_dir=tmp_path, **how)
    for steps, evaluated in ((32 * 6, {}), (32 * 8, how)):
        with pytest.warns(RunWarning, match="schedules run over the new total"):
            longer = config.replace(total_timesteps=steps)
            result = fit(longer, run_dir=tmp_path, resume=True, **evaluated)
        assert (result.best.returns >= first.best.returns).all()
        assert not result.problems


@pytest.mark.parametrize("returns", [[4.0, math.nan], [math.nan, 4.0]])
def test_a_target_is_not_reached_by_what_is_not_known(returns):
    run = SimpleNamespace(
        _options=SimpleNamespace(target_return=2.0), _evaluation=returns, done=1,
        _config=SimpleNamespace(num_updates=2),
    )  # fmt: skip
    going_on = inspect.getattr_static(run_loop.Run, "going_on").fget
    assert going_on(run)
    run._evaluation = [4.0, 2.0]
    assert not going_on(run)


@pytest.mark.slow
def test_a_disk_that_was_full_at_the_start(tmp_path, monkeypatch):
    calls = []

    def fail_once(path, write):
        calls.append(path)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        write_whole(path, write)

    monkeypatch.setattr(files, "write_whole", fail_once)
    small = CONFIG.replace(total_timesteps=64)
    with pytest.warns(RunWarning, match="run.json could not be written"):
        fit(small, run_dir=tmp_path / "run")
    monkeypatch.undo()
    assert fit(small, run_dir=tmp_path / "run", resume=True).resumed_at == 2
    load_agents(tmp_path / "run")


@pytest.mark.slow
def test_agents_are_saved_where_a_checkpoint_cannot_be(tmp_path, monkeypatch):
    def fail(path, write):
        if path.parent.name == "checkpoints":
            raise OSError(28, "No space left on device")
        write_whole(path, write)

    monkeypatch.setattr(checkpoint, "write_whole", fail)
    with pytest.warns(RunWarning, match="checkpoints could not be written"):
        result = fit(CONFIG, **OPTIONS, run_dir=tmp_path / "run")
    assert_same(load_agents(tmp_path / "run")[1].params, result.state.params)
    assert_same(load_agents(tmp_path / "run", "best")[1], result.best.agents)


@pytest.mark.slow
def test_a_second_signal_ends_an_evaluation_at_once(tmp_path):
    """Which is one long call of the device, that Python's own handlers wait for."""
    argv = ["MountainCar-v0", *KILLED[:-4], "--eval-every", "32", "--eval-episodes", "2000000"]
    code = RUN.replace('"CartPole-v1", ', "")
    process = subprocess.Popen(
        [sys.executable, "-c", code, *argv, "--total-timesteps", "3200", "--run-dir", "run"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    run = tmp_path / "run/metrics.jsonl"
    while process.poll() is None and not run.exists():
        time.sleep(0.05)
    time.sleep(3)  # within the first evaluation, which takes minutes
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "stopping after the updates in flight; again: at once" in err
    assert "interrupted" in err


@pytest.mark.slow
def test_resumed_by_the_very_command_that_is_told(tmp_path):
    """Evaluations, checkpoints and retention go on as they were asked for."""
    options = ["--keep-checkpoints", "9"]
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    first = train(tmp_path / "stopped", 1500, *options)
    while first.poll() is None and size(tmp_path / "stopped/run/metrics.jsonl") < 20_000:
        time.sleep(0.01)
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate()
    assert first.returncode == 143, err
    command = err.split("go on with: ")[1].strip().split()
    assert command[:2] == ["purejaxppo", "train"]
    code = "import sys; from purejaxppo.cli.main import main; sys.argv = sys.argv[1:]; main()"
    again = subprocess.run(
        [sys.executable, "-c", code, *command, "--quiet"], cwd=tmp_path / "stopped",
        capture_output=True, text=True,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    other = train(tmp_path / "whole", 1500, *options)
    _, err = other.communicate()
    assert other.returncode == 0, err
    one, other = tmp_path / "stopped/run", tmp_path / "whole/run"
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    kept = [sorted(p.name for p in (run / "checkpoints").iterdir()) for run in (one, other)]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 9
