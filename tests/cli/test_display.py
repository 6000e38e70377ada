"""What a run shows: on a terminal of any width, in a pipe, and not at all."""

import contextlib
import importlib
import io
import itertools
import json
import math
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import purejaxppo
from purejaxppo.cli.progress import display, screen
from purejaxppo.cli.progress.display import Display
from purejaxppo.cli.progress.frame import Progress, fitted, frame, waiting
from purejaxppo.cli.progress.screen import Screen, is_screen
from purejaxppo.cli.streams import encoded
from purejaxppo.cli.words import clock, compact, counted, number

if os.name != "nt":
    from support.terminal import Terminal, frames, screenshot

POSIX = pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals are POSIX's")
TOTAL = 10_000
WIDTHS = (60, 80, 100, 160)

# -- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (counted(1, "seed"), "1 seed"),
        (counted(0, "seed"), "0 seeds"),
        (counted(1000, "episode"), "1,000 episodes"),
        (number(-123456.7), "-123456.7"),
        (number(-1234567.8), "-1.23e+06"),
        (number(-0.04), "0.0"),
        (number(math.nan), "-"),
        (number(math.inf), "-"),
        (compact(0), "0"),
        (compact(999), "999"),
        (compact(12_345), "12.3k"),
        (compact(999_999), "1M"),  # not 1000k, nor 1e+03k
        (compact(1_000_000_000), "1B"),
        (compact(2**62), "4.61e+18"),
        (clock(0.9), "0:00"),
        (clock(754), "12:34"),
        (clock(3723), "1:02:03"),
        (clock(359_999), "99:59:59"),
        (clock(432_000), "5 days"),
    ],
)
def test_numbers_in_words(written, expected):
    assert written == expected


# -- frames ------------------------------------------------------------------------------------

LOSSES = {"policy_loss": -0.0123, "value_loss": 12.3, "entropy": 0.693, "approx_kl": 0.0051}


def progress(seeds, *, evaluated=True, returns=(23.5,), **changes):
    """A run of half a million steps; returns go round among the seeds."""
    numbers = [returns[i % len(returns)] for i in range(seeds)]
    columns = {"return": numbers}
    columns |= {"evaluated": [x + 1 for x in numbers]} if evaluated else {}
    columns |= {"length": numbers} | {name: [x] * seeds for name, x in LOSSES.items()}
    fields = dict(step=225_000, total=500_000, speed=123_456.0, elapsed=12.0, left=75.0)
    return Progress(**{**fields, **changes}, columns=columns)


TWO_SEEDS = {
    60: """\
 45%  225k of 500k steps  123,456 steps/s  0:12  1:15 left
seed 0  return      23.5  evaluated      24.5
seed 1  return     500.0  evaluated     501.0""",
    80: """\
 45%  225,000 of 500,000 steps  123,456 steps/s  0:12 elapsed  1:15 left
seed 0  return      23.5  evaluated      24.5  length      23.5
seed 1  return     500.0  evaluated     501.0  length     500.0""",
    100: """\
━━━━━━━━━───────────   45%  225,000 of 500,000 steps  123,456 steps/s  0:12 elapsed  1:15 left
seed 0  return      23.5  evaluated      24.5  length      23.5  policy_loss   -0.0123
seed 1  return     500.0  evaluated     501.0  length     500.0  policy_loss   -0.0123""",
    160: """\
━━━━━━━━━━━━━━━━━━──────────────────────   45%  225,000 of 500,000 steps  123,456 steps/s  \
0:12 elapsed  1:15 left
seed 0  return      23.5  evaluated      24.5  length      23.5  policy_loss   -0.0123  \
value_loss      12.3  entropy     0.693  approx_kl    0.0051
seed 1  return     500.0  evaluated     501.0  length     500.0  policy_loss   -0.0123  \
value_loss      12.3  entropy     0.693  approx_kl    0.0051""",
}


@pytest.mark.parametrize("width", WIDTHS)
def test_two_seeds_at_every_width(width):
    lines = frame(progress(2, returns=(23.5, 500.0)), width, 24)
    assert "\n".join(lines) == TWO_SEEDS[width]


