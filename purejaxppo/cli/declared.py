"""What a command takes, read from the dataclass that declares it: for helps and for completion."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import tyro

from purejaxppo.config.rules import types_of

WORDS = {int: "INT", float: "FLOAT", str: "TEXT"}
"""What stands for a value in a help."""


class Argument(NamedTuple):
    """An argument of a command.

    Attributes:
        field: its name in the dataclass.
        flags: as they are written; none of a positional argument.
        value: what stands for its value; empty if it takes none.
        choices: the values that there are; none if it may be anything.
        text: what it is.
        default: its value unless it is given; `dataclasses.MISSING` where it must be.
    """

    field: str
    flags: tuple[str, ...]
    value: str
    choices: tuple[str, ...]
    text: str
    default: Any


def summary_of(kind: type) -> str:
    """Returns in one line what a command does.

    Args:
        kind: the dataclass that declares what it takes.
    """
    return (ast.get_docstring(_tree(kind)) or "").partition("\n")[0]


@functools.cache
def groups_of(kind: type) -> Mapping[str, list[Argument]]:
    """Returns what a command takes, by the title that it stands under.

    Args:
        kind: the dataclass that declares it. A title begins with a field that names one; positional
            arguments stand under a title of their own.
    """
    groups: dict[str, list[Argument]] = {"arguments": []}
    title, texts, annotated = "options", _texts(kind), typing.get_type_hints(kind, None, None, True)
    for field in dataclasses.fields(kind):
        name, declared = field.name, types_of(kind)[field.name]
        title = field.metadata.get("group") or title
        details = getattr(annotated[name], "__metadata__", ())
        flags, value = _flags(name, declared), _value(declared)
        if tyro.conf.Positional in details:
            flags, value = (), next(x.metavar for x in details if hasattr(x, "metavar"))
        argument = Argument(name, flags, value, _choices(declared), texts[name], field.default)
        groups.setdefault(title if flags else "arguments", []).append(argument)
    return {title: arguments for title, arguments in groups.items() if arguments}


def _flags(name: str, declared: Any) -> tuple[str, ...]:
    """Returns the flags of an option."""
    words = name.replace("_", "-")
    return (f"--{words}", f"--no-{words}") if declared is bool else (f"--{words}",)


def _value(declared: Any) -> str:
    """Returns what stands for a value of a type."""
    kinds = [kind for kind in typing.get_args(declared) if kind is not types.NoneType]
    if typing.get_origin(declared) in (typing.Union, types.UnionType):
        return f"{_value(kinds[0])}|None"
    if typing.get_origin(declared) is Literal:
        return "NAME"
    if typing.get_origin(declared) is tuple:
        return f"{_value(kinds[0])}..."
    return WORDS.get(declared, "")


def _choices(declared: Any) -> tuple[str, ...]:
    """Returns the values of a type that has few."""
    return typing.get_args(declared) if typing.get_origin(declared) is Literal else ()


def _texts(kind: type) -> dict[str, str]:
    """Returns the text below each field, of the classes above too."""
    texts = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = _tree(base).body
        for field, below in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                texts[ast.unparse(field.target)] = " ".join(ast.literal_eval(below.value).split())
    return texts


def _tree(kind: type) -> ast.ClassDef:
    """Reads the source of a class: Python keeps no texts below fields, and with -OO none at all."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(tree, ast.ClassDef)
    return tree
