"""Helps, the version and completion: what they say, in which width, and without importing jax."""

import dataclasses
import re
import shutil
import subprocess
import sys
from importlib import metadata

import pytest

from purejaxppo import PPOConfig, __version__, cli
from purejaxppo.cli import completion
from purejaxppo.cli.arguments import ARGUMENTS, RunOptions, TrainArgs
from purejaxppo.cli.declared import groups_of
from purejaxppo.cli.help import help_of
from purejaxppo.config import presets

WIDTHS = [60, 80, 100, 120]


def values(lines):
    """The value in brackets of every option in a help, by its name."""
    text = re.sub(r"\s+", " ", " ".join(lines)) + " --"
    found = re.findall(
        r" (--[a-z][a-z0-9-]*)(?=[ ,])(?:(?! --[a-z]).)*?\[([^\[\]]*)\](?= |$)", text
    )
    return {name[2:].removeprefix("no-").replace("-", "_"): value for name, value in found}


def train_help(argv="", width=100):
    return help_of("train", argv.split(), width)


# -- values ------------------------------------------------------------------------------------


def written(value):
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def expected(config):
    """Every field as a help writes it; an empty tuple has no brackets."""
    found = {name: written(value) for name, value in config.to_dict().items()}
    return {name: text for name, text in found.items() if text and name != "env"}


@pytest.mark.parametrize("algorithm", ["ppo", "ppo_kl", "a2c", "reinforce"])
@pytest.mark.parametrize("env", ["CartPole-v1", "Acrobot-v1", "no/such"])
def test_help_behind_an_environment_shows_its_preset_and_algorithm(env, algorithm):
    config = getattr(PPOConfig, algorithm)(env=env)
    preset = "none"
    if env in presets.names() and algorithm in presets.tables(env):
        config, preset = PPOConfig.preset(env, algorithm), env
    found = values(train_help(f"{env} --algorithm {algorithm}"))
    assert expected(config).items() <= found.items()
    assert (found["algorithm"], found["preset"]) == (algorithm, preset)


@pytest.mark.parametrize(
    ("argv", "changed"),
    [
        ("--num-envs 16", {"num_envs": "16"}),
        ("--num-envs=16 --seeds 3", {"num_envs": "16", "seeds": "3"}),
        ("--num-envs 7", {"num_envs": "7"}),  # which does not fit the other sizes
        ("--layer-norm --no-compilation-cache", {"layer_norm": "on", "compilation_cache": "off"}),
        (
            "--hidden-sizes 8 9 --max-grad-norm None",
            {"hidden_sizes": "8 9", "max_grad_norm": "None"},
        ),
        ("--env-options a=1 --run-dir x", {"env_options": "a=1", "run_dir": "x"}),
    ],
)
def test_help_shows_the_options_before_it(argv, changed):
    plain = values(train_help("CartPole-v1"))
    assert values(train_help(f"CartPole-v1 {argv}")) == plain | changed
    without = values(train_help())
    assert values(train_help(argv)) == without | changed


def test_help_without_an_environment_shows_plain_defaults():
    found = values(train_help())
    assert expected(PPOConfig()).items() <= found.items()
    assert found["preset"] == "none"
    assert expected(PPOConfig.a2c()).items() <= values(train_help("--algorithm a2c")).items()


def test_options_of_a_preset_are_shown_with_those_that_are_given():
    assert values(train_help("brax/hopper --env-options max_steps=5"))["env_options"] == (
        "backend=spring max_steps=5"
    )


@pytest.mark.parametrize(
    "argv", ["X --gama 0.9", "X --gamma two", "X --preset nosuch", "X Y", "--env"]
)
def test_help_is_given_whatever_stands_before_it(argv):
    lines = train_help(argv)
    assert "cannot be read (" in " ".join(lines)
    assert expected(PPOConfig()).items() <= values(lines).items()