MANY_SEEDS = {
    60: """\
 45%  225k of 500k steps  123,456 steps/s  0:12  1:15 left
40 seeds  return     250.0 (0.0 .. 500.0)""",
    80: """\
 45%  225,000 of 500,000 steps  123,456 steps/s  0:12 elapsed  1:15 left
40 seeds  return     250.0 (0.0 .. 500.0)  policy_loss   -0.0123""",
    100: """\
━━━━━━━━━───────────   45%  225,000 of 500,000 steps  123,456 steps/s  0:12 elapsed  1:15 left
40 seeds  return     250.0 (0.0 .. 500.0)  policy_loss   -0.0123  value_loss      12.3""",
    160: """\
━━━━━━━━━━━━━━━━━━──────────────────────   45%  225,000 of 500,000 steps  123,456 steps/s  \
0:12 elapsed  1:15 left
40 seeds  return     250.0 (0.0 .. 500.0)  length     250.0  policy_loss   -0.0123  \
value_loss      12.3  entropy     0.693  approx_kl    0.0051""",
}


@pytest.mark.parametrize("width", WIDTHS)
def test_many_seeds_share_a_line(width):
    lines = frame(progress(40, evaluated=False, returns=(0.0, 500.0)), width, 24)
    assert "\n".join(lines) == MANY_SEEDS[width]


def test_one_seed_before_anything_is_known():
    columns = {"return": [math.nan], "evaluated": [math.nan]}
    lines = frame(Progress(0, 500_000, None, 3.0, None, columns), 80, 24)
    assert lines == [
        "──────────────────────────────    0%        0 of 500,000 steps  0:03 elapsed",
        "seed 0  return         -  evaluated         -",
    ]


@pytest.mark.parametrize(
    ("seeds", "rows", "lines"), [(16, 24, 17), (17, 24, 2), (16, 16, 2), (2, 1, 1)]
)
def test_seeds_that_do_not_fit_the_height_share_a_line(seeds, rows, lines):
    assert len(frame(progress(seeds), 80, rows)) == lines


LARGE = [
    dict(step=10**9, total=10**9, speed=1e6, elapsed=12_345.0, left=0.0),
    dict(step=999_999_999, total=10**9, speed=123_456_789.0, elapsed=3e5, left=3e5),
    dict(step=1, total=2**62, speed=0.01, elapsed=1e7, left=1e15),
]
NEEDED = {
    60: [r"\w of \w", "steps/s", "left"],
    80: [r"\w of \w", "steps/s", "left", "%"],
    100: [r"\w of \w", "steps/s", "left", "%", "elapsed"],
    160: [r"\w of \w", "steps/s", "left", "%", "elapsed", "━|─"],
}


@pytest.mark.parametrize("large", LARGE, ids=str)
@pytest.mark.parametrize("seeds", [1, 16, 17, 1000])
@pytest.mark.parametrize("width", WIDTHS)
def test_large_numbers_are_not_cut(width, seeds, large):
    lines = frame(progress(seeds, returns=(-123456.7,), **large), width, 24)
    assert max(map(len, lines)) <= width
    assert all(re.search(part, lines[0]) for part in NEEDED[width])
    for line in lines[1:]:
        assert "return -123456.7" in line
        assert "evaluated -123455.7" in line
        assert width < 160 or all(f"{name} " in line for name in LOSSES)
        assert not line.endswith(("…", "..."))
    assert (len(lines) == 1 + seeds) == (seeds <= 16)
    assert seeds <= 16 or lines[1].startswith(f"{seeds:,} seeds  ")


@pytest.mark.parametrize("width", range(1, 200, 7))
def test_no_width_is_exceeded(width):
    for seeds in (1, 3, 16, 40):
        for large in LARGE:
            lines = frame(progress(seeds, returns=(-1e30, math.nan), **large), width, 24)
            assert max(map(len, lines)) <= width


def test_what_is_important_has_room_first():
    wishes = [(1, "b"), (0, "a"), (1, "bbb"), (2, "cccc")]
    assert fitted(wishes, 8, gaps=False) == fitted(wishes, 9, gaps=False) == "a  bbb"
    assert fitted([*wishes, (3, "")], 8, gaps=False) == "a  bbb"
    found = {width: fitted(wishes, width) for width in (0, 1, 4, 6, 12)}
    assert found == {0: "", 1: "b", 4: "a  b", 6: "a  bbb", 12: "a  bbb  cccc"}


