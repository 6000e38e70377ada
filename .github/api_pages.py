"""Builds the API pages from the docstrings: `python .github/api_pages.py FOLDER`.

The package's own docstring gives the order: names stand on its page as they stand there. Fields of
named tuples get the text that the class has for them under `Attributes`, in place of Python's
"Alias for field number 0".
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pdoc
from pdoc.extract import walk_specs

import purejaxppo

ROOMS = [
    "purejaxppo",
    "purejaxppo.envs",
    "purejaxppo.envs.wrappers",
    "purejaxppo.policies",
    "purejaxppo.ppo",
    "purejaxppo.runs",
]


def reading_order(text: str, names: list[str]) -> list[str]:
    """Returns names in the order in which a text has them in backticks; others stand behind."""
    places = {name: text.find(f"`{name}`") for name in names}
    return sorted(names, key=lambda name: (places[name] < 0, places[name]))


def attributes(text: str) -> dict[str, str]:
    """Returns what a docstring says of each attribute."""
    section = re.search(r"^Attributes:\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
    entries = re.split(r"^    (?=\w+: )", section[1] if section else "", flags=re.MULTILINE)
    found = (entry.partition(": ") for entry in entries[1:])
    return {name: " ".join(words.split()) for name, _, words in found}


def named_tuples() -> Iterator[type]:
    """Yields the named tuples of the package that are imported."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "purejaxppo":
            for thing in vars(module).values():
                if inspect.isclass(thing) and hasattr(thing, "_fields"):
                    yield thing


def explain_fields(record: type) -> None:
    """Gives the fields of a named tuple the texts that its docstring has for them."""
    texts = attributes(inspect.getdoc(record) or "")
    for field in record._fields:
        vars(record)[field].__doc__ = texts.get(field, "")


def build(out: Path) -> None:
    """Writes the pages into a folder."""
    for module in walk_specs(ROOMS):
        importlib.import_module(module)
    for record in named_tuples():
        if "_fields" in vars(record):  # not of a class above
            explain_fields(record)
    purejaxppo.__all__ = reading_order(purejaxppo.__doc__ or "", purejaxppo.__all__)
    pdoc.render.configure(docformat="google", math=True)
    with warnings.catch_warnings():
        # named tuples forget which module their annotations were written in
        warnings.filterwarnings("ignore", "Error parsing type annotation ForwardRef")
        pdoc.pdoc(*ROOMS, output_directory=out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the pages")
    build(parser.parse_args().out)
