"""The structure of the package, read from its source: who imports whom, how long things are.

Past 400 lines in a file, or 14 files in a folder, a reason is asked for, and so it is for a module
that one other module alone imports: a question, not a wall. The reasons stand in the lists below.
"""

import ast
import inspect
import sys
from pathlib import Path

import pytest

import purejaxppo

ROOT = Path(purejaxppo.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
NAMES = [str(f.relative_to(ROOT)) for f in FILES]
SOURCES = {name: path.read_text(encoding="utf-8") for name, path in zip(NAMES, FILES, strict=True)}
TREES = {name: ast.parse(source) for name, source in SOURCES.items()}

# imports go from a later row to an earlier one; what stands in one row does not see each other
LAYERS = [
    ["errors", "assertions", "keys"],
    ["bounds"],
    ["hyperparams"],
    ["config"],
    ["spaces"],
    ["types"],
    ["tuning", "processes"],
    ["parallel"],
    ["ppo", "envs", "policies"],
    ["components", "check"],
    ["train"],
    ["sharding"],
    ["act"],
    ["trained_policy"],
    ["run_folder"],
    ["report"],
    ["runs"],
    ["export", "rendering", "sweeps"],
    ["cli"],
]
RANKS = {package: rank for rank, row in enumerate(LAYERS) for package in row}

LONG_FILES = {
    "train.py": "one straight line, and two entrances that each say what they take",
    "types.py": "one vocabulary: the records, and the interfaces that name them in their methods",
}
WIDE_FOLDERS = {
    "sweeps": "a module for each part of a sweep; what is made of one has a package of its own",
    ".": "what everything is built of, and what users call; families have packages of their own",
    "ppo": "a module for each part of an update, named as papers name it",
    "envs": "what an environment is, and how many are one; suites and wrappers have packages",
    "cli": "how words are read, and what is printed; what moves has a package of its own",
    "runs": "a module for each thing that a run does; its files have a package of their own",
}
ONE_IMPORTER = {
    "cli.commands": "one function for each command; `main` knows what goes wrong with them",
    "cli.completion": "the scripts of three shells, which the command prints",
    "cli.devices": "how JAX is started, and what it has against that",
    "cli.help": "imported when a help is asked for: `main` starts without it",
    "cli.pictures": "plot and report, each of which takes runs or studies",
    "cli.sweep": "what the command does around `sweep`",
    "cli.watch": "a command that goes on until a signal or the end of all runs",
    "config.effects": "rules that are many; the fields that keep them are a list to be read",
    "config.file": "what a file may hold beside the fields, which `PPOConfig.from_toml` refuses",
    "envs.known": "names of suites that need not be installed",
    "export.flatten_jaxpr": "programs without calls inside: of use to any export",
    "export.numpy_program": "jaxprs as NumPy calls, a table of primitives",
    "policies.cores": "a registry that users extend",
    "policies.cores.linear": "a core, whose scan another one is made of",
    "policies.distillation": "an algorithm with a paper of its own",
    "policies.nnx_network": "modules of another library, imported when they are met",
    "ppo.estimates": "what gradient steps weigh by; estimators themselves are equations",
    "ppo.metrics": "equations of what is reported, not of what is learned",
    "ppo.schedules": "what changes over a run; how parameters are stepped is another matter",
    "ppo.shuffle": "an algorithm with a paper of its own",
    "ppo.value_losses": "equations, of which a critic is made",
    "rendering.gif": "a file format",
    "rendering.playback": "an episode without a picture",
    "sweeps.report.listing": "a table of text, like that of runs",
    "sweeps.report.page": "a page of HTML, like that of runs",
    "sweeps.report.pictures": "pictures for a page alone",
    "sweeps.training": "how trials are trained, whatever they come from",
    "sweeps.workers": "processes, for environments that are not compiled",
    "sweeps.outputs": "tables and files for others, of which a study itself reads none",
    "runs.loop": "the run between its compilation and its end; `fit` documents what it takes",
    "sweeps.schedulers.asha": "an algorithm with a paper of its own",
    "sweeps.schedulers.halving": "an algorithm with a paper of its own",
    "sweeps.schedulers.population": "a population in a study; as a pure function it is public",
    "sweeps.ranges": "how values are written; which names they may have is another matter",
    "sweeps.storage": "what needs the packages of an extra, imported when it is asked for",
    "sweeps.storage.learning": "samplers of another library, and values as it keeps them",
    "sweeps.storage.places": "files and servers, and how others are excluded",
}


def package_of(name):
    """The package below the root that a file is in, or the file itself."""
    return Path(name).parts[0].removesuffix(".py")


def module_of(name):
    """The dotted name below purejaxppo of a file."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_of(name): name for name in NAMES}


def imported(tree):
    """Full names of all that is imported: inside functions and for type checkers too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports relatively"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


IMPORTS = {name: imported(tree) for name, tree in TREES.items()}


def own(name):
    """The modules of ours that a file imports from, as dotted names below purejaxppo."""
    found = set()
    for full in IMPORTS[name]:
        if full.split(".")[0] != "purejaxppo":
            continue
        parts = full.split(".")[1:]
        while parts and ".".join(parts) not in MODULES:
            parts = parts[:-1]  # a name in a module
        found.add(".".join(parts))
    return found - {""}


def others(name):
    """Third-party names that a file imports."""
    std = sys.stdlib_module_names
    return {f for f in IMPORTS[name] if f.split(".")[0] not in {*std, "purejaxppo"}}


def within(full, modules):
    return any(full == m or full.startswith(m + ".") for m in modules)


INSIDE = [name for name in NAMES if name != "__init__.py"]  # the root re-exports what is below it


def test_the_readers_find_what_is_there():
    """The other tests would pass on an empty list."""
    assert {"train.py", "ppo/update.py", "envs/vec_env.py", "policies/networks.py"} <= set(NAMES)
    assert {"ppo.rollout", "components"} <= own("train.py")
    assert "config.presets" in own("cli/starts.py")  # inside a function
    assert others("envs/suites/gymnax.py") >= {"gymnax", "jax"}
    assert "flax.linen" in others("policies/networks.py")


# -- layers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INSIDE)
def test_imports_go_one_way(name):
    package = package_of(name)
    assert package in RANKS, f"{name}: give it a layer in this test"
    for module in own(name):
        target = module.split(".")[0]
        lower = RANKS[target] < RANKS[package] or target == package
        assert lower, f"{name} imports purejaxppo.{module}"


def test_there_are_no_circles():
    graph = {module_of(name): own(name) for name in INSIDE}
    left = dict(graph)
    while left:
        leaves = [m for m, targets in left.items() if not (targets & left.keys() - {m})]
        assert leaves, f"a circle among {sorted(left)}"
        for m in leaves:
            del left[m]


@pytest.mark.parametrize("name", [n for n in NAMES if package_of(n) == "ppo"])
def test_the_algorithm_knows_no_configuration_simulator_network_or_file(name):
    below = {"assertions", "errors", "keys", "hyperparams", "spaces", "types", "tuning", "ppo"}
    assert {module.split(".")[0] for module in own(name)} <= below
    for full in others(name):
        assert within(full, ["jax", "optax", "chex", "flax.struct", "numpy"]), full
    host = {"os", "io", "pathlib", "time", "sys", "logging", "shutil", "tempfile", "random"}
    assert not {full.split(".")[0] for full in IMPORTS[name]} & host


@pytest.mark.parametrize("name", NAMES)
def test_linen_simulators_and_the_command_line_stay_in_their_packages(name):
    simulators = [
        "gymnax", "gymnasium", "brax", "jumanji", "craftax", "navix", "xminigrid", "pgx",
        "mujoco_playground", "envpool", "ale_py",
    ]  # fmt: skip
    for full in others(name):
        if within(full, ["flax.linen", "flax.nnx"]):
            assert package_of(name) == "policies", f"{name} imports {full}"
        if within(full, simulators):
            assert package_of(name) == "envs", f"{name} imports {full}"
        if within(full, ["tyro", "rich"]):
            assert package_of(name) == "cli", f"{name} imports {full}"


def calls(tree, function):
    return any(
        isinstance(node, ast.Call) and getattr(node.func, "id", None) == function
        for node in ast.walk(tree)
    )


@pytest.mark.parametrize("name", [n for n in NAMES if package_of(n) == "runs"])
def test_training_prints_nothing(name):
    if name != "runs/signals.py":  # which says that a signal was heard, at once
        assert not calls(TREES[name], "print"), name


# -- sizes -------------------------------------------------------------------------------------

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def extent(node):
    return node.end_lineno - node.lineno + 1


def own_lengths(tree):
    """(name, lines without signature's, docstring's and inner functions') of every function."""
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            lines = node.end_lineno - node.body[0].lineno + 1
            lines -= sum(extent(n) for n in node.body if isinstance(n, FUNCTIONS))
            if ast.get_docstring(node) is not None:
                lines -= extent(node.body[0])
            yield node.name, lines


@pytest.mark.parametrize("name", NAMES)
def test_no_function_is_long(name):
    for function, lines in own_lengths(TREES[name]):
        assert lines <= 60, f"{name}: {function} has {lines} lines"


def test_lengths_are_counted():
    code = (
        'def f(\n    a,\n    b,\n):\n    """One.\n\n    Two.\n    """\n    def g():\n'
        "        return 1\n\n    return g"
    )
    assert dict(own_lengths(ast.parse(code))) == {"f": 2, "g": 1}


def test_long_files_have_a_reason():
    long = {name for name, source in SOURCES.items() if len(source.splitlines()) > 400}
    assert long == set(LONG_FILES)


def test_wide_folders_have_a_reason():
    folders = {path.parent for path in FILES}
    wide = {str(d.relative_to(ROOT)) for d in folders if len(list(d.glob("*.py"))) > 14}
    assert wide == set(WIDE_FOLDERS)


def test_modules_that_one_other_imports_have_a_reason():
    """What is split off by an idea, rather than by a ceiling, says by which."""
    importers = {module_of(name): set() for name in INSIDE}
    for name in INSIDE:
        for module in own(name):
            importers[module].add(module_of(name))
    public = set(purejaxppo._MODULES)
    single = {
        module for module, users in importers.items()
        if len({u for u in users if u not in packages_above(module)}) == 1
        and module not in public and not module.startswith("envs.suites.")
    }  # fmt: skip
    assert single == set(ONE_IMPORTER)


def packages_above(module):
    """The packages that a module is in: they re-export it."""
    parts = module.split(".")
    return {".".join(parts[:n]) for n in range(1, len(parts))}


# -- docstrings and names -----------------------------------------------------------------------


def documented(tree):
    """(name, docstring) of every function and method that has one."""
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS) and ast.get_docstring(node):
            yield node.name, ast.get_docstring(node)