@pytest.mark.parametrize(
    ("seconds", "clock"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (61, "1:01"), (3600, "1:00:00")]
)
def test_a_phase_has_a_clock(seconds, clock):
    assert waiting("tracing", seconds) == f"tracing  {clock}"


# -- pipes -------------------------------------------------------------------------------------


def row(seed, episodes, return_sum, step):
    return {"step": step, "seed": seed, "episodes": episodes, "return_sum": return_sum}


@pytest.fixture
def seconds(monkeypatch):
    now = {"seconds": 0.0}
    monkeypatch.setattr(display.time, "perf_counter", lambda: now["seconds"])
    return now


def test_lines_in_a_pipe_by_hand(seconds, capsys):
    """Two seeds; 10 s pass between the first rows and the last; speeds count from the first."""
    with Display(TOTAL, 2) as show:
        for seed in range(2):
            show(1000, row(seed, 1, 10.0, 1000))
        seconds["seconds"] = 5.0  # too soon
        for seed in range(2):
            show(2000, row(seed, 0, 0.0, 2000))
        seconds["seconds"] = 10.1
        show(3020, row(0, 3, 60.0, 3020))
        show(3020, {"step": 3020, "seed": 0, "eval_return_mean": 1.0})  # of an evaluation
        show(3020, row(1, 0, 0.0, 3020))
    out, err = capsys.readouterr()
    assert out == ""
    # (10 + 60) / 4 and 10 / 1; 2020 steps of two seeds in 10.1 s; 6980 left at 200 a second
    assert err == "3,020 steps  return 13.8 (17.5 10.0)  400 steps/s  35 s left\n"


def test_one_seed_and_no_episode(seconds, capsys):
    show = Display(TOTAL, 1)
    show(100, row(0, 0, 0.0, 100))
    seconds["seconds"] = 20.0
    show(200, row(0, 0, 0.0, 200))
    assert "200 steps  return -  5 steps/s" in capsys.readouterr().err


def test_many_seeds_are_summed_up(seconds, capsys):
    show = Display(TOTAL, 40)
    for step in (100, 200):
        for seed in range(40):
            show(step, row(seed, 1, float(seed), step))
        seconds["seconds"] += 11.0
    show(300, row(39, 1, 39.0, 300))
    assert "return 19.5 (0.0 .. 39.0)" in capsys.readouterr().err


PHASES = ["importing jax", "building the environment", "tracing", "compiling", "training"]


def test_in_a_pipe_what_takes_long_is_said_in_a_line(capsys):
    with Display(TOTAL, 1) as show:
        for phase in PHASES:
            show.announce(phase)
    assert capsys.readouterr().err == "tracing ...\ncompiling ...\n"


def test_quiet_says_nothing(seconds, capsys):
    with Display(TOTAL, 1, quiet=True) as show:
        for phase in PHASES:
            show.announce(phase)
        for step in (100, 200):
            show(step, row(0, 1, 1.0, step))
            seconds["seconds"] += 20.0
    assert capsys.readouterr() == ("", "")


# -- screens -----------------------------------------------------------------------------------


