"""Run folders with anything in them: results, an error in words, or a problem that is reported."""

import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fuzzing import examples
from support.run_folders import CompiledOnce

from purejaxppo import ConfigError, PPOConfig, cli, final_returns, load_agents
from purejaxppo.cli.starts import parse_train
from purejaxppo.errors import RunWarning
from purejaxppo.report.results import read_results

CONFIG = PPOConfig(
    num_envs=2, num_steps=5, num_minibatches=1, num_epochs=1, total_timesteps=10 * 12,
    hidden_sizes=(4,), normalize_rewards=True,
)  # fmt: skip
NAMES = (
    "config.toml", "run.json", "metrics.jsonl", "evaluations.jsonl", "summary.json", "agents.npz",
    "best.npz", "checkpoints/0000000008.npz", "checkpoints/0000000012.npz", "checkpoints", ".lock",
)  # fmt: skip


@pytest.fixture(scope="module")
def again():
    return CompiledOnce(CONFIG, seeds=2, checkpoint_every=40, eval_every=40, eval_episodes=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, again):
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    result = again(folder, keep_checkpoints=2)
    summary = {"timesteps": 120, "steps_per_second": 9.0, "compile_seconds": 1.0}
    summary |= {"run_seconds": 1.0, "final_returns": [0.0] * len(final_returns(result.metrics))}
    (folder / "summary.json").write_text(json.dumps(summary))
    about = json.loads((folder / "run.json").read_text())
    about |= {"algorithm": "ppo", "options": {"eval_every": 40, "wandb": None}}
    (folder / "run.json").write_text(json.dumps(about))
    return folder


# -- edits ----------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
        st.sampled_from([-1, 0, 2**31, 2**63, 10**400, 1e308, "none", "a=b", "\ud800", "\0"]),
    ),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside),
    max_leaves=4,
)  # fmt: skip


def flipped(path, place, _):
    raw = bytearray(path.read_bytes())
    if raw:
        at = int(place * (8 * len(raw) - 1))
        raw[at // 8] ^= 1 << at % 8
        path.write_bytes(raw)


def cut(path, place, _):
    path.write_bytes(path.read_bytes()[: int(place * path.stat().st_size)])


def deleted(path, place, _):
    path.unlink()


def replaced(path, place, value):
    path.write_text(json.dumps(value), "utf-8", errors="replace")


def overwritten(path, place, value):
    path.write_bytes(repr(value).encode("utf-8", "replace")[:50])


def lines_changed(path, place, value):
    """A line twice, in another place, or left out."""
    lines = path.read_bytes().splitlines(keepends=True)
    if lines:
        at, kind = int(place * (len(lines) - 1)), int(place * 1000) % 3
        line = lines.pop(at)
        put = {0: [line, line], 1: [], 2: [*lines[at : at + 1], line]}[kind]
        path.write_bytes(b"".join([*lines[:at], *put, *lines[at + (kind == 2) :]]))


def value_changed(path, place, value):
    """A value of JSON, or of a line of JSON, by one of another type; or its key."""
    lines = path.read_bytes().splitlines(keepends=True)
    whole = path.suffix != ".jsonl"
    try:
        at = 0 if whole else int(place * (len(lines) - 1))
        found = json.loads(path.read_bytes() if whole else lines[at])
        keys = [*found]
    except (ValueError, IndexError, TypeError):
        return
    if isinstance(found, dict) and keys:
        key = keys[int(place * 7919) % len(keys)]
        if isinstance(found[key], dict) and found[key]:
            found[key][next(iter(found[key]))] = value
        elif int(place * 104729) % 5:
            found[key] = value
        else:
            found[f"{key}x"] = found.pop(key)
        text = (json.dumps(found) + "\n").encode("utf-8", "replace")
        path.write_bytes(text if whole else b"".join([*lines[:at], text, *lines[at + 1 :]]))


def made_a_folder(path, place, _):
    path.unlink()
    path.mkdir()


def linked(path, place, value):
    """By a link of either kind to what is outside: a copy of itself, a text, nothing."""
    outside = path.parents[path.parent.name == "checkpoints"].parent / "outside"
    kind = int(place * 1000)
    target = outside / f"{path.name}-{kind}"
    if kind % 3:
        target.write_bytes(path.read_bytes() if kind % 3 == 1 else b"")
    path.unlink()
    if kind % 2 and target.exists():
        os.link(target, path)
    else:
        path.symlink_to(target)


def swapped(path, place, _):
    other = path.parents[path.parent.name == "checkpoints"] / NAMES[int(place * 8)]
    if other.is_file():
        one, two = path.read_bytes(), other.read_bytes()
        path.write_bytes(two)
        other.write_bytes(one)


EDITS = [
    flipped, cut, deleted, replaced, overwritten, lines_changed, value_changed, value_changed,
    made_a_folder, linked, swapped,
]  # fmt: skip


def edit(folder, change, name, place, value):
    path = folder / name
    if name == "checkpoints" and path.is_dir() and not path.is_symlink():
        outside = folder.parent / "outside" / "checkpoints"
        if change is linked and not outside.exists():
            shutil.move(path, outside)
            path.symlink_to(outside)
        elif change is deleted:
            shutil.rmtree(path)
        elif change is replaced:
            shutil.rmtree(path)
            path.write_text("mine")
    elif path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1:
        change(path, place, value)


# -- what is done with such a folder --------------------------------------------------------------


def read(folder, again):
    results = read_results(folder)
    assert results.final_returns.shape == (results.seeds,)
    assert results.eval_returns.shape == (results.seeds, len(results.eval_steps))


def load(folder, again):
    for weights in ("final", "best"):
        _, agents = load_agents(folder, weights)
        assert {len(x) for x in jax.tree.leaves(agents)} == {2}


def resume(folder, again):
    result = again(folder, resume=True)
    assert result.metrics.episodes.shape == (2, 12)
    if not result.problems:  # without a problem, all of it is whole
        read_results(folder)


def resume_on_the_command_line(folder, again):
    parse_train(["CartPole-v1", "--resume", "--run-dir", str(folder)])


def command(name, *argv):
    def call(folder, again):
        out = folder.parent / argv[-1]
        cli.COMMANDS[name]([str(folder), *argv[:-1], "--out", str(out)])
        assert out.exists()

    call.__name__ = name
    return call


ACTIONS = [
    read, read, load, resume, resume, resume, resume_on_the_command_line,
    command("plot", "curves.svg"), command("report", "page.html"),
]  # fmt: skip

changes = st.tuples(
    st.sampled_from(EDITS), st.sampled_from(NAMES), st.floats(0, 1, exclude_max=True), VALUES
)


@pytest.mark.slow
@examples(20, 1000)
@given(st.lists(changes, min_size=1, max_size=3), st.sampled_from(ACTIONS))
def test_an_edited_folder_gives_results_or_words(again, finished, made, action):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(finished, Path(place, "run")))
        outside = Path(place, "outside")
        outside.mkdir()
        for change in made:
            edit(folder, *change)
        before = {p: p.read_bytes() for p in outside.rglob("*") if p.is_file()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RunWarning)
            try:
                action(folder, again)
            except ConfigError as error:
                words = str(error)
                assert words and "\n" not in words, words
                assert len(words) < 1000, words
        assert {p: p.read_bytes() for p in outside.rglob("*") if p.is_file()} == before
