"""Real processes: signals, closed and full outputs, folders and devices that are not there."""

import ast
import errno
import importlib
import io
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import jax
import pytest

import purejaxppo
from purejaxppo import ConfigError, PPOConfig, fit, tuning
from purejaxppo.cli import signals
from purejaxppo.cli import train as console
from purejaxppo.cli.streams import Output, forgiving_streams
from purejaxppo.envs import registry

if os.name == "nt":
    reason = "bash, POSIX's signals, and descriptors that are closed when a process starts"
    pytest.skip(reason, allow_module_level=True)

entry = importlib.import_module("purejaxppo.cli.main")
ROOT = Path(purejaxppo.__file__).parents[1]
MAIN = "from purejaxppo.cli.main import COMMANDS, main\n"
# -P: the folder where it starts is not on the path, as it is not for the installed command
PYTHON = [sys.executable, "-P", "-c"]
SMALL = (
    "train CartPole-v1 --preset none --num-envs 2 --num-steps 8 --num-minibatches 2 --num-epochs 1 "
    "--hidden-sizes 8 --total-timesteps 32"
)
FILES = {
    "config.toml", "run.json", "metrics.jsonl", "evaluations.jsonl", "checkpoints", "agents.npz",
    "curve.png", "summary.json", ".lock",
}  # fmt: skip


PHASES = b"tracing ...\ncompiling ...\n"
"""What a run says on stderr where that is no terminal."""


