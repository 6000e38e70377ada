"""The README's commands and code blocks do what they say."""

import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from purejaxppo import ADVANTAGES, OBJECTIVES, PPOConfig, cli
from purejaxppo.ppo.objectives import VALUE_LOSSES

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [
    line.split("#")[0].strip()
    for language, code in BLOCKS[1:]
    if language == "bash"
    for line in code.splitlines()
    if line.startswith("purejaxppo train")
]


def test_the_two_one_liners_stand_at_the_top():
    language, code = BLOCKS[0]
    assert language == "bash"
    assert code.splitlines() == [
        "pip install . && purejaxppo train CartPole-v1",
        "pip install -e '.[test]' && pytest",
    ]
    assert TEXT.index("```bash") < 1500


@pytest.mark.slow
@pytest.mark.parametrize("block", range(len(PYTHON)))
def test_python_blocks_run(block, monkeypatch, tmp_path):
    """Each block by itself, with its run lengths cut to a few updates."""
    monkeypatch.chdir(tmp_path)
    original = PPOConfig.__post_init__

    def short(self):
        object.__setattr__(self, "total_timesteps", 2 * self.num_envs * self.num_steps)
        original(self)

    monkeypatch.setattr(PPOConfig, "__post_init__", short)
    exec(compile(PYTHON[block], f"README block {block}", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command):
    assert shlex.split(command)[:2] == ["purejaxppo", "train"]
    cli.parse_train(shlex.split(command)[2:])


def test_every_choice_is_documented():
    for name in [*ADVANTAGES, *OBJECTIVES, *VALUE_LOSSES]:
        assert f"`{name}`" in TEXT


def test_python_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    assert sys.version_info >= (3, 11)
    assert "Python 3.11 to 3.13" in TEXT
