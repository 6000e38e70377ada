"""What is public says what it takes and gives, and its pages can be built."""

import dataclasses
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import purejaxppo
from purejaxppo import Hyperparams, PPOConfig
from purejaxppo.ppo import advantages, objectives, value_losses

PUBLIC = {name: getattr(purejaxppo, name) for name in purejaxppo.__all__}
FUNCTIONS = [name for name, x in PUBLIC.items() if inspect.isfunction(x)]
RECORDS = [
    name for name, x in PUBLIC.items()
    if (hasattr(x, "_fields") or dataclasses.is_dataclass(x))
    and name not in ("PPOConfig", "Hyperparams")
]  # fmt: skip
NEVER_FAIL = {"compiler_options", "use_cores"}
EQUATIONS = [
    f for room in (advantages, objectives, value_losses) for name, f in vars(room).items()
    if inspect.isfunction(f) and f.__module__ == room.__name__ and not name.startswith("_")
]  # fmt: skip


def sections(thing):
    """The lines of a docstring by section, "" for what comes before the first."""
    found, section = {"": []}, ""
    for line in inspect.getdoc(thing).splitlines():
        heading = re.fullmatch(r"(Args|Attributes|Returns|Raises):", line)
        if heading:
            section = heading[1]
        found.setdefault(section, []).append(line)
    return found


def entries(thing, section):
    """The names that a section explains, in its order."""
    lines = sections(thing).get(section, [])
    return [m[1] for line in lines if (m := re.match(r"    \*{0,2}(\w+): \S", line))]


def test_the_reader_of_docstrings_reads():
    def thing():
        """One.

        Args:
            a: [N], this
                and that: more.
            **b: those.

        Raises:
            ValueError: never.
        """

    assert entries(thing, "Args") == ["a", "b"]
    assert entries(thing, "Raises") == ["ValueError"]
    assert entries(thing, "Returns") == []
    assert {"make_train", "fit", "make_env"} <= set(FUNCTIONS)
    assert {"LearnerState", "Metrics", "Policy", "FitResult"} <= set(RECORDS)
    assert {"gae", "n_step", "clip", "kl_penalty", "huber"} <= {f.__name__ for f in EQUATIONS}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_say_what_they_take_give_and_refuse(name):
    function = PUBLIC[name]
    assert entries(function, "Args") == list(inspect.signature(function).parameters)
    gives = inspect.signature(function).return_annotation not in (None, "None")
    assert ("Returns" in sections(function)) == gives
    assert ("Raises" in sections(function)) == (name not in NEVER_FAIL)


@pytest.mark.parametrize("name", RECORDS)
def test_public_records_explain_every_field(name):
    record = PUBLIC[name]
    fields = getattr(record, "_fields", None) or [f.name for f in dataclasses.fields(record)]
    assert entries(record, "Attributes") == list(fields)


def test_every_field_of_the_configuration_is_explained():
    source = inspect.getsource(PPOConfig)
    names = {field.name for field in dataclasses.fields(PPOConfig)}
    declared = r'^    (\w+): .*(?:\n {8}.*\n    \))?\n    """\S.*"""$'  # in one line, or in three
    assert set(re.findall(declared, source, re.MULTILINE)) == names
    assert set(Hyperparams._fields) - {"extra"} < names


@pytest.mark.parametrize("name", ["PPOConfig", "Hyperparams"])
def test_every_method_has_a_docstring(name):
    for method, function in inspect.getmembers(PUBLIC[name], callable):
        if not method.startswith("_"):
            assert inspect.getdoc(function), method


@pytest.mark.parametrize("function", EQUATIONS, ids=lambda f: f.__name__)
def test_every_equation_is_written_down_with_its_source(function):
    text = inspect.getdoc(function)
    assert re.search(r"\$.+\$", "\n".join(sections(function)[""]))
    assert re.search(r"^Reference: .*(arXiv:\d{4}\.\d{5}|[12]\d{3})", text, re.MULTILINE)
    assert entries(function, "Args") == list(inspect.signature(function).parameters)
    assert "Returns" in sections(function)


def test_every_public_name_has_a_place_in_the_order_of_reading():
    for name in PUBLIC:
        assert f"`{name}`" in purejaxppo.__doc__, name


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The folder of the pages, built as CONTRIBUTING says."""
    root, out = Path(__file__).parents[2], tmp_path_factory.mktemp("api")
    told = (root / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert "python -W ignore .github/api_pages.py api" in told
    command = [sys.executable, "-W", "ignore", ".github/api_pages.py", str(out)]
    subprocess.run(command, cwd=root, check=True, env=os.environ | {"PYTHONPATH": str(root)})
    return out


@pytest.mark.slow
def test_the_pages_are_built(pages):
    page = (pages / "purejaxppo.html").read_text()
    for name in PUBLIC:
        assert f'<section id="{name}">' in page
    for room in ("envs", "envs/wrappers", "policies", "ppo", "runs"):
        assert (pages / f"purejaxppo/{room}.html").exists()
        assert f'href="purejaxppo/{room}.html"' in page
    equations = (pages / "purejaxppo/ppo/advantages.html").read_text()
    assert r"\delta_t + \gamma \lambda" in equations
    assert "mathjax" in equations.lower()


@pytest.mark.slow
def test_the_pages_stand_in_an_order_to_read_them_in(pages):
    """What is trained, training, `fit`, acting, environments, policies, the method."""
    page = (pages / "purejaxppo.html").read_text()
    names = [name for name in re.findall(r'<section id="(\w+)">', page) if name in PUBLIC]
    order = [
        "PPOConfig", "make_train", "fit", "load_policy", "make_act", "make_env", "Policy",
        "OBJECTIVES", "use_cores", "ConfigError",
    ]  # fmt: skip
    assert [name for name in names if name in order] == order
    assert len(names) == len(PUBLIC)


@pytest.mark.slow
def test_no_page_says_that_a_field_is_an_alias(pages):
    found = {path.name: path.read_text() for path in pages.rglob("*.html")}
    assert not [name for name, text in found.items() if "Alias for field" in text]
    # what the class says of it stands there in its place
    for field, words in {
        "TrainOutput.state": "the learner after its last update.",
        "FitResult.metrics": "every field",
        "Policy.apply": "for sequences",  # in the second line of its text
    }.items():
        section = found["purejaxppo.html"].split(f'id="{field}" class="classattr"')[1]
        section = section.split('class="classattr"')[0]
        assert words in re.sub(r"<[^>]+>", "", section), field
