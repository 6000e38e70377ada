"""Run folders that were edited, linked, deleted and misnamed: what is read, told and left alone."""

import ast
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from support.probes import Probe
from support.run_folders import CompiledOnce, metrics_of

import purejaxppo
from purejaxppo import (
    ConfigError,
    PPOConfig,
    cli,
    export_policy,
    final_returns,
    fit,
    load_agents,
    load_policy,
    make_env,
)
from purejaxppo.errors import RunWarning
from purejaxppo.export.export_policy import _files
from purejaxppo.report.results import read_results
from purejaxppo.run_folder import checkpoint
from purejaxppo.run_folder.env_params import plain_params, with_params
from purejaxppo.run_folder.files import write_whole
from purejaxppo.run_folder.lock import LOCK, FolderLock
from purejaxppo.run_folder.read import read_metrics, read_run
from purejaxppo.run_folder.rows import SCALARS, metrics_from_rows
from purejaxppo.run_folder.schemas import RunFile, misfit, parse_json, parse_row
from purejaxppo.runs.agents import Best, load_components

CONFIG = PPOConfig(
    num_envs=2, num_steps=10, num_minibatches=1, num_epochs=1, total_timesteps=20 * 100,
    hidden_sizes=(4,), normalize_observations=True,
)  # fmt: skip
OPTIONS = {
    "seeds": 2, "checkpoint_every": 200, "eval_every": 600, "eval_episodes": 2, "target_return": 1.0
}  # fmt: skip
FLAGS = (
    "--preset none --num-envs 2 --num-steps 10 --num-minibatches 1 --num-epochs 1 "
    "--total-timesteps 2000 --hidden-sizes 4 --normalize-observations --seeds 2 "
    "--checkpoint-every 200 --eval-every 600 --eval-episodes 2 --target-return 1"
)


def run(argv, monkeypatch, capsys):
    """(exit code, stdout, stderr) of a command, in this process."""
    monkeypatch.setattr(sys, "argv", ["purejaxppo", *argv])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    return stop.value.code or 0, out, err


@pytest.fixture
def purejaxppo_(monkeypatch, capsys):
    return lambda *argv: run(argv, monkeypatch, capsys)


@pytest.fixture(scope="module")
def again():
    """`fit` of the run of this file, compiled once."""
    return CompiledOnce(CONFIG, **OPTIONS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, again):
    """A run that has reached its target after 30 of 100 updates, with its summary."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    result = again(folder)
    assert result.metrics.episodes.shape == (2, 30)
    returns = [float(x) for x in final_returns(result.metrics)]
    summary = {"timesteps": 600, "final_returns": returns, "steps_per_second": 1e4}
    summary |= {"compile_seconds": 1.5, "run_seconds": 0.5}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of that run, to be damaged."""
    return shutil.copytree(finished, tmp_path / "run")


def assert_one_line(outcome, *words):
    code, _, err = outcome
    assert code == 2
    assert len(err.splitlines()) == 1 and err.startswith("purejaxppo: "), err
    assert all(word in err for word in words), err


def change(path, **values):
    """Changes values of a JSON file; those that are None are taken out."""
    found = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))


# -- final returns --------------------------------------------------------------------------------


@pytest.mark.parametrize(("done", "counted"), [(30, 3), (199, 19), (9, 1), (1, 1)])
def test_final_returns_are_of_the_updates_that_were_done(done, counted):
    """One episode an update, whose return is the number of the update."""
    metrics = metrics_of(np.arange(done)[None])
    wanted = np.arange(done)[-counted:].mean()
    np.testing.assert_allclose(final_returns(metrics), [wanted])
    # of a run alone, and of a sweep of seeds and settings
    one = jax.tree.map(lambda x: x[0], metrics)
    np.testing.assert_allclose(final_returns(one), wanted)
    sweep = jax.tree.map(lambda x: np.broadcast_to(x, (5, 2, done)), metrics)
    np.testing.assert_allclose(final_returns(sweep), np.full((5, 2), wanted))


def test_final_returns_of_no_update_are_unknown():
    assert np.isnan(final_returns(metrics_of(np.empty((2, 0))))).all()


