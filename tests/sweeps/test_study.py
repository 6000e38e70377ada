"""The folder of a study: what is kept, what is gone on with, and what is refused."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.run_folders import tiny_config, write_run
from support.studies import (
    CONFIG,
    ENVS,
    GAMMA,
    LENGTH,
    OPTIMIZER,
    RATE,
    SPACE,
    WIDTHS,
    Space,
    result,
    write_study,
)

from purejaxppo import ConfigError, PPOConfig
from purejaxppo.config.coerce import parse_options
from purejaxppo.config.file import read_config_file
from purejaxppo.run_folder.find import find_runs, find_studies, is_study
from purejaxppo.run_folder.lock import FolderLock
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.read import read_study
from purejaxppo.sweeps.study import Study, create_study_dir

OPTIONS = SweepOptions(trials=8, seeds=2)


def opened(folder, config=CONFIG, space=SPACE, options=OPTIONS, **more):
    return Study.open(folder, config, space, options, **more)


def numbers(path):
    return [json.loads(line)["number"] for line in path.read_text().splitlines()]


def test_what_is_told_is_on_the_disk_and_comes_back(tmp_path):
    told = [
        result(0, 3.0),
        result(1, None, why="its loss was not finite"),
        result(5, -2.5, run="runs/0001", agents=[4, 5], parent=0, status="stopped"),
    ]
    with opened(tmp_path / "s") as study:
        for i, one in enumerate(told):
            study.tell(one)
            assert numbers(tmp_path / "s/trials.jsonl") == [r.number for r in told[: i + 1]]
    with opened(tmp_path / "s") as study:
        assert study.results == {r.number: r for r in told}
        assert not study.problems
    assert read_study(tmp_path / "s").results == {r.number: r for r in told}


def test_settings_come_back_of_their_types(tmp_path):
    space = Space((WIDTHS, OPTIMIZER, LENGTH, ENVS))
    setting = {
        "hidden_sizes": (64, 64),
        "optimizer": "muon",
        "env_params.length": 1.5,
        "num_envs": 8,
    }
    with opened(tmp_path / "s", space=space) as study:
        study.tell(result(0, 1.0, setting))
        kept = study.results[0].setting
    with opened(tmp_path / "s", space=space) as study:
        again = study.results[0].setting
    assert kept == again == setting
    assert [type(x) for x in again.values()] == [tuple, str, float, int]


def test_a_line_that_was_cut_short_is_cut_off(tmp_path):
    write_study(tmp_path / "s", trials=3)
    path = tmp_path / "s/trials.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"number": 3, "setting"')
    assert list(read_study(tmp_path / "s").results) == [0, 1, 2]
    with opened(tmp_path / "s", options=SweepOptions(trials=3, seeds=2)) as study:
        assert path.read_bytes() == whole
        study.tell(result(3))
    assert numbers(path) == [0, 1, 2, 3]


def test_the_last_that_is_told_of_a_trial_counts(tmp_path):
    with opened(tmp_path / "s") as study:
        study.tell(result(0, 1.0, status="stopped"))
        study.tell(result(1, 5.0))
        study.tell(result(0, 9.0))
        assert [r.score for r in study.best(5)] == [9.0, 5.0]
    assert read_study(tmp_path / "s").results[0].score == 9.0


def test_the_best_come_first_and_those_stopped_early_behind_them():
    study = opened(None)
    for number, score, status in [
        (0, 2.0, "done"), (1, 9.0, "stopped"), (2, None, "failed"), (3, 4.0, "done"),
        (4, 4.0, "done"),
    ]:  # fmt: skip
        study.tell(result(number, score, status=status))
    assert [r.number for r in study.best(9)] == [3, 4, 0, 1]
    assert [r.number for r in study.best(1)] == [3]
    assert study.winner is not None
    assert study.winner.number == 3


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with opened(None) as study:
        study.tell(result(0))
        study.write()
        assert study.run_dir("runs/0000") is None
        assert list(study.results) == [0]
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_json_cannot_hold_is_a_mistake_of_who_tells_it(tmp_path):
    with opened(tmp_path / "s") as study:
        for bad, words in [
            (result(0, float("nan")), "not JSON compliant"),
            (result(-1), "number is -1, not a whole number"),
            (result(0, run=3), "run is 3, not a text"),
            (result(0, setting={"x": object()}), "not JSON serializable"),
        ]:
            with pytest.raises((ValueError, TypeError), match=words):
                study.tell(bad)
        assert not study.results
    assert (tmp_path / "s/trials.jsonl").read_bytes() == b""


# -- going on --------------------------------------------------------------------------------------


def test_more_trials_and_other_devices_are_no_other_study(tmp_path):
    write_study(tmp_path / "s", trials=3)
    more = SweepOptions(
        trials=9, seeds=2, batch=2, devices=1, retrain=2, storage="journal:f", study_name="x"
    )
    with opened(tmp_path / "s", options=more) as study:
        assert len(study.results) == 3
    assert read_study(tmp_path / "s").about["trials"] == 9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(config=CONFIG.replace(gamma=0.5)), "has gamma=0.99, not 0.5"),
        (dict(config=CONFIG.replace(env="Acrobot-v1")), "has env='CartPole-v1', not 'Acrobot-v1'"),
        (dict(space=Space((RATE, GAMMA))),
         "has space=['learning_rate', 'gamma', 'num_envs'], not ['learning_rate', 'gamma']"),
        (dict(space=Space((RATE._replace(high=0.1), GAMMA, ENVS))), "has space.learning_rate={"),
        (dict(options=SweepOptions(seeds=3)), "has seeds=2, not 3"),
        (dict(options=SweepOptions(seeds=2, sampler="sobol")), "sampler='random', not 'sobol'"),
        (dict(options=SweepOptions(seeds=2, seed=1)), "has seed=0, not 1"),
        (dict(options=SweepOptions(seeds=2, score=("mean_return",))), "has score=["),
        (dict(own={"own env": "mine.Env"}), "has own env=None, not 'mine.Env'"),
    ],
)  # fmt: skip
def test_another_study_is_refused_by_its_first_difference(change, words, tmp_path):
    write_study(tmp_path / "s", trials=3)
    before = {path: path.read_bytes() for path in (tmp_path / "s").iterdir()}
    with pytest.raises(ConfigError) as refused:
        opened(tmp_path / "s", **change)
    assert words in str(refused.value)
    assert "name another folder with --study-dir" in str(refused.value)
    assert {path: path.read_bytes() for path in (tmp_path / "s").iterdir()} == before
    opened(tmp_path / "s", options=SweepOptions(seeds=2)).close()  # it is not taken


def test_how_many_trials_there_are_is_written_down(tmp_path):
    grid = Space((ENVS, OPTIMIZER))
    for i, (space, options, count) in enumerate([
        (SPACE, SweepOptions(), 64), (SPACE, SweepOptions(trials=7), 7),
        (grid, SweepOptions(sampler="grid"), 6), (SPACE, SweepOptions(scheduler="pbt"), 16),
    ]):  # fmt: skip
        opened(tmp_path / str(i), space=space, options=options).close()
        assert read_study(tmp_path / str(i)).about["trials"] == count


def test_a_study_of_an_older_version_lacks_what_has_its_default(tmp_path):
    write_study(tmp_path / "s", trials=3)
    path = tmp_path / "s/study.json"
    about = json.loads(path.read_text())
    del about["config"]["gamma"], about["options"]["perturb"]
    path.write_text(json.dumps(about))
    opened(tmp_path / "s").close()
    about["versions"]["jax"] = "0.1"
    path.write_text(json.dumps(about))
    with pytest.warns(match="begun with jax 0.1 and goes on with"):
        opened(tmp_path / "s").close()
    assert json.loads(path.read_text())["versions"]["jax"] == "0.1"


def test_what_a_user_has_is_left_alone(tmp_path):
    for name, content in {"notes.txt": "mine", "trials.jsonl": "{}\n", "best.toml": ""}.items():
        folder = tmp_path / name.split(".")[0]
        folder.mkdir()
        (folder / name).write_text(content)
        with pytest.raises(
            ConfigError, match=rf"holds no study, and is not empty \(it has '{name}"
        ):
            opened(folder)
        assert [path.name for path in folder.iterdir()] == [name]
        assert (folder / name).read_text() == content
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="is a file: name a folder with --study-dir"):
        opened(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"study folder .* cannot be made"):
        opened(tmp_path / "file" / "below")
    (tmp_path / "empty").mkdir()
    opened(tmp_path / "empty").close()


def test_a_file_that_a_link_names_is_not_cut(tmp_path):
    write_study(tmp_path / "s", trials=3)
    path = tmp_path / "s/trials.jsonl"
    path.rename(tmp_path / "mine")
    path.symlink_to(tmp_path / "mine")
    with pytest.raises(ConfigError, match="is a link, or no file: put a copy"):
        opened(tmp_path / "s")


def test_a_study_that_was_killed_before_it_had_begun_is_begun_anew(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / ".lock").touch()
    (folder / "study.json.0123abcd.partial").write_text('{"conf')
    opened(folder).close()
    assert is_study(folder)
    assert sorted(x.name for x in folder.iterdir()) == [".lock", "study.json", "trials.jsonl"]


def test_one_process_to_a_study(tmp_path):
    with opened(tmp_path / "s"), pytest.raises(ConfigError, match="another process trains in"):
        opened(tmp_path / "s")
    opened(tmp_path / "s").close()


KILLED = """
import sys, time
sys.path.insert(0, sys.argv[1])
from support.studies import CONFIG, SPACE, result
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.study import Study
study = Study.open(sys.argv[2], CONFIG, SPACE, SweepOptions(trials=8, seeds=2))
for number in range(10**6):
    study.tell(result(number))
    print(number, flush=True)