def environment(**changes):
    """Variables of a process that compiles quickly, and of nobody's device; None: not set."""
    names = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    names |= {"PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    names["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / ".jax_cache")
    names["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return {k: v for k, v in (names | changes).items() if v is not None}


def command(argv, code="main()", *, redirect="", cwd=None, **changes):
    """Runs `purejaxppo argv` through a shell, which can close what it starts with."""
    words = shlex.join([*PYTHON, MAIN + code, *shlex.split(argv)])
    return subprocess.run(
        f"{words} {redirect}", shell=True, executable="/bin/bash", cwd=cwd,
        env=environment(**changes), capture_output=True, timeout=120,
    )  # fmt: skip


def one_line(done, code, *words):
    """Checks the code and the one line on stderr of a command that has failed."""
    text = done.stderr.decode()
    assert done.returncode == code, text
    assert text.startswith("purejaxppo: ") and len(text.splitlines()) == 1, text
    assert all(word.lower() in text.lower() for word in words), text


def is_whole(folder):
    return {path.name for path in folder.iterdir()} == FILES


# -- signals of others ----------------------------------------------------------------------------

OTHERS = [signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGWINCH]


@pytest.mark.parametrize("number", OTHERS)
def test_the_handlers_of_a_user_beside_a_command(number):
    """Their second signal ended the process; and who listened before, asyncio, gets them all."""
    calls = []
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    theirs.setblocking(False)
    before = signal.signal(number, lambda *_: calls.append(number))
    outer = signal.set_wakeup_fd(theirs.fileno())
    try:
        with signals.end_at_signals():
            for _ in range(3):
                signal.raise_signal(number)
        assert calls == [number] * 3
        received = b""
        while len(received) < 3:
            received += ours.recv(3)
        assert received == bytes([number]) * 3
        assert signal.set_wakeup_fd(outer) == theirs.fileno()
    finally:
        signal.set_wakeup_fd(outer)
        signal.signal(number, before)
        ours.close()
        theirs.close()


def test_who_listens_from_within_a_command_keeps_it():
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    outer = signal.set_wakeup_fd(-1)
    try:
        with signals.end_at_signals():
            signal.set_wakeup_fd(theirs.fileno())
        assert signal.set_wakeup_fd(-1) == theirs.fileno()
    finally:
        signal.set_wakeup_fd(outer)
        ours.close()
        theirs.close()


CHILDREN = """
import os, signal, subprocess, sys, threading, time
counts = {signal.SIGCHLD: 0, signal.SIGUSR1: 0}
def count(number, frame): counts[number] += 1
for number in counts: signal.signal(number, count)
def disturb():
    while True:
        subprocess.run(["true"])
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.05)
threading.Thread(target=disturb, daemon=True).start()
try:
    main()
finally:
    print(*counts.values())
"""


@pytest.mark.slow
def test_sigchld_and_sigusr1_while_a_run_trains(tmp_path):
    done = command(f"{SMALL} --run-dir r --quiet", CHILDREN, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert all(int(count) > 2 for count in done.stdout.split())
    assert is_whole(tmp_path / "r")


# -- being stopped --------------------------------------------------------------------------------

# a command that never gives Python's handlers a turn is like a compilation
BUSY = """
import time
def busy(argv):
    print("ready", flush=True)
    {}
    return 0
COMMANDS["train"] = busy
main()
"""


def signalled(code, number, before=""):
    """Starts a command, sends a signal once it is busy, and returns how it ended, and seconds."""
    words = shlex.join([*PYTHON, MAIN + code, "train"])
    process = subprocess.Popen(
        ["/bin/bash", "-c", f"{before} exec {words}"], env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "ready\n"
        started = time.perf_counter()
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    return process.returncode, err, time.perf_counter() - started


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "work",
    [
        "time.sleep(30)",  # as in a compilation, Python has no turn, and no lock
        "import re; re.match('(a+)+b', 'a' * 60)",  # it keeps the lock, and asks for signals
        "while True:\n        try: time.sleep(0.1)\n        except BaseException: pass",
    ],
)
def test_a_first_signal_ends_what_saves_nothing_at_once(number, code, work):
    found, err, seconds = signalled(BUSY.format(work), number)
    assert (found, err) == (code, "purejaxppo: interrupted\n")
    assert seconds < 5


CHILD = """
import multiprocessing, sys, time
def busy(argv):
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    open({!r}, "w").write(str(child.pid))
    print("ready", flush=True)
    time.sleep(60)
COMMANDS["train"] = busy
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_processes_of_environments_end_with_their_command(tmp_path, number):
    found = signalled(CHILD.format(str(tmp_path / "child")), number)
    assert found[:2] == (128 + number, "purejaxppo: interrupted\n")
    child = int((tmp_path / "child").read_text())
    ends = time.monotonic() + 5
    while time.monotonic() < ends:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("it goes on")


def test_a_signal_that_is_ignored_stays_ignored():
    """As in a script's background, or behind nohup."""
    found = signalled(BUSY.format("time.sleep(1)"), signal.SIGINT, "trap '' INT;")
    assert found[:2] == (0, "")


def compiling(folder, number):
    """Starts a run that takes long to compile, and sends a signal once it does."""
    argv = f"{SMALL} --gamma 0.5 --run-dir r".split()
    changes = {"JAX_DISABLE_MOST_OPTIMIZATIONS": None, "JAX_ENABLE_COMPILATION_CACHE": "0"}
    process = subprocess.Popen(
        [*PYTHON, MAIN + "main()", *argv, "--quiet"], cwd=folder, env=environment(**changes),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while process.poll() is None and not (folder / "r/config.toml").exists():
        time.sleep(0.01)
    time.sleep(1)
    started = time.perf_counter()
    process.send_signal(number)
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err, time.perf_counter() - started


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_while_compiling(tmp_path, number, code):
    """At once, it says that nothing was trained, and the command that it tells begins the run."""
    found, out, err, seconds = compiling(tmp_path, number)
    assert (found, out) == (code, "")
    go_on = "purejaxppo train CartPole-v1 --resume --run-dir r"
    assert err == f"purejaxppo: interrupted: nothing was trained yet; go on with: {go_on}\n"
    assert seconds < 0.5
    assert not (tmp_path / "r/agents.npz").exists()
    if number == signal.SIGINT:
        done = command(go_on.removeprefix("purejaxppo "), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert is_whole(tmp_path / "r")
        assert PPOConfig.from_toml(tmp_path / "r/config.toml").gamma == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.3, 0.8])
def test_ctrl_c_while_packages_are_imported(tmp_path, seconds):
    process = subprocess.Popen(
        [*PYTHON, MAIN + "print('ready', flush=True); main()", *SMALL.split()],
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "purejaxppo: interrupted\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("rows", "words"), [(None, "nothing was trained"), ("", "nothing was"), ("{}\n", "was saved")]
)
def test_what_is_said_of_a_run_that_is_interrupted_is_true(tmp_path, rows, words):
    if rows is not None:
        (tmp_path / "metrics.jsonl").write_text(rows)
        (tmp_path / "config.toml").touch()
    said = console.when_ended("interrupted", "CartPole-v1", tmp_path)
    assert words in said
    # what has not begun cannot be resumed
    assert ("--resume" in said) == (rows is not None)


# -- outputs --------------------------------------------------------------------------------------

FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
LOST = [
    (">&-", b"it is closed"),
    pytest.param(">/dev/full", b"No space left on device", marks=FULL),
]


@pytest.mark.parametrize(("redirect", "why"), LOST)
@pytest.mark.parametrize("argv", ["--help", "eval --help", "envs --help"])
def test_output_that_cannot_be_printed(argv, redirect, why):
    """Said once on stderr, and the exit code is 1."""
    done = command(argv, redirect=redirect)
    expected = b"purejaxppo: not everything could be printed on standard output: %b\n" % why
    assert (done.returncode, done.stderr) == (1, expected)


@pytest.mark.parametrize("redirect", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_mistake_that_nobody_can_be_told_of(redirect):
    done = command("train X --gamma two", redirect=redirect)
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")


@pytest.mark.parametrize(
    "changes",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
@pytest.mark.parametrize(
    ("argv", "code"), [("export --help", 0), ("train X --objective ±", 2), ("±", 2)]
)
def test_letters_that_an_output_lacks(argv, code, changes):
    done = command(argv, **changes)
    assert done.returncode == code, done.stderr
    assert (done.stdout + done.stderr).isascii()
    assert b"Traceback" not in done.stderr
    assert done.stdout if code == 0 else done.stderr.startswith(b"purejaxppo: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirect", "options", "said"),
    [
        ("<&- >&-", "", b"it is closed"),
        pytest.param(">/dev/full", "--json", b"No space left on device", marks=FULL),
        (">&- 2>&-", "", b""),
        ("| true", "--json", b""),  # a reader that goes away is not spoken of
    ],
)
def test_a_run_is_trained_and_saved_whatever_becomes_of_its_output(
    tmp_path, redirect, options, said
):
    done = command(f"{SMALL} --run-dir r {options}", redirect=redirect, cwd=tmp_path)
    assert is_whole(tmp_path / "r"), done.stderr
    assert said in done.stderr
    lines = done.stderr.removeprefix(PHASES).splitlines()
    assert len(lines) == (1 if said else 0), done.stderr
    if "|" not in redirect:  # of a pipe, the shell returns the other's code
        assert done.returncode == 1


@pytest.mark.slow
def test_a_run_is_printed_in_ascii(tmp_path):
    changes = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "JAX_PLATFORMS": ""}
    longer = SMALL.replace("--total-timesteps 32", "--total-timesteps 512")
    done = command(f"{longer} --seeds 2 --run-dir r", cwd=tmp_path, **changes)
    assert (done.returncode, done.stderr) == (0, PHASES)
    assert b"(mean +- std over 2 seeds)" in done.stdout
    assert is_whole(tmp_path / "r")


class Failing(io.StringIO):
    """A stream that fails from its second writing on."""

    def __init__(self):
        super().__init__()
        self.errors_left = [OSError(errno.EIO, "first"), OSError(errno.ENOSPC, "second")]

    def write(self, text):
        if self.getvalue():
            raise self.errors_left.pop(0)
        return super().write(text)


def test_the_first_error_of_writing_is_remembered():
    stream = Failing()
    output = Output(stream)
    output.writelines(["one\n", "two\n", "three\n"])
    output.flush()
    assert stream.getvalue() == "one\n"
    assert output.lost is not None and output.lost.strerror == "first"


@pytest.mark.parametrize(
    ("encoding", "text", "written"),
    [
        ("ascii", "1 ± 2 …", b"1 +- 2 ..."),
        ("ascii", "é", b"\\xe9"),
        ("latin-1", "± …", b"+- ..."),
        ("utf-8", "± …", "± …".encode()),
        ("utf-8", "run\udcff", b"run\\udcff"),  # a name of a folder that is no text
    ],
)
def test_letters_are_replaced_one_by_one(encoding, text, written):
    raw = io.BytesIO()
    output = Output(io.TextIOWrapper(raw, encoding=encoding))
    assert output.write(text) == len(text)
    output.flush()
    assert (raw.getvalue(), output.lost) == (written, None)


def test_nothing_is_lost_of_a_closed_stream_that_nothing_is_printed_on():
    output = Output(None)
    output.write("")
    output.flush()
    assert output.lost is None
    print("a line", file=output)
    assert output.lost.errno == errno.EBADF


def test_streams_are_put_back(capsys):
    before = sys.stdout, sys.stderr
    with forgiving_streams() as lost:
        print("kept")
        assert sys.stdout is not before[0]
    assert not lost()
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "kept\n"


# -- the folder where the user is -----------------------------------------------------------------

NAMES = ["libtpu", "jax", "numpy", "rich", "tyro", "matplotlib", "gymnax", "brax", "jumanji", "six"]


@pytest.fixture
def poisoned(tmp_path):
    """A folder of files named like packages, which leave a trace where they are executed."""
    for name in NAMES:
        trace = tmp_path / "executed"
        (tmp_path / f"{name}.py").write_text(f"open({str(trace)!r}, 'a').write({name!r})\n")
    yield tmp_path
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("argv", ["--help", "train X --gamma two", "plot --help"])
def test_files_named_like_packages_are_not_executed(poisoned, argv):
    done = command(argv, cwd=poisoned)
    assert done.returncode == (0 if "help" in argv else 2), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("argv", ["envs pgx", f"{SMALL} --run-dir r --quiet"])
def test_libtpu_in_the_folder_is_not_executed(poisoned, argv):
    assert command(argv, cwd=poisoned).returncode == 0


HELPLESS = "import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); main()"


@pytest.mark.parametrize(("argv", "code"), [("--help", 0), ("eval --help", 0), ("train X --y", 2)])
def test_commands_in_a_folder_that_was_deleted(tmp_path, argv, code):
    done = command(argv, HELPLESS, cwd=tmp_path)
    assert done.returncode == code
    assert b"Traceback" not in done.stderr


@pytest.mark.slow
def test_a_run_without_a_home_in_a_folder_that_was_deleted(tmp_path):
    """Nothing can be kept in /dev/null, whoever asks: the run goes on, and says so once."""
    argv = f"{SMALL} --run-dir {tmp_path / 'r'} --quiet"
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": None, "TMPDIR": "/dev/null/tmp"}
    done = command(argv, HELPLESS, cwd=tmp_path, JAX_COMPILATION_CACHE_DIR=None, **nowhere)
    assert done.returncode == 0, done.stderr
    assert is_whole(tmp_path / "r")
    assert done.stderr.count(b"purejaxppo: compiled programs are not kept: ") == 1
    assert b"Traceback" not in done.stderr
    # without a name of its own it has no place
    one_line(command(SMALL, HELPLESS, cwd=tmp_path), 2, "cannot be made", "--run-dir")


@pytest.mark.parametrize("place", ["~/.cache", "cache"])
def test_no_home_at_all(monkeypatch, capsys, tmp_path, place):
    """Where nobody knows the user, `~` stays as it is: no folder of that name is made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tuning.platformdirs, "user_cache_path", lambda name: Path(place) / name)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        tuning.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert "purejaxppo: compiled programs are not kept: " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# -- devices --------------------------------------------------------------------------------------

MISSING = [
    ("train CartPole-v1", "JAX_PLATFORMS", "cuda"),
    ("eval nowhere", "JAX_PLATFORMS", "tpu"),
    ("render nowhere", "JAX_PLATFORMS", "nonsense"),
    ("export nowhere", "JAX_PLATFORM_NAME", "gpu"),
    ("check-env CartPole-v1", "JAX_PLATFORMS", "rocm"),
    ("envs", "JAX_PLATFORMS", "cuda"),
]


@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of a machine without accelerators")
@pytest.mark.parametrize(("argv", "name", "value"), MISSING)
def test_jax_platforms_without_such_a_device(tmp_path, argv, name, value):
    done = command(argv, cwd=tmp_path, **{name: value})
    one_line(done, 2, f"{name}={value!r} cannot be used here", "unset it, or use cpu")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        ("train CartPole-v1", "JAX_ENABLE_X64", "maybe"),
        ("report nowhere", "JAX_NUM_CPU_DEVICES", "two"),
        ("check-env CartPole-v1", "JAX_LOG_COMPILES", "x"),
    ],
)
def test_variables_that_jax_cannot_read(argv, name, value):
    one_line(command(argv, **{name: value}), 2, "JAX cannot start", name, value)


def failing(error, monkeypatch, capsys):
    """Runs a command that raises an error, and returns the exit code and what was said."""

    def fail(argv):
        raise error

    monkeypatch.setitem(entry.COMMANDS, "train", fail)
    return entry.run("train"), capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 800 bytes.\n\nx"),
        jax.errors.JaxRuntimeError("INTERNAL: Error: Out of memory allocating 8 bytes."),
        MemoryError("Unable to allocate 1. TiB"),
        MemoryError(),
    ],
)
def test_a_device_out_of_memory(error, monkeypatch, capsys):
    code, err = failing(error, monkeypatch, capsys)
    assert code == 1
    assert err.startswith("purejaxppo: out of memory (")
    assert "--num-envs" in err and len(err.splitlines()) == 1


def test_a_system_that_refuses_is_one_line_and_our_own_faults_are_not(monkeypatch, capsys):
    error = OSError(errno.ENOSPC, "No space left on device", "x")
    code, err = failing(error, monkeypatch, capsys)
    assert (code, err) == (1, "purejaxppo: [Errno 28] No space left on device: 'x'\n")
    for fault in (RuntimeError("dictionary changed size"), AssertionError(), KeyError("x")):
        with pytest.raises(type(fault)):
            failing(fault, monkeypatch, capsys)


WITHOUT_JIT = "JAX_DISABLE_JIT is set"


def test_fit_without_jit():
    with jax.disable_jit(), pytest.raises(ConfigError, match=WITHOUT_JIT):
        fit(PPOConfig(env="CartPole-v1"))


@pytest.mark.slow
@pytest.mark.parametrize("argv", [SMALL, f"{SMALL} --seeds 2 --run-dir r"])
def test_train_without_jit(tmp_path, argv):
    done = command(argv, cwd=tmp_path, JAX_DISABLE_JIT="1")
    one_line(done, 2, WITHOUT_JIT, "unset it")
    assert not list(tmp_path.iterdir())


# -- other systems, other Pythons -----------------------------------------------------------------

ELSEWHERE = {
    "fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix", "readline",
}  # fmt: skip
"""Modules that Windows does not have."""
CALLS = {
    "os": {"fork", "set_blocking", "getuid", "geteuid", "mkfifo", "uname", "killpg", "setsid",
           "sched_getaffinity", "getloadavg", "chown", "wait"},
    "signal": {"SIGKILL", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGALRM", "alarm",
               "setitimer", "pause", "sigwait", "pthread_kill"},
}  # fmt: skip
"""What Windows does not have of two modules that it has."""
SOURCES = sorted((ROOT / "purejaxppo").rglob("*.py"))


def at_import(tree):
    """What is executed when a module is imported: all that is in no function."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from at_import(node)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_of_unix_alone_is_needed(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in at_import(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert not {name.split(".")[0] for name in names} & ELSEWHERE
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.attr not in CALLS.get(node.value.id, ()), f"{node.value.id}.{node.attr}"


IMPORT_ALL = """
import sys
for name in {missing}: sys.modules[name] = None
import importlib, pkgutil
import purejaxppo
for found in pkgutil.walk_packages(purejaxppo.__path__, "purejaxppo."):
    if ".suites." not in found.name: importlib.import_module(found.name)
importlib.import_module("purejaxppo.envs.suites.gymnax")
"""


@pytest.mark.slow
def test_every_module_is_imported_without_fcntl():
    """As on Windows; `pwd` and `posix` stay, which Python itself looks into here."""
    missing = sorted(ELSEWHERE - {"pwd", "posix", "resource"})
    done = command("", IMPORT_ALL.format(missing=missing))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"PYTHONOPTIMIZE": "2", "PYTHONDONTWRITEBYTECODE": "1"},
        {"PYTHONOPTIMIZE": "1", "PYTHONWARNINGS": "error"},
    ],
    ids=str,
)
def test_help_and_mistakes_under_other_settings_of_python(changes):
    done = command("train --help", **changes)
    assert done.returncode == 0, done.stderr
    names = {f"--{name.replace('_', '-')}" for name in PPOConfig.__dataclass_fields__}
    assert not {name for name in names - {"--env"} if name.encode() not in done.stdout}
    one_line(command("train X --gamma two", **changes), 2, "gamma")


