"""The commands and code blocks of the README and of the packages' READMEs do what they say."""

import ast
import glob
import inspect
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from support.run_folders import write_run
from support.several import COMMAND, environment, free_port

import purejaxppo.ppo
from purejaxppo import ADVANTAGES, OBJECTIVES, OPTIMIZERS, PPOConfig, cli
from purejaxppo.cli.starts import parse_sweep, parse_train
from purejaxppo.config.libraries import LIBRARIES, with_names
from purejaxppo.ppo.schedules import SHAPES
from purejaxppo.ppo.value_losses import VALUE_LOSSES
from purejaxppo.sweeps.space import read_space

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [
        ROOT / "README.md",
        *(
            ROOT / f"purejaxppo/{name}/README.md"
            for name in ("cli", "runs", "sweeps", "envs", "policies")
        ),
        ROOT / "purejaxppo/MIGRATE.md",
        ROOT / "purejaxppo/runs/DEVICES.md",
        ROOT / "benchmarks/README.md",
        ROOT / ".github/CONTRIBUTING.md",
        ROOT / ".github/CHANGELOG.md",
        ROOT / ".github/PULL_REQUEST_TEMPLATE.md",
    ]
}
README = PAGES["README.md"]
METHOD = inspect.getdoc(purejaxppo.ppo) or ""
TEXTS = PAGES | {"purejaxppo/ppo/__init__.py": METHOD}
HEAVY = ("brax/", "craftax/", "gymnasium/", "playground/")
"""Suites that take minutes to compile or to run; test_suites.py trains on them."""


class Block(NamedTuple):
    """A block of code between fences: where it stands, its language, its lines."""

    page: str
    language: str
    code: str


BLOCKS = [
    Block(page, language, code)
    for page, text in TEXTS.items()
    for language, code in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
]
PYTHON = [block for block in BLOCKS if block.language == "python"]
# each command once, in the order of the pages; the first block's line trains too, in .ci/run
COMMANDS = list(
    dict.fromkeys(
        line.split("#")[0].strip()
        for block in BLOCKS[1:]
        if block.language == "bash"
        for line in block.code.splitlines()
        if line.startswith("purejaxppo ")
    )
)
SPREAD = [c for c in COMMANDS if "--devices" in c or "--process-id" in c]
"""Of them, those for several devices or processes."""


def names_of_blocks():
    """The page of each python block, and which of the page's it is."""
    seen = {}
    for block in PYTHON:
        seen[block.page] = seen.get(block.page, 0) + 1
        yield f"{block.page}-{seen[block.page]}"


def anchors(text):
    """The headings of a page, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def links(text):
    """Targets of links and pictures, without the line breaks in them."""
    found = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    return [re.sub(r"\s+", "", link) for link in found]


def test_the_readers_find_what_is_there():
    assert len(PYTHON) >= 15
    assert {
        "train", "sweep", "eval", "runs", "plot", "render", "report", "export", "envs", "check-env"
    } == {command.split()[1] for command in COMMANDS}  # fmt: skip
    assert anchors("# One, two\n```bash\n# no\n```\n## It's `x`") == {"one-two", "its-x"}
    assert links('[a](b#c) ![d](e\nf) <img src="g">') == ["b#c", "ef", "g"]


def test_the_two_one_liners_stand_at_the_top():
    assert BLOCKS[0].page == "README.md"
    assert BLOCKS[0].language == "bash"
    assert BLOCKS[0].code.splitlines() == [
        "pip install . && purejaxppo train CartPole-v1",
        "pip install -e '.[test]' && pytest",
    ]
    assert README.index("```bash") < 1500


def test_the_readme_is_read_in_one_sitting():
    assert len(README.splitlines()) <= 230


def test_the_readme_leads_to_every_page():
    assert {page for page in PAGES if page.endswith("README.md")} <= {"README.md", *links(README)}
    others = {".github/CONTRIBUTING.md", ".github/CHANGELOG.md", "purejaxppo/ppo/__init__.py"}
    assert others | {"purejaxppo/MIGRATE.md", "purejaxppo/runs/DEVICES.md"} <= {*links(README)}


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
@pytest.mark.parametrize("block", PYTHON, ids=names_of_blocks())
def test_python_blocks_run(block, short):
    exec(compile(block.code, block.page, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("block", PYTHON, ids=names_of_blocks())
def test_python_blocks_use_public_names(block):
    """Names come from the package itself, or from a package that exports them."""
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("purejaxppo"):
            module = sys.modules.get(node.module) or __import__(node.module, fromlist=["_"])
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module}.{alias.name}"
                if node.module == "purejaxppo":
                    assert alias.name in module.__all__


@pytest.mark.slow
def test_commands_run_one_after_the_other(short, tmp_path, monkeypatch):
    """All that are on the pages, but those of heavy suites; the environment is the README's."""
    own = next(b.code for b in PYTHON if "class Corridor" in b.code).split("train =")[0]
    made = "\n\ndef MyEnv(size=20):\n    return Corridor()\n"
    (tmp_path / "my_module.py").write_text(own + made)
    monkeypatch.syspath_prepend(tmp_path)
    assert cli.COMMANDS["train"](["CartPole-v1", "--run-dir", "runs/other"]) == 0
    for command in COMMANDS:
        _, *words = shlex.split(command)
        if not any(word.startswith(HEAVY) for word in words) and command not in SPREAD:
            words = [w for word in words for w in (sorted(glob.glob(word)) or [word])]
            assert cli.COMMANDS[words[0]](words[1:]) == 0, command
    made = {"policy.gif", "policy.onnx"}
    assert made <= {path.name for path in (tmp_path / "cartpole").iterdir()}
    assert {"curves.png", "report.html"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="processes join each other on POSIX")
