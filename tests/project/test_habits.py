"""Habits in the open: the workflow, the hooks, the changelog and the tested versions agree."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import purejaxppo

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CLASSIFIERS = " ".join(PROJECT["classifiers"])
PYTHONS = re.findall(r"Programming Language :: Python :: (3\.\d+)", CLASSIFIERS)
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
CONTRIBUTING = (ROOT / ".github/CONTRIBUTING.md").read_text()
CHANGELOG = (ROOT / ".github/CHANGELOG.md").read_text()


def versions_that_are_tested():
    """The versions in the table of CONTRIBUTING.md, by package."""
    section = CONTRIBUTING.split("## Versions that are tested")[1]
    return dict(re.findall(r"^\| (\w+) \| (\d[\w.]*) \|$", section, re.MULTILINE))


def requirements():
    """Every requirement of the project, those of extras too, but for its own extras."""
    extras = PROJECT["optional-dependencies"].values()
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    return [r for r in map(Requirement, lines) if r.name != PROJECT["name"]]


def commands(job):
    return [step["run"] for step in WORKFLOW["jobs"][job]["steps"] if "run" in step]


def test_the_workflow_tests_every_python():
    assert PYTHONS == ["3.11", "3.12", "3.13"]
    matrix = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python-version"] == PYTHONS
    assert WORKFLOW["jobs"]["lint"]["steps"][1]["with"]["python-version"] == PYTHONS[0]
    for version in PYTHONS:
        assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(version)


def test_the_workflow_tests_every_system():
    """All of the tests on one, the quick ones on the others."""
    job = WORKFLOW["jobs"]["test"]
    assert job["runs-on"] == "${{ matrix.os }}"
    assert job["strategy"]["matrix"]["os"] == ["ubuntu-latest", "windows-latest", "macos-latest"]
    runs = {step["run"]: step.get("if") for step in job["steps"] if "pytest" in step.get("run", "")}
    assert runs == {
        "pytest": "runner.os == 'Linux'", 'pytest -m "not slow"': "runner.os != 'Linux'"
    }  # fmt: skip


@pytest.mark.parametrize("path", sorted(ROOT.glob("tests/**/*.py")), ids=lambda p: p.stem)
def test_tests_are_collected_on_every_system(path):
    """Those that need POSIX say so, by `pytest.importorskip` or a mark, where they run."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        modules = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
        modules |= {node.module} if isinstance(node, ast.ImportFrom) else set()
        assert not modules & {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}


def test_the_workflow_tests_lints_and_tries_the_lowest_versions():
    assert "pytest" in commands("test")
    lint = ["ruff check .", "ruff format --check .", "basedpyright"]
    assert commands("lint")[-3:] == lint
    assert any("--resolution lowest-direct" in c for c in commands("lowest-dependencies"))
    every = (ROOT / ".ci/run").read_text()
    assert all(command in every for command in lint)


def test_the_hooks_are_those_of_the_lint_job():
    hooks = [hook for repo in HOOKS["repos"] for hook in repo["hooks"]]
    assert [f"{hook['entry']} ." for hook in hooks[:2]] == commands("lint")[-3:-1]
    assert hooks[2]["entry"] == commands("lint")[-1]
    assert {hook["language"] for hook in hooks} == {"system"}


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.md")), ids=str)
def test_issue_templates_are_understood_by_github(path):
    _, head, body = path.read_text().split("---\n", 2)
    assert {"name", "about"} <= set(yaml.safe_load(head))
    assert body.strip()


def test_the_changelog_begins_with_this_version_or_the_next():
    versions = re.findall(r"^## \[([^\]]+)\]", CHANGELOG, re.MULTILINE)
    assert versions[0] in ("Unreleased", purejaxppo.__version__)
    assert purejaxppo.__version__ in versions
    assert purejaxppo.__version__ == PROJECT["version"]
    released = [Version(v) for v in versions if v != "Unreleased"]
    assert released == sorted(released, reverse=True)


def test_new_public_names_are_in_the_changelog():
    """All that the last version did not have."""
    first = {
        "ADVANTAGES", "Actor", "ConfigError", "Estimate", "FitResult", "HostEnvironment",
        "HostError", "Hyperparams", "Learner", "LearnerState", "Metrics", "OBJECTIVES", "Objective",
        "PPOConfig", "Policy", "TrainOutput", "check_env", "compiler_options",
        "export_policy", "fit", "load_agents", "load_policy", "make_act", "make_actor", "make_env",
        "make_evaluate", "make_learner", "make_mesh", "make_train", "render", "shard_environments",
        "use_cores", "vmap_over_devices",
    }  # fmt: skip
    assert first <= set(purejaxppo.__all__)
    for name in set(purejaxppo.__all__) - first:
        assert f"`{name}`" in CHANGELOG


def test_every_dependency_admits_the_tested_versions():
    """Upper bounds, wherever one is set; lower ones too."""
    versions = versions_that_are_tested()
    assert {"jax", "flax", "optax", "gymnax", "chex", "numpy"} == set(versions)
    names = {Requirement(line).name for line in PROJECT["dependencies"]}
    assert set(versions) <= names
    for requirement in requirements():
        if requirement.name in versions:
            version = versions[requirement.name]
            assert requirement.specifier.contains(version), f"{requirement} and {version}"


def test_every_dependency_has_a_lower_bound_or_says_why_not():
    """Without one, the job of the lowest dependencies would install the first release of all."""
    for requirement in requirements():
        bounded = any(s.operator in (">=", "==", "~=") for s in requirement.specifier)
        assert bounded or requirement.name == "six", requirement