"""


@pytest.mark.slow
def test_what_was_told_before_a_kill_is_there(tmp_path):
    tests = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", KILLED, tests, str(tmp_path / "s")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(5):
            process.stdout.readline()
        process.kill()
        told = 4 + len(process.stdout.read().split())
    with opened(tmp_path / "s") as study:  # its lock died with it
        assert set(range(told + 1)) <= set(study.results)
        assert len(study.results) <= told + 2


def test_a_deleted_folder_is_not_written_into_by_who_had_it(tmp_path):
    study = opened(tmp_path / "s")
    study.tell(result(0))
    (tmp_path / "s").rename(tmp_path / "away")
    other = opened(tmp_path / "s")
    with pytest.warns(match="was deleted, and another study has it"):
        study.tell(result(1))
    study.write()
    study.close()
    other.close()
    assert study.problems
    assert not (tmp_path / "s/trials.csv").exists()
    assert numbers(tmp_path / "s/trials.jsonl") == []


def test_a_full_disk_is_reported_and_the_lines_come_later(tmp_path, monkeypatch):
    study = opened(tmp_path / "s")
    write = type(study._file).write

    def fail(self, rows):
        self._pending += b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(study._file), "write", fail)
    with pytest.warns(match=r"trials.jsonl could not be written: No space left"):
        study.tell(result(0))
    monkeypatch.setattr(type(study._file), "write", write)
    study.tell(result(1))
    study.close()
    assert numbers(tmp_path / "s/trials.jsonl") == [0, 1]


# -- damage ----------------------------------------------------------------------------------------

GOOD = json.dumps(result(0)._asdict())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "Expecting property name"),
        ("[]", "it is [], not a table"),
        ("{}", "is missing"),
        (GOOD.replace('"done"', '"lost"'), "status is 'lost', not one of"),
        (GOOD.replace('"number": 0', '"number": -1'), "number is -1, not a whole number"),
        (GOOD.replace('"score": 1.0', '"score": NaN'), "NaN is no number"),
        (GOOD.replace('"score": 1.0', '"score": "x"'), "score is 'x', not a number"),
        (GOOD.replace('"run": null', '"run": 7'), "run is 7, not a text"),
    ],
)
def test_damaged_lines_are_told_by_file_and_number(line, words, tmp_path):
    write_study(tmp_path / "s", trials=2)
    path = tmp_path / "s/trials.jsonl"
    before = path.read_text()
    path.write_text(before + line + "\n")
    for read in (read_study, opened):
        with pytest.raises(ConfigError) as told:
            read(tmp_path / "s")
        assert f"line 3 of '{path}' is damaged (" in str(told.value)
        assert words in str(told.value)
        assert "repair or delete it" in str(told.value)
    assert path.read_text() == before + line + "\n"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": {"env": 3}}, "env=3"),
        ({"config": {"env": "x", "nonsense": 1}}, "nonsense"),
        ({"space": [{}]}, "choices is missing"),
        ({"options": {}}, "score=() must be one or more of"),
        ({"options": {"score": ["final_return"], "seeds": "two"}}, "seeds='two' must be"),
        ({"space": [dict(LENGTH._asdict(), log=True, low=-1.0)]}, "length is from -1.0 to 2.0"),
        ({"trials": "all"}, "trials is 'all', not a whole number"),
    ],
)
def test_a_damaged_study_is_told_by_its_file(change, words, tmp_path):
    write_study(tmp_path / "s", trials=2)
    path = tmp_path / "s/study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError) as told:
        read_study(tmp_path / "s")
    assert f"'{path}' is damaged" in str(told.value)
    assert words in str(told.value)


@pytest.mark.parametrize("value", ["x", None, [1], -1.0, 0, True])
def test_values_that_the_space_cannot_have_are_told(value, tmp_path):
    write_study(tmp_path / "s", trials=2)
    path = tmp_path / "s/trials.jsonl"
    path.write_text(json.dumps(result(0, setting={"learning_rate": value})._asdict()) + "\n")
    with pytest.raises(ConfigError, match=rf"{path}' is damaged \(learning_rate is "):
        read_study(tmp_path / "s")


def test_whatever_is_changed_is_read_or_told(tmp_path):
    """Bytes that are changed, cut and doubled, in each of the files."""
    write_study(tmp_path / "s", trials=3)
    lines = [
        {"generation": g, "agent": 0, "parent": 0, "score": 1.0, "setting": {"gamma": 0.9}}
        for g in range(2)
    ]
    lineage = tmp_path / "s/lineage.jsonl"
    lineage.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rng, told = np.random.default_rng(0), 0
    for path in (tmp_path / "s/study.json", tmp_path / "s/trials.jsonl", lineage):
        whole = path.read_bytes()
        for _ in range(120):
            raw = bytearray(whole)
            at, to = sorted(rng.integers(0, len(raw), 2))
            to = min(to, at + 12)
            kind = rng.integers(3)
            other = bytes(rng.choice(list(b'0-"[]{}e.,:n'), to - at).tolist())
            raw[at:to] = [b"", other, raw[at:to] * 2][kind]
            path.write_bytes(raw)
            try:
                read_study(tmp_path / "s")
            except ConfigError as error:
                assert str(path) in str(error)
                told += 1
        path.write_bytes(whole)
    assert told > 100
    read_study(tmp_path / "s")


def test_a_folder_that_holds_no_study_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no study .study.json is not there"):
        read_study(tmp_path)


# -- what others read ------------------------------------------------------------------------------


def test_the_table_has_a_row_for_each_trial(tmp_path):
    space = Space((RATE, WIDTHS))
    with opened(tmp_path / "s", space=space) as study:
        study.tell(
            result(1, None, {"learning_rate": 0.01, "hidden_sizes": (64,)}, why="NaN, again")
        )
        study.tell(result(0, 2.0, {"learning_rate": 0.001, "hidden_sizes": (64, 64)}))
        study.write()
    with open(tmp_path / "s/trials.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "number", "learning_rate", "hidden_sizes", "status", "score", "scores", "final_return",
        "mean_return", "steps", "seconds", "run", "agents", "parent", "why",
    ]  # fmt: skip
    assert [row["number"] for row in rows] == ["0", "1"]
    assert rows[0] | {} == {
        "number": "0", "learning_rate": "0.001", "hidden_sizes": "64 64", "status": "done",
        "score": "2.0", "scores": "1.0 3.0", "final_return": "2.0", "mean_return": "1.0",
        "steps": "6400", "seconds": "1.5", "run": "", "agents": "", "parent": "", "why": "",
    }  # fmt: skip
    assert (rows[1]["score"], rows[1]["why"]) == ("", "NaN, again")


def test_parquet_has_the_same_with_types(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    space = Space((RATE, WIDTHS, ENVS))
    with opened(tmp_path / "s", space=space) as study:
        for i, width in enumerate([(64,), (64, 64)]):
            setting = {"learning_rate": 0.01, "hidden_sizes": width, "num_envs": 4}
            study.tell(result(i, None if i else 2.0, setting))
        study.write()
    rows = parquet.read_table(tmp_path / "s/trials.parquet").to_pylist()
    assert [row["hidden_sizes"] for row in rows] == [[64], [64, 64]]
    assert [row["score"] for row in rows] == [2.0, None]
    assert rows[0]["scores"] == [1.0, 3.0]
    assert rows[0]["num_envs"] == 4


def test_the_best_configuration_is_read_back(tmp_path):
    with opened(tmp_path / "s") as study:
        study.tell(result(0, 1.0))
        study.tell(result(1, 7.0, {"learning_rate": 2e-3, "gamma": 0.95, "num_envs": 8}))
        study.tell(result(2, None))
        study.write()
    best = PPOConfig.from_toml(tmp_path / "s/best.toml")
    assert best == CONFIG.replace(learning_rate=2e-3, gamma=0.95, num_envs=8)
    assert (tmp_path / "s/best.toml").read_text().splitlines()[:4] == [
        "# trial 1 has the best final_return of the trials: 7, the mean over 2 seeds",
        "# learning_rate = 0.002", "# gamma = 0.95", "# num_envs = 8",
    ]  # fmt: skip


def test_parameters_of_the_environment_are_a_table(tmp_path):
    own, numbers = (
        {"env_params": "Params(...)", "own env": "mine.Env"},
        {"length": 9.0, "mass": 2.0},
    )
    space = Space((RATE, LENGTH))
    with opened(tmp_path / "s", space=space, own=own, env_params=numbers) as study:
        study.tell(result(0, 1.0, {"learning_rate": 2e-3, "env_params.length": 0.25}))
        study.write()
    found = read_config_file(tmp_path / "s/best.toml")
    assert found.config == CONFIG.replace(learning_rate=2e-3)
    assert parse_options(found.env_params) == {"length": 0.25, "mass": 2.0}
    comments = (tmp_path / "s/best.toml").read_text().splitlines()
    assert "# trained with own env mine.Env, which no file of TOML holds" in comments
    assert not any("Params(" in line for line in comments)


def test_with_no_score_there_is_no_best(tmp_path):
    with opened(tmp_path / "s") as study:
        study.write()
        assert not (tmp_path / "s/trials.csv").exists()
        study.tell(result(0, None))
        study.write()
        assert study.winner is None
    assert (tmp_path / "s/trials.csv").exists()
    assert not (tmp_path / "s/best.toml").exists()


# -- found -----------------------------------------------------------------------------------------


def test_studies_are_numbered_by_environment_and_day(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = (create_study_dir(None, "brax/ant") for _ in range(2))
    assert first.parent.name == "studies"
    assert (first.name[:9], first.name[-2:], second.name[-2:]) == ("brax-ant-", "-1", "-2")
    assert create_study_dir("mine", "x").name == "mine"
    opened(first).close()


def test_studies_are_found_and_their_runs_with_them_alone(tmp_path):
    write_study(tmp_path / "studies/b-10", trials=1)
    write_study(tmp_path / "studies/b-9", trials=1)
    write_study(tmp_path / "studies/b-9/retrained", trials=1)
    inner = tmp_path / "studies/b-9/runs/0000"
    write_run(inner, tiny_config(3), np.ones((1, 3)))
    outer = tmp_path / "runs/a"
    write_run(outer, tiny_config(3), np.ones((1, 3)))
    assert [x.name for x in find_studies(tmp_path)] == ["b-9", "b-10"]
    assert find_studies(tmp_path / "studies/b-9") == [tmp_path / "studies/b-9"]
    assert find_runs(tmp_path) == [outer]
    assert find_runs(tmp_path / "studies") == []
    assert find_runs(tmp_path / "studies/b-9") == [inner]


def test_states(tmp_path):
    write_study(tmp_path / "s", trials=5, told=3)
    assert read_study(tmp_path / "s").state == "stopped"
    lock = FolderLock(tmp_path / "s")
    assert read_study(tmp_path / "s").state == "running"
    lock.release()
    write_study(tmp_path / "t", trials=5)
    assert read_study(tmp_path / "t").state == "finished"
