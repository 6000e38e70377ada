"""What `--help` prints: the options in groups, with the values that the command line gives them."""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from purejaxppo.cli.arguments import ARGUMENTS, ConfigArgs
from purejaxppo.cli.declared import Argument, groups_of, summary_of
from purejaxppo.cli.starts import preset_of, read_sweep, read_train
from purejaxppo.errors import ConfigError

NARROWEST, WIDEST = 60, 120
LEFT = 28  # columns of flags
NO_ENV = "ENV"  # which is none, and has no preset


def print_help(command: str, argv: Sequence[str]) -> None:
    """Prints the help of a command, as wide as the terminal.

    Args:
        command: its name.
        argv: the arguments between it and `--help`.
    """
    width = min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST)
    print("\n".join(help_of(command, argv, width)))


def help_of(command: str, argv: Sequence[str], width: int) -> list[str]:
    """Returns the lines of a command's help.

    Args:
        command: its name.
        argv: the arguments before `--help`, which values are shown for.
        width: columns that no line goes beyond.
    """
    kind = ARGUMENTS[command]
    groups = groups_of(kind)
    configured = issubclass(kind, ConfigArgs)
    values, note = _values(command, argv) if configured else (_defaults(kind), "")

    # usage, and what the command does
    positional = [argument.value for argument in groups.get("arguments", ())]
    optional = ["[OPTIONS]"] if set(groups) - {"arguments"} else []
    lines = [" ".join(["usage: purejaxppo", command, *positional, *optional]), ""]
    lines += textwrap.wrap(summary_of(kind), width)
    if note:
        lines += ["", *textwrap.wrap(note, width)]

    # every option in its group
    for title, arguments in groups.items():
        lines += ["", title]
        for argument in arguments:
            lines += _described(argument, values.get(argument.field, dataclasses.MISSING), width)
    return lines


def _described(argument: Argument, value: Any, width: int) -> Iterator[str]:
    """Describes an option: its flags, then its text in a column of its own."""
    heads = [flag if not argument.value else f"{flag} {argument.value}" for flag in argument.flags]
    head = "  " + (", ".join(heads) or argument.value)
    text = argument.text
    if argument.choices:
        text += f" One of {', '.join(argument.choices)}."
    shown = _written(value)
    text += f" [{shown}]" if shown else ""
    column = textwrap.wrap(text, width - LEFT, break_on_hyphens=False)
    if len(head) + 2 > LEFT:
        yield head
        head = ""
    for line in column:
        yield head.ljust(LEFT) + line
        head = ""


def _written(value: Any) -> str:
    """Writes a value as it would be given."""
    if value is dataclasses.MISSING:
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _defaults(kind: type) -> dict[str, Any]:
    """Returns the defaults of a command's options, by field."""
    return {field.name: field.default for field in dataclasses.fields(kind)}


def _values(command: str, argv: Sequence[str]) -> tuple[Mapping[str, Any], str]:
    """Returns what a command line would train with, by field, and where that comes from.

    Args:
        command: train or sweep.
        argv: the arguments; without ENV, values are those of the plain algorithm.

    Returns:
        The values, and a sentence about them.
    """
    try:
        args = read_train(argv, NO_ENV) if command == "train" else read_sweep(argv, NO_ENV)[0]
    except ConfigError as error:
        why = str(error).partition(" Argument helptext: ")[0].partition(" Perhaps you meant: ")[0]
        note = f"In brackets: the defaults, for what stands before --help cannot be read ({why})."
        return {**_defaults(ARGUMENTS[command]), "env": dataclasses.MISSING}, note
    preset = preset_of(args.env, args.algorithm, args.preset)
    source = f"{args.algorithm}, {'no preset' if preset is None else f'preset {preset}'}"
    if args.config is not None:
        preset, source = args.preset, args.config
    values = vars(args) | {"env": dataclasses.MISSING, "preset": preset or "none"}
    if args.env == NO_ENV:
        more = f"`{command} ENV --help` shows those of the environment's preset"
        return values, f"In brackets: the values that are used ({source}); {more}."
    return values, f"In brackets: the values that {args.env} would be trained with ({source})."
