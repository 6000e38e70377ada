"""What a run shows: on a terminal, in a pipe, and not at all."""

import json
import os
import re
import select
import subprocess
import sys
import time

import pytest

from purejaxppo import PPOConfig
from purejaxppo.cli import display
from purejaxppo.cli.display import Display

CONFIG = PPOConfig(total_timesteps=10_000)


def row(seed, episodes, return_sum, step):
    return {"step": step, "seed": seed, "episodes": episodes, "return_sum": return_sum}


@pytest.fixture
def clock(monkeypatch):
    now = {"seconds": 0.0}
    monkeypatch.setattr(display.time, "perf_counter", lambda: now["seconds"])
    return now


def test_lines_in_a_pipe_by_hand(clock, capsys):
    """Two seeds; 10 s pass between the first rows and the last; speeds count from the first."""
    with Display(CONFIG, 2) as show:
        for seed in range(2):
            show(1000, row(seed, 1, 10.0, 1000))
        clock["seconds"] = 5.0  # too soon
        for seed in range(2):
            show(2000, row(seed, 0, 0.0, 2000))
        clock["seconds"] = 10.1
        show(3020, row(0, 3, 60.0, 3020))
        show(3020, {"step": 3020, "seed": 0, "eval_return_mean": 1.0})  # of an evaluation
        show(3020, row(1, 0, 0.0, 3020))
    out, err = capsys.readouterr()
    assert out == ""
    # (10 + 60) / 4 and 10 / 1; 2020 steps of two seeds in 10.1 s; 6980 left at 200 a second
    assert err == "3,020 steps  return 13.8 (17.5 10.0)  400 steps/s  35 s left\n"


def test_one_seed_and_no_episode(clock, capsys):
    show = Display(CONFIG, 1)
    show(100, row(0, 0, 0.0, 100))
    clock["seconds"] = 20.0
    show(200, row(0, 0, 0.0, 200))
    assert "200 steps  return -  5 steps/s" in capsys.readouterr().err


def test_many_seeds_are_summed_up(clock, capsys):
    show = Display(CONFIG, 40)
    for step in (100, 200):
        for seed in range(40):
            show(step, row(seed, 1, float(seed), step))
        clock["seconds"] += 11.0
    show(300, row(39, 1, 39.0, 300))
    assert "return 19.5 (0.0 to 39.0)" in capsys.readouterr().err


COMMAND = [
    sys.executable, "-c", "from purejaxppo.cli.main import main; main()", "train", "CartPole-v1",
    "--preset", "none", "--num-envs", "4", "--num-steps", "8", "--num-minibatches", "2",
    "--num-epochs", "1", "--hidden-sizes", "8", "--seeds", "2",
]  # fmt: skip


@pytest.mark.slow
def test_bars_on_a_terminal(tmp_path):
    """A pseudo-terminal: a bar for each seed, which goes away; the table stays."""
    pty = pytest.importorskip("pty", reason="pseudo-terminals are POSIX's")
    master, slave = pty.openpty()
    command = [*COMMAND, "--total-timesteps", "1920000", "--run-dir", "run"]
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=env, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    shown, ends = b"", time.monotonic() + 120
    while time.monotonic() < ends:
        if select.select([master], [], [], 0.1)[0]:
            try:
                data = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if not data:
                break
            shown += data
    assert process.wait(timeout=30) == 0
    os.close(master)
    text = shown.decode()
    assert "\x1b[" in text
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    for seed in range(2):
        assert re.search(rf"seed {seed} .*[\d,]+ steps +return [\d.]+ +[\d,]+ steps/s", plain)
    assert re.search(r"\d:\d\d:\d\d", plain)  # time left
    assert "final return" in plain
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")  # the cursor is shown again


@pytest.mark.slow
def test_nothing_but_text_in_a_pipe_and_nothing_when_quiet(tmp_path):
    def run(*more):
        done = subprocess.run(
            [*COMMAND, "--total-timesteps", "64", *more],
            cwd=tmp_path, env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout, done.stderr

    out, err = run("--run-dir", "a")
    assert "\x1b" not in out + err
    assert "2 updates of 32 steps" in out
    assert "final return" in out
    assert run("--run-dir", "b", "--quiet") == ("", "")
    out, err = run("--run-dir", "c", "--quiet", "--json")
    assert json.loads(out)["timesteps"] == 64
    assert err == ""
