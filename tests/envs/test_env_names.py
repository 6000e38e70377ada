"""What an unknown name of an environment may have meant, in any suite, installed or not."""

import subprocess
import sys
import tomllib
from importlib import resources

import pytest

from purejaxppo import ConfigError, make_env
from purejaxppo.envs import known, registry
from purejaxppo.envs.known import similar

LISTED = tomllib.loads(
    resources.files("purejaxppo.envs.suites").joinpath("names.toml").read_text("utf-8")
)


@pytest.fixture
def all_installed(monkeypatch):
    """As if the packages of every suite were there."""
    monkeypatch.setattr(known.util, "find_spec", lambda name: name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Hopper-v5", "gymnasium/Hopper-v5 or brax/hopper"),
        ("hopper", "brax/hopper or gymnasium/Hopper-v5"),
        ("HalfCheetah", "brax/halfcheetah or gymnasium/HalfCheetah-v5"),
        ("Ant-v4", "gymnasium/Ant-v4 or brax/ant"),
        ("ALE/Pong-v5", "ale/Pong-v5 or Pong-misc"),
        ("PongNoFrameskip-v4", "Pong-misc or ale/Pong-v5"),
        ("Breakout", "Breakout-MinAtar or ale/Breakout-v5 or pgx/minatar-breakout"),
        ("MinAtar/Breakout-v1", "Breakout-MinAtar or ale/Breakout-v5 or pgx/minatar-breakout"),
        ("LunarLander-v2", "gymnasium/LunarLander-v3"),
        ("gym/LunarLander-v2", "gymnasium/LunarLander-v3"),
        ("InvertedDoublePendulum-v4",
         "gymnasium/InvertedDoublePendulum-v4 or brax/inverted_double_pendulum"),
        ("Snake", "jumanji/Snake-v1"),
        ("MiniGrid-Empty-8x8-v0", "navix/Navix-Empty-8x8-v0 or xminigrid/MiniGrid-Empty-8x8"),
        ("Craftax-Symbolic-v1", "craftax/Craftax-Symbolic-v1"),
        ("cheetah-run", "playground/CheetahRun"),
        ("Cartpole-v1", "CartPole-v1 or gymnasium/CartPole-v1"),
        ("CartPole-v0", "CartPole-v1 or gymnasium/CartPole-v0"),
        ("brax/CartPole-v1", "CartPole-v1 or gymnasium/CartPole-v1"),
        ("bracks/ant", "brax/ant or gymnasium/Ant-v5"),
        ("Hoper-v5", "brax/hopper or gymnasium/Hopper-v5"),
    ],
)  # fmt: skip
def test_a_name_without_its_suite_is_answered_with_it(name, meant, all_installed):
    hint = f"did you mean {meant}?"
    assert similar(name, misspelt=True) == hint
    with pytest.raises(ConfigError) as caught:
        make_env(name)
    assert str(caught.value).startswith(f"unknown environment {name!r}: ")
    assert str(caught.value).endswith(hint)


@pytest.mark.parametrize("name", ["zzzzzz", "", "x" * 10_000, "-v5", "/", "é"])
def test_a_name_like_no_other_is_not_guessed(name):
    assert similar(name) == similar(name, misspelt=True) == ""


def test_a_suite_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(
        known.util, "find_spec", lambda name: None if name in ("brax", "ale_py") else name
    )
    assert similar("Hopper-v5") == (
        "did you mean gymnasium/Hopper-v5 or brax/hopper (pip install 'purejaxppo[brax]')?"
    )
    assert similar("MsPacman-v5") == (
        "did you mean ale/MsPacman-v5 (pip install 'purejaxppo[ale]')?"
    )


def test_packages_of_suites_are_found_by_their_names():
    assert set(LISTED) == {*registry.SUITES.values()} - {"envpool"}
    for prefix, adapter in registry.SUITES.items():
        if adapter == "envpool":
            continue
        there = known.util.find_spec(known.PACKAGES.get(adapter, adapter)) is not None
        assert there or prefix in registry.missing(prefix)


def test_a_misspelt_name_of_a_suite_stays_in_it():
    with pytest.raises(ConfigError, match=r"'brax/hoper': did you mean brax/hopper"):
        make_env("brax/hoper")


@pytest.mark.slow
def test_no_suite_is_imported_to_find_what_was_meant():
    code = (
        "import sys\nfrom purejaxppo.envs.known import similar\n"
        "print(similar('Hopper-v5'))\n"
        "print(*sorted({'brax', 'gymnasium', 'gymnax', 'jumanji', 'pgx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stdout.split("\n")[:2]
    assert first.startswith("did you mean ") and second == ""


SOON = ("gymnax", "gymnasium", "pgx")


@pytest.mark.parametrize(
    "adapter", [a if a in SOON else pytest.param(a, marks=pytest.mark.slow) for a in LISTED]
)
def test_the_list_of_names_is_that_of_the_suite(adapter):
    """Nine of ten: another version of a suite may have some more, or less."""
    prefix = "" if adapter == "gymnax" else adapter
    if registry.missing(prefix):
        pytest.skip("not installed")
    listed = set(LISTED[adapter])
    names = {n.removeprefix(f"{prefix}/") for n in registry.names(prefix)}
    assert len(names & listed) >= 0.9 * len(listed)
    if adapter != "gymnasium":  # where other packages register theirs
        assert len(names & listed) >= 0.9 * len(names)