def test_commands_of_several_devices_run_on_eight(tmp_path):
    """In the order of the page; those for several processes all at once, with four each."""
    together = [c for c in SPREAD if "--process-id" in c]
    (cluster,) = re.findall(r"^srun (purejaxppo .*)$", PAGES["purejaxppo/runs/DEVICES.md"], re.M)
    assert len(together) == 2

    def run(commands, devices, variables=lambda number: {}):
        port = free_port()
        running = [
            subprocess.Popen(
                [*COMMAND, *shlex.split(command.replace("host1:7777", f"localhost:{port}"))[1:],
                 "--total-timesteps", "8000"],
                env=environment(devices) | {"JAX_COORDINATOR_PORT": str(port)} | variables(number),
                cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for number, command in enumerate(commands)
        ]  # fmt: skip
        ended = [(process.communicate(timeout=300), process.returncode) for process in running]
        assert not any(code for _, code in ended), ended
        return [out for (out, _), _ in ended]

    def slurm(number):
        """What srun tells two tasks of one host."""
        return {
            "SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2",
            "SLURM_PROCID": str(number), "SLURM_LOCALID": str(number),
        }  # fmt: skip

    for command in SPREAD:
        if command == together[0]:
            first, second = run(together, 4)
            assert "on 8 devices of 2 processes" in first
            assert second == ""
        elif command not in together:
            (out,) = run([command], 8)
            assert "devices" in out.splitlines()[0]
    first, second = run([cluster, cluster], 4, slurm)
    assert "on 8 devices of 2 processes" in first
    assert second == ""


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("purejaxppo train")])
def test_commands_are_understood(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)[2:]
    if "--resume" in words:  # which needs a run
        folder = words[words.index("--run-dir") + 1]
        write_run(tmp_path / folder, PPOConfig.preset("CartPole-v1"), [[1.0]])
    if "--config" in words:  # which needs a file
        file = tmp_path / words[words.index("--config") + 1]
        file.parent.mkdir()
        PPOConfig.preset("CartPole-v1").to_toml(file)
    parse_train(words)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("purejaxppo sweep")])
def test_sweeps_are_understood(command):
    _, config, given = parse_sweep(shlex.split(command)[2:])
    assert read_space(given, config)


def test_the_file_of_a_sweep_is_read(tmp_path):
    (block,) = [block for block in BLOCKS if block.language == "toml" and "[vary]" in block.code]
    (tmp_path / "space.toml").write_text(block.code)
    options, config, given = parse_sweep(["--config", str(tmp_path / "space.toml")])
    assert read_space(given, config).names == [
        "learning_rate", "hidden_sizes", "env_params.gravity"
    ]  # fmt: skip
    assert (config.env, options.env_params) == ("CartPole-v1", ("length=0.6",))


def test_every_command_is_on_the_page_of_commands():
    for name in cli.COMMANDS:
        assert f"`purejaxppo {name} " in PAGES["purejaxppo/cli/README.md"]


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    """To files, and to headings of this page or another."""
    for link in links(TEXTS[page]):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            where = str(target.resolve().relative_to(ROOT.resolve()))
            assert anchor in anchors(TEXTS[where]), link


@pytest.mark.parametrize("page", TEXTS)
def test_scripts_and_modules_that_are_named_exist(page):
    """`python -m benchmarks.x.y`, and paths of modules in backticks."""
    for script in re.findall(r"python\s+-m\s+(benchmarks\.[a-z0-9_.]+)", TEXTS[page]):
        assert (ROOT / f"{script.replace('.', '/')}.py").exists(), script
    for path in re.findall(r"`((?:\w+/)*\w+\.py)`", TEXTS[page]):
        roots = (ROOT, ROOT / "purejaxppo", ROOT / "tests/envs")
        made = path == "policy.py"  # by `export_policy`
        assert made or any((root / path).exists() for root in roots), path


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_names_of_other_libraries_are_those_that_messages_know(library):
    """Each table of MIGRATE.md is one of `LIBRARIES`: names that have one meaning share a row."""
    _, _, section = PAGES["purejaxppo/MIGRATE.md"].partition(f"# {library}\n")
    table = section.partition(f"| {library} | here |\n|---|---|\n")[2].partition("\n\n")[0]
    found = {}
    for row in table.splitlines():
        names, text = row.removeprefix("| ").removesuffix(" |").split(" | ")
        found |= dict.fromkeys(re.findall(r"`(\w+)`", names), text)
    known = {name: with_names(text, "`{}`".format) for name, text in LIBRARIES[library].items()}
    assert found == known


def test_every_choice_is_documented():
    values = [*VALUE_LOSSES, "categorical"]
    for name in [*ADVANTAGES, *OBJECTIVES, *values, *OPTIMIZERS, *SHAPES, "kl_adaptive"]:
        assert f"| `{name}` |" in METHOD


def test_python_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    assert sys.version_info >= (3, 11)
    assert "Python 3.11 to 3.13" in README
