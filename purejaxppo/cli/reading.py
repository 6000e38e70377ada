"""How arguments are read into a dataclass: by tyro, whose words become one line."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from typing import TypeVar

import tyro

from purejaxppo.config.libraries import meaning_of
from purejaxppo.config.rules import types_of
from purejaxppo.errors import ConfigError, shown
from purejaxppo.runs.options import Options

A = TypeVar("A", bound="Arguments")


class Arguments(Options):
    """Options as they are read: checked when all of them are known, not while they are read."""

    def __post_init__(self) -> None:
        """Leaves the fields alone: what is refused in tyro's hands would get a box around it."""

    def check(self) -> None:
        """Brings values to their declared types, then checks every rule.

        Raises:
            ConfigError: a value of another type, or one that is out of its bounds.
        """
        super().__post_init__()


REGISTRY = tyro.constructors.ConstructorRegistry()
"""What texts are read by beside tyro's own rules."""


@REGISTRY.primitive_rule
def whole_numbers(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[int] | None:
    """Reads integers that are written like 1e6 too.

    Args:
        info: of the type that is read.

    Returns:
        How; None for other types.
    """
    if info.type is not int:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda texts: _whole(texts[0]),
        is_instance=lambda value: type(value) is int,
        str_from_instance=lambda value: [str(value)],
    )


def _whole(text: str) -> int:
    """Reads an integer.

    Raises:
        ValueError: it is none.
    """
    with contextlib.suppress(ValueError):
        return int(text)
    with contextlib.suppress(ValueError, OverflowError):
        number = float(text)
        if number.is_integer():
            return int(number)
    raise ValueError(f"{shown(text)} is no whole number, such as 1000 or 1e6")


def parse(kind: type[A], argv: Sequence[str], command: str) -> A:
    """Reads arguments into a dataclass, and checks them.

    Args:
        kind: the dataclass.
        argv: the arguments after the command.
        command: name of the command, for the help.

    Returns:
        An instance of `kind`.

    Raises:
        ConfigError: they cannot be read (tyro's report, in one line), or one is out of its bounds.
    """
    options = read(kind, argv, command)
    options.check()
    return options


def read(kind: type[A], argv: Sequence[str], command: str, default: A | None = None) -> A:
    """Reads arguments into a dataclass.

    Args:
        kind: the dataclass.
        argv: the arguments after the command.
        command: name of the command, for the help.
        default: what arguments that are not given are taken from; None: the defaults of `kind`.

    Returns:
        An instance of `kind`.

    Raises:
        ConfigError: they cannot be read; tyro's report, in one line.
    """
    # an environment is given without a name before it
    check_words(argv, command, [name for name in types_of(kind) if name != "env"])
    report = io.StringIO()
    prog = f"purejaxppo {command}"
    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(report):
        if default is None:
            return tyro.cli(kind, args=argv, prog=prog, registry=REGISTRY)
        return tyro.cli(kind, args=argv, prog=prog, default=default, registry=REGISTRY)
    raise ConfigError(without_box(report.getvalue()))


def check_words(argv: Sequence[str], command: str, known: Sequence[str]) -> None:
    """Checks arguments before tyro reads them.

    Args:
        argv: the arguments after the command.
        command: name of the command, for the message.
        known: names of its options.

    Raises:
        ConfigError: an option is given twice, of which tyro would take the last one; is one of
            tyro's own, which are not for this program; too long to be an option; or called
            something else here than in the library that it is of.
    """
    given = set()
    for word in argv:
        name = word.partition("=")[0].replace("_", "-")
        if len(word) < 3 or not name.startswith("--"):
            continue
        if name.startswith("--tyro-") or len(name) > 100:
            raise ConfigError(
                f"unknown option {shown(name)}: `purejaxppo {command} --help` lists them"
            )
        if name in given:
            several = ", with all values behind it" if name == "--vary" else ""
            raise ConfigError(f"{name} is given twice: keep one of them{several}")
        given.add(name)
        positive = name.removeprefix("--").removeprefix("no-").replace("-", "_")
        hint = None if positive in known else meaning_of(positive, known, _as_option)
        if command in ("train", "sweep") and hint is not None:
            raise ConfigError(f"unknown option {name}: {hint}")


def _as_option(name: str) -> str:
    """Writes a name of ours as it is given on the command line."""
    if name == "env":
        return "ENV, as in `purejaxppo train CartPole-v1`"
    return f"--{name.replace('_', '-')}"


def without_box(report: str) -> str:
    """Writes what tyro reports in one line.

    Args:
        report: a box of lines, titled, with separators between its parts.

    Returns:
        What is in the box, in at most 400 characters.
    """
    lines = re.sub(r"\x1b\[[0-9;]*m", "", report).splitlines()
    lines = [line.strip(" ╭╮╰╯│├┤─") for line in lines]
    # the title says what the next line says again, and the last line names the help
    words = " ".join(" ".join([line for line in lines if line.strip("-")][1:]).split())
    words = re.sub(r" For full helptext, (?!.*For full helptext, ).*", "", words)
    # what a dataclass of ours refuses is said in its own words
    words = re.sub(r"^Error parsing \w+: ", "", words)
    return words if len(words) <= 400 else f"{words[:250]} ... {words[-145:]}"
