"""`purejaxppo sweep` and `--config`: what is read, refused, printed, and said at the end.

The sweep itself is a stand-in here, which scores settings by a formula.
"""

import json
import signal
import subprocess
import sys
import time

import pytest

from purejaxppo import ConfigError, PPOConfig, cli
from purejaxppo.cli.arguments import SweepRun
from purejaxppo.cli.progress import trials as progress
from purejaxppo.cli.progress.trials import TrialsDisplay
from purejaxppo.cli.starts import parse_sweep, parse_train
from purejaxppo.cli.sweep import print_results
from purejaxppo.config.file import read_config_file
from purejaxppo.sweeps.samplers import drawn
from purejaxppo.sweeps.space import read_space
from purejaxppo.sweeps.sweep import SweepResult
from purejaxppo.sweeps.trials import Result


def run(argv, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["purejaxppo", *argv.split()])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    return stop.value.code or 0, out, err


@pytest.fixture
def purejaxppo(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda argv: run(argv, monkeypatch, capsys)


@pytest.fixture
def swept(monkeypatch):
    """A stand-in for the sweep, which keeps what it was called with and is told what to return."""
    calls = {}

    def sweep_of(config, space, options, custom, announce, on_result):
        calls.update(config=config, space=space, options=options, custom=custom)
        if "refuse" in calls:
            raise ConfigError(calls["refuse"])
        if "done" not in calls:
            announce("plan: 1 program, 4 agents at a time")
            announce("training")
        results = []
        for trial in drawn(space, config, options).ask(10**6):
            score = calls.get("score", lambda t: -t.config.learning_rate)(trial)
            failed = score is None
            results.append(
                Result(
                    trial.number, trial.setting, "failed" if failed else "done", score, [score],
                    {}, 10, 1.0, why="no episode ended" if failed else None,
                )
            )  # fmt: skip
            if "done" not in calls:
                on_result(results[-1])
        best = max((r for r in results if r.score is not None), key=lambda r: r.score, default=None)
        return SweepResult(
            results, best and config, best, None, calls.get("problems", []), calls.get("stopped")
        )

    monkeypatch.setattr("purejaxppo.cli.sweep.sweep_of", sweep_of)
    return calls


# -- what is read ---------------------------------------------------------------------------------


def space_of(text):
    _, config, given = parse_sweep(text.split())
    return read_space(given, config)


def test_every_field_and_option_is_one_of_sweep():
    line = (
        "Acrobot-v1 --gamma 0.9 --vary num_envs=8,16 learning_rate=log:1e-4..1e-2 --trials 7 "
        "--sampler sobol --seeds 3 --batch 2 --study-dir s --quiet --json"
    )
    options, config, given = parse_sweep(line.split())
    assert config == PPOConfig.preset("Acrobot-v1", gamma=0.9)
    assert (options.trials, options.sampler, options.seeds, options.batch) == (7, "sobol", 3, 2)
    assert (options.study_dir, options.quiet, options.json) == ("s", True, True)
    assert given == [("num_envs", "8,16"), ("learning_rate", "log:1e-4..1e-2")]


def test_a_file_has_the_configuration_and_what_is_varied(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(
        'env = "Pendulum-v1"\nnum_envs = 4\n[vary]\nlearning_rate = "log:1e-4..1e-2"\n'
        'num_epochs = [2, 4]\nenv_params.g = "5..15"\n[env_params]\nmax_speed = 4\n'
    )
    options, config, _ = parse_sweep(["--config", "s.toml", "--vary", "num_epochs=1,2"])
    assert config == PPOConfig(env="Pendulum-v1", num_envs=4)
    assert options.env_params == ("max_speed=4",)
    space = space_of("--config s.toml --vary num_epochs=1,2 gamma=0.9..0.99")
    assert space.names == ["learning_rate", "env_params.g", "num_epochs", "gamma"]
    assert space.dimensions[2].choices == (1, 2)
    # the file's environment gives way to the one that is named, as its fields do
    assert parse_sweep(["CartPole-v1", "--config", "s.toml"])[1].env == "CartPole-v1"


def test_a_file_of_a_space_alone_leaves_the_configuration_to_the_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text('[vary]\ngamma = "0.9..0.99"\n')
    _, config, given = parse_sweep(["CartPole-v1", "--config", "s.toml"])
    assert config == PPOConfig.preset("CartPole-v1")
    assert given == [("gamma", "0.9..0.99")]
    _, config, _ = parse_sweep(["CartPole-v1", "--config", "s.toml", "--algorithm", "a2c"])
    assert config.objective == "policy_gradient"


def test_train_takes_a_file_over_which_options_go(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = PPOConfig.preset("Acrobot-v1", gamma=0.5, max_grad_norm=None)
    config.to_toml("c.toml")
    assert parse_train(["--config", "c.toml"])[1] == config
    assert parse_train(["--config=c.toml", "--gamma", "0.6"])[1] == config.replace(gamma=0.6)
    assert parse_train(["CartPole-v1", "--config", "c.toml"])[1].env == "CartPole-v1"
    # no preset is mixed in: a file says the same here as in Python
    (tmp_path / "few.toml").write_text("gamma = 0.5\nenv_options = ['max_steps=9']\n")
    _, found = parse_train(
        ["CartPole-v1", "--config", "few.toml", "--env-options", "gravity=5"]
    )  # fmt: skip
    assert found == PPOConfig(gamma=0.5, env_options={"max_steps": 9, "gravity": 5})


def test_numbers_of_the_environment_go_over_those_of_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text("[env_params]\ngravity = 5.0\ndoor.width = 2\n")
    options, _ = parse_train(
        ["CartPole-v1", "--config", "c.toml", "--env-params", "gravity=7", "tau=0.1"]
    )  # fmt: skip
    assert options.env_params == ("gravity=7", "door.width=2", "tau=0.1")


FILES = {
    "empty.toml": ("", "'empty.toml' is empty"),
    "no.toml": ("gamma = ", "is no TOML file"),
    "field.toml": ("gama = 1", "'field.toml': unknown option 'gama': did you mean gamma?"),
    "bad.toml": ("gamma = 2", "'bad.toml': gamma=2.0 must be between 0 and 1"),
    "noenv.toml": ("gamma = 0.9", "ENV is missing, and 'noenv.toml' does not name it"),
    "value.toml": ("env_params = 3", "'value.toml': env_params = 3 must be a table"),
    "nowhere.toml": (None, "'nowhere.toml' cannot be read"),
    "vary.toml": ("[vary]\ngamma = '0.9..0.99'", "ENV is missing, and 'vary.toml' does not"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_file_that_is_no_configuration_is_refused(purejaxppo, tmp_path, command, name):
    text, words = FILES[name]
    if text is not None:
        (tmp_path / name).write_text(text)
    before = {*tmp_path.iterdir()}
    code, out, err = purejaxppo(f"{command} --config {name}")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert words in err
    assert {*tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("train CartPole-v1 --config c.toml", "[vary], which `purejaxppo sweep --config` takes"),
        ("train --config d.toml --preset classic", "--preset has no effect beside --config"),
        ("sweep --config d.toml --algorithm a2c", "--algorithm has no effect beside --config"),
        ("train CartPole-v1 --env-params gravit=3", "env_params has 'gravit'"),
        (
            "train CartPole-v1 --env-options gravity=5 --env-params gravity=6",
            "gravity is in env_options and in env_params",
        ),
        (
            "sweep CartPole-v1 --vary env_options.gravity=5,6 env_params.gravity=3,4",
            "gravity is in env_options and in env_params",
        ),
        ("train CartPole-v1 --env-params gravity=x", "env_params gravity='x' must be a number"),
        ("train CartPole-v1 --env-params gravity", "env_params entry 'gravity' must be name="),
        ("sweep CartPole-v1", "nothing is varied"),
        ("sweep CartPole-v1 --vary", "nothing is varied"),
        ("sweep CartPole-v1 --vary lr=1..2", "did you mean learning_rate?"),
        ("sweep CartPole-v1 --vary gamma=0.9..1.5", "gamma=1.5 must be between 0 and 1"),
        ("sweep CartPole-v1 --vary gamma=0.9..0.99 gamma=0.5..0.9", "varied twice"),
        ("sweep CartPole-v1 --vary gamma=0..1 --vary gae_lambda=0..1", "all values behind it"),
        ("sweep CartPole-v1 --vary env_params.gravit=1..2", "did you mean gravity?"),
        ("sweep CartPole-v1 --vary gamma=0..1 --trials 0", "trials=0 must be at least 1"),
        ("sweep CartPole-v1 --vary gamma=0..1 --score x", "score=('x',) must be one or more"),
        ("sweep CartPole-v1 --vary gamma=0..1 --sampler sobl", "sobl"),
        ("sweep CartPole-v1 --vary gamma=0..1 --sampler grid", "gamma=0.0..1.0 is a range"),
        ("sweep CartPole-v1 --vary num_envs=8,16 --sampler grid --trials 3", "must be the 2"),
        ("sweep CartPole-v1 --n-trials 3", "unknown option --n-trials"),
        ("sweep nowhere:Env --vary env_options.x=1,2", "nowhere"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(swept, purejaxppo, tmp_path, argv, words):
    (tmp_path / "c.toml").write_text("[vary]\ngamma = '0.9..0.99'\n")
    (tmp_path / "d.toml").write_text("env = 'CartPole-v1'\n")
    code, out, err = purejaxppo(argv)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert words in err
    assert {path.name for path in tmp_path.iterdir()} == {"c.toml", "d.toml"}


# -- what is printed ------------------------------------------------------------------------------

SWEEP = "sweep CartPole-v1 --total-timesteps 8000 --vary learning_rate=log:1e-4..1e-2:3"


def test_the_plan_comes_first_and_the_best_last(swept, purejaxppo, tmp_path):
    code, out, err = purejaxppo(f"{SWEEP} num_envs=4,8 --sampler grid --seeds 2 --json")
    assert code == 0
    first, second, *_ = lines = out.splitlines()
    assert first == (
        "CartPole-v1: 6 trials (grid) with 2 seeds each as 2 programs over learning_rate, "
        "num_envs; 96,000 steps in all"
    )
    assert second == "1 program, 4 agents at a time"
    table = [line.split() for line in lines[2:9]]
    assert table[0] == ["trial", "final_return", "learning_rate", "num_envs"]
    assert table[1] == ["0", "-0.0001", "0.0001", "4"]
    assert [float(row[1]) for row in table[1:]] == [-0.0001, -0.0001, -0.001, -0.001, -0.01, -0.01]
    assert "6 of 6 trials  best -0.0001  (learning_rate=0.0001, num_envs=4)" in err
    found = json.loads(lines[-1])
    assert (found["trials"], found["failed"], found["best"]["number"]) == (6, 0, 0)
    folder = found["study_dir"]
    assert folder.startswith("studies/CartPole-v1-")
    assert f"saved in {folder}" in lines
    assert f"train the best with: purejaxppo train --config {folder}/best.toml" in lines
    assert swept["options"].study_dir == folder
    assert swept["config"].total_timesteps == 8000


def test_a_trial_that_was_stopped_early_is_not_the_best(capsys, tmp_path):
    """Neither in the table, nor in the line of progress, nor in JSON: as in best.toml."""
    space = space_of(SWEEP.removeprefix("sweep "))
    results = [
        Result(0, {"learning_rate": 1e-3}, "done", 50.0, [50.0], {}, 10, 1.0),
        Result(1, {"learning_rate": 1e-2}, "stopped", 90.0, [90.0], {}, 5, 1.0),
    ]
    result = SweepResult(results, PPOConfig(), results[0], None, [], None)
    print_results(result, space, SweepRun(json=True), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["trial", "0", "1"]
    assert json.loads(lines[-1])["best"]["number"] == 0
    display = TrialsDisplay(quiet=True)
    display.begin(2)
    for one in reversed(results):
        display(one)
    assert "best 50" in display._line(200)


def test_a_study_that_is_done_has_nothing_left_to_do(swept, purejaxppo):
    swept["done"] = True
    code, out, _ = purejaxppo(f"{SWEEP} --sampler grid --study-dir s")
    assert code == 0
    assert out.splitlines()[0] == "nothing was left to do in s"


def test_quiet_says_nothing(swept, purejaxppo):
    assert purejaxppo(f"{SWEEP} --sampler grid --quiet") == (0, "", "")


def test_trials_that_fail_are_counted_and_one_of_them_explained(swept, purejaxppo):
    swept["score"] = lambda trial: None if trial.number else 1.0
    code, out, _ = purejaxppo(f"{SWEEP} --sampler grid")
    assert code == 0
    assert "2 trials failed, the first of them: no episode ended" in out
    swept["score"] = lambda trial: None
    code, out, err = purejaxppo(f"{SWEEP} --sampler grid --json")
    assert code == 1
    assert json.loads(out.splitlines()[-1])["best"] is None
    assert "3 failed" in err


def test_problems_are_said_and_change_the_exit_code(swept, purejaxppo):
    swept["problems"] = ["trials.csv cannot be written"]
    code, _, err = purejaxppo(f"{SWEEP} --sampler grid")
    assert code == 1
    assert err.splitlines()[-1] == "purejaxppo: trials.csv cannot be written"


def test_a_sweep_that_is_stopped_says_how_it_goes_on(swept, purejaxppo):
    swept["stopped"] = 2
    code, out, err = purejaxppo(f"{SWEEP} --sampler grid")
    folder = next(line for line in out.splitlines() if line.startswith("saved in ")).split()[-1]
    assert code == 130
    assert err.splitlines()[-1] == (
        f"stopped after 3 trials; go on with: purejaxppo {SWEEP} --sampler grid --study-dir "
        f"{folder}"
    )
    _, _, err = purejaxppo(f"{SWEEP} --sampler grid --study-dir mine")
    assert err.splitlines()[-1].endswith("--sampler grid --study-dir mine")


def test_a_sweep_that_is_refused_leaves_no_folder(swept, purejaxppo, tmp_path):
    swept["refuse"] = "no space for it"
    found = purejaxppo(f"{SWEEP} --sampler grid")
    assert found == (2, "", "purejaxppo: no space for it\n")
    assert not [path for path in tmp_path.rglob("*") if path.name != "studies"]


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_reached(tmp_path):
    """A real process, a real signal: exit code 130, and a study that can be gone on with."""
    words = [
        "sweep", "CartPole-v1", "--preset", "none", "--num-envs", "4", "--num-steps", "8",
        "--num-minibatches", "2", "--hidden-sizes", "8", "--total-timesteps", "320000000",
        "--vary", "gamma=0.9..0.99", "--trials", "2", "--study-dir", "s",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", "from purejaxppo.cli import main; main()", *words], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    metrics = tmp_path / "s/runs/0000/metrics.jsonl"
    for _ in range(900):
        if metrics.exists() and metrics.stat().st_size:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out.splitlines()[-1] == "saved in s"
    assert err.splitlines()[-1] == (
        f"stopped after 0 trials; go on with: purejaxppo {' '.join(words)}"
    )
    assert list((tmp_path / "s/runs/0000/checkpoints").iterdir())


def result(number, score):
    setting = {"learning_rate": 0.00123456, "hidden_sizes": (64, 64), "max_grad_norm": None}
    status = "failed" if score is None else "done"
    return Result(number, setting, status, score, [score], {}, 10, 1.0)


def test_the_line_says_how_far_it_is_what_is_best_and_how_long_it_takes(monkeypatch):
    now = 100.0
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now)
    display = progress.TrialsDisplay()
    display.announce("compiling")
    now = 103.0
    assert display._line(80) == "compiling 0:03"
    display.begin(8)
    assert "0 of 8 trials" in display._line(80)
    now = 113.0
    display(result(0, 1.5))
    display(result(1, None))
    display(result(2, -2.0))
    now = 123.0  # 20 s for three
    line = display._line(200)
    assert line.startswith("3 of 8 trials  best 1.5")
    assert "(learning_rate=0.001235, hidden_sizes=64x64, max_grad_norm=none)" in line
    assert "1 failed" in line and "about 0:33 left" in line
    assert display._line(25) == "3 of 8 trials  best 1.5"
    for number in range(3, 9):
        display(result(number, 2.0))
    assert "9 of 9 trials  best 2" in display._line(200)
    # what was done before takes no time now
    display.begin(8, [result(number, float(number)) for number in range(4)])
    assert "4 of 8 trials  best 3 " in display._line(200)
    now = 133.0
    display(result(9, 0.0))
    assert "5 of 8 trials" in display._line(200) and "about 0:30 left" in display._line(200)


def test_a_pipe_gets_a_line_now_and_then(capsys):
    display = progress.TrialsDisplay()
    display.begin(100)
    for number in range(100):
        display(result(number, float(number)))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2  # the first, and the last
    assert lines[-1].startswith("100 of 100 trials  best 99")


def test_files_are_read_by_their_tables(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("[env_params]\na.b = 1.5\nc = 2\n[vary]\ngamma = [0.5, 0.9]\n")
    assert read_config_file(path) == (None, False, ("a.b=1.5", "c=2"), {"gamma": [0.5, 0.9]})
    with pytest.raises(ConfigError, match=r"has a table \[env_params\], which is no field"):
        PPOConfig.from_toml(path)
    path.write_text("[env_params]\n'a.b' = 1\na.b = 2\n")
    with pytest.raises(ConfigError, match=r"c.toml': env_params are given twice: keep one of"):
        read_config_file(path)
