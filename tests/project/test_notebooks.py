"""The notebooks run from top to end in a fresh kernel, and what is committed is what they show."""

import re
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NAMES = [
    "01_quickstart", "02_from_policy_gradient_to_ppo", "03_sweeps", "04_your_own",
    "05_under_the_hood",
]  # fmt: skip
SECONDS = 240  # on two cores, of which another test has one
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def streams(cells, name):
    return [
        output.text
        for cell in cells
        for output in cell.outputs
        if output.output_type == "stream" and output.name == name
    ]


def test_they_are_all_there():
    assert [path.stem for path in NOTEBOOKS] == NAMES


@every_notebook
def test_what_is_committed_was_run_in_one_go(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not streams(cells, "stderr")
    assert not [o for cell in cells for o in cell.outputs if o.output_type == "error"]
    assert any("image/png" in o.get("data", {}) for cell in cells for o in cell.outputs)


@every_notebook
def test_what_is_committed_is_small_and_says_nothing_of_a_machine(path):
    assert path.stat().st_size < 1_000_000
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/home/|/root|/tmp/|/usr/|/work/|site-packages", text)
    assert set(nbformat.read(path, as_version=4).metadata) == {"kernelspec", "language_info"}


@every_notebook
def test_links_lead_somewhere(path):
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("https://") or (FOLDER / target).exists(), target


NUMBER = re.compile(r"\d[\d.,]*(e[-+]?\d+)?|\b(nan|inf)\b")


def words_of(cell):
    """What a cell has printed, but for numbers, which differ from machine to machine."""
    texts = [o.text for o in cell.get("outputs", ()) if o.output_type == "stream"]
    return re.findall(r"[a-zA-Z_]+", NUMBER.sub("", "".join(texts)))


@pytest.mark.slow
@every_notebook
def test_it_runs(path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(FOLDER.parent / ".jax_cache"))
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # of these tests, which users do not have
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": FOLDER}}
    )
    started = time.monotonic()
    client.execute()  # raises with the cell that does
    assert time.monotonic() - started < SECONDS
    for cell, committed in zip(
        notebook.cells, nbformat.read(path, as_version=4).cells, strict=True
    ):
        assert words_of(cell) == words_of(committed)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not streams(cells, "stderr")