@pytest.mark.slow
def test_a_run_under_other_settings_of_python(tmp_path):
    """Without docstrings and assertions, and with every warning an error."""
    changes = {"PYTHONOPTIMIZE": "2", "PYTHONWARNINGS": "error"}
    done = command(f"{SMALL} --run-dir r --quiet", cwd=tmp_path, **changes)
    assert (done.returncode, done.stderr) == (0, b"")
    assert is_whole(tmp_path / "r")


@contextmanager
def importing(monkeypatch, where, raised):
    """A suite, of which a module named `where` fails when it is imported."""

    def import_module(name):
        exec(raised, {"__name__": where})

    monkeypatch.setattr(registry, "import_module", import_module)
    registry._made.cache_clear()  # it may have been made before
    registry._make_env.cache_clear()  # it may have been made before
    yield


@pytest.mark.parametrize("raised", ["None + ''", "import math; math.nothing", "raise OSError('x')"])
def test_a_suite_whose_packages_fail_is_one_line(monkeypatch, raised):
    """As packages do that do arithmetic on docstrings, where Python keeps none."""
    with (
        importing(monkeypatch, "other_package.part", raised),
        pytest.raises(ConfigError, match=r"cannot be imported \(\w+ in other_package\.part: "),
    ):
        registry.make_env("navix/Navix-Empty-5x5-v0")
    with (
        importing(monkeypatch, "purejaxppo.envs.suites.navix", raised),
        pytest.raises((TypeError, AttributeError, OSError)),
    ):
        registry.make_env("navix/Navix-Empty-5x5-v0")


# -- benchmarks -----------------------------------------------------------------------------------

AT_146B485 = ["from brax import envs"]
AT_31756B1 = [
    *AT_146B485,
    "from brax.envs.wrappers.training import EpisodeWrapper, AutoResetWrapper",
    "import navix as nx",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrappers", "where"), [(AT_146B485, "purejaxrl.wrappers"), (AT_31756B1, "wrappers")]
)
def test_purejaxrl_is_loaded_without_brax_and_navix(tmp_path, wrappers, where):
    """A checkout that imports what theirs does, at the commit that was measured and the newest."""
    (tmp_path / "purejaxrl").mkdir()
    (tmp_path / "purejaxrl/wrappers.py").write_text(
        "\n".join([*wrappers, "class LogWrapper: pass"])
    )
    (tmp_path / "purejaxrl/ppo.py").write_text(f"from {where} import LogWrapper\n")
    code = (
        "import sys\nfrom arm_purejaxrl import load\n"
        "assert load('ppo', sys.argv[1], False).LogWrapper.__name__ == 'LogWrapper'"
    )
    path = f"{ROOT}:{ROOT / 'benchmarks/peers'}"
    done = command(str(tmp_path), code, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
