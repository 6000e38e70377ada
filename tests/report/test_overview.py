"""The list of runs below a folder: what it says of each, how it is printed, how fast it is."""

import datetime
import json
import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from support.run_folders import tiny_config, write_run

from purejaxppo import ConfigError, final_returns
from purejaxppo.cli import commands
from purejaxppo.report.listing import compact, shortened
from purejaxppo.report.overview import list_runs, number
from purejaxppo.run_folder.files import lines_from_end
from purejaxppo.run_folder.lock import FolderLock, is_held
from purejaxppo.run_folder.progress import last_returns, state_of
from purejaxppo.run_folder.read import read_metrics

NAN = np.nan
RETURNS = np.random.default_rng(0).normal(size=(8, 60)).cumsum(axis=1) * 10
LONG = "a-run-of-which-the-name-is-so-long-that-no-terminal-of-eighty-columns-has-room"


def set_begun(folder, when):
    path = os.path.join(folder, "run.json")
    with open(path) as file:
        about = json.load(file)
    with open(path, "w") as file:
        json.dump(about | {"created": when}, file)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Runs of all states, in an order of time that is not that of their names."""
    root, config = tmp_path_factory.mktemp("list") / "runs", tiny_config(60)
    found = {
        "a": write_run(root / "a", config, RETURNS),
        "b": write_run(root / "b", config.replace(gamma=0.5), RETURNS[:1]),
        "cut": write_run(root / "cut", config, RETURNS[:3, :25], finished=False, torn=True),
        "stopped": write_run(root / "stopped", config, RETURNS[:2, :30]),
        LONG: write_run(root / "deep" / LONG, tiny_config(60, "Acrobot-v1"), RETURNS[:2]),
        "new": write_run(root / "new", config, np.empty((2, 0)), finished=False),
    }
    days = {"a": 3, "b": 2, "cut": 5, "stopped": 1, LONG: 4, "new": 6}
    for name, folder in found.items():
        set_begun(folder, f"2026-11-0{days[name]}T12:00:00+00:00")
    for name, files in {
        "damaged-1": {"run.json": "{", "config.toml": ""},
        "damaged-2": {"run.json": "{}", ".lock": ""},
    }.items():
        (root / name).mkdir()
        for file, text in files.items():
            (root / name / file).write_text(text)
    damaged = write_run(root / "damaged-3", config, RETURNS[:1])
    with open(f"{damaged}/metrics.jsonl", "a") as file:
        file.write("?\n")
    return root


@pytest.fixture(scope="module")
def lines(root):
    return {line.folder.name: line for line in list_runs(root)}


def test_runs_are_listed_with_their_states(lines):
    states = {name: line.state for name, line in lines.items()}
    assert states == {
        "a": "finished", "b": "finished", "cut": "killed", "stopped": "stopped", LONG: "finished",
        "new": "killed", "damaged-1": "damaged", "damaged-2": "damaged", "damaged-3": "damaged",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("held", "steps", "ended", "state"),
    [
        (True, 5, False, "running"), (True, 9, True, "running"), (False, 9, True, "finished"),
        (False, 9, False, "finished"),  # as `fit` may leave it, which writes no summary
        (False, 5, True, "stopped"), (False, 5, False, "killed"), (False, 0, False, "killed"),
    ],
)  # fmt: skip
def test_states(held, steps, ended, state):
    assert state_of(held=held, steps=steps, total=9, ended=ended) == state


def test_runs_are_sorted_by_time(root):
    names = [line.folder.name for line in list_runs(root) if line.config]
    assert names == ["stopped", "b", "a", LONG, "cut", "new"]


@pytest.mark.parametrize("name", ["a", "b", "cut", "stopped", "new"])
def test_returns_are_the_final_returns_of_the_rows(name, lines, root):
    """Of the last tenth of the updates that were done, read from the end of the file."""
    line, metrics = lines[name], read_metrics(root / name)
    expected = final_returns(metrics)
    np.testing.assert_allclose(line.returns, expected, rtol=1e-6)
    assert line.steps == metrics.episodes.shape[1] * 10
    assert line.total == 600
    known = expected[~np.isnan(expected)]
    assert line.mean == (pytest.approx(known.mean(), rel=1e-5) if known.size else None)


def test_a_run_of_one_seed_has_no_deviation(lines):
    assert lines["b"].std is None
    assert lines["b"].as_json()["return_std"] is None
    assert lines["a"].std == pytest.approx(np.std(RETURNS[:, -6:].mean(1), ddof=1), rel=1e-6)


def test_what_differs_is_asked_within_an_environment_and_algorithm(lines):
    assert lines["b"].apart == {"gamma": 0.5}
    assert lines["a"].apart == {"gamma": 0.99}
    assert lines[LONG].apart == {}


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_an_update_that_is_there_for_some_seeds_only_does_not_count(seeds, tmp_path):
    folder = write_run(tmp_path / "r", tiny_config(60), RETURNS[:3, :20], finished=False)
    path = tmp_path / "r" / "metrics.jsonl"
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(rows[: 19 * 3 + seeds]) + '{"step": 2')
    updates, returns = last_returns(tmp_path / "r", 3, 10)
    assert updates == (20 if seeds == 3 else 19)
    np.testing.assert_allclose(returns, final_returns(read_metrics(folder)), rtol=1e-6)


def test_updates_without_an_episode_and_numbers_that_are_not_finite(tmp_path):
    returns = np.array([[1.0, NAN, NAN, 5.0], [1.0, NAN, NAN, NAN]])
    write_run(tmp_path / "r", tiny_config(4), returns)
    _, found = last_returns(tmp_path / "r", 2, 10)
    assert found[0] == 5.0
    assert math.isnan(found[1])
    (line,) = list_runs(tmp_path)
    assert (line.mean, line.std) == (5.0, None)  # one seed has a return


@pytest.mark.parametrize("size", [0, 1, 7, 2**16 - 1, 2**16, 3 * 2**16 + 5])
@pytest.mark.parametrize("torn", [b"", b'{"step'])
def test_lines_are_read_from_the_end(size, torn, tmp_path):
    path, rng = tmp_path / "f", np.random.default_rng(size)
    lines = []
    while sum(map(len, lines)) < size:
        lines.append(b"x" * int(rng.integers(0, 40_000)))
    path.write_bytes(b"".join(line + b"\n" for line in lines) + torn)
    assert list(lines_from_end(path)) == lines[::-1]


def test_a_run_that_goes_on_is_running_whatever_its_files_say(tmp_path):
    folder = write_run(tmp_path / "r", tiny_config(60), RETURNS[:2, :30])
    lock = FolderLock(tmp_path / "r")
    try:
        assert is_held(tmp_path / "r")
        assert is_held(tmp_path / "r")  # looking does not take it
        (line,) = list_runs(tmp_path)
        assert line.state == "running"
        with open(f"{folder}/run.json", "w") as file:
            file.write("{")  # as a run that has only just begun
        assert list_runs(tmp_path)[0].state == "running"
    finally:
        lock.release()
    assert not is_held(tmp_path / "r")
    assert not is_held(tmp_path)  # where nobody ever trained


def test_the_lock_is_had_beside_those_who_look(tmp_path):
    for _ in range(20):
        is_held(tmp_path)
        FolderLock(tmp_path).release()
        assert not is_held(tmp_path)


def test_a_run_that_was_stopped_and_goes_on_has_no_results_of_its_first_part(tmp_path):
    write_run(tmp_path / "r", tiny_config(60), RETURNS[:2, :30])
    longer = write_run(tmp_path / "longer", tiny_config(60), RETURNS[:2, :40], finished=False)
    os.replace(f"{longer}/metrics.jsonl", tmp_path / "r" / "metrics.jsonl")
    line = list_runs(tmp_path / "r")[0]
    assert (line.state, line.steps) == ("killed", 400)
    np.testing.assert_allclose(line.returns, RETURNS[:2, 36:40].mean(1), rtol=1e-6)


# -- printed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [60, 80, 100, 300])
def test_the_table_fits_the_terminal(columns, root, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert commands.runs([str(root)]) == 0
    printed = capsys.readouterr().out.splitlines()
    table = [line for line in printed if " is damaged (" not in line]
    words = [word for line in printed for word in line.split()]
    assert max(map(len, table)) <= max(columns, max(map(len, words)))
    assert ("what" in printed[0]) == (columns == 300)
    assert ("…" in capsys.readouterr().out + "\n".join(table)) == (columns <= 100)
    assert sum("killed" in line for line in printed) == 2
    assert any("gamma=0.5" in line for line in printed)


def test_the_table_says_it_in_words(root, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "300")
    commands.runs([str(root)])
    found = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    final = RETURNS[:, -6:].mean(1)
    spread = f"{number(final.mean())} ± {number(final.std(ddof=1))}"
    assert f" 8      600  {spread}  finished" in found["a"]
    assert found["a"].endswith("CartPole-v1 ppo, gamma=0.99")
    assert "250/600" in found["cut"]
    assert "±" not in found["b"]  # one seed
    assert " 2  " in found["new"] and " - " in found["new"]
    assert "damaged" in found["damaged-1"]
    assert f"deep/{LONG}" in found


def test_json_is_one_array(root, capsys):
    assert commands.runs([str(root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    by_name = {os.path.basename(run["folder"]): run for run in found}
    assert len(found) == 9
    begun = datetime.datetime.fromisoformat("2026-11-05T12:00+00:00")
    assert by_name["cut"] | {"return_mean": 0, "return_std": 0} == {
        "kind": "run", "folder": str(root / "cut"), "state": "killed", "env": "CartPole-v1",
        "algorithm": "ppo", "apart": {"gamma": 0.99}, "seeds": 3, "seed": 0, "timesteps": 250,
        "total_timesteps": 600, "return_mean": 0, "return_std": 0, "problem": None,
        "created": begun.astimezone().isoformat(),
    }  # fmt: skip
    assert by_name["damaged-3"]["state"] == "damaged"
    assert "metrics.jsonl" in by_name["damaged-3"]["problem"]
    assert by_name["new"]["return_mean"] is None


def test_runs_of_the_default_folder_none_and_mistakes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="there is no folder 'runs'"):
        commands.runs([])
    (tmp_path / "runs").mkdir()
    assert commands.runs([]) == 0
    assert capsys.readouterr().out == "there are no runs in runs\n"
    assert commands.runs(["--json"]) == 0
    assert capsys.readouterr().out == "[]\n"
    write_run(tmp_path / "runs" / "mine", tiny_config(1), [[1.0]])
    assert commands.runs([]) == 0
    assert "mine" in capsys.readouterr().out
    assert commands.runs(["runs/mine"]) == 0  # a run itself
    assert "mine" in capsys.readouterr().out


def test_names_that_are_no_text_are_listed(tmp_path, capsys):
    write_run(tmp_path / os.fsdecode(b"run-\xff"), tiny_config(1), [[1.0]])
    assert commands.runs([str(tmp_path)]) == 0
    assert "run-?" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (299_008, "299k"), (500_000, "500k"),
     (999_600, "1M"), (4_997_120, "5M"), (2_500_000_000, "2.5G")],
)  # fmt: skip
def test_counts_are_compact(count, text):
    assert compact(count) == text


@pytest.mark.parametrize("width", [5, 6, 12, 40])
def test_long_names_are_shortened_in_the_middle(width):
    name = "CartPole-v1-2026-11-21-17"
    short = shortened(name, width)
    assert len(short) == min(width, len(name))
    if width < len(name):
        start, end = short.split("…")
        assert name.startswith(start) and name.endswith(end) and end


# -- fast ------------------------------------------------------------------------------------------


def test_runs_imports_no_jax(root):
    code = f"""
import sys
sys.argv = ["purejaxppo", "runs", {str(root)!r}]
from purejaxppo import cli
try:
    cli.main()
except SystemExit as stop:
    assert not stop.code
heavy = {{"jax", "flax", "gymnax", "matplotlib", "scipy"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_two_hundred_runs_are_listed_in_about_a_second(tmp_path):
    """Rows are read from their end: long files cost no more than short ones."""
    write_run(tmp_path / "0", tiny_config(10), RETURNS[:8, :10], finished=False)
    rows = (tmp_path / "0" / "metrics.jsonl").read_text()
    row = json.loads(rows.splitlines()[0])
    long = "".join(
        json.dumps(row | {"step": 10 * (i // 8 + 1), "seed": i % 8}) + "\n" for i in range(8000)
    )
    for i in range(1, 200):
        (tmp_path / str(i)).mkdir()
        for name in ("run.json", "config.toml"):
            (tmp_path / str(i) / name).write_text((tmp_path / "0" / name).read_text())
        (tmp_path / str(i) / "metrics.jsonl").write_text(long if i < 4 else rows)
    start = time.process_time()
    assert len(list_runs(tmp_path)) == 200
    assert time.process_time() - start < 3  # a second, on a machine that does nothing else