class Standing(io.StringIO):
    """A stream that says it leads to a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "term", "expected"),
    [(Standing, "xterm", True), (Standing, "dumb", False), (io.StringIO, "xterm", False)],
)
def test_lines_move_only_where_they_can(stream, term, expected, monkeypatch):
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(screen.os, "name", "posix")
    assert is_screen(stream()) == expected


def test_bars_in_ascii():
    assert encoded("━━─ ±", "ascii") == b"==- +-"


@contextlib.contextmanager
def terminal_here(monkeypatch):
    """This process on a terminal of 40 columns; yields what returns all that is written since."""
    pty = importlib.import_module("pty")
    termios, fcntl = map(importlib.import_module, ("termios", "fcntl"))
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, b"\x0a\x00\x28\x00\x00\x00\x00\x00")

    def written():
        found = b""
        while select.select([master], [], [], 0.1)[0]:
            found += os.read(master, 65536)
        return found.decode()

    # within a test: pytest puts its own streams in their places before
    with (
        os.fdopen(os.dup(slave), "w", encoding="utf-8") as out,
        os.fdopen(slave, "w", encoding="utf-8") as err,
        monkeypatch.context() as patch,
    ):
        patch.setenv("TERM", "xterm")
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        yield written
    os.close(master)


@POSIX
def test_what_others_print_goes_above_the_lines(monkeypatch):
    with terminal_here(monkeypatch) as written:
        before = sys.stdout, sys.stderr
        with Screen(lambda columns, rows: [f"{columns} x {rows}", "below"]) as drawn:
            print("one", end="")
            print(" line", file=sys.stdout)
            sys.stderr.write("two\nthree\nfo")
            time.sleep(0.5)  # it is drawn again
            with drawn.aside():
                during = written()
        assert (sys.stdout, sys.stderr) == before
        shown = during.rpartition("\r\x1b[1A\x1b[J")[0]  # before it was moved aside
        lines = ["one line", "two", "three", "39 x 10", "below"]
        assert screenshot(shown, 40, 10) == lines
        assert screenshot(during + written(), 40, 10) == [*lines[:3], "fo"]


@POSIX
def test_a_display_on_a_terminal_leaves_nothing_behind(monkeypatch, seconds):
    def reads(words):
        nonlocal shown
        for _ in range(50):
            shown += written()
            if words in shown:
                return True
        return False

    shown = ""
    with terminal_here(monkeypatch) as written, Display(TOTAL, 1) as show:
        assert reads("importing jax  0.0 s")
        seconds["seconds"] = 1.5
        show.announce("tracing")
        seconds["seconds"] = 3.5
        assert reads("tracing  2.0 s")
        show.announce("training")
        assert reads("0 of 10,000 steps  0:00")
        show.close()
        shown += written()
    assert screenshot(shown, 40, 10) == []
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1


# -- the command on a terminal -----------------------------------------------------------------

ROOT = Path(purejaxppo.__file__).parents[1]
MAIN = [sys.executable, "-c", "from purejaxppo.cli.main import main; main()"]
COMMAND = [
    *MAIN, "train", "CartPole-v1", "--preset", "none", "--num-envs", "4", "--num-steps", "8",
    "--num-minibatches", "2", "--num-epochs", "1", "--hidden-sizes", "8", "--seeds", "2",
]  # fmt: skip


def variables(**changes):
    names = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    names |= {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    names |= {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache")}
    names |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return names | changes


def seconds_of(line):
    """The clock in a line, in seconds."""
    if found := re.search(r"  (\d+\.\d) s$", line):
        return float(found[1])
    minutes, rest = re.search(r"  (\d+):(\d\d)(?: elapsed)?  ", line).groups()
    return 60 * int(minutes) + int(rest)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What a run shows on a terminal whose width changes, until ctrl-C; frames by width."""
    folder = tmp_path_factory.mktemp("terminal")
    argv = ["--total-timesteps", "320000000", "--run-dir", "run", "--eval-every", "32000"]
    env = variables(JAX_DISABLE_MOST_OPTIMIZATIONS="1", NO_COLOR="1")
    terminal = Terminal([*COMMAND, *argv, "--eval-episodes", "2"], 60, cwd=folder, env=env)
    found = {}
    try:
        before = terminal.read(lambda text: "left" in text)
        for width in WIDTHS:
            terminal.resize(width)
            terminal.read(lambda text: text.count("left") >= 2)  # one may be of the old width
            text = terminal.read(lambda text: len(frames(text)) >= 4 and "evaluated  " in text)
            found[width] = frames(text)
        terminal.process.send_signal(signal.SIGINT)
        code = terminal.end()
    finally:
        terminal.process.kill()
    return terminal, before, found, code