def last_tenth(folder, updates):
    """Final returns by hand, from the rows of a file."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    first = 20 * (len(rows) // 2 - updates)
    returns = []
    for seed in range(2):
        own = [row for row in rows if row["seed"] == seed and row["step"] > first]
        episodes = sum(r["episodes"] for r in own)
        returns.append(sum(r["return_sum"] for r in own) / episodes if episodes else np.nan)
    return returns


@pytest.mark.slow
def test_a_run_that_reached_its_target_has_the_returns_of_its_end(finished):
    np.testing.assert_allclose(read_results(finished).final_returns, last_tenth(finished, 3))


@pytest.mark.slow
def test_target_return_summary_is_of_the_end(tmp_path, monkeypatch, purejaxppo_):
    monkeypatch.chdir(tmp_path)
    code, out, _ = purejaxppo_("train", "CartPole-v1", *FLAGS.split(), "--run-dir", "r", "--json")
    assert code == 0
    summary = json.loads(out.splitlines()[-1])
    assert (summary["timesteps"], summary["total_timesteps"]) == (600, 2000)
    np.testing.assert_allclose(summary["final_returns"], last_tenth(tmp_path / "r", 3))
    written = json.loads((tmp_path / "r/summary.json").read_text())
    assert written["final_returns"] == summary["final_returns"]


def test_a_run_that_was_stopped_has_the_returns_of_what_it_did(tmp_path, again):
    stop = once(800, lambda: signal.raise_signal(signal.SIGTERM))
    result = again(tmp_path / "run", callbacks=[stop], eval_every=None, target_return=None,
                   eval_episodes=16)  # fmt: skip
    done = result.metrics.episodes.shape[1]
    assert result.stopped == signal.SIGTERM and 40 <= done < 100
    wanted = last_tenth(tmp_path / "run", max(1, done // 10))
    np.testing.assert_allclose(final_returns(result.metrics), wanted)


# -- parameters of environments -------------------------------------------------------------------

PENDULUM = PPOConfig(
    env="Pendulum-v1", num_envs=2, num_steps=10, num_minibatches=1, num_epochs=1,
    total_timesteps=20, hidden_sizes=(4,),
)  # fmt: skip


@pytest.fixture(scope="module")
def seven(tmp_path_factory):
    """A run on a pendulum whose episodes have 7 steps."""
    folder = tmp_path_factory.mktemp("seven") / "run"
    params = make_env("Pendulum-v1")[1].replace(max_steps_in_episode=7)
    fit(PENDULUM, env_params=params, run_dir=folder)
    return folder


@pytest.mark.slow
def test_eval_plays_with_the_parameters_of_the_run(seven, purejaxppo_):
    code, out, _ = purejaxppo_("eval", str(seven), "--episodes", "3", "--json")
    assert code == 0
    assert json.loads(out)["seeds"][0]["length_mean"] == 7.0


@pytest.mark.slow
def test_render_films_with_the_parameters_of_the_run(seven, tmp_path):
    from purejaxppo.rendering.render import FilmOptions, film

    path, episode = film(seven, FilmOptions(out=tmp_path / "film.gif"))
    assert path.exists()
    assert len(episode.returns) == 1 + 7 and episode.over


def test_components_policies_and_exports_have_the_parameters_of_the_run(seven, tmp_path):
    components, _ = load_components(seven, "final")
    assert components.env_params.max_steps_in_episode == 7
    assert load_policy(seven)(jax.random.key(0), jnp.zeros(3)).shape == (1,)
    assert export_policy(seven, "npz", out=tmp_path / "pendulum.npz").exists()
    longer = components.env_params.replace(max_steps_in_episode=9)
    passed, _ = load_components(seven, "final", env_params=longer)
    assert passed.env_params.max_steps_in_episode == 9


@pytest.mark.slow
def test_parameters_are_compared_by_value_when_a_run_is_resumed(seven, tmp_path):
    folder = shutil.copytree(seven, tmp_path / "run")
    params = make_env("Pendulum-v1")[1]
    same = params.replace(max_steps_in_episode=np.int32(7))
    assert fit(PENDULUM, env_params=same, run_dir=folder, resume=True).resumed_at == 1
    for other in (params, params.replace(max_steps_in_episode=8), None):
        with pytest.raises(ConfigError, match="has env_params="):
            fit(PENDULUM, env_params=other, run_dir=folder, resume=True)


def test_parameters_that_are_not_kept_must_be_passed(seven, tmp_path, purejaxppo_):
    """Also those of folders that hold only how Python writes them."""
    folder = shutil.copytree(seven, tmp_path / "run")
    change(folder / "run.json", env_params=None)
    for load in (load_agents, load_policy, export_policy):
        with pytest.raises(ConfigError, match=r"was trained with env_params=.*env_params=\.\.\."):
            load(folder)
    for command in ("eval", "render", "export"):
        assert_one_line(purejaxppo_(command, str(folder)), "pass it as env_params=...")
    params = make_env("Pendulum-v1")[1].replace(max_steps_in_episode=7)
    assert load_agents(folder, env_params=params)[0] == PENDULUM


@struct.dataclass
class Mixed:
    """Parameters of all sorts, one of which is no number."""

    gravity: float = 9.8
    steps: int = 200
    windy: bool = False
    goals: jax.Array = struct.field(default_factory=lambda: jnp.zeros((2, 3)))
    name: str = struct.field(pytree_node=False, default="here")


@pytest.mark.parametrize(
    "params",
    [
        Mixed(),
        Mixed(gravity=float("inf"), steps=-3, windy=True),
        Mixed(gravity=np.float32(0.1), steps=np.int64(5)),
        Mixed(goals=jnp.array([[jnp.nan, 1 / 3, -jnp.inf], [1, 2, 3]])),
        Mixed(goals=jnp.ones((2, 3), jnp.bfloat16) / 3),
        {"a": (1, [2.5]), "b": None},
    ],
)
def test_plain_parameters_come_back(params):
    defaults = Mixed() if isinstance(params, Mixed) else {"a": (0, [0.0]), "b": None}
    values = parse_json(json.dumps(plain_params(params, defaults), allow_nan=False).encode())
    back = with_params(values, defaults)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
        assert np.isscalar(a) == np.isscalar(b) or isinstance(b, np.generic)


@pytest.mark.parametrize(
    "params",
    [
        Mixed(name="elsewhere"),
        Mixed(goals=jnp.zeros((3, 3))),
        Mixed(goals=jax.random.split(jax.random.key(0), (2, 3))),
        Mixed(gravity="strong"),
        Mixed(steps=10**30),
    ],
)
def test_parameters_that_are_more_than_numbers_are_not_kept(params):
    assert plain_params(params, Mixed()) is None


def test_large_parameters_are_compared_by_their_bits(tmp_path):
    from purejaxppo.runs.identity import describe_custom

    one, other = np.zeros(5000), np.zeros(5000)
    other[2500] = 1.0  # where Python leaves numbers out
    texts = [describe_custom({"extra": {"x": x}})["extra"] for x in (one, one.copy(), other)]
    assert texts[0] == texts[1] != texts[2]


# -- columns --------------------------------------------------------------------------------------


def row(**values):
    return dict.fromkeys(SCALARS, 0) | {"step": 20, "seed": 0} | values


@pytest.mark.parametrize(
    ("numbers", "dtype"),
    [
        ([1, 2], np.int32),
        ([1, 2.5], np.float32),
        ([1, None], np.float32),
        ([3_276_800_000, 1], np.int64),
        ([1e300, 1.0], np.float64),
    ],
)
def test_columns_of_any_numbers_are_read(numbers, dtype):
    metrics = metrics_from_rows([row(length_sum=x) for x in numbers], 1)
    assert metrics.length_sum.dtype == dtype
    wanted = [np.nan if x is None else x for x in numbers]
    np.testing.assert_allclose(metrics.length_sum[0], wanted, rtol=1e-6)


@pytest.mark.parametrize("kind", [int, float])
def test_a_resumed_run_has_the_dtypes_of_its_program(folder, again, kind):
    """Whichever way an older version has written lengths down."""
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [r | {"length_sum": kind(r["length_sum"])} for r in rows]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    fresh = again._made["compile_run"].metrics
    result = again(folder, resume=True)
    assert result.metrics.length_sum.dtype == fresh.length_sum.dtype
    wanted = np.reshape([r["length_sum"] for r in rows], (30, 2)).T
    np.testing.assert_array_equal(result.metrics.length_sum, wanted)


# -- numbers that are not finite, masks that are empty --------------------------------------------


class PaysNaN(Probe):
    """It pays what is no number."""

    def pay(self, x, action):
        return jnp.float32(jnp.nan)


class PaysNaNOnce(PaysNaN):
    """It pays what is no number in the middle of an episode of 400 steps."""

    def pay(self, x, action):
        return jnp.where(x == 25.0, jnp.nan, 1.0)

    def move(self, x, action, time):
        return x + 1, time >= 399


SMALL = dict(num_envs=1, num_steps=10, num_minibatches=2, num_epochs=2, hidden_sizes=(4,))


SOMETIMES = PaysNaNOnce(max_steps_in_episode=400)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "share"),
    [
        (PaysNaN(), "16 of 16 of seed 0, 16 of 16 of seed 1"),
        pytest.param(SOMETIMES, r"\d+ of 16 of seed 0, ", marks=pytest.mark.slow),
    ],
)
def test_an_environment_that_pays_nan_is_a_problem_of_the_run(env, share):
    """4 updates of 2 epochs of 2 minibatches: 16 steps of each seed."""
    config = PPOConfig(**SMALL, total_timesteps=40)
    with pytest.warns(RunWarning, match="gradient steps were left out"):
        result = fit(config, seeds=2, env=env)
    (problem,) = result.problems
    assert re.search(share, problem), problem
    assert "see skipped_steps in the metrics" in problem


class Shut(Probe):
    """An environment whose mask allows nothing."""

    def see(self, state, params):
        return {"x": state.x[None], "action_mask": jnp.zeros(2, bool)}

    def observation_space(self, params):
        from gymnax.environments.spaces import Box, Dict

        return Dict({"x": Box(-10, 10, (1,), jnp.float32), "action_mask": Box(0, 1, (2,), bool)})


@pytest.mark.slow
def test_masks_that_allow_nothing_are_a_problem_of_the_run():
    with pytest.warns(RunWarning, match="mask allowed none"):
        result = fit(PPOConfig(**SMALL, total_timesteps=20), env=Shut())
    (problem,) = result.problems
    assert "20 of seed 0" in problem  # every choice of two updates of 10 steps


# -- nothing to resume ----------------------------------------------------------------------------


def test_resume_of_nowhere_is_refused_on_the_command_line(tmp_path, monkeypatch, purejaxppo_):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    for name in ("nowhere", "empty", "file", "nowhere/deeper"):
        outcome = purejaxppo_("train", "CartPole-v1", "--resume", "--run-dir", name)
        assert_one_line(outcome, "there is nothing to resume in", name)
    assert {p.name for p in tmp_path.iterdir()} == {"empty", "file"}


@pytest.mark.parametrize("left", [(), (LOCK,), ("run.json",), ("config.toml.0a1b2c3d.partial",)])
def test_what_a_killed_run_has_left_is_begun(tmp_path, again, left):
    """From Python also an absent folder: a script is started again and again."""
    if left:
        (tmp_path / "run").mkdir()
        for name in left:
            (tmp_path / "run" / name).write_text("{}" if name == "run.json" else "")
    result = again(tmp_path / "run", resume=True)
    assert result.resumed_at == 0
    assert not list((tmp_path / "run").glob("*.partial"))
    assert read_run(tmp_path / "run")[1]["seeds"] == 2


def test_a_run_that_was_killed_before_its_first_checkpoint_is_begun(folder, again):
    shutil.rmtree(folder / "checkpoints")
    for name in ("agents.npz", "best.npz"):
        (folder / name).unlink()
    result = again(folder, resume=True)
    assert (result.resumed_at, result.problems) == (0, [])
    assert read_metrics(folder).episodes.shape == (2, 30)


# -- edited files ---------------------------------------------------------------------------------

RESULTS = {"config.toml", "run.json", "metrics.jsonl", "evaluations.jsonl", "summary.json"}
EDITS = {
    "cut": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "null": lambda p: p.write_text("null\n"),
    "a list": lambda p: p.write_text("[1, 2]\n"),
    "a number": lambda p: p.write_text("7\n"),
    "no text": lambda p: p.write_bytes(b"\xff\xfe{}\n"),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
    "a pipe": lambda p: (p.unlink(), os.mkfifo(p)),
    "a link to nothing": lambda p: (p.unlink(), p.symlink_to("nothing")),
    "deeply nested": lambda p: p.write_text("[" * 100_000 + "\n"),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", sorted(RESULTS))
def test_an_edited_file_is_named_or_read(folder, name, edit):
    EDITS[edit](folder / name)
    if edit == "cut" and name.endswith(".jsonl"):
        read_results(folder)  # as after a kill: whole rows, up to there
        return
    with pytest.raises(ConfigError, match=name) as error:
        read_results(folder)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("name", ["agents.npz", "best.npz"])
@pytest.mark.parametrize("edit", EDITS)
def test_edited_agents_are_named(folder, name, edit):
    EDITS[edit](folder / name)
    with pytest.raises(ConfigError, match=name):
        load_agents(folder, "best" if name == "best.npz" else "final")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"seed": None}, "seed is missing"),
        ({"seeds": 0}, "seeds is 0, not 1 to"),
        ({"seeds": 10**12}, "seeds is 1000000000000, not 1 to"),
        ({"seeds": True}, "seeds is True, not a whole number"),
        ({"seeds": 2.0}, "seeds is 2.0, not a whole number"),
        ({"seed": -1}, "seed is -1, not a whole number"),
        ({"seed": 10**400}, "seed is .* or more, not a whole number"),
        ({"versions": [1]}, r"versions is \[1\], not a table"),
        ({"versions": {"jax": 1}}, "versions.jax is 1, not a text"),
        ({"device": {"platform": "cpu", "kind": "cpu"}}, "count is missing"),
        ({"algorithm": "dqn"}, "algorithm is 'dqn', not one of"),
        ({"own": {"own env": 3}}, "own.own env is 3, not a text"),
    ],
)
def test_a_value_of_run_json_that_cannot_be_is_named(folder, values, words):
    change(folder / "run.json", **values)
    with pytest.raises(ConfigError, match=f"run.json' is damaged.*{words}"):
        read_results(folder)
    if values.keys() & {"seeds", "own"}:  # acting needs no more
        with pytest.raises(ConfigError, match=f"run.json' is damaged.*{words}"):
            load_agents(folder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"warp_speed": 9}, "unknown option 'warp_speed'"),
        ({"eval_every": "often"}, "eval_every='often' must be a number"),
        ({"tensorboard": 3}, "tensorboard=3 must be of type bool"),
        ([], r"options is [], not a table"),
    ],
)
def test_options_of_a_later_version_are_named(folder, purejaxppo_, options, words):
    change(folder / "run.json", options=options)
    outcome = purejaxppo_("train", "CartPole-v1", "--resume", "--run-dir", str(folder))
    assert_one_line(outcome, "run.json", words)


@pytest.mark.parametrize("seed", [None, [8, 8], "x", -1])
def test_a_seed_that_cannot_be_is_named_on_the_command_line(folder, purejaxppo_, seed):
    change(folder / "run.json", seed=seed)
    outcome = purejaxppo_("train", "CartPole-v1", "--resume", "--run-dir", str(folder))
    assert_one_line(outcome, "run.json", "seed is ")


@pytest.mark.parametrize("name", ["config.toml", "run.json"])
def test_a_folder_that_lacks_one_of_the_two_is_no_run(folder, purejaxppo_, name):
    (folder / name).unlink()
    for command in ("eval", "render", "export", "plot", "report"):
        assert_one_line(purejaxppo_(command, str(folder)), "holds no run", name)


def flip(line, old, new):
    assert old in line
    return line.replace(old, new, 1)


LINE_EDITS = {
    "a flipped bit in a key": (lambda x: flip(x, "policy_loss", "policx_loss"), "policy_loss is m"),
    "a flipped bit in a derived key": (
        lambda x: flip(x, "episode_length", "episode_lengti"), "episode_lengt. is not in every",
    ),
    "no step": (lambda x: flip(x, '"step"', '"stex"'), "step is None"),
    "a text": (lambda x: flip(x, '"entropy": ', '"entropy": "x", "e": '), "entropy is 'x'"),
    "NaN": (lambda x: flip(x, '"entropy": ', '"entropy": NaN, "e": '), "NaN is no number"),
    "an infinity": (lambda x: flip(x, '"entropy": ', '"entropy": 1e999, "e": '), "entropy is inf"),
    "a huge number": (
        lambda x: flip(x, '"episodes": ', f'"episodes": {10**400}, "e": '), "episodes is .* or more"
    ),
    "too many digits": (lambda x: flip(x, '"kl_coef": ', '"kl_coef": ' + "1" * 5000), ""),
    "another seed": (lambda x: flip(x, '"seed": 1', '"seed": 0'), "seed is 0, not 1"),
    "another step": (lambda x: flip(x, '"step": 40', '"step": 42'), "step is 42, not 40"),
    "a list": (lambda x: "[]\n", r"it is \[\], not a table"),
    "nothing": (lambda x: "\n", "Expecting value"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("edit", LINE_EDITS)
def test_a_damaged_row_is_named_by_its_line(folder, again, edit):
    change_line, words = LINE_EDITS[edit]
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[3] = change_line(lines[3])
    text = "".join(lines)
    path.write_text(text)
    for read in (read_results, lambda x: again(x, resume=True)):
        with pytest.raises(ConfigError, match=rf"line 4 of .*metrics.jsonl' is damaged.*{words}"):
            read(folder)
    assert path.read_text() == text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda lines: [lines[0], lines[0]], "line 2 of .*seed is 0, not 1"),
        (lambda lines: [lines[1], lines[0]], "line 1 of .*seed is 1, not 0"),
        (lambda lines: [*lines, *lines], "line 3 of .*step is 600, behind 600"),
        (lambda lines: [lines[0], lines[1].replace("600", "620")], "line 2 of .*is 620, not 600"),
        (lambda lines: [lines[0].replace("return_mean", "return_meam")], "return_mean is missing"),
    ],
)
def test_a_damaged_evaluation_is_named_by_its_line(folder, again, edit, words):
    path = folder / "evaluations.jsonl"
    text = "".join(edit(path.read_text().splitlines(keepends=True)))
    path.write_text(text)
    for read in (read_results, lambda x: again(x, resume=True)):
        with pytest.raises(ConfigError, match=f"evaluations.jsonl' is damaged|{words}"):
            read(folder)
    assert path.read_text() == text


def test_files_in_each_others_place_are_named(folder, again):
    """Which are whole, each for itself."""
    one, other = folder / "metrics.jsonl", folder / "evaluations.jsonl"
    text = one.read_text(), other.read_text()
    one.write_text(text[1]), other.write_text(text[0])
    for read in (read_results, lambda x: again(x, resume=True)):
        with pytest.raises(ConfigError, match=r"line 1 of .*jsonl' is damaged"):
            read(folder)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"timesteps": "many"}', None])
def test_a_damaged_summary_of_a_finished_run_is_made_anew(
    tmp_path, monkeypatch, purejaxppo_, finished, text
):
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(finished, "r")
    path = Path(folder, "summary.json")
    path.unlink() if text is None else path.write_text(text)
    argv = ["train", "CartPole-v1", *FLAGS.split(), "--resume", "--run-dir", "r", "--json"]
    code, out, err = purejaxppo_(*argv)
    assert code == 0, err
    summary = json.loads(path.read_text())
    assert summary == json.loads(out.splitlines()[-1])
    np.testing.assert_allclose(summary["final_returns"], last_tenth(finished, 3))
    assert summary["timesteps"] == 600
    # what was not measured is not said
    assert summary["steps_per_second"] is summary["run_seconds"] is None
    assert purejaxppo_("report", "r")[0] == 0


def test_a_checkpoint_in_the_place_of_another_is_passed_over(folder, again):
    *_, before, last = sorted((folder / "checkpoints").iterdir())
    shutil.copy(before, last)
    with pytest.warns(RunWarning, match=f"it is that of update {int(before.stem)}.*passed over"):
        result = again(folder, resume=True)
    assert result.resumed_at == int(before.stem)


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"updates": "3"}, "updates is '3', not a whole number"),
        ({"evaluation": 5}, "evaluation is 5, not a list"),
        ({"evaluation": [1.0]}, "evaluation has not 2 entries"),
        ({"evaluated": [16]}, "not a list of 2"),
        ({"seed": None}, "seed is missing"),
    ],
)
def test_a_manifest_that_cannot_be_is_passed_over(folder, again, about, words):
    *_, before, last = sorted((folder / "checkpoints").iterdir())
    with np.load(last) as file:
        arrays = dict(file)
    manifest = json.loads(arrays["manifest"].tobytes())
    said = manifest["about"] | about
    manifest["about"] = {name: x for name, x in said.items() if x is not None}
    arrays["manifest"] = np.frombuffer(json.dumps(manifest).encode(), np.uint8)
    np.savez(last, **arrays)
    with pytest.warns(RunWarning, match=f"{words}.*passed over"):
        assert again(folder, resume=True).resumed_at == int(before.stem)


def test_every_schema_is_compared_with_what_a_run_writes(finished):
    assert misfit(json.loads((finished / "run.json").read_text()), RunFile) is None
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        for line in (finished / name).read_bytes().splitlines(keepends=True):
            assert parse_row(line)["seed"] in (0, 1)


# -- links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["symlink_to", "hardlink_to"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluations.jsonl"])
@pytest.mark.parametrize("text", ["", None])
def test_a_link_to_a_text_of_the_users_is_refused(folder, again, tmp_path, name, how, text):
    """Empty, or rows as they would be: neither is written to."""
    mine = tmp_path / "mine"
    text = (folder / name).read_text() if text is None else text
    mine.write_text(text)
    (folder / name).unlink()
    getattr(folder / name, how)(mine)
    shutil.rmtree(folder / "checkpoints")  # from its beginning, it would cut all rows off
    for left in ("agents.npz", "best.npz"):
        (folder / left).unlink()
    with pytest.raises(ConfigError, match=f"{name}' is a link, or no file"):
        again(folder, resume=True)
    assert mine.read_text() == text


def test_checkpoints_that_are_a_link_are_refused(folder, again, tmp_path):
    shutil.move(folder / "checkpoints", tmp_path / "mine")
    (folder / "checkpoints").symlink_to(tmp_path / "mine")
    before = sorted((tmp_path / "mine").iterdir())
    with pytest.raises(ConfigError, match=r"checkpoints in .* cannot be used"):
        again(folder, resume=True)
    assert sorted((tmp_path / "mine").iterdir()) == before


def test_agents_that_are_a_link_are_replaced_and_what_it_names_stays(folder, again, tmp_path):
    for name in ("agents.npz", "best.npz"):
        shutil.move(folder / name, tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
    before = [(tmp_path / name).read_bytes() for name in ("agents.npz", "best.npz")]
    load_agents(folder)  # is read through it
    assert again(folder, resume=True).problems == []
    assert not (folder / "agents.npz").is_symlink()
    assert [(tmp_path / name).read_bytes() for name in ("agents.npz", "best.npz")] == before


def test_a_run_folder_that_is_a_link_is_the_folder_it_names(folder, again, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    (folder / "agents.npz.0a1b2c3d.partial").write_text("")
    assert again(tmp_path / "link", resume=True).resumed_at == 30
    assert not (folder / "agents.npz.0a1b2c3d.partial").exists()


def test_only_parts_of_our_own_files_are_removed(folder, again, tmp_path):
    (tmp_path / "mine").write_text("mine")
    ours = ["agents.npz.partial", "run.json.0a1b2c3d.partial", "summary.json.ffffffff.partial",
            "checkpoints/0000000030.npz.01234567.partial"]  # fmt: skip
    theirs = ["x.partial", "notes.partial", "agents.npz.0a1b2c3d.partial", "thesis.tex.partial"]
    for name in ours:
        (folder / name).write_text("half")
    (folder / "x.partial").mkdir()
    (folder / "agents.npz.0a1b2c3d.partial").symlink_to(tmp_path / "mine")
    (folder / "notes.partial").write_text("kept")
    (folder / "thesis.tex.partial").write_text("kept")
    assert again(folder, resume=True).problems == []
    assert not [name for name in ours if os.path.lexists(folder / name)]
    assert not [name for name in theirs if not os.path.lexists(folder / name)]
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_partial_file_is_made_anew_with_the_usual_rights(tmp_path):
    """Whoever knows a name beforehand could put a link there."""
    seen = []

    def write(file):
        (partial,) = tmp_path.glob("*.partial")
        seen.append(partial.name)
        file.write(b"x")

    before = os.umask(0o022)
    try:
        for _ in range(2):
            write_whole(tmp_path / "file", write)
    finally:
        os.umask(before)
    assert len(set(seen)) == 2
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# -- files that unpack to more than they should ----------------------------------------------------


def pack(path, manifest, **shapes):
    """Writes zeros, packed to a thousandth of their size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        raw = np.frombuffer(json.dumps(manifest).encode(), np.uint8)
        with file.open("manifest.npy", "w") as member:
            np.lib.format.write_array(member, raw)
        for name, shape in shapes.items():
            with file.open(f"{name}.npy", "w") as member:
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                for _ in range(4 * int(np.prod(shape)) // 2**20):
                    member.write(bytes(2**20))


@pytest.mark.parametrize("case", ["an array", "the manifest"])
def test_a_small_file_of_large_arrays_is_refused_unread(tmp_path, case):
    path, manifest = tmp_path / "agents.npz", {"format": 1, "about": {}, "kinds": {"x": "float32"}}
    if case == "the manifest":
        manifest["about"] = {"padding": "x" * 2**25}
        pack(path, manifest, x=(2**18,))
    else:
        pack(path, manifest, x=(2**26,))  # 256 MiB
    assert path.stat().st_size < 2**21
    tracemalloc.start()
    try:
        with pytest.raises((ConfigError, checkpoint.Damaged)):
            checkpoint.load(path, jax.ShapeDtypeStruct((3,), jnp.float32))
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_packed_agents_of_the_right_shapes_are_read(folder):
    """An archive may have been packed anew."""
    _, before = load_agents(folder)
    with np.load(folder / "agents.npz") as file:
        arrays = dict(file)
    np.savez_compressed(folder / "agents.npz", **arrays)
    after = load_agents(folder)[1]
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_another_shape_in_a_whole_file_is_another_tree_not_damage(tmp_path):
    path = tmp_path / "x.npz"
    checkpoint.save(path, {"x": jnp.zeros((2, 3))}, {})
    with pytest.raises(ConfigError, match=r"float32\[2, 3\] at \['x'\], and this run has float32"):
        checkpoint.load(path, {"x": jnp.zeros((3, 2))})


# -- deleted while the run goes on ----------------------------------------------------------------


def once(step, do):
    """Does something when a run has come so far, once."""
    done = []

    def callback(at, row):
        if at >= step and not done:
            done.append(at)
            do()

    return callback


@pytest.mark.slow
@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluations.jsonl"])
@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_rows_that_are_lost_are_a_problem_of_the_run(tmp_path, again, name, how):
    path = tmp_path / "run" / name

    def lose():
        path.unlink() if how == "deleted" else path.rename(tmp_path / "elsewhere")
        if how == "replaced":
            path.write_text("")

    with pytest.warns(RunWarning, match=f"{name} was deleted or replaced while the run went on"):
        result = again(tmp_path / "run", callbacks=[once(100, lose)])
    assert len(result.problems) == 1
    load_agents(tmp_path / "run")


def test_a_folder_that_is_deleted_while_the_run_goes_on_is_told(tmp_path, again):
    folder = tmp_path / "run"
    with pytest.warns(RunWarning, match="was deleted|could not be written"):
        result = again(folder, callbacks=[once(100, lambda: shutil.rmtree(folder))])
    assert result.metrics.episodes.shape == (2, 30)
    words = " ".join(result.problems)
    assert "metrics.jsonl was deleted" in words and "checkpoints could not be written" in words
    assert not folder.exists()


def test_nothing_is_written_into_the_folder_of_the_run_that_has_taken_its_place(tmp_path, again):
    folder = tmp_path / "run"

    def replace():
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / "thing").write_text("another's")
        locks.append(FolderLock(folder))

    locks = []
    with pytest.warns(RunWarning, match="another run has it"):
        result = again(folder, callbacks=[once(100, replace)])
    locks[0].release()
    assert any("nothing more is written into it" in problem for problem in result.problems)
    assert {p.name for p in folder.iterdir()} == {"thing", LOCK}


