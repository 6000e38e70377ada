"""The README's commands and code blocks do what they say."""

import glob
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from purejaxppo import ADVANTAGES, OBJECTIVES, PPOConfig, cli
from purejaxppo.ppo.objectives import VALUE_LOSSES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [
    line.split("#")[0].strip()
    for language, code in BLOCKS[1:]
    if language == "bash"
    for line in code.splitlines()
    if line.startswith("purejaxppo ")
]
HEAVY = ("brax/", "gymnasium/")  # minutes to compile or to run; tests/test_suites.py trains on them


def test_the_two_one_liners_stand_at_the_top():
    language, code = BLOCKS[0]
    assert language == "bash"
    assert code.splitlines() == [
        "pip install . && purejaxppo train CartPole-v1",
        "pip install -e '.[test]' && pytest",
    ]
    assert TEXT.index("```bash") < 1500


@pytest.fixture
def short(monkeypatch, tmp_path):
    """Runs cut to two updates, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    original = PPOConfig.__post_init__

    def two_updates(self):
        object.__setattr__(self, "total_timesteps", 2 * self.num_envs * self.num_steps)
        original(self)

    monkeypatch.setattr(PPOConfig, "__post_init__", two_updates)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(len(PYTHON)))
def test_python_blocks_run(block, short):
    exec(compile(PYTHON[block], f"README block {block}", "exec"), {"__name__": "__main__"})


@pytest.mark.slow
def test_commands_run_one_after_the_other(short, tmp_path, monkeypatch):
    """All that are on the page, but those of heavy suites; the environment is the page's own."""
    own = next(code for code in PYTHON if "class Corridor" in code).split("train =")[0]
    (tmp_path / "my_module.py").write_text(own + "\nMyEnv = Corridor\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert cli.COMMANDS["train"](["CartPole-v1", "--run-dir", "runs/other"]) == 0
    for command in COMMANDS:
        _, *words = shlex.split(command)
        if not any(word.startswith(HEAVY) for word in words):
            words = [w for word in words for w in (sorted(glob.glob(word)) or [word])]
            assert cli.COMMANDS[words[0]](words[1:]) == 0, command
    made = {"policy.gif", "policy.onnx"}
    assert made <= {path.name for path in (tmp_path / "cartpole").iterdir()}
    assert {"curves.png", "report.html"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("purejaxppo train")])
def test_commands_are_understood(command):
    cli.parse_train(shlex.split(command)[2:])


def test_links_lead_somewhere():
    """To files, and to the page's own headings as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", TEXT, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
    links = re.findall(r"\]\(([^)]+)\)", TEXT) + re.findall(r'src="([^"]+)"', TEXT)
    assert len(links) > 20
    for link in links:
        path, _, anchor = re.sub(r"\s+", "", link).partition("#")
        if not link.startswith("https://"):
            assert (ROOT / path).exists(), link
            assert not anchor or path or anchor in anchors, link


def test_every_choice_is_documented():
    for name in [*ADVANTAGES, *OBJECTIVES, *VALUE_LOSSES]:
        assert f"`{name}`" in TEXT


def test_python_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    assert sys.version_info >= (3, 11)
    assert "Python 3.11 to 3.13" in TEXT