@POSIX
@pytest.mark.slow
def test_a_command_says_what_it_does_from_its_first_second(seen):
    """Each phase with a clock that moves; by its own clocks: the machine may be busy."""
    terminal, before, found, _ = seen
    assert terminal.first < 2
    lines = [lines[0] for lines in frames(before)]
    phases = list(dict.fromkeys(line.rpartition("  ")[0] for line in lines if line[0].islower()))
    assert phases == PHASES[:-1]
    for phase in phases:
        clocks = [seconds_of(line) for line in lines if line.startswith(phase)]
        assert all(0 < after - now < 2 for now, after in itertools.pairwise(clocks))
        assert clocks[0] < 2
    for width in WIDTHS:
        clocks = [seconds_of(lines[0]) for lines in found[width]]
        assert all(0 <= after - now <= 2 for now, after in itertools.pairwise(clocks))


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_a_run_fits_its_terminal(seen, width):
    """Nothing is cut or wrapped, and the wider it is, the more there is to see."""
    found = seen[2][width]
    for lines in found:
        assert len(lines) == 3
        assert max(map(len, lines)) < width
        assert not any(line.rstrip().endswith(("…", "...")) for line in lines)
        assert all(re.search(part, lines[0]) for part in NEEDED[width] if "elapsed" not in part)
        assert re.match(r"seed 0  return +[\d.]+  evaluated +[\d.]+", lines[1])
        assert ("length" in lines[1]) == (width >= 80)
        assert all((f"{name} " in lines[1]) == (width >= 160) for name in list(LOSSES)[1:])


@POSIX
@pytest.mark.slow
def test_a_terminal_after_a_run(seen):
    """The lines that moved are gone; what was said stays, and the cursor is there again."""
    terminal, *_, code = seen
    assert code == 130
    lines = screenshot(terminal.text, 160, 60)
    assert lines[0].startswith("CartPole-v1: 10,000,000 updates of 32 steps")
    assert "purejaxppo: stopping after the updates in flight; again: at once" in lines
    text = "\n".join(lines)
    assert "final return" in text
    assert "go on with: purejaxppo train CartPole-v1 --resume --run-dir run" in text
    assert not re.search(r" left|compiling  |tracing", text)
    assert terminal.text.rfind("\x1b[?25h") > terminal.text.rfind("\x1b[?25l")
    assert not re.search(r"\x1b\[[0-9;]*m", "".join(map(str, frames(terminal.text))))


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize("phase", ["importing jax", "tracing", "compiling"])
def test_ctrl_c_on_a_terminal_before_anything_is_trained(tmp_path, phase):
    """The command ends at once, says so, and the line that moved is gone."""
    env = variables(JAX_ENABLE_COMPILATION_CACHE="0", JAX_DISABLE_MOST_OPTIMIZATIONS="0")
    argv = ["--total-timesteps", "64", "--run-dir", "r"]
    terminal = Terminal([*COMMAND, *argv], 80, cwd=tmp_path, env=env)
    try:
        moving = re.compile(rf"{phase}  (0\.[3-9]|[1-9])")
        terminal.read(lambda text: moving.search(text) is not None)
        started = time.monotonic()
        terminal.process.send_signal(signal.SIGINT)
        code = terminal.end()
        took = time.monotonic() - started
    finally:
        terminal.process.kill()
    assert code == 130
    assert took < 0.5
    said = " ".join(screenshot(terminal.text, 80))
    assert "purejaxppo: interrupted" in said
    assert not re.search("tracing|compiling|importing|building", said)
    if phase != "importing jax":
        assert "nothing was trained yet; go on with: purejaxppo train" in said
        assert said.startswith("CartPole-v1: 2 updates of 32 steps")


@pytest.mark.slow
def test_nothing_but_text_in_a_pipe_and_nothing_when_quiet(tmp_path):
    def run(*more):
        done = subprocess.run(
            [*COMMAND, "--total-timesteps", "64", *more],
            cwd=tmp_path, env=variables(JAX_DISABLE_MOST_OPTIMIZATIONS="1"),
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout, done.stderr

    out, err = run("--run-dir", "a")
    assert "\x1b" not in out + err
    assert "\r" not in out + err
    assert "2 updates of 32 steps" in out
    assert "final return" in out
    assert err == "tracing ...\ncompiling ...\n"
    out, err = run("--run-dir", "b", "--quiet", "--json")
    assert json.loads(out)["timesteps"] == 64
    assert err == ""
