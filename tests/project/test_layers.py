"""The house rules, read from the source: who imports whom, how long things are, what is public."""

import ast
import inspect
import sys
from pathlib import Path

import pytest

import purejaxppo

ROOT = Path(purejaxppo.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
NAMES = [str(f.relative_to(ROOT)) for f in FILES]

# imports go from a higher rank to a lower or equal one
RANKS = {
    "validation": 0,
    "coercion": 0,
    "backend": 0,
    "keys": 1,
    "presets": 1,
    "config": 2,
    "ppo": 3,
    "envs": 4,
    "policies": 5,
    "setup": 6,
    "train": 6,
    "act": 7,
    "check": 7,
    "runs": 8,
    "cli": 9,
}
# the rooms of one storey that stay apart: envs and policies may see ppo.records alone
ALLOWED_IN_PPO = {"backend", "validation", "config", "ppo"}


def room(name):
    """The part of the house that a file is in: its folder, or itself."""
    return Path(name).parts[0].removesuffix(".py")


def type_checking_only(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imported(path):
    """Full names of all that a file imports when it runs, inside functions too."""
    found = set()

    def visit(node):
        if type_checking_only(node):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


IMPORTS = {name: imported(path) for name, path in zip(NAMES, FILES, strict=True)}


def own(name):
    """Our rooms that a file imports from, as paths below purejaxppo."""
    ours = (full for full in IMPORTS[name] if full.split(".")[0] == "purejaxppo")
    return {full.removeprefix("purejaxppo.") for full in ours}


def others(name):
    """Third-party names that a file imports."""
    std = sys.stdlib_module_names
    return {f for f in IMPORTS[name] if f.split(".")[0] not in {*std, "purejaxppo"}}


def within(full, modules):
    return any(full == m or full.startswith(m + ".") for m in modules)


def test_the_readers_find_what_is_there():
    """The other tests would pass on an empty list."""
    assert {"train.py", "ppo/update.py", "envs/base.py", "policies/networks.py"} <= set(NAMES)
    assert "ppo.rollout.collect" in own("train.py")
    assert "envs.adapter.downloading" in own("envs/gymnax.py")
    assert others("envs/gymnax.py") >= {"gymnax", "jax"}
    assert "flax.linen" in others("policies/networks.py")
    assert own("config.py") >= {"validation", "presets"}  # the second inside a function


@pytest.mark.parametrize("name", NAMES)
def test_imports_go_one_way(name):
    if name == "__init__.py":
        assert not own(name) and not others(name)  # its names are imported when first used
        return
    assert room(name) in RANKS, f"{name}: give it a rank in this test"
    for full in own(name):
        target = full.split(".")[0]
        if target in RANKS:
            assert RANKS[target] <= RANKS[room(name)], f"{name} imports purejaxppo.{full}"


@pytest.mark.parametrize("name", [n for n in NAMES if room(n) == "ppo"])
def test_the_algorithm_knows_no_simulator_network_or_file(name):
    assert {full.split(".")[0] for full in own(name)} <= ALLOWED_IN_PPO
    for full in others(name):
        assert within(full, ["jax", "optax", "chex", "flax.struct", "numpy"]), full
    host = {"os", "io", "pathlib", "time", "sys", "logging", "shutil", "tempfile", "random"}
    assert not {full.split(".")[0] for full in IMPORTS[name]} & host


@pytest.mark.parametrize("name", [n for n in NAMES if room(n) in ("envs", "policies")])
def test_rooms_beside_the_algorithm_see_only_its_records(name):
    for full in own(name):
        if full.startswith("ppo."):
            assert full.startswith("ppo.records."), f"{name} imports purejaxppo.{full}"
        if room(name) == "policies" and full.startswith("envs."):
            assert full.startswith("envs.spaces."), f"{name} imports purejaxppo.{full}"


@pytest.mark.parametrize("name", NAMES)
def test_linen_and_simulators_stay_in_their_rooms(name):
    simulators = [
        "gymnax", "gymnasium", "brax", "jumanji", "craftax", "navix", "xminigrid", "pgx",
        "mujoco_playground", "envpool", "ale_py",
    ]  # fmt: skip
    for full in others(name):
        if within(full, ["flax.linen", "flax.nnx"]):
            assert room(name) == "policies", f"{name} imports {full}"
        if within(full, simulators):
            assert room(name) == "envs", f"{name} imports {full}"


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def extent(node):
    return node.end_lineno - node.lineno + 1


def own_lengths(path):
    """(name, lines without docstring and without the functions inside) of every function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, FUNCTIONS):
            lines = extent(node) - sum(extent(n) for n in node.body if isinstance(n, FUNCTIONS))
            if ast.get_docstring(node) is not None:
                lines -= extent(node.body[0])
            yield node.name, lines


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_long(name):
    path = ROOT / name
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 250
    for function, lines in own_lengths(path):
        assert lines <= 60, f"{name}: {function} has {lines} lines"


def test_lengths_are_counted(tmp_path):
    code = (
        'def f():\n    """One.\n\n    Two.\n    """\n    def g():\n        return 1\n\n    return g'
    )
    (tmp_path / "a.py").write_text(code)
    assert dict(own_lengths(tmp_path / "a.py")) == {"f": 3, "g": 2}


@pytest.mark.parametrize("name", purejaxppo.__all__)
def test_public_names_resolve_and_are_documented(name):
    thing = getattr(purejaxppo, name)
    assert name in dir(purejaxppo)
    if isinstance(thing, dict):  # a registry: a string below its definition describes it
        sources = (p.read_text(encoding="utf-8") for p in FILES)
        assert any(
            f"{name}: dict" in s and '}\n"""' in s.split(f"{name}: dict")[1] for s in sources
        )
        return
    assert inspect.getdoc(thing)
    assert not inspect.getdoc(thing).startswith(f"{name}(")  # what a dataclass makes up itself


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = purejaxppo.nonsense