def test_what_stands_behind_help_does_not_count(monkeypatch, capsys):
    argv = ["purejaxppo", "train", "CartPole-v1", "--help", "--num-envs", "16", "--nonsense"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    shown = values(capsys.readouterr().out.splitlines())
    assert shown["num_envs"] == str(PPOConfig.preset("CartPole-v1").num_envs)


# -- groups and widths -------------------------------------------------------------------------

GROUPS = [
    "arguments", "what is trained", "sizes", "optimisation", "advantages", "objective", "value",
    "exploration", "network", "normalisation", "seeds and run folder", "evaluation",
    "several processes", "loggers", "compilation and output",
]  # fmt: skip


def test_options_of_train_stand_in_groups_in_this_order():
    assert list(groups_of(TrainArgs)) == GROUPS
    titles = [line for line in train_help() if line in GROUPS]
    assert titles == GROUPS


@pytest.mark.parametrize("kind", [PPOConfig, RunOptions])
def test_every_field_of_train_is_in_a_group(kind):
    """A title begins with a field that names one, so the first field of a class has to."""
    first = next(f for f in dataclasses.fields(kind) if f.name != "env")
    assert first.metadata.get("group") is not None
    assert "options" not in groups_of(TrainArgs)


@pytest.mark.parametrize("command", ARGUMENTS)
def test_every_field_is_in_the_help_once_with_its_text(command):
    kind, lines = ARGUMENTS[command], help_of(command, [], 80)
    fields = {field.name for field in dataclasses.fields(kind)}
    arguments = [argument for group in groups_of(kind).values() for argument in group]
    assert {argument.field for argument in arguments} == fields
    assert len(arguments) == len(fields)
    text = " ".join(" ".join(lines).split())
    for argument in arguments:
        assert argument.text and argument.text in text
        assert all(f" {flag}" in text for flag in argument.flags)


def test_every_command_declares_what_it_takes():
    assert list(ARGUMENTS) == list(cli.COMMANDS)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("command", ARGUMENTS)
def test_no_line_of_a_help_is_wider_than_the_terminal(command, width):
    lines = help_of(command, [], width)
    assert max(map(len, lines)) <= width
    assert all(line == line.rstrip() for line in lines)
    words = " ".join(lines).split()
    assert words == " ".join(help_of(command, [], 120)).split()  # nothing is cut, or hyphenated


@pytest.mark.parametrize(("columns", "width"), [("40", 60), ("70", 70), ("200", 120)])
def test_helps_are_as_wide_as_the_terminal(columns, width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "argv", ["purejaxppo", "train", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().out.splitlines() == train_help(width=width)


# -- the version -------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_names_what_is_installed(flag, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["purejaxppo", flag])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    python = ".".join(map(str, sys.version_info[:3]))
    line = f"purejaxppo {__version__}, jax {metadata.version('jax')}, Python {python}\n"
    assert capsys.readouterr().out == line


# -- completion --------------------------------------------------------------------------------


@pytest.fixture
def cache(monkeypatch, tmp_path):
    folder = tmp_path / "cache"
    monkeypatch.setattr(completion.platformdirs, "user_cache_path", lambda name: folder / name)
    return folder


@pytest.fixture
def folders(monkeypatch, tmp_path):
    """A user's folder with runs, files and a name with a space."""
    for name in ("runs/CartPole-v1-1", "runs/Acrobot-v1-1", "mine", "with space"):
        (tmp_path / "here" / name).mkdir(parents=True)
    (tmp_path / "here/curves.png").touch()
    monkeypatch.chdir(tmp_path / "here")


def completed(*words):
    """What bash offers for the last of these words."""
    press = 'COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))\n_purejaxppo\n'
    script = completion.script_of("bash") + press + "printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    done = subprocess.run(
        ["bash", "-c", script, "bash", *words], capture_output=True, text=True, check=True
    )
    assert not [line for line in done.stderr.splitlines() if "compopt" not in line], done.stderr
    return [line for line in done.stdout.splitlines() if line]


BASH = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")


@BASH
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("", [*cli.COMMANDS, "--help", "--version"]),
        ("e", ["eval", "export", "envs"]),
        ("--v", ["--version"]),
        ("train CartP", ["CartPole-v1"]),
        ("train brax/ho", ["brax/hopper"]),
        ("train CartPole-v1 --num-e", ["--num-envs", "--num-epochs"]),
        ("train CartPole-v1 --no-layer", ["--no-layer-norm"]),
        ("train CartPole-v1 --algorithm ", ["ppo", "ppo_kl", "a2c", "reinforce"]),
        ("train CartPole-v1 --objective = c", ["clip"]),  # as bash splits --objective=c
        ("train CartPole-v1 --value-loss =", ["squared", "clipped", "huber", "categorical"]),
        ("train CartPole-v1 --preset cl", ["classic"]),
        ("train CartPole-v1 --preset no", ["none"]),
        ("train CartPole-v1 --num-envs ", []),
        ("train CartPole-v1 --run-dir m", ["mine"]),
        ("eval m", ["mine"]),
        ("eval Cart", ["runs/CartPole-v1-1"]),
        ("eval runs/A", ["runs/Acrobot-v1-1"]),
        ("eval w", ["with space"]),
        ("eval mine --weights ", ["final", "best"]),
        ("plot mine runs/C", ["runs/CartPole-v1-1"]),
        ("plot mine --out cu", ["curves.png"]),
        ("export mine --format o", ["onnx"]),
        ("check-env Acro", ["Acrobot-v1"]),
        ("envs br", ["brax"]),
        ("completion z", ["zsh"]),
        ("nosuch --", []),
    ],
)
def test_bash_completes(cache, folders, words, offered):
    assert completed("purejaxppo", *words.split(" ")) == offered


@BASH
def test_environments_that_were_listed_are_completed(cache, folders):
    assert completed("purejaxppo", "train", "pgx/") == []
    completion.remember_environments(["Catch-bsuite", "pgx/2048"])
    assert completed("purejaxppo", "train", "pgx/") == ["pgx/2048"]
    assert completed("purejaxppo", "check-env", "Catch") == ["Catch-bsuite"]
    assert completed("purejaxppo", "envs", "p") == ["pgx", "playground"]


def test_names_that_cannot_be_kept_are_no_fault(monkeypatch, tmp_path):
    (tmp_path / "purejaxppo").touch()
    monkeypatch.setattr(completion.platformdirs, "user_cache_path", lambda name: tmp_path / name)
    completion.remember_environments(["Catch-bsuite"])
    assert "CartPole-v1" in completion.environments()


@pytest.mark.parametrize("shell", completion.SCRIPTS)
def test_scripts_are_read_by_their_shells(cache, shell):
    script = completion.script_of(shell)
    for command in cli.COMMANDS:
        assert command in script
    for argument in (a for group in groups_of(TrainArgs).values() for a in group if a.flags):
        name = argument.flags[0]
        assert (f"-l {name[2:]} " if shell == "fish" else name) in script
        assert all(choice in script for choice in argument.choices)
    assert script.count("'") % 2 == (0 if shell != "fish" else script.count("\\'") % 2)
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "argv",
    [
        "--help", "--version", "train --help", "train CartPole-v1 --algorithm a2c --help",
        "train X --gamma two", "envs --help", "completion bash", "completion fish",
    ],
)  # fmt: skip
def test_helps_and_mistakes_import_nothing_heavy(argv):
    code = f"""
import sys
sys.argv = ["purejaxppo", *{argv.split()}]
from purejaxppo import cli
try:
    cli.main()
except SystemExit:
    pass
heavy = {{"jax", "flax", "gymnax", "matplotlib", "numpy"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