TRAIN = "import sys; from purejaxppo.cli.main import main; sys.argv[0] = 'purejaxppo'; main()"


def start(folder, *argv, **how):
    command = [sys.executable, "-c", TRAIN, "train", "CartPole-v1", *argv]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how
    )


def wait_for_rows(process, path):
    while process.poll() is None and not (path.exists() and path.stat().st_size):
        time.sleep(0.02)


@pytest.mark.slow
def test_the_command_whose_folder_is_deleted_ends_with_exit_code_1(tmp_path):
    longer = FLAGS.replace("--total-timesteps 2000", "--total-timesteps 200000")
    argv = [*longer.split()[:-2], "--run-dir", "run", "--quiet"]
    process = start(tmp_path, *argv)
    wait_for_rows(process, tmp_path / "run/metrics.jsonl")
    (tmp_path / "run").rename(tmp_path / "gone")  # at once: the run would add to it meanwhile
    shutil.rmtree(tmp_path / "gone")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert "Traceback" not in err
    assert "metrics.jsonl was deleted" in err


# -- paths ----------------------------------------------------------------------------------------


@pytest.fixture
def place(finished, tmp_path, monkeypatch):
    """A current folder with a run, a folder and a file in it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, "run")
    Path("folder").mkdir()
    Path("x.png").mkdir()
    Path("file").write_text("mine")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (f"train CartPole-v1 --run-dir {'n' * 300}", "cannot be used (File name too long)"),
        (f"train CartPole-v1 --resume --run-dir {'n' * 300}", "cannot be used"),
        (f"train CartPole-v1 --run-dir folder/{'n' * 300}/run", "cannot be used"),
        (f"eval {'n' * 300}", "cannot be used"),
        (f"report run --out {'n' * 300}", "cannot be used"),
        ("report run --out /", "is a folder: name a file in it"),
        ("report run --out / --overwrite", "is a folder: name a file in it"),
        ("report run --out folder --overwrite", "is a folder: name a file in it"),
        ("report run --out . --overwrite", "is a folder: name a file in it"),
        ("report run --out missing/page.html", "has no folder to be in: make 'missing' first"),
        ("report run --out file/page.html", "has no folder to be in: make 'file' first"),
        ("report run --out /dev/null --overwrite", "is no file that could be replaced"),
        ("report run --out file", "exists: name another with --out"),
        ("plot run --out x.png/", "is a folder: name a file in it"),
        ("plot run --out new.png/", "is a folder: name a file in it"),
        ("plot run --out x.png --overwrite", "is a folder: name a file in it"),
        ("export run --format npz --out missing/mine.npz", "has no folder to be in"),
        ("export run --format npz --out numpy.npz", "in place of the module numpy"),
        ("export run --format npz --out NumPy.npz", "in place of the module NumPy"),
        ("export run --format npz --out os.npz", "in place of the module os"),
        ("export run --format npz --out jax.npz", "in place of the module jax"),
        ("export run --format npz --out flax.npz", "in place of the module flax"),
        ("export run --format npz --out class.npz", "must be a name that Python imports"),
        ("export run --format npz --out two-words.npz", "must be a name that Python imports"),
        ("render run --out missing/film.gif", "has no folder to be in"),
    ],
)
def test_a_path_that_will_not_do_gets_one_line(place, purejaxppo_, argv, words):
    before = {p: p.is_file() and p.read_bytes() for p in place.rglob("*")}
    assert_one_line(purejaxppo_(*argv.split()), words)
    assert {p: p.is_file() and p.read_bytes() for p in place.rglob("*")} == before
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("path", ["a\0b", "", b"bytes", 3])
def test_what_is_no_path_is_refused(path):
    for call in (
        lambda: fit(CONFIG, run_dir=path),
        lambda: load_agents(path),
        lambda: export_policy(path),
        lambda: read_results(path),
    ):
        with pytest.raises(ConfigError, match=r"must be a path|must be of type str"):
            call()


def test_a_leading_tilde_is_the_home_folder(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, tmp_path / "home/runs/mine")
    assert read_results("~/runs/mine").steps == 600
    assert load_agents("~/runs/mine")[0] == CONFIG
    from purejaxppo.runs.options import FitOptions

    assert FitOptions(run_dir="~/runs/mine").run_dir == str(tmp_path / "home/runs/mine")
    assert FitOptions(run_dir="~mine").run_dir == "~mine"


def test_a_module_of_the_users_is_not_replaced_and_an_export_is(place, monkeypatch):
    monkeypatch.syspath_prepend(str(place))
    Path("helper.py").write_text("x = 1")
    Path("exported").mkdir()
    with pytest.raises(ConfigError, match="in place of the module helper"):
        _files("run", "npz", "exported/helper.npz", overwrite=False)
    reader = Path(purejaxppo.__path__[0], "export/numpy_policy.py").read_text()
    Path("walker.py").write_text(reader)
    assert [f.name for f in _files("run", "npz", "walker.npz", overwrite=True)] == [
        "walker.npz", "walker.py"
    ]  # fmt: skip
    for name in ("folder.npz", "match.npz", "_.npz"):  # neither takes a module's place
        assert _files("run", "npz", name, overwrite=False)


def test_an_unwritable_folder_gets_one_line(place, monkeypatch, purejaxppo_):
    """Root may write anywhere, so the system is asked to say no."""
    monkeypatch.setattr(os, "access", lambda *args, **kwargs: False)
    for argv in ("report run", "plot run", "export run"):
        assert_one_line(purejaxppo_(*argv.split()), "cannot be written (Permission denied)")


# -- the lock -------------------------------------------------------------------------------------

UNIX_ONLY = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog"}


def test_nothing_of_unix_alone_is_imported():
    for path in Path(purejaxppo.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not UNIX_ONLY & {str(name).split(".")[0] for name in names}, path


def test_a_folder_cannot_be_opened_to_be_synced_on_windows(tmp_path, monkeypatch):
    from purejaxppo.run_folder import files

    monkeypatch.setattr(files, "OPENS_FOLDERS", False)
    files.sync_folder(tmp_path / "missing")
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError):
        files.sync_folder(tmp_path / "missing")


def test_one_thread_to_a_folder(tmp_path, again):
    """Of one process, too."""
    tried = []

    def other():
        with pytest.raises(ConfigError, match="another process trains in"):
            fit(CONFIG, **OPTIONS, run_dir=tmp_path / "run", resume=True)
        tried.append(True)

    def start_other():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    assert again(tmp_path / "run", callbacks=[once(20, start_other)]).problems == []
    assert tried == [True]
    assert again(tmp_path / "run", resume=True).resumed_at == 30  # and it is free again


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; "
        "from purejaxppo.run_folder.lock import FolderLock; "
        "lock = FolderLock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="another process trains in"):
            FolderLock(tmp_path)
        process.kill()
    FolderLock(tmp_path).release()


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"),
                                   OSError(30, "Read-only file system"),
                                   NotImplementedError("no locks here")])  # fmt: skip
def test_a_folder_that_cannot_be_locked_gets_one_line(tmp_path, monkeypatch, error):
    from purejaxppo.run_folder import lock

    def refuse(self):
        raise error

    monkeypatch.setattr(lock.FileLock, "acquire", refuse)
    with pytest.raises(ConfigError, match=r"run folder .* cannot be written"):
        fit(CONFIG, run_dir=tmp_path / "run")


# -- dtypes ---------------------------------------------------------------------------------------


def test_best_and_evaluations_are_float32_whatever_the_default():
    from purejaxppo.components import make_components
    from purejaxppo.runs.agents import Agents
    from purejaxppo.runs.evaluate import evaluate_of
    from purejaxppo.train import learner_of

    with jax.enable_x64(True):
        components = make_components(PPOConfig(**SMALL, total_timesteps=20), env=Probe())
        state = jax.eval_shape(jax.vmap(learner_of(components).init), jax.random.split(
            jax.random.key(0), 2))  # fmt: skip
        assert jax.eval_shape(Best.unscored, state).returns.dtype == jnp.float32
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), state)
        play, _ = evaluate_of(components, 3)
        evaluation = jax.eval_shape(play, Agents.of(one), jax.random.key(0))
    assert evaluation.returns.dtype == jnp.float32
    assert evaluation.lengths.dtype == jnp.int32


# -- what the run itself says ---------------------------------------------------------------------


@pytest.mark.parametrize("about", [{"algorithm": "mine"}, {"options": 3}])
def test_what_the_user_says_of_a_run_can_be_read_back(about):
    with pytest.raises(ConfigError, match=r"about=\{.*leave out what the run itself says"):
        fit(CONFIG, about=about)


def test_a_folder_stays_untouched_by_what_is_only_read(finished):
    def everything():
        return {p: (p.lstat().st_mtime_ns, p.is_file() and p.read_bytes())
                for p in sorted(finished.rglob("*"))}  # fmt: skip

    before = everything()
    with contextlib.suppress(ConfigError):
        read_results(finished)
    load_agents(finished, "best")
    assert everything() == before