@pytest.mark.parametrize("name", NAMES)
def test_first_lines_of_docstrings_are_statements(name):
    """A verb in the third person stands first: "Returns ...", "Writes ..."."""
    for function, text in documented(TREES[name]):
        verb = text.split()[0].strip(",.:;")
        assert verb[0].isupper() and verb.isalpha() and verb.endswith("s"), f"{function}: {text}"
        assert verb not in NOUNS, f"{function}: {text}"
        assert "See there" not in text and "see there" not in text, function


NOUNS = {
    "Actions", "Agents", "Arrays", "Bytes", "Distributions", "Environments", "Episodes",
    "Features", "Files", "Functions", "Indices", "Integers", "Keys", "Layers", "Loggers", "Logits",
    "Losses", "Metrics", "Numbers", "Observations", "Options", "Parameters", "Pictures",
    "Rewards", "Rows", "Seconds", "Sizes", "Spaces", "Statistics",
    "This", "Versions", "Widths", "Zeros", "Ones", "Rollouts", "Transitions",
}  # fmt: skip


@pytest.mark.parametrize("name", purejaxppo.__all__)
def test_public_names_resolve_and_are_documented(name):
    thing = getattr(purejaxppo, name)
    assert name in dir(purejaxppo)
    if isinstance(thing, dict):  # a registry: a string below its definition describes it
        assert any(
            f"{name}: dict" in s and '}\n"""' in s.split(f"{name}: dict")[1]
            for s in SOURCES.values()
        )
        return
    assert inspect.getdoc(thing)
    assert not inspect.getdoc(thing).startswith(f"{name}(")  # what a dataclass makes up itself


def test_public_names_are_listed_once_in_each_list():
    """For readers, for type checkers, and for when they are first used."""
    names = [name for names in purejaxppo._MODULES.values() for name in names]
    assert sorted(names) == sorted(purejaxppo.__all__)
    checked = [
        alias.name
        for node in ast.walk(TREES["__init__.py"])
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("purejaxppo.")
        for alias in node.names
    ]
    assert sorted(checked) == sorted(names)


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = purejaxppo.nonsense


def test_the_package_is_typed():
    assert (ROOT / "py.typed").exists()
