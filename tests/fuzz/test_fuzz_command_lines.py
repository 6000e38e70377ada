"""Any arguments are read or refused in one line, at once; helps are always shown."""

import contextlib
import dataclasses
import io
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fuzzing import examples
from support.ranges import varied

import purejaxppo.cli.pictures
import purejaxppo.cli.sweep
import purejaxppo.cli.train
import purejaxppo.envs.registry
import purejaxppo.export.export_policy
import purejaxppo.rendering.render
import purejaxppo.report.results
import purejaxppo.runs.agents
from purejaxppo import cli
from purejaxppo.cli import arguments

KINDS = arguments.ARGUMENTS
FITTING = {
    "int": ["1", "2", "8", "1e3", "1000", "1_000"],
    "float": ["0.5", "1", "1e-3", "None"],
    "bool": [],
    "str": ["r", "x.png", "none"],
}
NUMBERS = [
    "0", "-1", "1.5", "1e39", "1e-50", "nan", "inf", "-inf", "1e400", "4294967296", str(2**63),
    "9" * 5000, "3000000000000", "0x10", "1,000", "٣",
]  # fmt: skip
STRANGE = [
    "", " ", "-", "--", "---", "=", "--=", "--x", "-x", "x", "--help=x", "--no-", "None", "none",
    "True", "final", "best", "gae", "clip", "a=1", "a=", "=a", "a={[]:1}", "a=" + "[" * 5000, "é",
    "a\nb", "\n", "\r", "\t", "\x1b[31m", "\udc80", "\udcff=1", "╭─╮", "│", "[bold]", "[/]", "{x}",
    "%s", "For full helptext, see", "x" * 5000, "--" + "x" * 5000, "--tyro-print-completion",
    "--tyro-write-completion", "bash", "CartPole-v1", "../x", "/", "~", "*", "@x", "--resume",
]  # fmt: skip
ENVS = ["CartPole-v1", "brax/hopper", "Pendulum-v1", "nowhere:Env", ""]
WORDS = st.one_of(
    st.sampled_from(STRANGE),
    st.sampled_from(NUMBERS),
    st.text(st.characters(exclude_characters="\0"), max_size=6),
)


@st.composite
def options(draw, command):
    """One option of a command, spelled right or not, with a value that fits or not."""
    field = draw(st.sampled_from(dataclasses.fields(KINDS[command])))
    name = "--" + field.name.replace("_", draw(st.sampled_from("--_")))
    spelled = st.sampled_from(
        [name, name, name, name, name, name[:-1], name.upper(), "--no" + name[1:]]
    )
    kind = next((k for k in FITTING if str(field.type).startswith(k)), "str")
    fitting = st.sampled_from(FITTING[kind] or [""])
    value = draw(st.one_of(fitting, fitting, st.sampled_from(NUMBERS), WORDS))
    word = draw(spelled)
    if kind == "bool" and draw(st.booleans()):
        return [word]
    return draw(st.sampled_from([[word, value], [word, value], [f"{word}={value}"], [word]]))


@st.composite
def command_lines(draw):
    """A command and its arguments."""
    command = draw(st.sampled_from([*KINDS, "train", "train", "train", "sweep"]))
    words = draw(st.sampled_from([["r"], ["r"], ["r"], []]))
    if command in ("train", "sweep", "check-env"):
        words = [draw(st.sampled_from(ENVS))]
    if command == "sweep" and draw(st.integers(0, 5)):
        words += ["--vary", *draw(st.lists(varied(), min_size=1, max_size=3))]
    for several in draw(st.lists(options(command), max_size=4)):
        words = [*words, *several] if draw(st.integers(0, 4)) else [*several, *words]
    if draw(st.integers(0, 2)) == 0:
        word = draw(WORDS)
        words = [word, *words] if draw(st.booleans()) else [*words, word]
    return [command if draw(st.integers(0, 30)) else draw(WORDS), *words]


@pytest.fixture(scope="module", autouse=True)
def nothing_is_done(tmp_path_factory):
    """Commands end where they would begin to do something."""

    def end(*_, **__):
        sys.exit(0)

    def read_all(runs):
        return end() if runs else original(runs)

    original = purejaxppo.report.results.read_all
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("command_lines"))
        patch.setattr(purejaxppo.cli.train, "train", end)
        patch.setattr(purejaxppo.cli.sweep, "sweep", end)
        patch.setattr(purejaxppo.runs.agents, "load_components", end)
        patch.setattr(purejaxppo.cli.pictures, "read_all", read_all)
        patch.setattr(purejaxppo.rendering.render, "film", end)
        patch.setattr(purejaxppo.export.export_policy, "export_policy", end)
        patch.setattr(purejaxppo.envs.registry, "find_env", end)
        patch.setattr(purejaxppo.envs.registry, "names", end)
        yield


def run(argv):
    """Exit code, stdout, stderr and seconds of a command line."""
    out, err = io.StringIO(), io.StringIO()
    begin = time.process_time()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["purejaxppo", *argv])
        streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
        with streams[0], streams[1], pytest.raises(SystemExit) as stop:
            cli.main()
    return stop.value.code, out.getvalue(), err.getvalue(), time.process_time() - begin


@pytest.mark.slow
@examples(80, 500)
@given(argv=command_lines())
def test_any_arguments_are_read_or_refused_in_one_line(argv):
    code, out, err, seconds = run(argv)
    assert seconds < 1
    if "-h" in argv or "--help" in argv:
        assert code in (0, 2)
        return
    assert out == ""
    if code:
        assert code == 2
        assert err.startswith("purejaxppo: ") and err.endswith("\n")
        assert len(err.splitlines()) == 1
        assert len(err.strip()) > len("purejaxppo:")
    else:
        assert err == ""


@examples(10, 100)
@given(command=st.sampled_from(list(KINDS)), helps=st.sampled_from(["-h", "--help"]))
def test_helps_are_shown(command, helps):
    code, out, err, seconds = run([command, helps])
    assert (code, err) == (0, "")
    assert f"usage: purejaxppo {command}" in out
    assert seconds < 1


def test_what_is_right_is_read():
    """Else everything could be refused."""
    for argv in (
        ["train", "CartPole-v1", "--total-timesteps", "1e6", "--seeds", "2"],
        ["sweep", "CartPole-v1", "--vary", "gamma=0.9..0.99", "num_envs=4,8", "--trials", "3"],
        ["eval", "r", "--episodes", "1e2"],
        ["plot", "r", "s", "--out", "x.png"],
        ["render", "r", "--fps", "20"],
        ["report", "r"],
        ["export", "r", "--format", "npz"],
        ["check-env", "CartPole-v1", "--num-steps", "8"],
    ):
        assert run(argv)[:3] == (0, "", "")
